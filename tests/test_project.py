"""What surrounds the code: continuous integration and pre-commit."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def load(path: Path) -> dict:
    return YAML(typ="safe", pure=True).load(path.read_text())


# So that `dvc` is this environment's, whoever started the tests.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def run(command: list[str | Path], folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": PATH, **env}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_pre_commit_and_make_run_the_same_ruff() -> None:
    required = re.search(r"^ruff==(.+)$", (ROOT / "requirements.in").read_text(), re.M)[1]
    hooks = {r["repo"]: r["rev"] for r in load(ROOT / ".pre-commit-config.yaml")["repos"]}
    assert hooks["https://github.com/astral-sh/ruff-pre-commit"] == f"v{required}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_pins_its_actions_and_asks_for_little(path: Path) -> None:
    used = re.findall(r"uses: (.+)", path.read_text())
    assert used
    assert all(re.fullmatch(r"actions/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", u) for u in used)
    workflow = load(path)
    assert "pull_request_target" not in workflow["on"]
    writers = {
        name: job["permissions"]
        for name, job in workflow["jobs"].items()
        if "write" in (job.get("permissions") or workflow["permissions"]).values()
    }
    # What may write checks nothing out, so it cannot run what a pull request brings.
    assert all(rights == {"pull-requests": "write"} for rights in writers.values())
    for name in writers:
        assert not any("checkout" in s.get("uses", "") for s in workflow["jobs"][name]["steps"])


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH of a machine that has neither Python nor make; apt-get only says what it would do."""
    path = tmp_path / "bin"
    path.mkdir()
    for tool in ("bash", "dirname", "git"):
        (path / tool).symlink_to(shutil.which(tool))
    stubs = {
        "apt-get": f"#!/bin/sh\necho $DEBIAN_FRONTEND apt-get $* >> {tmp_path}/log\n",
        "id": "#!/bin/sh\necho ${FAKE_ID:-0}\n",
    }
    for tool, text in stubs.items():
        (path / tool).write_text(text)
        (path / tool).chmod(0o755)
    return path


def add(path: Path, *tools: str, log: Path) -> None:
    for tool in tools:
        (path / tool).write_text(f"#!/bin/sh\necho {tool} $* >> {log}\n")
        (path / tool).chmod(0o755)


def test_ci_installs_what_is_missing_and_nothing_else(bare: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    stopped = run([ROOT / ".ci/run"], tmp_path, PATH=str(bare))
    updated, installed = log.read_text().splitlines()
    assert updated == "noninteractive apt-get update -qq"
    wanted = "noninteractive apt-get install -qq --yes --no-install-recommends make chromium"
    assert installed.startswith(wanted)
    assert stopped.returncode == 127  # the apt-get of this test brought no make


def test_ci_goes_straight_to_the_tests_where_everything_is_there(
    bare: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    add(bare, "make", "chromium", "python3.11", log=log)
    done = run([ROOT / ".ci/run"], tmp_path, PATH=str(bare))
    assert done.returncode == 0, done.stderr
    assert log.read_text().splitlines()[-1] == "make test PYTHON=python3.11"
    assert "apt-get" not in log.read_text()


def test_ci_says_what_is_missing_where_it_may_not_install(bare: Path, tmp_path: Path) -> None:
    stopped = run([ROOT / ".ci/run"], tmp_path, PATH=str(bare), FAKE_ID="1000")
    assert stopped.returncode == 1
    assert stopped.stderr.startswith("error: not installed: make chromium")
    assert not (tmp_path / "log").exists()


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """A repository whose branch changes every metric, a parameter and a plot."""

    def commit(accuracy: float) -> None:
        for recipe in "fcabed":
            numbers = {"n": 10, "accuracy": accuracy, "interval": {"accuracy": {"low": accuracy}}}
            (tmp_path / f"{recipe}.json").write_text(json.dumps(numbers))
        (tmp_path / "params.yaml").write_text(f"rate: {accuracy}\n")
        (tmp_path / "loss.csv").write_text(f"step,loss\n1,{accuracy}\n")
        run(["git", "add", "--all"], tmp_path)
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        run(["git", *who, "commit", "--message", "."], tmp_path)

    run(["git", "init", "--initial-branch=main"], tmp_path)
    run(["dvc", "init"], tmp_path)
    names = {"metrics": [f"{recipe}.json" for recipe in "fcabed"], "plots": ["loss.csv"]}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"params": ["params.yaml"], **names}))
    commit(0.5)
    run(["git", "switch", "--create", "branch"], tmp_path)
    commit(0.75)
    return tmp_path


def test_a_comparison_is_sorted_and_says_when_nothing_changed(history: Path) -> None:
    changed = run([ROOT / ".ci/compare", "main", "branch", "plots"], history)
    assert changed.returncode == 0, changed.stderr
    rows = [line.split("|")[1:5] for line in changed.stdout.splitlines() if ".json" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells == [
        [f"{recipe}.json", metric, "0.5", "0.75"]
        for recipe in "abcdef"
        for metric in ("accuracy", "interval.accuracy.low")
    ]
    assert re.search(r"\| params.yaml \| rate +\| 0.5 +\| 0.75 +\|", changed.stdout)
    assert "loss" in (history / "plots" / "index.html").read_text()

    same = run([ROOT / ".ci/compare", "main", "main", "plots"], history)
    assert same.stdout.count("No change.") == 2


def test_a_failing_comparison_fails(history: Path) -> None:
    assert run([ROOT / ".ci/compare", "main", "nowhere", "plots"], history).returncode != 0
