"""The real Hub client against a Hub on this machine."""

import json
import os
import subprocess
import sys
import time

import huggingface_hub
import pandas as pd
import pytest
from PIL import Image

from src.errors import UserError
from src.inference import batch
from src.publishing import hub
from tests.conftest import ROOT
from tests.publishing.workspace import COMMIT, HUB_BASE
from tests.servers.hub_publishing import TOKEN, serve_publishing

REPO = "someone/model"
FILES = {
    "README.md": b"---\nlicense: other\n---\n# a model\n",
    "metrics.json": b"{}",
    "adapter_model.safetensors": b"weights" * 1000,
}
FILES["parameters.json"] = json.dumps({"files": [*FILES, "parameters.json"]}).encode()


@pytest.fixture
def server(tmp_path, on_the_hub):
    with serve_publishing(on_the_hub / "hub_base", HUB_BASE, COMMIT, tmp_path / "hub") as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_bytes(content)
    return tmp_path / "out"


@pytest.fixture
def push(server, folder, monkeypatch):
    """`hub.push` as a process started with that HF_ENDPOINT and HF_TOKEN would run it."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    files = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return lambda repo=REPO, private=True: hub.push(folder, repo, private, "a message")


def test_the_folder_is_one_commit_in_a_private_repository(push, server):
    address = push()
    assert address == f"{server.url}/{REPO}/commit/{server.heads[REPO]}"
    assert server.files(REPO) == FILES
    assert server.of(REPO).private
    assert [commit["summary"] for commit in server.commits] == ["initial commit", "a message"]


def test_publishing_twice_makes_no_commit_and_sends_no_weights(push, server):
    push()
    server.requests.clear()
    assert push() is None
    assert len(server.commits) == 2
    assert not [r for r in server.requests if r.startswith("PUT") or "/commit/" in r]


def test_a_changed_file_is_the_next_commit(push, server, folder):
    push()
    (folder / "metrics.json").write_bytes(b'{"n": 1}')
    assert push()
    assert server.files(REPO)["metrics.json"] == b'{"n": 1}'
    assert len(server.commits) == 3


def fill(server, *names):
    for name in names:
        file = server.published / REPO / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"old")


def test_what_an_earlier_publication_left_goes(push, server):
    server.create(REPO, private=True)
    left = ("model.safetensors", "merges.txt", "odd[1].json", "base/config.json")
    fill(server, *left, "README.md")
    listed = json.dumps({"files": [*left, "parameters.json", "*"]})
    (server.published / REPO / "parameters.json").write_text(listed)
    push()
    assert server.files(REPO) == FILES
    assert (server.published / REPO / ".gitattributes").exists()


@pytest.mark.parametrize("parameters", [None, "{", '{"r": 8}', '{"files": ["parameters.json"]}'])
def test_a_repository_of_somebody_else_is_left_alone(push, server, parameters):
    server.create(REPO, private=True)
    fill(server, "model.safetensors", "README.md")
    if parameters:
        (server.published / REPO / "parameters.json").write_text(parameters)
    before = server.files(REPO)
    told = refused(push)
    assert f"{REPO}: holds model.safetensors, which this command is not known to have" in told
    assert server.files(REPO) == before
    assert len(server.commits) == 1


def test_what_no_model_is_loaded_from_is_no_reason_to_refuse_and_stays(push, server):
    server.create(REPO, private=True)
    fill(server, "README.md", "LICENSE", "docs/picture.png")
    push()
    assert server.files(REPO) == FILES | {"LICENSE": b"old", "docs/picture.png": b"old"}


@pytest.mark.parametrize("private", [True, False])
def test_another_visibility_than_asked_for_is_refused_before_anything_is_sent(
    push, server, private
):
    server.create(REPO, private=not private)
    is_now = "public" if private else "private"
    with pytest.raises(UserError, match=f"{REPO} is {is_now} on the Hub: .*--{is_now}"):
        push(private=private)
    assert server.files(REPO) == {}


def test_a_public_model_is_public(push, server):
    push(private=False)
    assert not server.of(REPO).private


def refused(push, *arguments):
    with pytest.raises(UserError) as caught:
        push(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_token_is_one_line(push, server, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "the Hub needs a token" in refused(push)
    assert server.requests == []


def test_a_token_that_expired_is_one_line(push, server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    assert "does not accept the token (401)" in refused(push)
    assert server.commits == []


def test_a_name_of_somebody_else_is_one_line_whether_it_is_taken_or_free(push, server):
    assert "the name may be somebody else's" in refused(push, "other/model")
    server.create("other/model", private=True)
    assert "the name may be somebody else's" in refused(push, "other/model")
    assert server.files("other/model") == {}


@pytest.mark.parametrize(
    ("place", "answer", "says"),
    [
        ("objects/batch", (413, ""), "a file is too big for the Hub (413)"),
        ("/storage/", (413, ""), "a file is too big for the Hub (413)"),
        ("/commit/", (413, ""), "a file is too big for the Hub (413)"),
        ("/commit/", (403, ""), "your token may not write there (403)"),
        ("repos/create", (500, ""), "the Hub answers with status 500"),
        ("whoami", (429, ""), "the Hub answers with status 429"),
    ],
)
def test_a_refusal_on_the_way_is_one_line_and_leaves_no_commit(push, server, place, answer, says):
    server.refuse, server.refused = answer, place
    assert says in refused(push)
    assert not [commit for commit in server.commits if commit["summary"] == "a message"]
    server.refuse = None
    assert push()
    assert server.files(REPO) == FILES


def test_a_card_that_the_hub_does_not_take_is_one_line_and_sends_nothing(push, server, folder):
    (folder / "README.md").write_bytes(b"---\nlicense: nonsense\n---\n")
    assert 'does not take it: Invalid metadata in README.md. - "license" must be' in refused(push)
    assert server.files(REPO) == {}


def test_a_storage_that_does_not_answer_is_one_line(push, server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    assert "xet-write-token" in refused(push)
    assert len(server.commits) == 1


def test_no_network_is_one_line(push, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the Hub cannot be reached" in refused(push)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "the Hub cannot be reached" in refused(push)


@pytest.mark.slow
def test_what_is_published_answers_from_there_as_it_did_here(
    server, on_the_hub, tmp_path, faces, monkeypatch
):
    for number in range(6):
        file = tmp_path / "pictures" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        faces[number]["image"].resize((96, 96), Image.Resampling.BICUBIC).save(file)

    def run(*command):
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        env |= {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN}
        env |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        env |= {"HF_HUB_DISABLE_TELEMETRY": "1"}
        whole = [sys.executable, "-m", *command]
        done = subprocess.run(whole, cwd=on_the_hub, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    name, pictures = "emotion_qwen2vl", str(tmp_path / "pictures")
    there, here = tmp_path / "there.csv", tmp_path / "here.csv"
    published = run("tools.publish", name, "--to", "hub", "--repo", REPO, "--yes")
    assert f"{REPO}/commit/" in published
    asked = (pictures, "--recipe", name, "--adapter", REPO, "--output", str(there))
    run("tools.predict", *asked)
    assert [r for r in server.requests if f"/{REPO}/resolve/" in r and "adapter_model" in r]

    monkeypatch.chdir(on_the_hub)
    base = str(on_the_hub / "hub_base")
    batch.run(batch.read_inputs(pictures, None, None, None), here, name, None, base, 8, {})
    answers = pd.read_csv(there)
    assert len(answers) == 6
    assert answers["probability"].nunique() > 1
    pd.testing.assert_frame_equal(answers, pd.read_csv(here))
