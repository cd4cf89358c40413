"""The whole tuned model in 16 or 32 bits, as plain transformers loads it."""

from pathlib import Path

import torch

from src.errors import UserError
from src.files import read_json
from src.models import DTYPES, load_tuned
from src.schema import Quantization, Recipe

UNQUANTIZED = Quantization(bits=16, type="nf4", double=False)


def check(recipe: Recipe) -> None:
    """Raises UserError where plain transformers could not load what is merged."""
    if recipe.classifier:
        raise UserError(
            f"{recipe.name} has a second head, which no class of transformers has; "
            "publish it without --merged: the adapter holds both"
        )


def size(recipe: Recipe) -> int:
    """The bytes that the merged weights take, about, by what the build stage counted."""
    known = read_json(Path("metrics/base") / f"{recipe.base}.json")
    return known["parameters"] * DTYPES[recipe.precision].itemsize


def export(base: Path, adapter: Path, recipe: Recipe, folder: Path) -> None:
    """Merge an adapter into its base and write the model, without a processor, to `folder`.

    The base is loaded unquantized, in the recipe's precision: 4-bit weights with the adapter added
    and rounded again would no longer answer as they were trained to. On the CPU, as a GPU that
    trained it in 4 bits need not hold it whole.

    Raises:
        UserError: it has a second head, or the base or the adapter cannot be loaded.
    """
    check(recipe)
    plain = recipe.model_copy(update={"quantization": UNQUANTIZED})
    tuned = load_tuned(base, adapter, plain, on=torch.device("cpu"))
    tuned.merge_and_unload().save_pretrained(folder)
