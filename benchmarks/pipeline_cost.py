"""What the pipeline costs beside its work: `python -m benchmarks.pipeline_cost`, after `dvc repro`.

Seconds of a `dvc repro` that has nothing to do, and of each stage from its start, with all that it
imports, to its end, without any work between.
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
    nothing = [_seconds("dvc", "repro") for _ in range(repeats)]
    print(f"| `dvc repro` with nothing to do | {_shown(nothing)} | |")
    for stage in STAGES:
        look = f"import sys, stages.{stage}; sys.exit('torch' in sys.modules)"
        torch = subprocess.run([sys.executable, "-c", look], check=False).returncode
        runs = [_seconds(sys.executable, "-m", f"stages.{stage}", "--help") for _ in nothing]
        print(f"| `stages.{stage} --help` | {_shown(runs)} | {'yes' if torch else 'no'} |")


def _seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def _shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"


if __name__ == "__main__":
    typer.run(main)
