"""`params.yaml` as typed, checked values. The only module that knows the scales.

`load()` checks the whole file, then picks the values of its scale: what the rest of the code sees
has no scale in it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from src.errors import UserError
from src.schema import Grid, Params

PARAMS = Path("params.yaml")
SCALES = ("tiny", "full")
# Keys of the folded values that are no keys of the file.
FOLDED = {"data": {"name", "source"}, "base": {"name", "model"}, "recipes": {"name", "train"}}
RESERVED = ("data", "base", "ablations")  # folders of metrics beside those of recipes
# Keys that hold one value a scale, by section. Labels may be those of both.
SCALED = {
    "data": ("near_duplicate_distance", "limit", "image_size", "labels"),
    "recipes": ("precision",),
    "evaluate": ("batch_size", "bertscore"),
    "explain": ("pictures", "gallery", "cells"),
}

Value = TypeVar("Value")


def pick(named: Mapping[str, Value], name: str, section: str) -> Value:
    """The data set, base or recipe that a command was asked for by name.

    Raises:
        UserError: there is none of that name; lists those that there are.
    """
    if name not in named:
        raise UserError(f"{PARAMS}: {section}.{name}: not there; there are {', '.join(named)}")
    return named[name]


def load(path: Path = PARAMS) -> Params:
    """Read and check the parameters.

    Raises:
        UserError: one line that names the key and says what is wrong with it. Both scales are
            checked, so that a fault of `full` shows before a GPU is paid for.
    """
    raw = parsed(text(path), path)
    scale = raw.get("scale")
    if scale not in SCALES:
        raise UserError(f"{path}: scale: {scale!r} is none of {', '.join(SCALES)}")
    checked = {s: _check(path, raw, s) for s in SCALES}
    _grids(path, raw)
    return checked[scale]


def at_scale(path: Path, scale: str) -> Params:
    """The parameters at a scale, whatever the file's own is. Raises UserError as `load` does."""
    return _check(path, parsed(text(path), path), scale)


def in_use(scale: str, path: Path = PARAMS) -> bool:
    """Whether a scale is the file's own, at which the stages work. Raises as `load` does."""
    return load(path).scale == scale


def seed_key(recipe: str, scale: str, path: Path = PARAMS) -> str:
    """Where the seed of a recipe's training stands: in its own block, or with the defaults."""
    own = parsed(text(path), path)["recipes"][recipe][scale] or {}
    return f"recipes.{recipe}.{scale}.seed" if "seed" in own else f"train.{scale}.seed"


def load_grids(path: Path = PARAMS) -> dict[str, Grid]:
    """The grids of ablations by name. Raises UserError as `load` does, which checks them too.

    Their values are not tried out here: an experiment may change what they were written for.
    """
    return _grids(path, parsed(text(path), path))


def _grids(path: Path, raw: dict[str, Any]) -> dict[str, Grid]:
    try:
        grids = TypeAdapter(dict[str, Grid]).validate_python(raw.get("ablations") or {})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, ("ablations", *first["loc"])))
        raise UserError(f"{path}: {key}: {what_is_wrong(first)}") from None
    for name, grid in grids.items():
        where = f"{path}: ablations.{name}"
        if not name.isidentifier():
            raise UserError(f"{where}: a name has letters, digits and _ alone")
        if grid.recipe not in (raw.get("recipes") or {}):
            raise UserError(f"{where}.recipe: no recipe is named {grid.recipe!r}")
        form = "values" if grid.values else "points"
        for key in grid.values or [k for point in grid.points.values() for k in point]:
            if not _names_a_value(raw, key):
                raise UserError(f"{where}.{form}: {key!r} is no key of this file")
    return grids


def _names_a_value(raw: Any, key: str) -> bool:
    """Whether a dotted key is there, or is in a block that is null in this experiment."""
    block = {k: v for k, v in raw.items() if k not in ("ablations", "scale")}
    for part in key.split("."):
        if block is None:
            return True
        if not isinstance(block, dict) or part not in block:
            return False
        block = block[part]
    return True


def text(path: Path = PARAMS) -> str:
    """The file as it stands. Raises UserError where it is not there or no text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the root of the repository") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {error}") from None


def parsed(given: str, path: Path = PARAMS) -> dict[str, Any]:
    """The keys and values of the file's text, unchecked. Raises UserError where it has none."""
    try:
        raw = YAML(typ="safe", pure=True).load(given)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}: line {line}: {error.problem}") from None
    except YAMLError as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must hold keys and values")
    return raw


def _at_scale(path: Path, raw: dict[str, Any], scale: str) -> dict[str, Any]:
    """Fold every {tiny, full} block into the values of one scale."""

    def at_scale(block: Any, key: str) -> Any:
        if not isinstance(block, dict):
            raise UserError(f"{path}: {key}: must hold {' and '.join(SCALES)}")
        for s in SCALES:
            if s not in block:
                raise UserError(f"{path}: {key}.{s}: missing")
        return block[scale]

    def only_scales(block: Any, key: str) -> Any:
        value = at_scale(block, key)
        if unknown := [k for k in block if k not in SCALES]:
            raise UserError(f"{path}: {key}.{unknown[0]}: unknown key")
        return value

    def mapping(block: Any, key: str) -> dict[str, Any]:
        if not isinstance(block, dict):
            raise UserError(f"{path}: {key}: must hold keys and values")
        return block

    def section(key: str) -> dict[str, Any]:
        if key not in raw:
            raise UserError(f"{path}: {key}: missing")
        return mapping(raw[key], key)

    def blocks(key: str) -> dict[str, dict[str, Any]]:
        for name, block in section(key).items():
            if not re.fullmatch(r"[\w-]+", str(name)):
                raise UserError(f"{path}: {key}.{name}: a name has letters, digits, _ and - alone")
            if key == "recipes" and name in RESERVED:
                raise UserError(f"{path}: {key}.{name}: that folder of metrics is taken; rename it")
            if unknown := FOLDED[key] & mapping(block, f"{key}.{name}").keys():
                raise UserError(f"{path}: {key}.{name}.{unknown.pop()}: unknown key")
        return section(key)

    def without_scales(block: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in block.items() if k not in SCALES}

    def scaled(block: dict[str, Any], key: str) -> dict[str, Any]:
        names = SCALED[key.partition(".")[0]]

        def value(name: str, given: Any) -> Any:
            both = name == "labels" and not isinstance(given, dict)
            return given if both or name not in names else only_scales(given, f"{key}.{name}")

        return {name: value(name, given) for name, given in block.items()}

    top = {k: v for k, v in raw.items() if k not in ("train", "ablations")}
    top["scale"] = scale
    top["data"] = {
        name: scaled(without_scales(block), f"data.{name}")
        | {"name": name, "source": at_scale(block, f"data.{name}")}
        for name, block in blocks("data").items()
    }
    top["base"] = {
        name: without_scales(block) | {"name": name, "model": at_scale(block, f"base.{name}")}
        for name, block in blocks("base").items()
    }
    defaults = mapping(only_scales(section("train"), "train"), f"train.{scale}")

    def training(block: dict[str, Any], key: str) -> dict[str, Any]:
        own = at_scale(block, key)
        return defaults if own is None else defaults | mapping(own, f"{key}.{scale}")

    top["recipes"] = {
        name: scaled(without_scales(block), f"recipes.{name}")
        | {"name": name, "train": training(block, f"recipes.{name}")}
        for name, block in blocks("recipes").items()
    }
    top["evaluate"] = scaled(section("evaluate"), "evaluate")
    top["explain"] = scaled(section("explain"), "explain")
    return top


def _check(path: Path, raw: dict[str, Any], scale: str) -> Params:
    try:
        return Params.model_validate(_at_scale(path, raw, scale))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {_where(first, raw, scale)}{what_is_wrong(first)}") from None


def _where(error: Any, raw: dict[str, Any], scale: str) -> str:
    """The key as it stands in the file, from the key in the folded values."""
    parts = [str(p) for p in error["loc"] if p not in ("BuiltBase", "HubBase")]
    match parts:
        case ["data", name, "source", *rest] | ["base", name, "model", *rest]:
            parts = [parts[0], name, scale, *rest]
        case ["recipes", name, "train", key, *rest]:
            own = key in (raw["recipes"][name][scale] or {})
            parts = [*(("recipes", name) if own else ("train",)), scale, key, *rest]
        case [section, *_, key] if key in SCALED.get(section, ()) and key != "labels":
            parts.append(scale)
    return f"{'.'.join(parts)}: " if parts else ""


def what_is_wrong(error: Any) -> str:
    """One of the `errors()` of pydantic's ValidationError, in the words of a UserError."""
    given = error.get("input")
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return "unknown key"
    if error["type"] == "missing":
        return "missing"
    if error["type"] == "value_error" or isinstance(given, dict | BaseModel):
        return message
    return f"{message[0].lower()}{message[1:]}, not {given!r}"
