"""The points of a grid: which values of `params.yaml` each of its experiments has."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from src import config
from src.errors import UserError
from src.overrides import override
from src.schema import Grid, Params


@dataclass(frozen=True)
class Point:
    """A name for people, and values by their dotted keys."""

    name: str
    overrides: dict[str, Any]


def points(grid: Grid) -> list[Point]:
    """The grid's points in their order, the one that the others are held against first."""
    if grid.points:
        return [Point(name, dict(values)) for name, values in grid.points.items()]
    last = [key.rpartition(".")[2] for key in grid.values]
    keys = {k: s if last.count(s) == 1 else k for k, s in zip(grid.values, last, strict=True)}

    def point(values: tuple[Any, ...]) -> Point:
        chosen = dict(zip(grid.values, values, strict=True))
        return Point(", ".join(f"{keys[k]}={_text(v)}" for k, v in chosen.items()), chosen)

    return [point(values) for values in product(*grid.values.values())]


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return "+".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def check(name: str, grid: Grid, path: Path = config.PARAMS) -> None:
    """Try out every point before the first one is paid for.

    Raises:
        UserError: a point's value cannot be, its keys contradict each other, or two points are
            the same run: a key of the other scale, or a default that the recipe has its own of.
    """
    seen: dict[str, str] = {}
    scale = config.load(path).scale
    key = config.seed_key(grid.recipe, scale, path)
    for point in points(grid):
        where = f"{path}: ablations.{name}: {point.name}"
        _no_overlap(where, [key, *point.overrides])
        try:
            params = overridden(path, point.overrides | {key: grid.seeds[0]})
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        effect = json.dumps(_what_counts(params, grid.recipe), sort_keys=True)
        if effect in seen:
            raise UserError(f"{where}: at {scale} the same run as {seen[effect]}")
        seen[effect] = point.name


def overridden(path: Path, values: Mapping[str, Any]) -> Params:
    """The parameters with other values. Raises UserError as `override` and `config.load` do."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        try:
            override(copy, values)
            return config.load(copy)
        except UserError as error:
            raise UserError(str(error).removeprefix(f"{copy}: ")) from None


def _no_overlap(where: str, keys: list[str]) -> None:
    for inner in keys:
        if outer := next((k for k in keys if inner.startswith(f"{k}.")), None):
            raise UserError(f"{where}: {inner} lies in {outer}; set one of them")
    if twice := next((k for k in keys if keys.count(k) > 1), None):
        raise UserError(f"{where}: {twice} is what `seeds` sets")


def _what_counts(params: Params, name: str) -> Any:
    recipe = params.recipes[name]
    data, base = params.data[recipe.data], params.base[recipe.base]
    parts = (recipe, data, base, params.evaluate)
    return [params.seed, *(part.model_dump(mode="json") for part in parts)]
