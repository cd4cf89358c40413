"""The full scale's base, with the real Hub client against a server on this machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.files import read_json
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


def test_a_base_of_the_hub_is_pinned_and_loads_by_the_lines_that_load_the_small_one(hub, workspace):
    done = build(workspace, hub)
    assert done.returncode == 0, done.stderr
    manifest = read_json(workspace / "models/base/qwen2_vl/manifest.json")
    assert (manifest["id"], manifest["revision"]) == (REPO, COMMIT)
    assert read_json(workspace / "metrics/base/qwen2_vl.json")["parameters"] > 100_000
    load = (
        "from pathlib import Path; from src import config, models; p = config.load(); "
        "base = Path('models/base/qwen2_vl'); recipe = p.recipes['emotion_qwen2vl']; "
        "models.load_processor(base, recipe); models.load_base(base, recipe)"
    )
    assert not [r for r in hub.requests if r.startswith("GET") and "safetensors" in r]
    brought = python(workspace, "-c", load, endpoint=hub.url)
    assert brought.returncode == 0, brought.stderr
    loaded = python(workspace, "-c", load, endpoint="http://127.0.0.1:9", offline=True)
    assert loaded.returncode == 0, loaded.stderr


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
    hub.commit = "f" * 40
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
        ((403, "GatedRepo"), "is gated; accept its licence on its page"),
        ((404, "RepoNotFound"), "cannot download Qwen/Qwen2-VL-7B-Instruct"),
        (
            (404, "RevisionNotFound"),
            f"at {COMMIT}: there is no such commit, branch or tag, or no more",
        ),
        ((500, ""), "cannot download Qwen/Qwen2-VL-7B-Instruct"),
    ],
)
def test_a_refusal_is_one_line_that_names_the_key(hub, workspace, refuse, says):
    hub.refuse = refuse
    done = build(workspace, hub)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert errors[0].startswith("error: params.yaml: base.qwen2_vl.full: ")
    assert says in errors[0]
    assert "Traceback" not in done.stderr
    assert not (workspace / "models").exists()


def test_no_network_is_one_line(workspace):
    done = python(workspace, "-m", "stages.build", "qwen2_vl", endpoint="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "error: params.yaml: base.qwen2_vl.full: cannot download" in done.stderr
    assert "Traceback" not in done.stderr
