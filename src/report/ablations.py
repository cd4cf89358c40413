"""The tables of ablations, from what `python -m tools.ablate` wrote."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files import read_json
from src.report import words

Row = dict[str, Any]


def sections(root: Path) -> list[Row]:
    """One section a grid that was run, by name.

    Raises:
        UserError: a file that is not what the command writes; names it and the command.
    """
    found = []
    for path in sorted((root / "metrics/ablations").glob("*.json")):
        try:
            found.append(_section(read_json(path)))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{path}: not a result of ablations; run `python -m tools.ablate {path.stem}`"
            ) from None
    return found


def _section(grid: Mapping[str, Any]) -> Row:
    points, others = grid["points"], len(grid["points"]) - 1
    missing = [
        f"{point['name']} with seed {words.listed([str(s) for s in point['missing']])}"
        for point in points
        if point["missing"]
    ]
    return {
        "name": grid["name"],
        "recipe": grid["recipe"],
        "scale": grid["scale"],
        "seeds": words.listed([str(seed) for seed in grid["seeds"]]),
        "confidence": words.share(grid["confidence"]),
        "reference": grid["reference"],
        "comparisons": others,
        "missing": words.listed(missing) if missing else None,
        "metrics": [_metric(metric, grid) for metric in grid["metrics"]],
        "names": [words.name_of(metric) for metric in grid["metrics"]],
        "runs": [_run(point, run, grid["metrics"]) for point in points for run in point["runs"]],
    }


def _metric(metric: str, grid: Mapping[str, Any]) -> Row:
    return {
        "name": words.name_of(metric),
        "lower": words.lower_is_better(metric),
        "rows": [_point(metric, point, grid["recipe"]) for point in grid["points"]],
    }


def _point(metric: str, point: Mapping[str, Any], recipe: str) -> Row:
    numbers = point["metrics"][metric]
    own = f"recipes.{recipe}."
    return {
        "name": point["name"],
        "overrides": {k.removeprefix(own): json.dumps(v) for k, v in point["overrides"].items()},
        "n": numbers["n"],
        "mean": None if numbers["mean"] is None else words.value(metric, numbers["mean"]),
        # A spread has no sign.
        "sd": None if numbers["sd"] is None else words.gain(metric, numbers["sd"]).lstrip("+±"),
        "difference": _difference(metric, numbers.get("difference")),
    }


def _difference(metric: str, found: Mapping[str, Any] | None) -> Row | None:
    """None for the reference itself."""
    if found is None:
        return None
    said = {"value": None, "interval": None, "verdict": None, "effect": ""}
    if found["value"] is not None:
        said["value"] = words.gain(metric, found["value"])
    if found["low"] is not None:
        said["interval"] = " to ".join(words.gain(metric, found[k]) for k in ("low", "high"))
    if found["beyond_noise"]:
        said["effect"] = words.effect(metric, found)
        said["verdict"] = words.Verdict(said["effect"], "Larger than noise", [])
    elif found["beyond_noise"] is False:
        said["verdict"] = words.Verdict("unclear", "Within noise", [])
    return said


def _run(point: Mapping[str, Any], run: Mapping[str, Any], metrics: list[str]) -> Row:
    def cell(metric: str) -> Row | None:
        numbers = run["metrics"].get(metric)
        if numbers is None:
            return None
        bounds = [numbers["low"], numbers["high"]]
        with_interval = None not in bounds
        texts = [words.value(metric, bound) for bound in bounds] if with_interval else []
        return {
            "value": words.value(metric, numbers["value"]),
            "interval": " to ".join(texts) or None,
        }

    return {
        "point": point["name"],
        "seed": run["seed"],
        "n": words.count(run["n"]),
        "experiment": run["experiment"],
        "cells": [cell(metric) for metric in metrics],
    }
