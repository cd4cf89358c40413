"""`python -m tools.ablate` with real DVC and real Git, on a pipeline whose stages cost nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.files import read_json
from src.overrides import override
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

RECIPE = "esnlive_qwen2vl"
STAGES = """
stages:
  fetch:
    cmd: python -m stages.fake fetch
    deps: [stages/fake.py]
    params: [seed]
    outs: [data/raw/all]
  train:
    foreach: ${recipes}
    do:
      cmd: python -m stages.fake train ${key}
      deps: [stages/fake.py, data/raw/all]
      params: [scale, "train.${scale}", "recipes.${key}.${scale}", "recipes.${key}.lora"]
      outs: ["models/adapters/${key}"]
  evaluate:
    foreach: ${recipes}
    do:
      cmd: python -m stages.fake evaluate ${key}
      deps: [stages/fake.py, "models/adapters/${key}"]
      params: [scale]
      outs: ["metrics/${key}/predictions/tuned.parquet"]
      metrics:
        - metrics/${key}/base.json: {cache: false}
        - metrics/${key}/tuned.json: {cache: false}
"""
# Training writes down that it ran and fails at rank 3; where the file `stall` holds a number, all
# after so many last.
FAKE = """
import json, os, sys, time
from pathlib import Path
from src import config
from src.files import repository
params, (kind, *name) = config.load(), sys.argv[1:]
told = Path(os.environ["TOLD"])
if kind == "fetch":
    Path("data/raw/all").write_text(str(params.seed))
elif kind == "train":
    recipe = params.recipes[name[0]]
    # As src/sources looks for folders, and src/training keeps checkpoints.
    (told / "pictures").write_text(str((repository() / "my/pictures").is_dir()))
    (repository() / ".checkpoints").mkdir(exist_ok=True)
    with (told / "trained").open("a") as log:
        log.write(f"{recipe.lora.r} {recipe.train.seed} {recipe.train.weight_decay}\\n")
    number = len((told / "trained").read_text().splitlines())
    if (told / "stall").exists() and number > int((told / "stall").read_text()):
        # Whole or not at all: who waits for it reads it at once.
        (told / "beside").write_text(str(os.getpid()))
        (told / "beside").rename(told / "pid")
        while (told / "stall").exists():
            time.sleep(0.05)
    if recipe.lora.r == 3:
        sys.exit("error: rank 3 is bad luck")
    value = {"r": recipe.lora.r, "seed": recipe.train.seed}
    Path(f"models/adapters/{name[0]}").write_text(json.dumps(value))
else:
    found = json.loads(Path(f"models/adapters/{name[0]}").read_text())
    folder = Path("metrics") / name[0]
    Path(folder / "predictions").mkdir(parents=True, exist_ok=True)
    Path(folder / "predictions/tuned.parquet").write_text(str(found))
    accuracy = 0.5 + found["r"] / 100 + found["seed"] / 1000 * (1 + found["r"] / 100)
    interval = {"accuracy": {"low": accuracy - 0.1, "high": accuracy + 0.1}}
    numbers = {"n": 40, "accuracy": accuracy, "interval": interval}
    (folder / "base.json").write_text(json.dumps({"n": 40, "accuracy": 0.25}))
    (folder / "tuned.json").write_text(json.dumps(numbers))
"""
GRID = {
    "recipe": RECIPE,
    "seeds": [1, 2],
    "metrics": ["accuracy"],
    "values": {f"recipes.{RECIPE}.lora.r": [16, 4]},
}


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def set_grid(project: Path, **changes) -> None:
    from ruamel.yaml import YAML

    yaml, path = YAML(), project / "params.yaml"
    values = yaml.load(path)
    values["ablations"] = {"rank": {k: v for k, v in (GRID | changes).items() if v is not None}}
    yaml.dump(values, path)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A repository with this code, the parameters and three stages that cost nothing."""
    folder = tmp_path_factory.mktemp("original") / "project"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("src", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("params.yaml", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in ("data/raw", "models/adapters", "metrics", "stages"):
        (folder / name).mkdir(parents=True)
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "stages/fake.py").write_text(FAKE)
    set_grid(folder)
    override(folder / "params.yaml", {"train.tiny.seed": 0})
    git(folder, "init", "-q")
    (folder.parent / "told").mkdir()
    dvc(folder, "repro", f"evaluate@{RECIPE}")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "all")
    return folder


@pytest.fixture
def project(original, tmp_path) -> Path:
    (tmp_path / "told").mkdir()
    return shutil.copytree(original, tmp_path / "project", symlinks=True)


def environment(project: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "TOLD": str(project.parent / "told")}


def dvc(project: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(
        command, cwd=project, env=environment(project), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ablate(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.ablate", "rank", *arguments]
    env = environment(project)
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)


@pytest.fixture
def background(project):
    """The command while its third training lasts, and the process of that training."""
    (project.parent / "told/stall").write_text("2")
    command = [sys.executable, "-m", "tools.ablate", "rank"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    pid = project.parent / "told/pid"
    with subprocess.Popen(command, cwd=project, env=environment(project), **quiet) as process:
        try:
            while not pid.exists():
                assert process.poll() is None, "it ended before it trained"
                time.sleep(0.05)
            yield process, int(pid.read_text())
        finally:
            (project.parent / "told/stall").unlink(missing_ok=True)
            process.kill()


def trained(project: Path) -> list[str]:
    """The rank and the seed of each training since the last call."""
    log = project.parent / "told/trained"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [" ".join(line.split()[:2]) for line in lines]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def until(condition, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


EVERY = ["16 1", "4 1", "16 2", "4 2"]


def test_every_point_is_run_with_every_seed_and_held_against_the_first(project):
    set_grid(project, seeds=[1, 2, 3])
    done = ablate(project)
    assert done.returncode == 0, done.stderr
    assert trained(project) == [*EVERY, "16 3", "4 3"]
    found = read_json(project / "metrics/ablations/rank.json")
    assert found["reference"] == "r=16"
    assert [p["name"] for p in found["points"]] == ["r=16", "r=4"]
    assert found["points"][1]["overrides"] == {f"recipes.{RECIPE}.lora.r": 4}
    first, second = (p["metrics"]["accuracy"] for p in found["points"])
    assert (first["mean"], first["sd"], first["n"]) == (0.66232, 0.00116, 3)
    assert "difference" not in first
    against = second["difference"]
    assert (against["value"], against["n"]) == (-0.12024, 3)
    # The pairs are -0.12012, -0.12024 and -0.12036; t of 2 degrees of freedom is 4.30265.
    half = 4.30265 * 0.00012 / 3**0.5
    assert against["low"] == pytest.approx(-0.12024 - half, abs=2e-6)
    assert against["beyond_noise"] is True
    (run, *_) = found["points"][0]["runs"]
    assert (run["seed"], run["n"]) == (1, 40)
    accuracy = {"value": 0.66116, "low": 0.56116, "high": 0.76116, "base": 0.25}
    assert run["metrics"] == {"accuracy": accuracy}
    assert "r=4" in done.stdout and "larger than noise" in done.stdout
    assert run["experiment"] in dvc(project, "exp", "list", "--name-only").split()


def test_the_workspace_stays_as_it_is_and_edits_of_it_count(project):
    params = project / "params.yaml"
    override(params, {"train.tiny.weight_decay": 0.02})
    (project / "src/ablation/new.py").write_text("")
    git(project, "add", "src/ablation/new.py")
    before = {p: p.read_bytes() for p in project.rglob("*") if p.is_file() and part(p, project)}
    status, head = git(project, "status", "--porcelain"), git(project, "rev-parse", "HEAD")
    assert ablate(project).returncode == 0
    log = (project.parent / "told/trained").read_text()
    assert all(line.endswith(" 0.02") for line in log.splitlines())
    (project / "metrics/ablations/rank.json").unlink()
    (project / "metrics/ablations").rmdir()
    after = {p: p.read_bytes() for p in project.rglob("*") if p.is_file() and part(p, project)}
    assert after == before
    assert git(project, "status", "--porcelain") == status
    assert git(project, "rev-parse", "HEAD") == head
    assert git(project, "stash", "list") == ""


def part(path: Path, project: Path) -> bool:
    return not {".git", ".dvc", "__pycache__"} & set(path.relative_to(project).parts)


def test_what_is_there_is_not_run_again_but_after_a_change_of_what_it_hangs_on(project):
    assert ablate(project).returncode == 0
    written = (project / "metrics/ablations/rank.json").read_bytes()
    assert trained(project) == EVERY
    # Another recipe, a commit and a stage after these change nothing.
    override(project / "params.yaml", {"recipes.vqa_blip2.lora.r": 2, "explain.deleted": 0.3})
    (project / "README.md").write_text("new")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "other")
    assert "to run" not in ablate(project, "--dry-run").stdout
    assert ablate(project).returncode == 0
    assert trained(project) == []
    assert (project / "metrics/ablations/rank.json").read_bytes() == written
    # The experiments are gone, what their stages made is not.
    dvc(project, "exp", "remove", "--all-commits")
    assert ablate(project).returncode == 0
    assert trained(project) == []
    assert (project / "metrics/ablations/rank.json").read_bytes() == written
    override(project / "params.yaml", {"train.tiny.weight_decay": 0.03})
    assert ablate(project, "--dry-run").stdout.count("to run") == 4
    assert trained(project) == []
    set_grid(project, seeds=[1])
    assert ablate(project).returncode == 0
    assert trained(project) == EVERY[:2]
    with (project / "stages/fake.py").open("a") as code:
        code.write("# changed\n")
    assert ablate(project).returncode == 0
    assert trained(project) == EVERY[:2]


def test_a_failed_point_stops_no_other_and_is_named_at_the_end(project):
    set_grid(project, values={f"recipes.{RECIPE}.lora.r": [16, 3, 4]}, seeds=[1, 2])
    done = ablate(project)
    assert done.returncode == 1
    assert trained(project) == ["16 1", "3 1", "4 1", "16 2", "3 2", "4 2"]
    said = done.stderr[done.stderr.index("error: ") :].splitlines()
    assert said[0] == "error: 2 of 6 runs failed"
    assert said[1].startswith("r=3, seed 1: see ")
    log = Path(said[1].partition(": see ")[2])
    assert "rank 3 is bad luck" in log.read_text()
    found = read_json(project / "metrics/ablations/rank.json")
    points = {p["name"]: p for p in found["points"]}
    assert points["r=3"]["missing"] == [1, 2] and points["r=3"]["runs"] == []
    assert points["r=4"]["metrics"]["accuracy"]["n"] == 2
    # Only what failed is run again.
    assert ablate(project).returncode == 1
    assert trained(project) == ["3 1", "3 2"]


def test_a_killed_command_goes_on_where_it_was(project, background):
    process, training = background
    process.kill()
    process.wait()
    # DVC has outlived it and would write where a second one does.
    running = int((project / ".dvc/tmp/ablations/lock").read_text())
    assert alive(running) and alive(training)
    refused = ablate(project)
    assert refused.stderr == (
        "error: an ablation runs here already; wait for it, or end it; where its command was "
        f"killed: kill -- -{running}\n"
    )
    os.killpg(running, signal.SIGKILL)
    assert until(lambda: not alive(running) and not alive(training))
    (project.parent / "told/stall").unlink()
    assert trained(project) == EVERY[:3]
    assert not (project / "metrics/ablations").exists()
    assert git(project, "status", "--porcelain") == ""
    done = ablate(project)
    assert done.returncode == 0, done.stderr
    assert trained(project) == EVERY[2:]
    points = read_json(project / "metrics/ablations/rank.json")["points"]
    assert [len(point["runs"]) for point in points] == [2, 2]


def test_ending_the_command_ends_the_training_that_it_started(project, background):
    process, training = background
    planned = ablate(project, "--dry-run").stdout.splitlines()
    assert [line.split()[0] for line in planned] == ["there", "there", "to", "to"]
    assert alive(training)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert until(lambda: not alive(training))
    assert git(project, "status", "--porcelain") == ""


def test_stages_find_folders_of_data_and_keep_checkpoints_in_the_repository(project):
    set_grid(project, seeds=[1], values={f"recipes.{RECIPE}.lora.r": [16, 4]})
    (project / "my/pictures").mkdir(parents=True)
    assert ablate(project).returncode == 0
    assert (project.parent / "told/pictures").read_text() == "True"
    assert (project / ".checkpoints").is_dir()


def test_a_shallow_clone_will_do(project, tmp_path):
    (project / "README.md").write_text("new")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "second")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", project.as_uri(), str(shallow))
    assert git(shallow, "rev-parse", "--is-shallow-repository") == "true\n"
    set_grid(shallow, seeds=[1])
    done = ablate(shallow)
    assert done.returncode == 0, done.stderr
    assert trained(shallow) == EVERY[:2]
    assert ablate(shallow).returncode == 0
    assert trained(shallow) == []


def test_what_cannot_be_is_one_line_before_anything_runs(project):
    def line() -> str:
        done = ablate(project)
        assert done.returncode == 1
        assert trained(project) == []
        (said,) = done.stderr.splitlines()
        return said

    (project / "src/forgotten.py").write_text("")
    assert line() == (
        "error: src/forgotten.py: not in Git, so no experiment would have it; `git add` it first"
    )
    (project / "src/forgotten.py").unlink()
    set_grid(project, values={f"recipes.{RECIPE}.lora.r": [16, 0]})
    assert line() == (
        f"error: params.yaml: ablations.rank: r=0: recipes.{RECIPE}.lora.r: "
        "input should be greater than or equal to 1, not 0"
    )


def test_a_metric_that_no_run_has_is_named_with_those_that_there_are(project):
    set_grid(project, metrics=["rougeL"], seeds=[1])
    done = ablate(project)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: params.yaml: ablations.rank.metrics: 'rougeL' is none of accuracy, n"
    )
    assert json.loads(git(project, "show", f"{next(refs(project))}:metrics/{RECIPE}/base.json"))


def refs(project: Path):
    return iter(git(project, "for-each-ref", "--format=%(refname)", "refs/exps").splitlines())
