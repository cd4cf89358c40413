"""A whole grid: which experiments it has, running those that are missing, and what came out."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from src import config
from src.ablation import grid as grids
from src.ablation.grid import Point
from src.ablation.snapshot import Snapshot, digest, git
from src.ablation.statistics import difference, over_seeds
from src.ablation.workplace import experiments, workplace
from src.errors import UserError
from src.metrics.intervals import rounded
from src.schema import Grid, Params

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One point with one seed, and the experiment that holds it."""

    point: Point
    seed: int
    overrides: dict[str, Any]
    experiment: str


def plan(name: str, grid: Grid, scale: str, snapshot: Snapshot) -> list[Run]:
    """Every point with every seed, the first seed of each point first.

    An experiment's name holds its seed and a digest of all else that it hangs on, so that an
    experiment of that name, whenever and from whichever commit it was made, is the same run.
    """
    key = config.seed_key(grid.recipe, scale, snapshot.root / config.PARAMS)
    stage, points = f"evaluate@{grid.recipe}", grids.points(grid)
    digests = {point.name: digest(snapshot, stage, point.overrides) for point in points}

    def run(point: Point, seed: int) -> Run:
        experiment = f"{name}-{slug(point.name)}-s{seed}-{digests[point.name]}"
        return Run(point, seed, point.overrides | {key: seed}, experiment)

    return [run(point, seed) for seed in grid.seeds for point in points]


def slug(text: str) -> str:
    """What of a name can stand in a name of Git."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text)[:40].strip("-") or "point"


def finished(runs: list[Run], recipe: str, root: Path) -> dict[str, dict[str, Numbers]]:
    """What `baseline` and `evaluate` measured, by experiment, of those runs that are there."""
    refs = experiments(root)
    found = {}
    for run in runs:
        if run.experiment in refs and (read := _read(root, refs[run.experiment], recipe)):
            found[run.experiment] = read
    return found


def _read(root: Path, ref: str, recipe: str) -> dict[str, Numbers] | None:
    try:
        texts = {
            m: git(root, "show", f"{ref}:metrics/{recipe}/{m}.json") for m in ("base", "tuned")
        }
    except UserError:
        # An experiment that somebody cut down, or of a fetch that was killed: to be run again.
        return None
    return {model: json.loads(text) for model, text in texts.items()}


def run_missing(runs: list[Run], recipe: str, snapshot: Snapshot) -> Iterator[str]:
    """Run what is not there yet; yields a line for each run that failed, and goes on."""
    there = finished(runs, recipe, snapshot.root)
    missing = [run for run in runs if run.experiment not in there]
    if not missing:
        return
    with workplace(snapshot) as place:
        progress = tqdm(missing, unit="run", dynamic_ncols=True)
        for run in progress:
            progress.set_description(f"{run.point.name}, seed {run.seed}")
            if not place.run(run.experiment, f"evaluate@{recipe}", run.overrides):
                yield f"{run.point.name}, seed {run.seed}: see {place.log(run.experiment)}"


def summarise(
    name: str, grid: Grid, params: Params, runs: list[Run], measured: dict[str, dict[str, Numbers]]
) -> Numbers:
    """What `metrics/ablations/NAME.json` holds.

    Raises:
        UserError: a metric that no run has.
    """
    _metrics_exist(name, grid, measured)
    points = {run.point.name: run.point for run in runs}
    by_point = {
        p: {r.seed: r for r in runs if r.point.name == p and r.experiment in measured}
        for p in points
    }
    reference = next(iter(points))

    def values(point: str, metric: str) -> dict[int, float]:
        tuned = {seed: measured[run.experiment]["tuned"] for seed, run in by_point[point].items()}
        return {s: numbers[metric] for s, numbers in tuned.items() if metric in numbers}

    def compared(point: str, metric: str) -> Numbers:
        own = over_seeds(values(point, metric))
        if point == reference:
            return own
        against = difference(
            values(point, metric),
            values(reference, metric),
            confidence=params.evaluate.confidence,
            comparisons=len(points) - 1,
        )
        return own | {"difference": against}

    return _rounded(
        {
            "name": name,
            "recipe": grid.recipe,
            "scale": params.scale,
            "seeds": grid.seeds,
            "metrics": grid.metrics,
            "confidence": params.evaluate.confidence,
            "reference": reference,
            "points": [
                {
                    "name": point.name,
                    "overrides": point.overrides,
                    "metrics": {metric: compared(point.name, metric) for metric in grid.metrics},
                    "runs": [
                        _one_run(run, measured[run.experiment], grid.metrics)
                        for run in by_point[point.name].values()
                    ],
                    "missing": [s for s in grid.seeds if s not in by_point[point.name]],
                }
                for point in points.values()
            ],
        }
    )


def _one_run(run: Run, measured: dict[str, Numbers], metrics: list[str]) -> Numbers:
    base, tuned = measured["base"], measured["tuned"]

    def one(metric: str) -> Numbers:
        bounds = tuned.get("interval", {}).get(metric, {"low": None, "high": None})
        return {"value": tuned[metric], **bounds, "base": base.get(metric)}

    return {
        "seed": run.seed,
        "experiment": run.experiment,
        "n": tuned["n"],
        "metrics": {metric: one(metric) for metric in metrics if metric in tuned},
    }


def _metrics_exist(name: str, grid: Grid, measured: dict[str, dict[str, Numbers]]) -> None:
    kinds = {k for m in measured.values() for k, v in m["tuned"].items() if not isinstance(v, dict)}
    for metric in grid.metrics:
        if measured and metric not in kinds:
            there = ", ".join(sorted(kinds))
            raise UserError(
                f"{config.PARAMS}: ablations.{name}.metrics: {metric!r} is none of {there}"
            )


def _rounded(value: Any) -> Any:
    """As `rounded`, within lists too."""
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return rounded(value)


def table(summary: Numbers) -> str:
    """The points, one line each under each metric, for a terminal."""
    lines = []
    for metric in summary["metrics"]:
        rows = [(metric, "runs", "mean", "sd", "difference", "")]
        rows += [_row(point, point["metrics"][metric]) for point in summary["points"]]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        texts = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        )
        lines += [*(text.rstrip() for text in texts), ""]
    return "\n".join(lines).rstrip()


def _row(point: Numbers, numbers: Numbers) -> tuple[str, ...]:
    def text(value: float | None, form: str = ".4f") -> str:
        return "-" if value is None else format(value, form)

    cells = (point["name"], str(numbers["n"]), text(numbers["mean"]), text(numbers["sd"]))
    against = numbers.get("difference")
    if against is None:
        return (*cells, "reference", "")
    said = {True: "larger than noise", False: "within noise", None: "cannot be told"}
    interval = (
        ""
        if against["low"] is None
        else f" ({text(against['low'], '+.4f')} to {text(against['high'], '+.4f')})"
    )
    return (*cells, text(against["value"], "+.4f") + interval, said[against["beyond_noise"]])
