"""Run a grid of ablations: `python -m tools.ablate NAME`, a name below `ablations` in params.yaml.

Each point is run with each seed as an experiment of DVC (`dvc exp show`), up to `evaluate` of its
recipe; those that are there already are not run again. The tracked files are taken as they are when
it starts, committed or not, and the workspace stays as it is but for `metrics/ablations/NAME.json`.
"""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from src import config
from src.ablation import grid as grids
from src.ablation import run as runs
from src.ablation.snapshot import take
from src.errors import UserError, one_line
from src.files import write_json
from src.schema import Grid

RESULTS = Path("metrics/ablations")


@one_line
def main(
    name: Annotated[str | None, typer.Argument(help="Below `ablations` in params.yaml.")] = None,
    list_grids: Annotated[
        bool, typer.Option("--list", help="Only name the grids and their points.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Only say which experiments are there and which are not.")
    ] = False,
) -> None:
    params = config.load()
    known = config.load_grids()
    if name is None or list_grids:
        for key in [name] if name else known:
            _list(key, config.pick(known, key, "ablations"))
        return
    grid = config.pick(known, name, "ablations")
    grids.check(name, grid)
    snapshot = take(Path.cwd())
    planned = runs.plan(name, grid, params.scale, snapshot)
    if dry_run:
        there = runs.finished(planned, grid.recipe, snapshot.root)
        for run in planned:
            typer.echo(f"{'there' if run.experiment in there else 'to run'}  {run.experiment}")
        return
    # What ends this command must end the training that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    failed = list(runs.run_missing(planned, grid.recipe, snapshot))
    measured = runs.finished(planned, grid.recipe, snapshot.root)
    if measured:
        summary = runs.summarise(name, grid, params, planned, measured)
        write_json(RESULTS / f"{name}.json", summary)
        typer.echo(runs.table(summary))
        typer.echo(f"{RESULTS / name}.json: {len(measured)} of {len(planned)} runs")
    if failed:
        raise UserError("\n".join([f"{len(failed)} of {len(planned)} runs failed", *failed]))


def _list(name: str, grid: Grid) -> None:
    named = "; ".join(point.name for point in grids.points(grid))
    seeds = ", ".join(map(str, grid.seeds))
    typer.echo(f"{name}: {grid.recipe}, seeds {seeds}: {named}")


if __name__ == "__main__":
    typer.run(main)
