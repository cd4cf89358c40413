"""One recipe's plan: everything that is known of it before it is run."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig

from src import config
from src.files import read_json
from src.models import DTYPES
from src.planning import duration, memory, published
from src.planning.activations import saved
from src.planning.lengths import Lengths, lengths, patch_bytes
from src.planning.skeleton import Skeleton, skeleton
from src.schema import Base, Data, Params, Recipe

BASES, PREPARED = Path("models/base"), Path("data/prepared")
COPIES = 2  # DVC's cache holds what a stage wrote a second time, unless the disk has reflinks
PIXEL = 3  # bytes, as which a prepared picture is at most stored
ADAPTER = 4  # bytes a trained weight, in fp32


@dataclass(frozen=True)
class Known:
    """A number of bytes, or None where nobody knows, and how it is known."""

    bytes: int | None
    how: str


@dataclass(frozen=True)
class Needs:
    """What a recipe with its values needs of a GPU, and where an example does not fit."""

    made: Skeleton
    configuration: PreTrainedConfig
    lengths: Lengths
    training: memory.Memory
    answering: memory.Memory
    feature_bytes: int  # of a picture or video, where its features are kept
    pixel_bytes: int  # of the same as the vision tower reads it

    @property
    def peak(self) -> int:
        """Bytes of the larger of both, which are never there at once."""
        return max(self.training.total, self.answering.total)


@dataclass(frozen=True)
class Plan:
    """A recipe at its scale."""

    recipe: Recipe
    base: Base
    data: Data
    batch: int  # of answering
    needs: Needs
    weights: Known
    raw: Known
    metric: Known  # the model behind BERTScore
    splits: duration.Splits | None
    counted: str  # how the splits are known
    steps: int | None
    work: duration.Work

    @property
    def pictures(self) -> int:
        """How many pictures or videos there are at most; 0: nobody knows."""
        examples = sum(vars(self.splits).values()) if self.splits else 0
        return min(self.data.limit or examples, examples)

    @property
    def data_bytes(self) -> int:
        """What the data take at most, without the raw files where nobody knows their size."""
        side, frames = self.data.image_size, self.data.frames or 1
        return COPIES * ((self.raw.bytes or 0) + self.pictures * frames * side**2 * PIXEL)

    @property
    def own_bytes(self) -> int:
        """What features and checkpoints take at most."""
        checkpoints = self.needs.made.trainable * (ADAPTER + 8) * self.recipe.train.evaluations
        return COPIES * self.pictures * self.needs.feature_bytes + checkpoints

    @property
    def repository_bytes(self) -> int:
        """What the stages write at most."""
        return self.data_bytes + self.own_bytes


def plan(params: Params, name: str) -> Plan:
    """The plan of a recipe. Raises UserError where its base is not known here."""
    recipe = config.pick(params.recipes, name, "recipes")
    base, data = params.base[recipe.base], params.data[recipe.data]
    needed = needs(recipe, base, data, params.evaluate.batch_size)
    known, counted = _splits(data, params.scale)
    steps = duration.optimizer_steps(recipe.train, known.train) if known else None
    texts = not needed.lengths.labels or recipe.classifier is not None
    model = params.evaluate.bertscore.partition("@")[0]
    raw = published.data_bytes(data.source)
    return Plan(
        recipe,
        base,
        data,
        params.evaluate.batch_size,
        needed,
        Known(*published.weight_bytes(base, BASES / base.name, needed.made.parameters)),
        Known(raw, "until it is here" if raw is None else ""),
        Known(published.BERTSCORE[model] if texts else 0, model),
        known,
        counted,
        steps,
        duration.work(needed.made, needed.configuration, recipe, needed.lengths),
    )


def needs(recipe: Recipe, base: Base, data: Data, batch: int) -> Needs:
    """What a recipe needs with these values; `batch` is that of answering."""
    configuration = published.configuration(base, BASES / base.name)
    classes = len(data.labels or "") if recipe.classifier else 0
    made = skeleton(configuration, recipe, classes)
    long = lengths(recipe, data, configuration)
    shape = long.longest(recipe.train.batch_size, recipe.train.max_length)
    kept = saved(configuration, recipe, shape, recipe.train.gradient_checkpointing)
    width = configuration.get_text_config().hidden_size * DTYPES[recipe.precision].itemsize
    return Needs(
        made,
        configuration,
        long,
        memory.training(made, configuration, recipe, shape, kept),
        memory.answering(made, configuration, recipe, long, batch),
        feature_bytes=long.visual * width if recipe.vision_features == "cached" else 0,
        pixel_bytes=long.patches * patch_bytes(configuration),
    )


def _splits(data: Data, scale: str) -> tuple[duration.Splits | None, str]:
    """Examples by split: of the prepared data where they are of this scale, else as published."""
    summary = PREPARED / data.name / "summary.json"
    if summary.is_file() and config.in_use(scale):
        found = read_json(summary)["splits"]
        counts = {name: found[name]["n"] for name in ("train", "validation", "test")}
        return duration.Splits(**counts), "as prepared"
    known = published.examples(data.source)
    return (duration.splits(known, data), known.note) if known else (None, "")
