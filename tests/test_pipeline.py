"""`dvc.yaml` against the code, and the whole pipeline in a temporary clone, shortened by `-S`."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import grimp
import pytest
from dvc.repo import Repo

from src import config
from src.files import read_json
from tests.conftest import ROOT
from tests.workspace import clone_to, experiment, ran, run

PARAMS = config.load(ROOT / "params.yaml")
SHORT = [
    "data.autism_faces.tiny.drawn.train=150",
    "data.autism_faces.tiny.drawn.test=36",
    "data.fer.tiny.drawn.train=160",
    "data.fer.tiny.drawn.test=40",
    "data.abo.tiny.drawn.train=50",
    "data.abo.tiny.drawn.test=10",
    "data.esnlive.tiny.drawn.train=40",
    "data.esnlive.tiny.drawn.test=12",
    "data.webvid.tiny.drawn.train=90",
    "data.webvid.tiny.drawn.test=20",
    "recipes.esnlive_qwen2vl.tiny.answered_each_epoch=8",
    "recipes.video_qwen2vl.generation.max_new_tokens=12",
    "recipes.esnlive_qwen2vl.generation.max_new_tokens=12",
    *(f"base.{base}.tiny.pretrain.pictures=64" for base in PARAMS.base),
    *(f"base.{base}.tiny.pretrain.steps=4" for base in PARAMS.base),
    "train.tiny.max_steps=8",
    "train.tiny.evaluations=4",
    "evaluate.bootstrap=100",
    "explain.pictures.tiny=8",
    "explain.gallery.tiny=4",
]
RECIPE = "emotion_qwen2vl"
STAGES = Repo(str(ROOT)).index.stages


def python_files(path: Path) -> set[Path]:
    """Modules at or below a dependency; an empty `__init__.py` is no code."""
    found = path.rglob("*.py") if path.is_dir() else [path]
    return {p.relative_to(ROOT) for p in found if p.suffix == ".py" and p.stat().st_size}


def found_by_name(stage: str, item: str) -> list[str]:
    """Modules that a stage imports by a name in params.yaml, where no import shows them."""
    params = PARAMS
    drawings = [f"src.drawing.{p.stem}" for p in (ROOT / "src/drawing").glob("[!_]*.py")]
    if stage == "fetch":
        return [f"src.sources.{p.stem}" for p in (ROOT / "src/sources").glob("[!_]*.py")] + drawings
    if stage == "prepare":
        return [f"src.readers.{p.stem}" for p in (ROOT / "src/readers").glob("[!_]*.py")]
    if stage == "build":
        return [f"src.families.{params.base[item].family}", *drawings]
    if stage == "report":
        return []
    recipe = params.recipes[item]
    modules = [f"src.families.{recipe.family}"]
    if stage == "encode":
        return modules
    modules.append(f"src.tasks.{recipe.task}")
    return modules + ([f"src.metrics.{recipe.task}"] if stage in ("baseline", "evaluate") else [])


@pytest.fixture(scope="module")
def imports():
    return grimp.build_graph("src", "stages", cache_dir=None)


def imported(kind: str, item: str, imports) -> set[Path]:
    """The files that a stage imports for an item, an empty `__init__.py` left out.

    So is that of the stages, on which hangs when memory is collected and nothing that they write.
    """
    roots = [f"stages.{kind}", *found_by_name(kind, item)]
    modules = {m for root in roots for m in (root, *imports.find_upstream_modules(root))}
    parents = {m.rpartition(".")[0] for m in modules}
    files = {Path(*m.split(".")).with_suffix(".py") for m in modules}
    files |= {Path(*m.split("."), "__init__.py") for m in modules | parents}
    files -= {Path("stages/__init__.py")}
    return {f for f in files if (ROOT / f).is_file() and (ROOT / f).stat().st_size}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_deps_are_the_modules_that_the_stage_imports(stage, imports):
    """Those of this item must be listed, and none that the stage imports for no item may be."""
    kind, _, item = stage.name.partition("@")
    listed = set()
    for dep in stage.deps:
        path = Path(dep.fs_path)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ("src", "stages"):
            listed |= python_files(path)
    assert imported(kind, item, imports) <= listed
    items = [s.name.partition("@")[2] for s in STAGES if s.name.partition("@")[0] == kind]
    assert listed <= set().union(*(imported(kind, i, imports) for i in items))


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    return clone_to(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def reproduced(clone) -> Path:
    """The clone after a whole, shortened pipeline."""
    stages = experiment(clone, *SHORT)
    assert [s.partition("@")[0] for s in stages].count("report") == 1
    return clone


MEASURED = {
    "classify": ("accuracy", "macro_f1", "generated_accuracy"),
    "answer": ("exact_match", "bertscore_f1_all_minilm_l6_v2"),
    "describe": (
        *("exact_match", "rouge1", "rougeL", "bleu4", "cider"),
        "bertscore_f1_all_minilm_l6_v2",
    ),
    "entail_explain": (
        *("accuracy", "macro_f1", "rouge1", "rougeL", "bleu4", "cider"),
        "bertscore_f1_all_minilm_l6_v2",
    ),
}
OPTIONAL = {"meteor"}  # needs Java


@pytest.mark.slow
@pytest.mark.parametrize("recipe", PARAMS.recipes)
def test_the_whole_pipeline_leaves_metrics_with_base_count_and_interval(reproduced, recipe):
    metrics = reproduced / "metrics" / recipe
    base, tuned = read_json(metrics / "base.json"), read_json(metrics / "tuned.json")
    assert tuned.keys() - base.keys() == {"gain"}
    assert base.keys() <= tuned.keys()
    task, data = PARAMS.recipes[recipe].task, PARAMS.recipes[recipe].data
    labelled = task == "describe" and PARAMS.data[data].labels
    names = (*(["label_accuracy"] if labelled else []), *MEASURED[task])
    count = read_json(reproduced / f"data/prepared/{data}/summary.json")["splits"]["test"]["n"]
    for numbers in (base, tuned):
        assert numbers["n"] == count
        for name in names:
            low, high = (numbers["interval"][name][k] for k in ("low", "high"))
            # CIDEr goes up to 10.
            assert -1 <= low - 1e-6 <= numbers[name] <= high + 1e-6 <= 10
    assert tuned["gain"].keys() - OPTIONAL == set(names)
    gain = tuned["gain"][names[0]]
    assert gain["value"] == pytest.approx(tuned[names[0]] - base[names[0]], abs=1e-5)
    assert gain["low"] <= gain["value"] <= gain["high"]
    page = (reproduced / "reports/index.html").read_text()
    assert f"<code>{recipe}</code>" in page


@pytest.mark.slow
def test_validation_accuracy_chooses_the_adapter_and_each_improvement_is_kept(reproduced):
    adapter = reproduced / "models/adapters/vqa_blip2"
    kept = sorted(adapter.glob("checkpoint-*"), key=lambda p: int(p.name.partition("-")[2]))
    assert kept
    best = (kept[-1] / "adapter_model.safetensors").read_bytes()
    assert (adapter / "adapter_model.safetensors").read_bytes() == best
    validation = read_json(reproduced / "metrics/vqa_blip2/validation.json")
    assert kept[-1].name == f"checkpoint-{validation['step']}"
    summary = read_json(reproduced / "data/prepared/abo/summary.json")
    assert validation["n"] == summary["splits"]["validation"]["n"]
    assert not list((reproduced / "models/adapters/emotion_llava").glob("checkpoint-*"))


@pytest.mark.slow
def test_pictures_from_disk_are_answered_as_the_test_split_was(reproduced):
    """What `tools.predict` makes of the raw files is what `evaluate` made of the prepared ones."""
    import pandas as pd

    expected = pd.read_parquet(reproduced / "metrics/vqa_blip2/predictions/tuned.parquet")
    table = pd.DataFrame(
        {
            "image_name": expected["id"].str.rpartition("#")[0],
            "question": expected["question"],
            "answer": expected["answer"],
        }
    )
    table.to_csv(reproduced / "asked.csv", index=False)
    command = [sys.executable, "-m", "tools.predict", "asked.csv", "--recipe", "vqa_blip2"]
    run([*command, "--images", "data/raw/abo", "--output", "answers.jsonl"], reproduced)
    found = pd.read_json(reproduced / "answers.jsonl", lines=True, dtype=False)
    assert found["answer"].tolist() == expected["generated"].tolist()
    assert found["probability"].tolist() == pytest.approx(expected["probability"].tolist(), 1e-3)
    assert found["reference"].tolist() == expected["answer"].tolist()


@pytest.mark.slow
def test_the_lines_of_the_readme_load_a_model_and_ask_it(reproduced, tmp_path):
    lines = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert len([line for line in lines.splitlines() if line]) == 3
    face = next((reproduced / "data/raw/fer/test").glob("*/*.png"))
    (tmp_path / "face.png").write_bytes(face.read_bytes())
    code = lines.replace("face.png", str(tmp_path / "face.png"))
    said = run([sys.executable, "-c", code], reproduced).stdout
    assert "probability" in said
    assert any(label in said for label in PARAMS.data["fer"].labels)


@pytest.mark.slow
def test_another_language_model_is_one_override_away(reproduced, tmp_path):
    copy = tmp_path / "t5"
    shutil.copytree(reproduced, copy, symlinks=True)
    stages = experiment(copy, "recipes.vqa_blip2.base=blip2_flan_t5")
    kinds = ["encode", "baseline", "train", "evaluate", "explain"]
    assert sorted(stages) == sorted(["report", *(f"{kind}@vqa_blip2" for kind in kinds)])
    config = read_json(copy / "models/adapters/vqa_blip2/adapter_config.json")
    assert "DenseReluDense" not in config["target_modules"] and "wi_0" in config["target_modules"]


@pytest.mark.slow
def test_a_second_run_does_nothing(reproduced):
    assert ran(run(["dvc", "repro"], reproduced)) == []
    assert "up to date" in run(["dvc", "status"], reproduced).stdout


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bytes(reproduced):
    """The pipeline trained once; here it is done again, killed half way, and started again."""
    adapter = reproduced / "models/adapters" / RECIPE / "adapter_model.safetensors"
    expected = adapter.read_bytes()
    copy = reproduced.with_name("killed")
    shutil.copytree(reproduced, copy, symlinks=True)
    adapter = copy / adapter.relative_to(reproduced)
    shutil.rmtree(adapter.parent)
    command = [sys.executable, "-m", "stages.train", RECIPE]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "DVC_ROOT": str(copy)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=copy, env=env, **quiet) as training:
        while not list(copy.glob(".checkpoints/*/checkpoint-4/trainer_state.json")):
            assert training.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        training.send_signal(signal.SIGKILL)
    assert not adapter.exists()
    (kept,) = (path for path in copy.glob(".checkpoints/*") if path.is_dir())
    again = run(command, copy, DVC_ROOT=str(copy))
    assert again.stdout.count("{'loss'") == 4, "steps before the kill were trained again"
    assert adapter.read_bytes() == expected
    assert not kept.exists()


@pytest.mark.slow
def test_another_lora_rank_runs_what_hangs_on_it_and_nothing_else(reproduced):
    stages = experiment(reproduced, f"recipes.{RECIPE}.lora.r=16")
    assert [s.partition("@")[0] for s in stages] == ["train", "evaluate", "explain", "report"]


@pytest.mark.slow
def test_the_batch_size_of_evaluation_changes_no_prediction(reproduced):
    import pandas as pd

    file = reproduced / "metrics" / RECIPE / "predictions/tuned.parquet"
    before = pd.read_parquet(file)
    stages = experiment(reproduced, "evaluate.batch_size.tiny=7", stage=f"evaluate@{RECIPE}")
    assert f"evaluate@{RECIPE}" in stages
    after = pd.read_parquet(file)
    for column in ("id", "predicted", "generated"):
        assert before[column].tolist() == after[column].tolist()


@pytest.mark.slow
def test_a_folder_of_ones_own_pictures_is_one_override_away(reproduced, tmp_path, faces):
    for number, face in enumerate(faces * 10):
        path = tmp_path / "mine" / ("cats", "dogs")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        face["image"].rotate(3 * number).save(path)
    stages = experiment(
        reproduced,
        f"data.autism_faces.tiny.folder={tmp_path / 'mine'}",
        "data.autism_faces.labels=null",
        "data.autism_faces.near_duplicate_distance.tiny=0",
        stage="prepare@autism_faces",
    )
    assert stages == ["fetch@autism_faces", "prepare@autism_faces"]
    summary = read_json(reproduced / "data/prepared/autism_faces/summary.json")
    assert summary["labels"] == ["cats", "dogs"]
    assert sum(split["n"] for split in summary["splits"].values()) == 120
