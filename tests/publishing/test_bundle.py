import shutil

import pandas as pd
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

from src import config
from src.errors import UserError
from src.files import read_json
from src.inference.tuned import load
from src.publishing import bundle
from src.publishing.bundle import Place, Target, contents
from src.publishing.trained import gather
from tests.publishing import workspace
from tests.publishing.workspace import COMMIT, HUB_BASE, change_source

NAME = "emotion_qwen2vl"
TO_A_FOLDER = Target(Place.folder, "path/to/out")
TO_THE_HUB = Target(Place.hub, "someone/model")
ALWAYS = {"README.md", "metrics.json", "parameters.json", "recipe.json", "tokenizer.json"}


def trained():
    return gather(config.load(), NAME)


def filled(folder, target=TO_A_FOLDER):
    folder.mkdir()
    bundle.fill(trained(), target, folder)
    return folder


def on_the_hub(here):
    """Let its base be one of the Hub, whose processor comes from the folder as before."""
    checkpoint = here / "models/base/qwen2_vl/checkpoint"
    shutil.copytree(checkpoint, here / HUB_BASE)
    manifest = {"id": HUB_BASE, "revision": COMMIT}
    workspace.write_json(here / "models/base/qwen2_vl/manifest.json", manifest)


def test_an_adapter_goes_out_with_processor_numbers_parameters_card_and_its_own_base(here):
    files = contents(filled(here / "out"))
    assert set(files) >= ALWAYS | {"adapter_config.json", "adapter_model.safetensors"}
    assert "base/model.safetensors" in files
    assert not [name for name in files if "checkpoint" in name]
    metrics = read_json(here / "out/metrics.json")
    assert metrics["tuned"] == read_json(here / "metrics" / NAME / "tuned.json")
    assert metrics["base"] == read_json(here / "metrics" / NAME / "base.json")
    adapter = read_json(here / "out/adapter_config.json")
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("base", None)


def test_an_adapter_names_its_base_as_the_hub_does_and_at_its_commit(here):
    on_the_hub(here)
    files = contents(filled(here / "out", TO_THE_HUB))
    adapter = read_json(here / "out/adapter_config.json")
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == (HUB_BASE, COMMIT)
    assert not [name for name in files if name.startswith("base/")]
    assert read_json(here / "out/parameters.json")["manifest"]["revision"] == COMMIT


def test_no_path_of_this_machine_and_nothing_but_model_and_words_goes_out(here):
    private = "/home/john/pictures of Jane"
    change_source(here, "autism_faces", source="folder", folder=private, files=3)
    out = filled(here / "out")
    kinds = {path.suffix for path in out.rglob("*") if path.is_file()}
    assert kinds == {".json", ".jinja", ".md", ".safetensors"}
    for path in out.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(here).encode() not in content, path
            assert b"models/base/qwen2_vl/checkpoint" not in content, path
            assert b"john" not in content, path
            assert b"Jane" not in content, path


def test_what_is_in_the_folder_answers_as_what_was_trained(here, faces):
    out = filled(here / "out")
    pictures = [f"{i}.png" for i in range(6)]
    for name, face in zip(pictures, faces, strict=False):
        face["image"].resize((96, 96)).save(name)
    before = load(NAME).ask(pictures)
    after = load(NAME, adapter=str(out), base=str(out / "base")).ask(pictures)
    untuned = before["probability"].nunique() == 1
    assert not untuned
    assert after.equals(before)


def test_what_is_in_the_folder_loads_with_peft_alone(here):
    out = filled(here / "out")
    base = AutoModelForImageTextToText.from_pretrained(out / "base")
    model = PeftModel.from_pretrained(base, out)
    weights = [w for name, w in model.named_parameters() if "lora_B" in name]
    assert weights
    assert all(weight.abs().sum() > 0 for weight in weights)
    assert AutoProcessor.from_pretrained(out).tokenizer


def test_the_same_recipe_twice_gives_the_same_bytes(here):
    first, second = filled(here / "first"), filled(here / "second")
    for name in contents(first):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_merged_model_goes_out_without_adapter_and_base(here):
    target = Target(Place.hub, "someone/model", merged=True)
    files = contents(filled(here / "out", target))
    assert set(files) >= ALWAYS | {"model.safetensors", "config.json"}
    assert not {name for name in files if name.startswith(("adapter", "base/"))}
    model = AutoModelForImageTextToText.from_pretrained(here / "out")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_an_adapter_on_a_base_that_nobody_else_has_is_refused_but_to_a_folder(here):
    with pytest.raises(UserError, match="made here and is nowhere else; add --merged"):
        bundle.check(trained(), TO_THE_HUB)
    bundle.check(trained(), TO_A_FOLDER)
    bundle.check(trained(), Target(Place.hub, "someone/model", merged=True))


def test_a_second_head_goes_out_with_its_adapter_and_says_why(tmp_path, monkeypatch, faces):
    name = "esnlive_qwen2vl"
    monkeypatch.chdir(workspace.make(tmp_path / "two", name))
    found = gather(config.load(), name)
    (tmp_path / "out").mkdir()
    bundle.fill(found, TO_A_FOLDER, tmp_path / "out")
    tuned = load(name, adapter=str(tmp_path / "out"), base=str(tmp_path / "out/base"))
    model = tuned.model
    assert model.get_base_model().classifier.modules_to_save["default"].weight.shape[0] == 2
    card = (tmp_path / "out/README.md").read_text()
    assert "With PEFT" not in card
    assert "its explanation into `explanation`:" in card
    faces[0]["image"].resize((96, 96)).save("face.png")
    answers = tuned.ask(["face.png", "gone.png"], "A person laughs.")
    assert list(answers)[2:4] == ["answer", "explanation"]
    assert answers["answer"][0] in tuned.collator.task.choices
    said = answers["explanation"]
    assert said[0]
    assert said[0] != answers["answer"][0]
    assert pd.isna(said[1])
    with pytest.raises(UserError, match="second head"):
        bundle.check(found, Target(Place.folder, "out", merged=True))
