"""The full scale's base, with the real Hub client against a server on this machine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.files import read_json, write_json
from tests.conftest import ROOT
from tests.servers.hub_server import serve

REPO, COMMIT = "Qwen/Qwen2-VL-7B-Instruct", "eed13092ef92e448dd6875b2a00151bd3f7db0ac"


@pytest.fixture
def hub(base):
    with serve(base / "checkpoint", REPO, COMMIT) as server:
        yield server


@pytest.fixture
def workspace(tmp_path) -> Path:
    """A place with the parameters at full scale and nothing else."""
    params = (ROOT / "params.yaml").read_text().replace("scale: tiny", "scale: full", 1)
    (tmp_path / "params.yaml").write_text(params)
    return tmp_path


def python(
    workspace: Path, *arguments: str, endpoint: str, offline: bool = False
) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(workspace / "hub"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": str(int(offline)),
    }
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=workspace, env=env, capture_output=True, text=True)


def build(workspace: Path, hub) -> subprocess.CompletedProcess[str]:
    return python(workspace, "-m", "stages.build", "qwen2_vl", endpoint=hub.url)


LOAD = (
    "from src import config, models; from src.errors import one_line; from pathlib import Path; "
    "recipe = config.load().recipes['emotion_qwen2vl']; base = Path('models/base/qwen2_vl'); "
    "one_line(lambda: (models.load_processor(base, recipe), models.load_base(base, recipe)))()"
)


def load(workspace: Path, hub, offline: bool = False) -> subprocess.CompletedProcess[str]:
    return python(workspace, "-c", LOAD, endpoint=hub.url, offline=offline)


def weights(hub) -> list[str]:
    """The weights that were sent, in order."""
    sent = [r for r in hub.requests if r.startswith("GET /storage/")]
    return [r.rpartition("/")[2] for r in sent]


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a failure."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error:"))
    return line


def test_a_base_of_the_hub_is_pinned_and_loads_by_the_lines_that_load_the_small_one(hub, workspace):
    done = build(workspace, hub)
    assert done.returncode == 0, done.stderr
    manifest = read_json(workspace / "models/base/qwen2_vl/manifest.json")
    assert (manifest["id"], manifest["revision"]) == (REPO, COMMIT)
    assert read_json(workspace / "metrics/base/qwen2_vl.json")["parameters"] > 100_000
    assert not weights(hub)
    brought = load(workspace, hub)
    assert brought.returncode == 0, brought.stderr
    assert weights(hub) == ["model.safetensors"]
    hub.requests.clear()
    assert load(workspace, hub, offline=True).returncode == 0
    assert hub.requests == []


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["cut off", "429"])
def test_weights_come_whole_after_trouble_on_the_way(hub, workspace, trouble):
    build(workspace, hub)
    if trouble == "cut off":
        hub.cuts = 1
    else:
        hub.refuse, hub.refused, hub.refusals = (429, ""), "/storage/", 2
    done = load(workspace, hub)
    assert done.returncode == 0, done.stderr
    assert hub.refusals == 0 or hub.cuts == 0


@pytest.mark.slow
def test_a_storage_out_of_service_is_one_line_and_the_next_start_goes_on(hub, workspace):
    build(workspace, hub)
    hub.refuse, hub.refused, hub.refusals = (503, ""), "/storage/", 1
    line = refused(load(workspace, hub))
    assert "503 Service Unavailable" in line
    assert line.endswith("then start again: whole files are kept")
    assert load(workspace, hub).returncode == 0


@pytest.mark.slow
def test_damaged_weights_are_removed_and_brought_anew(hub, workspace):
    build(workspace, hub)
    hub.damages = 1
    assert "model.safetensors arrived damaged (its checksum is not the Hub's)" in refused(
        load(workspace, hub)
    )
    assert "cannot download" in refused(load(workspace, hub, offline=True))
    done = load(workspace, hub)
    assert done.returncode == 0, done.stderr
    assert weights(hub) == ["model.safetensors"] * 2


KILLED = (
    "import os; from huggingface_hub import HfApi; "
    "HfApi.verify_repo_checksums = lambda *args, **options: os._exit(9); "
)


@pytest.mark.slow
def test_weights_that_a_killed_start_did_not_check_are_checked_by_the_next(hub, workspace):
    build(workspace, hub)
    hub.damages = 1
    assert python(workspace, "-c", KILLED + LOAD, endpoint=hub.url).returncode == 9
    assert "model.safetensors arrived damaged" in refused(load(workspace, hub))
    assert load(workspace, hub).returncode == 0
    assert load(workspace, hub, offline=True).returncode == 0


def test_weights_that_have_no_room_are_not_begun(hub, workspace):
    build(workspace, hub)
    manifest = workspace / "models/base/qwen2_vl/manifest.json"
    (name,) = read_json(manifest)["bytes"]
    write_json(manifest, read_json(manifest) | {"bytes": {name: 10**18}})
    assert re.search(
        rf"{REPO}: needs 1000000000\.0 GB, and .* are free on the disk of .*; free some",
        refused(load(workspace, hub)),
    )
    assert not weights(hub)


def test_what_a_killed_download_left_is_removed_and_what_is_being_written_is_not(hub, workspace):
    build(workspace, hub)
    (blobs,) = (workspace / "hub/hub").glob("models--*/blobs")
    left, written = (blobs / f"{'0' * 64}.{name}.incomplete" for name in ("0000000a", "0000000b"))
    for part in (left, written):
        part.write_bytes(bytes(9))
    os.utime(left, (0, 0))
    assert load(workspace, hub).returncode == 0
    assert list(blobs.glob("*.incomplete")) == [written]


def test_weights_of_another_kind_than_safetensors_are_refused(base, workspace, tmp_path):
    checkpoint = shutil.copytree(base / "checkpoint", tmp_path / "pickled")
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with serve(checkpoint, REPO, COMMIT) as hub:
        assert build(workspace, hub).returncode == 0
        assert "has no weights as safetensors" in refused(load(workspace, hub))
        assert not [request for request in hub.requests if request.endswith(".bin")]


@pytest.mark.parametrize(
    "config", [None, "{", '{"model_type": "gpt2"}', '{"model_type": "new_vl"}']
)
def test_what_is_no_vision_language_model_is_one_line(base, workspace, tmp_path, config):
    checkpoint = shutil.copytree(base / "checkpoint", tmp_path / "other")
    (checkpoint / "config.json").unlink()
    if config:
        (checkpoint / "config.json").write_text(config)
    with serve(checkpoint, REPO, COMMIT) as hub:
        line = refused(build(workspace, hub))
    assert f"full: {REPO} at {COMMIT} is no vision-language model that transformers knows: " in line
    assert not (workspace / "models").exists()


@pytest.mark.parametrize("odd", [f"{REPO}@main", "Qwen/Qwen2--VL"])
def test_an_id_that_the_hub_cannot_have_is_one_line(hub, workspace, odd):
    params = workspace / "params.yaml"
    params.write_text(params.read_text().replace(f"id: {REPO}", f"id: {odd}"))
    assert f"full: {odd} is no id of a repository of the Hub (" in refused(build(workspace, hub))


@pytest.mark.parametrize(("revision", "ref"), [("null", "main"), ("v1", "v1"), (COMMIT, COMMIT)])
def test_the_commit_behind_a_name_is_recorded(hub, workspace, revision, ref):
    hub.names = ["v1"]
    params = workspace / "params.yaml"
    params.write_text(params.read_text().replace(COMMIT, revision))
    assert build(workspace, hub).returncode == 0
    manifest = read_json(workspace / "models/base/qwen2_vl/manifest.json")
    # No word of how it was asked for: pinning it must not change what training hangs on.
    assert manifest.keys() == {"id", "revision", "bytes"}
    assert manifest["revision"] == COMMIT
    record = read_json(workspace / "metrics/base/qwen2_vl.json")
    assert {k: record[k] for k in ("id", "revision", "ref")} == {
        "id": REPO,
        "revision": COMMIT,
        "ref": ref,
    }


def test_a_name_that_moved_since_the_last_commit_is_told(hub, workspace):
    params = workspace / "params.yaml"
    params.write_text(params.read_text().replace(COMMIT, "null"))
    assert "note: " not in build(workspace, hub).stderr
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "metrics"], ["commit", "-qm", "."]):
        subprocess.run([*git, *command], cwd=workspace, check=True)
    shutil.rmtree(workspace / "metrics")  # as DVC does before it runs a stage
    hub.repositories[0].commit = "f" * 40
    done = build(workspace, hub)
    (note,) = [line for line in done.stderr.splitlines() if line.startswith("note:")]
    assert note == (
        f"note: params.yaml: base.qwen2_vl.full: {REPO} at main has changed: commit {COMMIT}, now "
        f"{'f' * 40}; set revision to the former to have it again"
    )
    assert done.returncode == 0
    assert read_json(workspace / "metrics/base/qwen2_vl.json")["revision"] == "f" * 40


def test_a_second_build_brings_no_file_again(hub, workspace):
    build(workspace, hub)
    hub.requests.clear()
    shutil.rmtree(workspace / "models")
    assert build(workspace, hub).returncode == 0
    assert not [request for request in hub.requests if request.startswith("GET /Qwen")]


@pytest.mark.parametrize(
    ("refuse", "says"),
    [
        ((401, ""), "cannot download the files of Qwen/Qwen2-VL-7B-Instruct"),
        ((403, "GatedRepo"), "is gated; accept its terms on its page"),
        ((404, "RepoNotFound"), "cannot download the files of Qwen/Qwen2-VL-7B-Instruct"),
        (
            (404, "RevisionNotFound"),
            f"at {COMMIT}: there is no such commit, branch or tag, or no more",
        ),
        ((500, ""), "cannot download the files of Qwen/Qwen2-VL-7B-Instruct"),
    ],
)
def test_a_refusal_is_one_line_that_names_the_key(hub, workspace, refuse, says):
    hub.refuse = refuse
    line = refused(build(workspace, hub))
    assert line.startswith("error: params.yaml: base.qwen2_vl.full: ")
    assert says in line
    assert not (workspace / "models").exists()


def test_no_network_is_one_line(workspace):
    done = python(workspace, "-m", "stages.build", "qwen2_vl", endpoint="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "error: params.yaml: base.qwen2_vl.full: cannot download" in done.stderr
    assert "Traceback" not in done.stderr
