"""`python -m tools.push`; what it pushes is held by tests/test_remote.py."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_without_a_remote_it_fails_and_says_how_to_add_one(tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, env=env, check=True)
    command = [sys.executable, "-m", "tools.push"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no remote specified" in done.stderr
    assert "Traceback" not in done.stderr
