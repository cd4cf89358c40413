"""What the pipeline costs beside its work: `python -m benchmarks.pipeline_cost`, after `dvc repro`.

Seconds of a `dvc repro` that has nothing to do, and of the start of each stage with all that it
imports, which is over where it says how it is used; the end of a process is not measured. `encode`
imports its models only where it needs them.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import typer

STAGES = sorted(file.stem for file in Path("stages").glob("[!_]*.py"))


def main(repeats: int = 5) -> None:
    """Print medians and spreads."""
    print("| | seconds (spread) | imports torch |\n| --- | --- | --- |")
    if subprocess.run(["dvc", "status", "--quiet"], check=False).returncode:
        sys.exit("error: there is something to do; start `dvc repro` first")
    nothing = [_whole("dvc", "repro") for _ in range(repeats)]
    print(f"| `dvc repro` with nothing to do | {_shown(nothing)} | |")
    for stage in STAGES:
        look = f"import sys, stages.{stage}; print('torch' in sys.modules)"
        said = subprocess.check_output([sys.executable, "-c", look], text=True)
        imports_torch = "yes" if said.strip() == "True" else "no"
        runs = [_start(stage) for _ in nothing]
        print(f"| start of `stages.{stage}` | {_shown(runs)} | {imports_torch} |")


def _whole(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def _start(stage: str) -> float:
    command = [sys.executable, "-m", f"stages.{stage}", "--help"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as begun:
        begun.stdout.readline()
        spent = time.perf_counter() - start
        begun.communicate()
    if begun.returncode:
        sys.exit(f"error: {' '.join(command)} failed")
    return spent


def _shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"


if __name__ == "__main__":
    typer.run(main)
