"""`params.yaml` as typed, checked values. The only module that knows the scales.

`load()` checks the whole file, then picks the values of its scale: what the rest of the code sees
has no scale in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from src.errors import UserError

PARAMS = Path("params.yaml")

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """Unknown keys are refused and nothing is converted but int to float."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Drawn(Strict):
    drawing: Name
    train: Positive
    test: Positive
    size: Annotated[int, Field(ge=32)]


class KaggleDataset(Strict):
    dataset: Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]
    version: Positive


class Source(Strict):
    """Where raw files come from: `folder` where it is set, else the one other key."""

    folder: Name | None = None
    drawn: Drawn | None = None
    kaggle: KaggleDataset | None = None

    @property
    def kind(self) -> str:
        """The key that holds the source, which is also the name of its module in src/sources."""
        return "folder" if self.folder else next(k for k in ("drawn", "kaggle") if getattr(self, k))

    @model_validator(mode="after")
    def _one_source(self) -> Source:
        named = [k for k in ("drawn", "kaggle") if getattr(self, k)]
        if len(named) > 1 or not (named or self.folder):
            raise ValueError("name one of folder, drawn, kaggle")
        return self


class Data(Strict):
    name: str
    reader: Name
    labels: Annotated[list[Name], Field(min_length=2)] | None
    licence: str
    validation: Annotated[float, Field(gt=0, le=0.5)]
    test: Annotated[float, Field(gt=0, le=0.5)]
    near_duplicate_distance: Annotated[int, Field(ge=0, le=64)]
    image_size: Annotated[int, Field(ge=28, le=4096)]
    source: Source


class Vision(Strict):
    layers: Positive
    hidden: Positive
    heads: Positive


class Text(Vision):
    kv_heads: Positive


class Pretrain(Strict):
    drawings: Annotated[list[Name], Field(min_length=1)]
    pictures: Positive
    steps: Positive
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0)]


class BuiltBase(Strict):
    """A base model made here, of the family's own architecture."""

    image_size: Annotated[int, Field(ge=28, multiple_of=28)]
    vocabulary: Annotated[int, Field(ge=300)]
    vision: Vision
    text: Text
    pretrain: Pretrain


class HubBase(Strict):
    """A base model of the Hub. A null revision is resolved and recorded by the build stage."""

    id: Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None


def _base_kind(block: Any) -> str:
    return "HubBase" if isinstance(block, dict) and "id" in block else "BuiltBase"


class Base(Strict):
    name: str
    family: Name
    model: Annotated[
        Annotated[BuiltBase, Tag("BuiltBase")] | Annotated[HubBase, Tag("HubBase")],
        Discriminator(_base_kind),
    ]


class Training(Strict):
    epochs: Annotated[float, Field(gt=0)]
    max_steps: Positive | None
    batch_size: Positive
    gradient_accumulation: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    warmup_ratio: Share
    warmup_steps: Count
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    optimizer: Name
    gradient_checkpointing: bool
    max_length: Positive
    evaluations: Positive
    workers: Count

    @field_validator("warmup_steps")
    @classmethod
    def _one_warmup(cls, steps: int, earlier: ValidationInfo) -> int:
        if steps and earlier.data.get("warmup_ratio"):
            raise ValueError("one of warmup_ratio and warmup_steps must be 0")
        return steps


class Quantization(Strict):
    bits: Literal[4, 16]
    type: Literal["nf4", "fp4"]
    double: bool


class Lora(Strict):
    r: Positive
    alpha: Positive
    dropout: Share
    targets: Annotated[list[Name], Field(min_length=1)]


class Prompt(Strict):
    system: str | None
    question: Name

    @field_validator("question")
    @classmethod
    def _known_placeholders(cls, question: str) -> str:
        names = {name for _, name, _, _ in Formatter().parse(question) if name is not None}
        if unknown := names - {"labels"}:
            raise ValueError(f"{{{unknown.pop()}}} is no placeholder; {{labels}} is the only one")
        return question


class Recipe(Strict):
    name: str
    data: str
    base: str
    family: str
    task: Name
    prompt: Prompt
    max_new_tokens: Positive
    quantization: Quantization
    precision: Literal["fp32", "bf16", "fp16"]
    lora: Lora
    train: Training


class Evaluate(Strict):
    bootstrap: Annotated[int, Field(ge=100)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    calibration_bins: Annotated[int, Field(ge=2)]
    batch_size: Positive


class Explain(Strict):
    pictures: Positive
    gallery: Positive
    cells: Annotated[int, Field(ge=2, le=64)]
    deleted: Annotated[float, Field(gt=0, lt=1)]


class Params(Strict):
    """The whole file at its scale."""

    scale: str
    seed: Count
    data: dict[str, Data]
    base: dict[str, Base]
    recipes: dict[str, Recipe]
    evaluate: Evaluate
    explain: Explain

    @model_validator(mode="after")
    def _names_exist(self) -> Params:
        for name, recipe in self.recipes.items():
            where = f"recipes.{name}"
            if recipe.data not in self.data:
                raise ValueError(f"{where}.data: no data set is named {recipe.data!r}")
            if recipe.base not in self.base:
                raise ValueError(f"{where}.base: no base is named {recipe.base!r}")
            family = self.base[recipe.base].family
            if recipe.family != family:
                raise ValueError(f"{where}.family: {recipe.base} is of the family {family!r}")
            _module_exists(f"{where}.task", "tasks", recipe.task)
        for name, base in self.base.items():
            _module_exists(f"base.{name}.family", "families", base.family)
        for name, data in self.data.items():
            _module_exists(f"data.{name}.reader", "readers", data.reader)
        return self


def _module_exists(key: str, package: str, name: str) -> None:
    if not (name.isidentifier() and (Path(__file__).parent / package / f"{name}.py").is_file()):
        raise ValueError(f"{key}: there is no src/{package}/{name}.py")


SCALES = ("tiny", "full")
# Keys of the folded values that are no keys of the file.
FOLDED = {"data": {"name", "source"}, "base": {"name", "model"}, "recipes": {"name", "train"}}
# Keys that hold one value a scale, by section.
SCALED = {
    "data": ("image_size",),
    "recipes": ("precision",),
    "evaluate": ("batch_size",),
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
    scale = _read(path).get("scale")
    if scale not in SCALES:
        raise UserError(f"{path}: scale: {scale!r} is none of {', '.join(SCALES)}")
    checked = {s: at_scale(path, s) for s in SCALES}
    return checked[scale]


def at_scale(path: Path, scale: str) -> Params:
    """The parameters at a scale, whatever the file's own is. Raises UserError as `load` does."""
    return _check(path, _read(path), scale)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the root of the repository") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}: line {line}: {error.problem}") from None
    except (YAMLError, UnicodeDecodeError) as error:
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
            if unknown := FOLDED[key] & mapping(block, f"{key}.{name}").keys():
                raise UserError(f"{path}: {key}.{name}.{unknown.pop()}: unknown key")
        return section(key)

    def without_scales(block: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in block.items() if k not in SCALES}

    def scaled(block: dict[str, Any], key: str) -> dict[str, Any]:
        names = SCALED[key.partition(".")[0]]
        return {k: only_scales(v, f"{key}.{k}") if k in names else v for k, v in block.items()}

    top = {k: v for k, v in raw.items() if k != "train"}
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
        raise UserError(f"{path}: {_where(first, raw, scale)}{_what(first)}") from None


def _where(error: Any, raw: dict[str, Any], scale: str) -> str:
    """The key as it stands in the file, from the key in the folded values."""
    parts = [str(p) for p in error["loc"] if p not in ("BuiltBase", "HubBase")]
    match parts:
        case ["data", name, "source", *rest] | ["base", name, "model", *rest]:
            parts = [parts[0], name, scale, *rest]
        case ["recipes", name, "train", key, *rest]:
            own = key in (raw["recipes"][name][scale] or {})
            parts = [*(("recipes", name) if own else ("train",)), scale, key, *rest]
        case [section, *_, key] if key in SCALED.get(section, ()):
            parts.append(scale)
    return f"{'.'.join(parts)}: " if parts else ""


def _what(error: Any) -> str:
    given = error.get("input")
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return "unknown key"
    if error["type"] == "missing":
        return "missing"
    if error["type"] == "value_error" or isinstance(given, dict | BaseModel):
        return message
    return f"{message[0].lower()}{message[1:]}, not {given!r}"
