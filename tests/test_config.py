"""Faults in params.yaml are one line that names the key as it stands there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from src import config, schema
from src.errors import UserError

ROOT = Path(__file__).parents[1]
PARAMS = ROOT / "params.yaml"
RECIPE = "recipes.emotion_qwen2vl"
GRID = "ablations.esnlive_rank"
ABSENT = object()


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copy(PARAMS, tmp_path / "params.yaml"))


def put(path: Path, changes: dict[str, Any]) -> None:
    """Write values under dotted keys; ABSENT takes a key out."""
    yaml = YAML()
    values = yaml.load(path)
    for key, value in changes.items():
        *parents, last = key.split(".")
        block = values
        for parent in parents:
            block = block[parent]
        if value is ABSENT:
            del block[last]
        else:
            block[last] = value
    yaml.dump(values, path)


FAULTS = [
    # an unknown key, at every level
    ("learning_rate", 1e-4, "unknown key"),
    ("data.autism_faces.labelz", [], "unknown key"),
    ("data.autism_faces.tiny.drawn.sise", 96, "unknown key"),
    ("data.autism_faces.image_size.medium", 112, "unknown key"),
    ("base.qwen2_vl.tiny.text.layerz", 2, "unknown key"),
    ("base.qwen2_vl.full.revison", "main", "unknown key"),
    ("train.epochs", 3, "unknown key"),
    ("train.tiny.epoch", 3, "unknown key"),
    (f"{RECIPE}.lora.rank", 8, "unknown key"),
    (f"{RECIPE}.full.epoch", 10, "unknown key"),
    ("evaluate.bins", 10, "unknown key"),
    ("explain.pictures.medium", 10, "unknown key"),
    # keys that the folded values have and the file has not
    (f"{RECIPE}.train", {}, "unknown key"),
    (f"{RECIPE}.name", "x", "unknown key"),
    ("data.autism_faces.source", {}, "unknown key"),
    ("base.qwen2_vl.model", {}, "unknown key"),
    # a wrong type
    ("scale", "medium", "'medium'"),
    ("scale", ["tiny"], "none of tiny, full"),
    ("seed", "17", "'17'"),
    ("seed", True, "True"),
    ("data", [], "must hold keys and values"),
    ("data.autism_faces", None, "must hold keys and values"),
    ("data.autism_faces.image_size", 56, "must hold tiny and full"),
    ("data.autism_faces.image_size.full", "224", "'224'"),
    ("data.abo.near_duplicate_distance", 12, "must hold tiny and full"),
    ("data.abo.near_duplicate_distance.full", 65, "not 65"),
    ("train.tiny", None, "must hold keys and values"),
    ("train.tiny.batch_size", 1.5, "1.5"),
    ("train.tiny.sharding", "ddp", "'ddp'"),
    ("train.full.processes", 3, "3 processes cannot share gradient_accumulation 4 evenly"),
    ("train.tiny.learning_rate", "1e-4", "'1e-4'"),
    (f"{RECIPE}.tiny", [1], "must hold keys and values"),
    (f"{RECIPE}.lora.targets", "q_proj", "'q_proj'"),
    ("evaluate.batch_size.full", "8", "'8'"),
    ("explain.gallery.full", 0, "not 0"),
    # a value that makes no sense
    (f"{RECIPE}.lora.r", 0, "not 0"),
    (f"{RECIPE}.lora.dropout", 1.0, "not 1.0"),
    (f"{RECIPE}.quantization.bits", 3, "4 or 16, not 3"),
    ("base.qwen2_vl.full.revision", "a branch", "not 'a branch'"),
    ("data.fer.full.kaggle.version", 0, "not 0"),
    ("data.abo.full.abo.images.etag", '"a"', "should match pattern"),
    ("data.autism_faces.labels", ["Joy", "Fear", "joy"], "'Joy' and 'joy' are one class"),
    ("data.autism_faces.labels", ["Joy", "Joy"], "'Joy' and 'Joy' are one class"),
    ("data.autism_faces.labels", ["caf\u00e9", "cafe\u0301"], "are one class"),
    # a name of something that is not there
    (f"{RECIPE}.base", "qwen3_vl", "'qwen3_vl'"),
    (f"{RECIPE}.data", "cats", "'cats'"),
    (f"{RECIPE}.family", "llava", "'qwen2_vl'"),
    (f"{RECIPE}.task", "translate", "no src/tasks/translate.py"),
    (f"{RECIPE}.task", "a.b", "no src/tasks/a.b.py"),
    ("base.qwen2_vl.family", "../config", "no src/families"),
    ("data.autism_faces.reader", "telepathy", "no src/readers/telepathy.py"),
    # parts that do not fit together
    ("recipes.vqa_blip2.data", "webvid", "webvid are videos, and blip2 reads pictures alone"),
    ("recipes.emotion_llava.data", "webvid", "webvid are videos, and llava reads pictures alone"),
    ("recipes.vqa_blip2.classifier", {"weight": 0.5}, "blip2 has no second head"),
    (f"{RECIPE}.classifier", {"weight": 0.5}, "the task classify has no use for one"),
    (f"{RECIPE}.generation.top_p", 0.9, "set temperature above 0, or top_p to 1"),
    # a missing key or block
    ("train.tiny.epochs", ABSENT, "missing"),
    ("train.full", ABSENT, "missing"),
    (f"{RECIPE}.tiny", ABSENT, "missing"),
    (f"{RECIPE}.prompt.question", ABSENT, "missing"),
    ("data.autism_faces.full", ABSENT, "missing"),
    ("base.qwen2_vl.full", ABSENT, "missing"),
    ("evaluate.batch_size.tiny", ABSENT, "missing"),
    ("explain", ABSENT, "missing"),
    # the scale that is not chosen
    (f"{RECIPE}.full.learning_rate", 0, "not 0"),
    ("data.autism_faces.tiny.drawn.drawing", "cats", "there is no src/drawing/cats.py"),
    ("base.qwen2_vl.tiny.pretrain.drawings", ["cats"], "there is no src/drawing/cats.py"),
    ("train.tiny.optimizer", "adam", "not 'adam'"),
    ("base.qwen2_vl.tiny.text.heads", 3, "hidden 128 must be heads 3 times"),
    ("base.qwen2_vl.tiny.text.kv_heads", 3, "heads 4 must be a multiple of kv_heads 3"),
    ("base.qwen2_vl.tiny.vision.heads", 3, "hidden 128 must be heads 3 times"),
    ("seed", 2**32, "less than 4294967296"),
    ("recipes.emotion_qwen2vl.prompt.question", "Which? {labels:d}", "format code"),
    ("recipes.emotion_qwen2vl.precision.full", "int8", "not 'int8'"),
    # the prompt
    (f"{RECIPE}.prompt.question", "Which? {classes}", "{classes}"),
    (f"{RECIPE}.prompt.question", "Which? {}", "{labels}, {question}, {hypothesis} are"),
    (f"{RECIPE}.prompt.question", "Which? {labels", "expected '}'"),
    # ablations
    ("ablations", ["rank"], "should be a valid dictionary"),
    (f"{GRID}.seed", [1], "unknown key"),
    (f"{GRID}.metrics", ABSENT, "missing"),
    (f"{GRID}.seeds", [], "at least 1 item"),
    (f"{GRID}.seeds", [1, 1], "a seed stands there twice"),
    (f"{GRID}.recipe", "nobody", "no recipe is named 'nobody'"),
    (f"{GRID}.points", {"a": {f"{RECIPE}.lora.rank": 8}}, f"'{RECIPE}.lora.rank' is no key"),
    (f"{GRID}.points", {"a": {"lora": 8}}, "'lora' is no key"),
    (f"{GRID}.points", {"a": {"seed.x": 8}}, "'seed.x' is no key"),
    (f"{GRID}.points", {"a": {"scale": "full"}}, "'scale' is no key"),
    (f"{GRID}.points", {"a": {f"{GRID}.seeds": [1]}}, f"'{GRID}.seeds' is no key"),
    ("ablations.video_frames.values", {"data.clips.frames": [2]}, "'data.clips.frames' is no key"),
]


@pytest.mark.parametrize(("key", "value", "says"), FAULTS)
def test_a_fault_is_one_line_that_names_its_key(
    params: Path, key: str, value: Any, says: str
) -> None:
    changes = {key: value}
    if key == "base.qwen2_vl.family":
        changes[f"{RECIPE}.family"] = value
    put(params, changes)
    with pytest.raises(UserError) as fault:
        config.load(params)
    message = str(fault.value)
    assert message.startswith(f"{params}: {key}: ")
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({f"{RECIPE}.tiny.warmup_steps": 50}, f"{RECIPE}.tiny.warmup_steps"),
        ({"train.tiny.warmup_steps": 50}, "train.tiny.warmup_steps"),
        (
            {"train.full.warmup_steps": 50, f"{RECIPE}.full.warmup_ratio": 0.1},
            "train.full.warmup_steps",
        ),
    ],
)
def test_both_warm_ups_are_refused(params: Path, changes: dict[str, Any], key: str) -> None:
    put(params, changes)
    with pytest.raises(UserError) as fault:
        config.load(params)
    assert str(fault.value) == f"{params}: {key}: one of warmup_ratio and warmup_steps must be 0"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("optimizer", "paged_adamw_32bit", "sharding needs adamw_torch"),
        ("answered_each_epoch", 8, "a sharded model cannot answer"),
    ],
)
def test_sharding_refuses_what_it_cannot_do(params: Path, key: str, value: Any, says: str) -> None:
    able = {"train.tiny.sharding": "fsdp", "train.tiny.optimizer": "adamw_torch"}
    able |= {"recipes.esnlive_qwen2vl.tiny.answered_each_epoch": 0}
    put(params, able)
    assert config.load(params).recipes["esnlive_qwen2vl"].train.sharding == "fsdp"
    put(params, {f"train.tiny.{key}": value})
    with pytest.raises(UserError, match=rf"train\.tiny\.{key}: {says}"):
        config.load(params)


def test_what_families_and_tasks_can_do_is_what_their_modules_say() -> None:
    def modules(package: str) -> dict[str, ModuleType]:
        names = [p.stem for p in (ROOT / "src" / package).glob("[!_]*.py")]
        return {name: import_module(f"src.{package}.{name}") for name in names}

    known = {n: m for n, m in modules("families").items() if hasattr(m, "render")}
    videos = {n for n, m in known.items() if "steps" in signature(m.visual_inputs).parameters}
    assert videos == set(schema.READ_VIDEOS)
    assert {n for n, m in known.items() if hasattr(m, "WITH_CLASSIFIER")} == set(schema.TWO_HEADED)
    assert {n for n, m in modules("tasks").items() if m.Task.classifies} == set(schema.CLASSIFY)


def test_either_warm_up_is_fine(params: Path) -> None:
    put(params, {f"{RECIPE}.tiny.warmup_steps": 50, f"{RECIPE}.tiny.warmup_ratio": 0.0})
    assert config.load(params).recipes["emotion_qwen2vl"].train.warmup_steps == 50


def test_two_sources_are_refused(params: Path) -> None:
    kaggle = {"dataset": "someone/something", "version": 1}
    put(params, {"data.autism_faces.tiny.kaggle": kaggle})
    with pytest.raises(UserError) as fault:
        config.load(params)
    expected = "data.autism_faces.tiny: name one of folder, drawn, kaggle, abo, webvid, esnlive"
    assert str(fault.value) == f"{params}: {expected}"


def test_a_folder_goes_before_the_other_source(params: Path) -> None:
    put(params, {"data.autism_faces.tiny.folder": "my/pictures"})
    assert config.load(params).data["autism_faces"].source.kind == "folder"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("scale: tiny\ndata: [1\nseed: 3\n", "line 3: "),
        ("scale: tiny\nscale: full\n", "line 2: found duplicate key"),
        ("scale: \x01\n", "unacceptable character"),
        ("- scale\n", "must hold keys and values"),
        ("", "must hold keys and values"),
    ],
)
def test_a_syntax_error_is_one_line(params: Path, text: str, says: str) -> None:
    params.write_text(text)
    with pytest.raises(UserError) as fault:
        config.load(params)
    assert str(fault.value).startswith(f"{params}: {says}")
    assert "\n" not in str(fault.value)


def test_a_file_in_another_encoding_is_one_line(params: Path) -> None:
    params.write_bytes("scale: tiny # Größe".encode("latin-1"))
    with pytest.raises(UserError, match="can't decode"):
        config.load(params)


def test_the_number_that_dvc_writes_is_a_number(params: Path) -> None:
    apply_overrides(params, [f"{RECIPE}.full.learning_rate=1e-5", "train.full.weight_decay=1e-02"])
    assert "1e-05" in params.read_text()
    put(params, {"scale": "full"})
    train = config.load(params).recipes["emotion_qwen2vl"].train
    assert (train.learning_rate, train.weight_decay) == (1e-5, 0.01)


def test_the_scales_differ_in_values_alone(params: Path) -> None:
    tiny = config.load(params)
    put(params, {"scale": "full"})
    full = config.load(params)
    assert tiny.recipes["emotion_qwen2vl"].lora == full.recipes["emotion_qwen2vl"].lora
    assert tiny.recipes["emotion_qwen2vl"].train != full.recipes["emotion_qwen2vl"].train
    assert tiny.evaluate.batch_size != full.evaluate.batch_size


def test_recipe_1_has_the_published_settings_at_full_scale(params: Path) -> None:
    put(params, {"scale": "full"})
    full = config.load(params)
    recipe = full.recipes["emotion_qwen2vl"]
    assert recipe.lora == schema.Lora(r=8, alpha=16, dropout=0.1, targets=["q_proj", "v_proj"])
    assert recipe.quantization == schema.Quantization(bits=4, type="nf4", double=True)
    assert recipe.train.model_dump(
        include={
            "epochs",
            "batch_size",
            "gradient_accumulation",
            "learning_rate",
            "max_length",
            "optimizer",
        }
    ) == {
        "epochs": 10,
        "batch_size": 1,
        "gradient_accumulation": 4,
        "learning_rate": 2e-5,
        "max_length": 512,
        "optimizer": "paged_adamw_32bit",
    }
    assert full.base[recipe.base].model.id == "Qwen/Qwen2-VL-7B-Instruct"
    data = full.data[recipe.data]
    assert data.image_size == 224
    assert data.labels == ["Natural", "Anger", "Fear", "Joy", "Sadness", "Surprise"]
    assert data.source.kaggle.dataset.startswith("fatmamtalaat/autistic-children-emotions")


def fetch(folder: Path, data: str = "autism_faces") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages.fetch", data],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {f"{RECIPE}.lora.r": 0},
            f"{RECIPE}.lora.r: input should be greater than or equal to 1, not 0",
        ),
        ({"train.full.epoch": 1}, "train.full.epoch: unknown key"),
        ({f"{RECIPE}.data": "cats"}, f"{RECIPE}.data: no data set is named 'cats'"),
    ],
)
def test_a_stage_stops_with_one_line(params: Path, changes: dict[str, Any], line: str) -> None:
    put(params, changes)
    stopped = fetch(params.parent)
    assert stopped.returncode == 1
    assert stopped.stderr == f"error: params.yaml: {line}\n"
    assert [p.name for p in params.parent.iterdir()] == ["params.yaml"]


def test_a_stage_lists_the_names_that_there_are(params: Path) -> None:
    stopped = fetch(params.parent, "autism_face")
    assert stopped.returncode == 1
    known = "autism_faces, fer, abo, esnlive, webvid"
    expected = f"params.yaml: data.autism_face: not there; there are {known}"
    assert stopped.stderr == f"error: {expected}\n"


def test_a_stage_without_params_says_where_to_run_it(tmp_path: Path) -> None:
    stopped = fetch(tmp_path)
    assert stopped.returncode == 1
    expected = "params.yaml: not found; run from the root of the repository"
    assert stopped.stderr == f"error: {expected}\n"


def leaves(block: CommentedMap, *above: str) -> Iterator[tuple[str, list[int]]]:
    """Each key, dotted, with its line and those of the blocks around it, outermost first."""
    for key, value in block.items():
        line = block.lc.key(key)[0]
        if isinstance(value, CommentedMap) and value:
            for path, lines in leaves(value, *above, key):
                yield path, [line, *lines]
        else:
            yield ".".join([*above, key]), [line]


@pytest.mark.parametrize("values", [{"values": {f"{RECIPE}.lora.r": [1]}}, {"points": None}])
def test_a_grid_has_one_of_its_two_forms(params: Path, values: dict[str, Any]) -> None:
    put(params, {f"{GRID}.{key}": value for key, value in values.items()})
    with pytest.raises(UserError) as fault:
        config.load(params)
    assert str(fault.value) == f"{params}: {GRID}: name one of values and points"


def test_the_name_of_a_grid_is_one_of_a_file(params: Path) -> None:
    put(params, {"ablations.a/b": {"recipe": "esnlive_qwen2vl", "seeds": [1], "metrics": ["a"]}})
    put(params, {"ablations.a/b.points": {"a": {}}})
    with pytest.raises(UserError, match="a name has letters, digits and _ alone"):
        config.load(params)


@pytest.mark.parametrize("section", ["data", "base", "recipes"])
def test_a_name_that_dvc_would_take_for_a_key_is_refused(params: Path, section: str) -> None:
    first = next(iter(YAML().load(params)[section].items()))
    values = YAML().load(params)[section] | {"qwen2.5": first[1]}
    put(params, {section: dict(values)})
    with pytest.raises(UserError, match=rf"{section}\.qwen2\.5: a name has letters, digits, _"):
        config.load(params)


def test_a_recipe_that_would_write_where_others_do_is_refused(params: Path) -> None:
    recipes = YAML().load(params)["recipes"]
    put(params, {"recipes.ablations": recipes["emotion_llava"]})
    with pytest.raises(UserError, match=r"recipes\.ablations: that folder of metrics is taken"):
        config.load(params)


def test_an_experiment_may_empty_a_block_that_a_grid_writes_into(params: Path) -> None:
    apply_overrides(params, ["recipes.esnlive_qwen2vl.classifier=null"])
    assert config.load(params).recipes["esnlive_qwen2vl"].classifier is None
    put(params, {"ablations": ABSENT})
    config.load(params)
    assert config.load_grids(params) == {}


def test_dvc_overrides_values_beside_the_dotted_keys_of_grids(params: Path) -> None:
    before = config.load_grids(params)
    apply_overrides(params, [f"{RECIPE}.lora.r=3"])
    assert config.load(params).recipes["emotion_qwen2vl"].lora.r == 3
    assert config.load_grids(params) == before


def test_every_key_of_a_grid_is_explained() -> None:
    text = PARAMS.read_text().splitlines()
    explained = set()
    for grid in YAML().load(PARAMS)["ablations"].values():
        for key in grid:
            line = grid.lc.key(key)[0]
            if "#" in text[line] or text[line - 1].lstrip().startswith("#"):
                explained.add(key)
    assert explained == set(schema.Grid.model_fields)


@pytest.mark.parametrize("section", ["data", "base", "train", "recipes", "evaluate", "explain"])
def test_every_key_is_explained(section: str) -> None:
    text = PARAMS.read_text().splitlines()
    values = YAML().load(PARAMS)

    def commented(line: int) -> bool:
        return "#" in text[line] or text[line - 1].lstrip().startswith("#")

    tiny = values["train"]["tiny"]
    training = {key for key in tiny if commented(tiny.lc.key(key)[0])}
    assert training == set(tiny)
    explained = {
        path.split(".")[-1]
        for path, lines in leaves(values[section])
        # The line of an entry's name says what the entry is, not what its keys are.
        if any(commented(line) for line in lines[1:] or lines)
    }
    # train.tiny explains the keys of train.full and of the recipes' own tiny and full.
    explained |= training if section in ("train", "recipes") else set()
    for path, _ in leaves(values[section]):
        nothing_set = values[section].mlget(path.split(".")) == {}
        assert path.split(".")[-1] in explained or nothing_set, f"{section}.{path} has no comment"
