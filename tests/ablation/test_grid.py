import shutil

import pytest
from ruamel.yaml import YAML

from src import config
from src.ablation import grid as grids
from src.ablation.run import slug
from src.errors import UserError
from src.schema import Grid
from tests.conftest import ROOT

RECIPE = "recipes.esnlive_qwen2vl"


@pytest.fixture
def path(tmp_path):
    return shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")


def grid(**changes) -> Grid:
    given = {"recipe": "esnlive_qwen2vl", "seeds": [1, 2], "metrics": ["accuracy"]}
    return Grid(**given | changes)


def test_values_are_every_combination_and_the_first_of_each_comes_first():
    values = {f"{RECIPE}.lora.r": [16, 4], f"{RECIPE}.lora.targets": [["q_proj", "v_proj"], ["k"]]}
    found = grids.points(grid(values=values))
    assert [p.name for p in found] == [
        "r=16, targets=q_proj+v_proj",
        "r=16, targets=k",
        "r=4, targets=q_proj+v_proj",
        "r=4, targets=k",
    ]
    assert found[2].overrides == {
        f"{RECIPE}.lora.r": 4,
        f"{RECIPE}.lora.targets": ["q_proj", "v_proj"],
    }


def test_keys_that_end_alike_are_named_in_full():
    values = {"train.tiny.epochs": [1], "train.full.epochs": [2]}
    (point,) = grids.points(grid(values=values))
    assert point.name == "train.tiny.epochs=1, train.full.epochs=2"


def test_values_of_every_kind_have_a_name():
    values = {"a.b": [None, True, 0.5, "text", {"weight": 1.0}]}
    named = [p.name for p in grids.points(grid(values=values))]
    assert named == ["b=null", "b=true", "b=0.5", "b=text", 'b={"weight": 1.0}']


def test_points_keep_their_names_order_and_values():
    points = {"both": {}, "text alone": {f"{RECIPE}.classifier": None}}
    found = grids.points(grid(points=points))
    assert [(p.name, p.overrides) for p in found] == list(points.items())


def test_a_seed_stands_in_the_recipe_s_own_block_where_it_has_one(path):
    assert config.seed_key("esnlive_qwen2vl", "tiny", path) == "train.tiny.seed"
    yaml = YAML()
    values = yaml.load(path)
    values["recipes"]["esnlive_qwen2vl"]["tiny"]["seed"] = 3
    yaml.dump(values, path)
    own = config.seed_key("esnlive_qwen2vl", "tiny", path)
    assert own == f"{RECIPE}.tiny.seed"
    params = grids.overridden(path, {own: 9})
    assert params.recipes["esnlive_qwen2vl"].train.seed == 9
    assert config.seed_key("esnlive_qwen2vl", "full", path) == "train.full.seed"


@pytest.mark.parametrize("name", config.load_grids(ROOT / "params.yaml"))
def test_every_grid_of_params_yaml_can_run(name):
    grids.check(name, config.load_grids(ROOT / "params.yaml")[name], ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"values": {f"{RECIPE}.lora.r": [16, 0]}}, f"r=0: {RECIPE}.lora.r: input should be"),
        ({"values": {"data.esnlive.reader": ["esnlive", "x"]}}, "reader=x: data.esnlive.reader: "),
        (
            {"points": {"a": {f"{RECIPE}.classifier": None, f"{RECIPE}.classifier.weight": 1.0}}},
            f"a: {RECIPE}.classifier.weight lies in {RECIPE}.classifier; set one of them",
        ),
        ({"values": {"train.tiny.seed": [1, 2]}}, "seed=1: train.tiny.seed is what `seeds` sets"),
        ({"values": {"train.tiny": [{}, None]}}, "tiny={}: train.tiny.seed lies in train.tiny"),
        # Without an effect: the other scale, another recipe, a default that the recipe overrides.
        ({"values": {"train.full.epochs": [1, 2]}}, "epochs=2: at tiny the same run as epochs=1"),
        ({"values": {"recipes.vqa_blip2.lora.r": [1, 2]}}, "r=2: at tiny the same run as r=1"),
        (
            {"values": {"train.tiny.answered_each_epoch": [0, 8]}},
            "answered_each_epoch=8: at tiny the same run as answered_each_epoch=0",
        ),
        ({"points": {"as is": {}, "16": {f"{RECIPE}.lora.r": 16}}}, "16: at tiny the same run as"),
    ],
)
def test_a_point_that_cannot_be_is_named_before_anything_runs(path, changes, says):
    with pytest.raises(UserError) as fault:
        grids.check("mine", grid(**changes), path)
    message = str(fault.value)
    assert message.startswith(f"{path}: ablations.mine: {says}")
    assert "\n" not in message


def test_a_name_of_git_is_made_of_any_name():
    assert slug("r=16, targets=q_proj+v_proj") == "r-16-targets-q_proj-v_proj"
    assert slug("../..lock~^: é") == "lock"
    assert slug("é") == "point"
    assert len(slug("long " * 40)) <= 40
