"""The order of imports that `[tool.importlinter]` in pyproject.toml states, held."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODEL_LIBRARIES = {"torch", "transformers", "peft", "trl", "bitsandbytes"}


def test_imports_go_one_way() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    command = [linter, "--no-cache", "--no-logo"]
    linted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize(
    ("stage", "packages"),
    [("fetch", ["sources", "drawing"]), ("prepare", ["readers"]), ("report", ["report"])],
)
def test_a_stage_without_a_model_starts_without_its_libraries(
    stage: str, packages: list[str]
) -> None:
    # A stage finds modules of these packages by name, where no reader of imports sees them.
    modules = [f"stages.{stage}"] + [
        f"src.{package}.{path.stem}"
        for package in packages
        for path in sorted((ROOT / "src" / package).glob("[!_]*.py"))
    ]
    code = f"import sys, {', '.join(modules)}; print(*sys.modules, sep='\\n')"
    started = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not MODEL_LIBRARIES & set(started.stdout.split())
