"""A clone of the repository, and commands in it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def run(command: list[str], folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", **env}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def ran(done: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"Running stage '(.+?)'", done.stdout)


def experiment(folder: Path, *overrides: str, stage: str | None = None, **env: str) -> list[str]:
    """Run with `-S` overrides; returns the stages that ran."""
    flags = [part for override in overrides for part in ("-S", override)]
    return ran(run(["dvc", "exp", "run", *([stage] if stage else []), *flags], folder, **env))


def clone_to(folder: Path) -> Path:
    """A repository of the working tree, committed or not."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in run(listing, ROOT).stdout.rstrip("\0").split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    run(["git", "init", "-q"], folder)
    for key, value in (("name", "test"), ("email", "test@example.org")):
        run(["git", "config", f"user.{key}", value], folder)
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    run(["git", "add", "-A"], folder)
    run(["git", "commit", "-qm", "."], folder)
