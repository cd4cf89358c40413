import pytest

from src import config
from src.errors import UserError
from src.publishing.trained import HIDDEN, gather, record, without_paths
from tests.publishing.workspace import change_source, edit

NAME = "emotion_qwen2vl"


def test_a_recipe_that_is_as_it_was_trained_has_no_changes(here):
    assert gather(config.load(), NAME).changes == []


def test_a_parameter_that_changed_since_the_training_is_named(here):
    lora = {"r": 4, "alpha": 16, "dropout": 0.1, "targets": ["q_proj"]}
    edit(here, NAME, lora=lora)
    assert gather(config.load(), NAME).changes == [f"recipes.{NAME}.lora"]


def test_a_parameter_that_dvc_does_not_know_is_held_against_the_adapters_own_record(here):
    edit(here, NAME, precision={"tiny": "bf16", "full": "bf16"})
    assert gather(config.load(), NAME).changes == [f"recipes.{NAME}.precision"]


def test_another_size_of_the_pictures_is_a_change(here):
    text = (here / "params.yaml").read_text()
    (here / "params.yaml").write_text(
        text.replace("{tiny: 56, full: 224}", "{tiny: 84, full: 224}")
    )
    assert gather(config.load(), NAME).changes == ["data.autism_faces.image_size"]


def test_data_weights_and_numbers_that_changed_are_named(here):
    change_source(here, "autism_faces", source="folder", folder="elsewhere")
    (here / "metrics" / NAME / "tuned.json").write_text(
        (here / "metrics" / NAME / "tuned.json").read_text().replace("0.9", "0.8")
    )
    weights = here / "models/adapters" / NAME / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    changed = gather(config.load(), NAME).changes
    named = [f"metrics/{NAME}/tuned.json", "data/prepared/autism_faces", f"models/adapters/{NAME}"]
    assert sorted(changed) == sorted(named)


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("models/adapters/{}/adapter_model.safetensors", "train@{}"),
        ("models/adapters/{}/recipe.json", "train@{}"),
        ("metrics/{}/base.json", "baseline@{}"),
        ("metrics/{}/tuned.json", "evaluate@{}"),
        ("models/base/qwen2_vl/manifest.json", "build@qwen2_vl"),
        ("data/prepared/autism_faces/summary.json", "prepare@autism_faces"),
    ],
)
def test_what_is_not_there_is_named_with_the_stage_that_makes_it(here, file, stage):
    (here / file.format(NAME)).unlink()
    with pytest.raises(UserError) as caught:
        gather(config.load(), NAME)
    assert str(caught.value).startswith(f"{file.format(NAME)}: not there; ")
    assert f"`dvc repro {stage.format(NAME)}`" in str(caught.value)


def test_outside_of_a_dvc_repository_it_is_one_line(here):
    (here / ".dvc").rename(here / "dvc")
    with pytest.raises(
        UserError, match=f"DVC cannot tell what {NAME} was trained from: "
    ) as caught:
        gather(config.load(), NAME)
    assert "\n" not in str(caught.value)


def test_the_record_holds_the_whole_recipe_as_resolved_and_the_hash_of_what_it_stands_on(here):
    params = config.load()
    kept = record(gather(params, NAME))
    assert kept["recipe"] == params.recipes[NAME].model_dump()
    assert kept["recipe"]["train"]["learning_rate"] == 0.01
    assert (kept["scale"], kept["seed"]) == ("tiny", 42)
    assert set(kept["revisions"]) == {"data/prepared/autism_faces", f"models/adapters/{NAME}"}
    assert all(len(entry["md5"]) > 31 for entry in kept["revisions"].values())
    assert kept["splits"] == {"train": 90, "validation": 10, "test": 20}


def test_paths_of_the_machine_stay_here():
    given = {"folder": "../John's pictures", "tables": ["/home/john/a.csv", "b.csv"], "n": 1}
    hidden = {"folder": HIDDEN, "tables": [HIDDEN, "b.csv"], "n": 1}
    assert without_paths(given) == hidden
    assert without_paths({"folder": None, "base": "~/model"}) == {"folder": None, "base": HIDDEN}
