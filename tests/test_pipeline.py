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

SHORT = [
    "data.autism_faces.tiny.drawn.train=150",
    "data.autism_faces.tiny.drawn.test=36",
    "base.qwen2_vl.tiny.pretrain.pictures=64",
    "base.qwen2_vl.tiny.pretrain.steps=4",
    "train.tiny.max_steps=8",
    "train.tiny.evaluations=4",
    "evaluate.bootstrap=100",
    "explain.pictures.tiny=8",
    "explain.gallery.tiny=4",
]
RECIPE = "emotion_qwen2vl"


def python_files(path: Path) -> set[Path]:
    """Modules at or below a dependency; an empty `__init__.py` is no code."""
    found = path.rglob("*.py") if path.is_dir() else [path]
    return {p.relative_to(ROOT) for p in found if p.suffix == ".py" and p.stat().st_size}


def found_by_name(stage: str, item: str) -> list[str]:
    """Modules that a stage imports by a name in params.yaml, where no import shows them."""
    params = config.load(ROOT / "params.yaml")
    drawings = [f"src.drawing.{p.stem}" for p in (ROOT / "src/drawing").glob("[!_]*.py")]
    if stage == "fetch":
        return [f"src.sources.{p.stem}" for p in (ROOT / "src/sources").glob("[!_]*.py")] + drawings
    if stage == "prepare":
        return [f"src.readers.{params.data[item].reader}"]
    if stage == "build":
        return [f"src.families.{params.base[item].family}", *drawings]
    if stage == "report":
        return []
    recipe = params.recipes[item]
    modules = [f"src.families.{recipe.family}", f"src.tasks.{recipe.task}"]
    return modules + ([f"src.metrics.{recipe.task}"] if stage in ("baseline", "evaluate") else [])


@pytest.fixture(scope="module")
def imports():
    return grimp.build_graph("src", "stages", cache_dir=None)


@pytest.mark.parametrize("stage", Repo(str(ROOT)).index.stages, ids=lambda stage: stage.name)
def test_deps_are_the_modules_that_the_stage_imports(stage, imports):
    kind, _, item = stage.name.partition("@")
    roots = [f"stages.{kind}", *found_by_name(kind, item)]
    modules = {m for root in roots for m in (root, *imports.find_upstream_modules(root))}
    parents = {m.rpartition(".")[0] for m in modules}
    files = {Path(*m.split(".")).with_suffix(".py") for m in modules}
    files |= {Path(*m.split("."), "__init__.py") for m in modules | parents}
    imported = {f for f in files if (ROOT / f).is_file() and (ROOT / f).stat().st_size}
    listed = set()
    for dep in stage.deps:
        path = Path(dep.fs_path)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ("src", "stages"):
            listed |= python_files(path)
    assert listed == imported


def run(command: list[str], folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", **env}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def ran(done: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"Running stage '(.+?)'", done.stdout)


def experiment(folder: Path, *overrides: str, stage: str | None = None) -> list[str]:
    """Run with `-S` overrides; returns the stages that ran."""
    flags = [part for override in overrides for part in ("-S", override)]
    return ran(run(["dvc", "exp", "run", *([stage] if stage else []), *flags], folder))


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A clone of the working tree, committed or not."""
    folder = tmp_path_factory.mktemp("clone")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in run(listing, ROOT).stdout.rstrip("\0").split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    run(["git", "init", "-q"], folder)
    run(["git", "add", "-A"], folder)
    run(["git", *who, "commit", "-qm", "clone"], folder)
    return folder


@pytest.fixture(scope="module")
def reproduced(clone) -> Path:
    """The clone after a whole, shortened pipeline."""
    stages = experiment(clone, *SHORT)
    assert [s.partition("@")[0] for s in stages].count("report") == 1
    return clone


@pytest.mark.slow
def test_the_whole_pipeline_leaves_metrics_with_base_count_and_interval(reproduced):
    metrics = reproduced / "metrics" / RECIPE
    base, tuned = read_json(metrics / "base.json"), read_json(metrics / "tuned.json")
    assert tuned.keys() - base.keys() == {"gain"}
    assert base.keys() <= tuned.keys()
    for numbers in (base, tuned):
        assert numbers["n"] == 36
        for name in ("accuracy", "macro_f1", "generated_accuracy"):
            low, high = (numbers["interval"][name][k] for k in ("low", "high"))
            assert 0 <= low <= numbers[name] <= high <= 1
    gain = tuned["gain"]["accuracy"]
    assert gain["value"] == pytest.approx(tuned["accuracy"] - base["accuracy"], abs=1e-5)
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert (reproduced / "reports/index.html").stat().st_size > 50_000


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
    (kept,) = copy.glob(".checkpoints/*")
    again = run(command, copy, DVC_ROOT=str(copy))
    assert again.stdout.count("{'loss'") == 4, "steps before the kill were trained again"
    assert adapter.read_bytes() == expected
    assert not kept.exists()


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
def test_another_lora_rank_runs_what_hangs_on_it_and_nothing_else(reproduced):
    stages = experiment(reproduced, f"recipes.{RECIPE}.lora.r=16")
    assert [s.partition("@")[0] for s in stages] == ["train", "evaluate", "explain", "report"]


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
        "data.autism_faces.near_duplicate_distance=0",
        stage="prepare@autism_faces",
    )
    assert stages == ["fetch@autism_faces", "prepare@autism_faces"]
    summary = read_json(reproduced / "data/prepared/autism_faces/summary.json")
    assert summary["labels"] == ["cats", "dogs"]
    assert sum(split["n"] for split in summary["splits"].values()) == 120
