"""The types of `params.yaml` at one scale: what a value may be, and that names name something."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Repo = Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]  # of the Hub, or a data set of Kaggle
# A commit, branch or tag of the Hub; null: its main branch. What is found there is recorded.
Revision = Annotated[str, Field(pattern=r"^[\w.-][\w./-]*$")] | None


# What only these can do.
READ_VIDEOS = TWO_HEADED = ("qwen2_vl",)  # families
CLASSIFY = ("entail_explain",)  # tasks, by the second head


def composed(text: str) -> str:
    """The text in Unicode's composed form, as what a model writes is kept."""
    return unicodedata.normalize("NFC", text)


def spelling(text: str) -> str:
    """What names of classes are told apart by: composed, whatever their case and spaces."""
    return " ".join(composed(text).casefold().split())


def _told_apart(labels: list[str]) -> list[str]:
    known: dict[str, str] = {}
    for label in map(composed, labels):
        if other := known.get(spelling(label)):
            raise ValueError(f"{other!r} and {label!r} are one class, as case does not count")
        known[spelling(label)] = label
    return list(known.values())


class Strict(BaseModel):
    """Unknown keys are refused and nothing is converted but int to float."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Drawn(Strict):
    drawing: Name
    train: Positive
    test: Positive
    size: Annotated[int, Field(ge=32)]


class KaggleDataset(Strict):
    """A null version is the newest, and recorded by the fetch stage."""

    dataset: Repo
    version: Positive | None


class Archive(Strict):
    """A file of a public bucket. A null ETag or SHA-256 is not checked, but recorded."""

    path: Name
    size: Positive
    etag: Annotated[str, Field(pattern=r"^[^\s\"]+$")] | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None


class Abo(Strict):
    """Amazon Berkeley Objects."""

    url: Annotated[str, Field(pattern=r"^https?://[^/\s]+$")]
    listings: Archive
    images: Archive


class WebVid(Strict):
    """Tables of videos and captions, whose videos are downloaded from the addresses in them."""

    # A dataset repository of the Hub; null: the tables are files here.
    dataset: Repo | None
    revision: Revision
    tables: Annotated[list[Name], Field(min_length=1)]
    clips: Positive


class Esnlive(Strict):
    """e-SNLI-VE with its pictures, streamed from a dataset repository of the Hub."""

    dataset: Repo
    revision: Revision
    rows: Positive


class Source(Strict):
    """Where raw files come from: `folder` where it is set, else the one other key."""

    folder: Name | None = None
    drawn: Drawn | None = None
    kaggle: KaggleDataset | None = None
    abo: Abo | None = None
    webvid: WebVid | None = None
    esnlive: Esnlive | None = None

    @property
    def kind(self) -> str:
        """The key that holds the source, which is also the name of its module in src/sources."""
        return "folder" if self.folder else self._named()[0]

    def _named(self) -> list[str]:
        return [k for k in type(self).model_fields if k != "folder" and getattr(self, k)]

    @model_validator(mode="after")
    def _one_source(self) -> Source:
        if len(self._named()) > 1 or not (self._named() or self.folder):
            raise ValueError(f"name one of {', '.join(type(self).model_fields)}")
        return self


class Data(Strict):
    name: str
    reader: Name
    labels: Annotated[list[Name], Field(min_length=2), AfterValidator(_told_apart)] | None
    licence: str
    own_licence: str | None = None
    publisher_splits: bool
    validation: Annotated[float, Field(gt=0, le=0.5)]
    test: Annotated[float, Field(gt=0, le=0.5)]
    near_duplicate_distance: Annotated[int, Field(ge=0, le=64)]
    limit: Positive | None
    # Of a video; null where the data are pictures.
    frames: Annotated[int, Field(ge=2, le=128, multiple_of=2)] | None = None
    image_size: Annotated[int, Field(ge=28, le=4096)]
    source: Source

    @property
    def medium(self) -> str:
        """What an example shows, in a word for people."""
        return "video" if self.frames else "picture"

    def terms(self, kind: str) -> str:
        """The licence of what came from a kind of source, in words for people."""
        if kind == "folder":
            return self.own_licence or "their owner names no licence"
        return "drawn here, free of others' rights" if kind == "drawn" else self.licence

    @field_validator("image_size")
    @classmethod
    def _whole_patches(cls, side: int, info: ValidationInfo) -> int:
        if info.data.get("frames") and side % 28:
            raise ValueError(f"the frames of a video need a multiple of 28, not {side}")
        return side


class Vision(Strict):
    layers: Positive
    hidden: Positive
    heads: Positive

    @field_validator("heads")
    @classmethod
    def _whole_heads(cls, heads: int, info: ValidationInfo) -> int:
        hidden = info.data.get("hidden", 0)
        if hidden % (8 * heads):
            raise ValueError(f"hidden {hidden} must be heads {heads} times a multiple of 8")
        return heads


class Text(Vision):
    kv_heads: Positive

    @field_validator("kv_heads")
    @classmethod
    def _whole_groups(cls, kv_heads: int, info: ValidationInfo) -> int:
        heads = info.data.get("heads", 0)
        if heads % kv_heads:
            raise ValueError(f"heads {heads} must be a multiple of kv_heads {kv_heads}")
        return kv_heads


class Queries(Strict):
    """The Q-Former of BLIP-2."""

    count: Positive
    layers: Positive


class Pretrain(Strict):
    drawings: Annotated[list[Name], Field(min_length=1)]
    pictures: Positive
    captions: Share
    steps: Positive
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0)]


class BuiltBase(Strict):
    """A base model made here, of the family's own architecture."""

    image_size: Annotated[int, Field(ge=28, multiple_of=28)]
    vocabulary: Annotated[int, Field(ge=300)]
    vision: Vision
    text: Text
    language_model: Literal["opt", "flan_t5"] | None = None
    queries: Queries | None = None
    pretrain: Pretrain


class HubBase(Strict):
    """A base model of the Hub."""

    id: Repo
    revision: Revision


def _base_kind(block: Any) -> str:
    # A block when it is read, one of the two when it is written.
    hub = "id" in block if isinstance(block, dict) else isinstance(block, HubBase)
    return "HubBase" if hub else "BuiltBase"


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
    processes: Positive
    sharding: Literal["fsdp"] | None
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["linear", "cosine", "constant"]
    warmup_ratio: Share
    warmup_steps: Count
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    optimizer: Literal[
        "paged_adamw_32bit",
        "paged_adamw_8bit",
        "adamw_bnb_8bit",
        "adamw_torch",
        "adamw_torch_fused",
        "adafactor",
        "sgd",
    ]
    gradient_checkpointing: bool
    group_by_length: bool
    max_length: Positive
    evaluations: Positive
    select_by: Literal["loss", "accuracy"]
    answered_each_epoch: Count
    workers: Count
    seed: Seed | None

    @field_validator("processes")
    @classmethod
    def _whole_shares(cls, processes: int, earlier: ValidationInfo) -> int:
        passes = earlier.data.get("gradient_accumulation", processes)
        if passes % processes:
            raise ValueError(
                f"{processes} processes cannot share gradient_accumulation {passes} evenly; make "
                "it a multiple of them, and batch_size smaller"
            )
        return processes

    @field_validator("optimizer")
    @classmethod
    def _shardable(cls, optimizer: str, earlier: ValidationInfo) -> str:
        # Those of bitsandbytes know no sharded weights.
        if earlier.data.get("sharding") and not optimizer.startswith("adamw_torch"):
            raise ValueError(
                f"sharding needs adamw_torch or adamw_torch_fused as optimizer, not {optimizer}"
            )
        return optimizer

    @field_validator("answered_each_epoch")
    @classmethod
    def _whole_models(cls, count: int, earlier: ValidationInfo) -> int:
        if count and earlier.data.get("sharding"):
            raise ValueError("a sharded model cannot answer while it is trained: 0, or no sharding")
        return count

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


PLACEHOLDERS = ("labels", "question", "hypothesis")


def _known_placeholders(question: str) -> str:
    names = {name for _, name, _, _ in Formatter().parse(question) if name is not None}
    if unknown := names - set(PLACEHOLDERS):
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise ValueError(f"{{{unknown.pop()}}} is no placeholder; {known} are")
    # A conversion or format that a text has not is a ValueError.
    question.format(**dict.fromkeys(PLACEHOLDERS, ""))
    return question


Question = Annotated[Name, AfterValidator(_known_placeholders)]


class Prompt(Strict):
    system: str | None
    question: Question
    pool: Annotated[list[Question], Field(min_length=1)] | None = None


class Generation(Strict):
    """How a text is written: greedily, by beam search, or sampled."""

    max_new_tokens: Positive
    num_beams: Positive
    temperature: Annotated[float, Field(ge=0)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    length_penalty: float
    repetition_penalty: Annotated[float, Field(gt=0)]
    no_repeat_ngram_size: Count

    @field_validator("temperature")
    @classmethod
    def _beams_or_sampling(cls, temperature: float, info: ValidationInfo) -> float:
        if temperature and info.data.get("num_beams", 1) > 1:
            raise ValueError("one of num_beams 1 and temperature 0: beams are not sampled")
        return temperature

    @field_validator("top_p")
    @classmethod
    def _share_of_what_is_sampled(cls, top_p: float, info: ValidationInfo) -> float:
        if top_p < 1 and info.data.get("temperature") == 0:
            raise ValueError(
                "at temperature 0 nothing is sampled; set temperature above 0, or top_p to 1"
            )
        return top_p


class Classifier(Strict):
    """A second head, of the classes of the data."""

    weight: Annotated[float, Field(gt=0, le=1)]


class Doubt(Strict):
    """What makes a picture doubtful: less than this of a measure, or no face where one must be."""

    min_side: Positive
    min_brightness: Share
    min_contrast: Share
    min_sharpness: Annotated[float, Field(ge=0)]
    face: bool


class Recipe(Strict):
    name: str
    data: str
    base: str
    family: str
    task: Name
    prompt: Prompt
    doubt: Doubt | None
    generation: Generation
    classifier: Classifier | None
    quantization: Quantization
    precision: Literal["fp32", "bf16", "fp16"]
    vision_features: Literal["cached", "live"]
    lora: Lora
    train: Training


class Evaluate(Strict):
    bootstrap: Annotated[int, Field(ge=100)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    calibration_bins: Annotated[int, Field(ge=2)]
    # roberta-large@REVISION: at that commit, branch or tag of the Hub.
    bertscore: Annotated[
        str, Field(pattern=r"^(all-MiniLM-L6-v2|roberta-large(@[\w.-][\w./-]*)?)$")
    ]
    audit_minimum: Positive
    batch_size: Positive


class Explain(Strict):
    pictures: Positive
    gallery: Positive
    cells: Annotated[int, Field(ge=2, le=64)]
    deleted: Annotated[float, Field(gt=0, lt=1)]


class Grid(Strict):
    """Runs of one recipe that differ in some values; the first is what the others are held against.

    Either every combination of `values`, or `points`: named sets of a value a key.
    """

    recipe: Name
    seeds: Annotated[list[Seed], Field(min_length=1)]
    metrics: Annotated[list[Name], Field(min_length=1)]
    values: dict[Name, Annotated[list[Any], Field(min_length=1)]] | None = None
    points: dict[Name, dict[Name, Any]] | None = None

    @field_validator("seeds")
    @classmethod
    def _once_each(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed stands there twice")
        return seeds

    @model_validator(mode="after")
    def _one_form(self) -> Grid:
        if bool(self.values) == bool(self.points):
            raise ValueError("name one of values and points")
        return self


class Params(Strict):
    """The whole file at its scale."""

    scale: str
    seed: Seed
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
            if self.data[recipe.data].frames and family not in READ_VIDEOS:
                raise ValueError(
                    f"{where}.data: {recipe.data} are videos, and {family} reads pictures alone"
                )
            if recipe.classifier and family not in TWO_HEADED:
                raise ValueError(f"{where}.classifier: {family} has no second head")
            if recipe.classifier and recipe.task not in CLASSIFY:
                raise ValueError(f"{where}.classifier: the task {recipe.task} has no use for one")
        for name, base in self.base.items():
            _module_exists(f"base.{name}.family", "families", base.family)
            if isinstance(base.model, BuiltBase):
                for drawing in base.model.pretrain.drawings:
                    key = f"base.{name}.{self.scale}.pretrain.drawings"
                    _module_exists(key, "drawing", drawing)
        for name, data in self.data.items():
            _module_exists(f"data.{name}.reader", "readers", data.reader)
            if drawn := data.source.drawn:
                key = f"data.{name}.{self.scale}.drawn.drawing"
                _module_exists(key, "drawing", drawn.drawing)
        return self


def _module_exists(key: str, package: str, name: str) -> None:
    if not (name.isidentifier() and (Path(__file__).parent / package / f"{name}.py").is_file()):
        raise ValueError(f"{key}: there is no src/{package}/{name}.py")
