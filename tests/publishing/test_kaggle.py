"""Kaggle's real client against a Kaggle on this machine."""

import os
import tempfile
import time

import pytest
from kagglesdk import kaggle_env

from src import config
from src.errors import UserError
from src.publishing import kaggle
from src.publishing.bundle import Place, Target
from src.publishing.trained import gather
from tests.publishing.workspace import HUB_BASE
from tests.servers.kaggle_models import TOKEN, KaggleModels

TARGET = Target(Place.kaggle, "someone/a-model", licence="Apache 2.0")
VARIATION = "someone/a-model/transformers/emotion-qwen2vl"
FILES = {
    "README.md": b"---\nlicense: other\n---\n# a model\n",
    "metrics.json": b"{}",
    "adapter_model.safetensors": b"weights" * 1000,
}


@pytest.fixture
def server(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))  # of uploads to go on with
    with KaggleModels() as server:
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, server.url)
        yield server


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    for name, content in FILES.items():
        (tmp_path / "out" / name).write_bytes(content)
    return tmp_path / "out"


@pytest.fixture
def push(server, folder, on_the_hub, monkeypatch):
    monkeypatch.chdir(on_the_hub)
    trained = gather(config.load(), "emotion_qwen2vl")

    def push(target=TARGET):
        # The command fills a fresh folder each time.
        (folder / "model-instance-metadata.json").unlink(missing_ok=True)
        return kaggle.push(folder, trained, target)

    return push


def test_model_and_variation_are_made_with_the_files_and_the_card(push, server):
    assert push() == f"https://www.kaggle.com/models/{VARIATION}"
    model = server.models["someone/a-model"]
    assert model["isPrivate"] is True
    assert model["description"] == "# a model"
    variation = server.variations[VARIATION]
    assert variation.versions == [FILES]
    assert variation.values["usage"] == "# a model"
    assert variation.values["licenseName"] == "Apache 2.0"
    assert variation.values["externalBaseModelUrl"] == f"https://huggingface.co/{HUB_BASE}"


def test_publishing_twice_makes_no_version_and_sends_no_file(push, server):
    push()
    server.asked.clear()
    assert push() is None
    assert len(server.variations[VARIATION].versions) == 1
    assert not {"PUT", "CreateModelInstanceVersion", "UpdateModelInstance"} & set(server.asked)


def test_a_changed_file_is_the_next_version(push, server, folder):
    push()
    (folder / "metrics.json").write_bytes(b'{"n": 1}')
    assert push()
    assert server.variations[VARIATION].versions == [FILES, FILES | {"metrics.json": b'{"n": 1}'}]
    assert push() is None


def test_a_merged_model_is_a_variation_of_its_own(push, server):
    push()
    push(Target(Place.kaggle, "someone/a-model", licence="MIT", merged=True))
    assert set(server.variations) == {VARIATION, f"{VARIATION}-merged"}


def refused(push, *arguments):
    with pytest.raises(UserError) as caught:
        push(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("private", [True, False])
def test_another_visibility_than_asked_for_is_refused_before_anything_is_sent(
    push, server, private
):
    push(Target(Place.kaggle, "someone/a-model", private=not private, licence="MIT"))
    server.asked.clear()
    is_now = "public" if private else "private"
    said = refused(push, Target(Place.kaggle, "someone/a-model", private=private, licence="MIT"))
    assert f"is {is_now} on Kaggle" in said
    assert "PUT" not in server.asked


def test_a_file_that_does_not_arrive_makes_no_version(push, server):
    server.broken = 1
    assert "Kaggle's storage does not take it" in refused(push)
    assert server.variations == {}
    assert push()
    assert server.variations[VARIATION].versions == [FILES]


@pytest.mark.parametrize(
    ("place", "status", "says"),
    [
        ("/CreateModel", 403, "your token may not write there (403)"),
        ("/GetModel", 403, "your token may not write there (403)"),
        ("/CreateModelInstance", 413, "a file is too big for Kaggle (413)"),
        ("/StartBlobUpload", 413, "a file is too big for Kaggle (413)"),
        ("/GetModel", 401, "does not accept the token (401)"),
        ("/UpdateModelInstance", 500, "Kaggle answers with status 500"),
    ],
)
def test_a_refusal_on_the_way_is_one_line_and_the_next_run_ends_well(
    push, server, place, status, says
):
    server.refuse, server.refused = status, place
    assert says in refused(push)
    server.refuse = None
    assert push()
    assert server.variations[VARIATION].versions[-1] == FILES


def test_a_name_of_somebody_else_is_one_line(push, server):
    target = Target(Place.kaggle, "other/a-model", licence="MIT")
    assert "the name may be somebody else's" in refused(push, target)
    assert server.models == {}


def test_what_kaggle_says_in_words_is_one_line(push, server):
    server.models["someone/older"] = {"title": "a model"}
    assert "The requested title is already in use" in refused(push)


def test_no_token_and_a_refused_token_are_one_line(push, monkeypatch):
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    assert "it needs a Kaggle token" in refused(push)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "old")
    assert "does not accept the token of" in refused(push)


def test_no_network_is_one_line(push, monkeypatch):
    monkeypatch.setitem(
        kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, "http://127.0.0.1:9"
    )
    assert "the connection to Kaggle failed" in refused(push)


@pytest.mark.parametrize(
    ("address", "licence", "says"),
    [
        ("someone/A_model", "MIT", "A_model is no name for Kaggle"),
        ("someone/a-model", None, "Kaggle wants a licence"),
    ],
)
def test_a_name_and_a_licence_are_asked_for_before_anything_is_done(address, licence, says):
    with pytest.raises(UserError, match=says):
        kaggle.check(Target(Place.kaggle, address, licence=licence))
