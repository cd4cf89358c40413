"""The scripts under benchmarks/, of which nothing but their beginnings is run here."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

SHARED = {"alone", "bases"}  # by several scripts
SCRIPTS = sorted({file.stem for file in (ROOT / "benchmarks").glob("*.py")} - SHARED)


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_says_how_it_is_used(name):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert f"benchmarks.{name}" in (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
