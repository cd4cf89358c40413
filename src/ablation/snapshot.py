"""The repository at one moment, and a digest of what an experiment in it hangs on."""

import hashlib
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from dvc.stage import Stage

from src.errors import UserError
from src.overrides import override

# What the stages are made of; a new file among them that Git does not know would be left out.
CODE = ("src", "stages", "dvc.yaml", "params.yaml")


@dataclass(frozen=True)
class Snapshot:
    """The commit that is checked out, and every file that Git knows as it lies in the workspace."""

    root: Path
    head: str
    tree: str


def git(folder: Path, *arguments: str) -> str:
    """Run Git; its output without the last line end.

    Raises:
        UserError: Git's own last line.
    """
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"git {' '.join(arguments)}: {last}")
    return done.stdout.rstrip("\n")


def identity(folder: Path) -> dict[str, str]:
    """Who commits: the user that Git knows, or a stand-in, which nothing but experiments name."""
    stand_in = {"user.name": "vlm-recipes", "user.email": "vlm-recipes@localhost"}
    return {k: git(folder, "config", "--default", v, "--get", k) for k, v in stand_in.items()}


def take(root: Path) -> Snapshot:
    """Commit what Git knows as it stands, changed or not, to no branch; the workspace stays.

    Raises:
        UserError: there is no commit yet, or code that Git does not know.
    """
    unknown = git(root, "ls-files", "--others", "--exclude-standard", "--", *CODE)
    if unknown:
        first = unknown.splitlines()[0]
        raise UserError(f"{first}: not in Git, so no experiment would have it; `git add` it first")
    head = git(root, "rev-parse", "HEAD")
    # Asked first, because `stash create` fails where a file was touched but is the same.
    if not git(root, "status", "--porcelain", "--untracked-files=no"):
        return Snapshot(root, head, head)
    who = [part for key, value in identity(root).items() for part in ("-c", f"{key}={value}")]
    return Snapshot(root, head, git(root, *who, "stash", "create"))


def digest(snapshot: Snapshot, stage: str, overrides: dict[str, Any]) -> str:
    """A digest of what DVC would compare before it runs `stage` with other values.

    That is, of every stage on the way: its command, its parameters, its code, and for stages with
    nothing before them what they brought or built. Code and parameters of other stages change
    nothing. The values of a key that no stage tracks change nothing either.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _pipeline(snapshot, folder)
        override(folder / "params.yaml", overrides)
        with Repo(name) as repo:
            stages = repo.stage.collect(f"{name}/dvc.yaml:{stage}", with_deps=True)
            outs = {out.def_path for s in stages for out in s.outs}
            code = _code(snapshot)
            found = {s.name: _hangs_on(s, outs, code) for s in stages}
    text = json.dumps(found, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _pipeline(snapshot: Snapshot, folder: Path) -> None:
    """The files that make the graph of stages, alone; DVC's own state stays in the folder too."""
    (folder / ".dvc").mkdir()
    settings = {"no_scm": "true", "analytics": "false", "site_cache_dir": folder / "site"}
    lines = "".join(f"    {key} = {value}\n" for key, value in settings.items())
    (folder / ".dvc/config").write_text(f"[core]\n{lines}")
    known = git(snapshot.root, "ls-tree", "--name-only", snapshot.tree).splitlines()
    for file in {"dvc.yaml", "dvc.lock", "params.yaml"} & set(known):
        (folder / file).write_text(git(snapshot.root, "show", f"{snapshot.tree}:{file}") + "\n")


def _code(snapshot: Snapshot) -> dict[str, str]:
    """Each file of the snapshot with the digest of its bytes."""
    listing = git(snapshot.root, "ls-tree", "-r", "-z", snapshot.tree).rstrip("\0").split("\0")
    pairs = (entry.split("\t", 1) for entry in listing)
    return {path: facts.split()[2] for facts, path in pairs}


def _hangs_on(stage: Stage, outs: set[str], code: dict[str, str]) -> dict[str, Any]:
    params, files = {}, {}
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            params |= dep.read_params()
        elif dep.def_path not in outs:
            below = f"{dep.def_path}/"
            files |= {p: d for p, d in code.items() if p == dep.def_path or p.startswith(below)}
    first = not any(dep.def_path in outs for dep in stage.deps)
    brought = {out.def_path: out.hash_info.value for out in stage.outs} if first else {}
    return {"command": stage.cmd, "params": params, "files": files, "brought": brought}
