"""The whole tuned model in 16 or 32 bits, as plain transformers loads it."""

from pathlib import Path

from src.errors import UserError
from src.files import read_json
from src.models import DTYPES, load_tuned
from src.publishing.trained import Trained
from src.schema import Quantization

UNQUANTIZED = Quantization(bits=16, type="nf4", double=False)


def check(trained: Trained) -> None:
    """Raises UserError where plain transformers could not load what is merged."""
    if trained.recipe.classifier:
        raise UserError(
            f"{trained.recipe.name} has a second head, which no class of transformers has; "
            "publish it without --merged: the adapter holds both"
        )


def size(trained: Trained) -> int:
    """The bytes that the merged weights take, about, by what the build stage counted."""
    known = read_json(Path("metrics/base") / f"{trained.base.name}.json")
    return known["parameters"] * DTYPES[trained.recipe.precision].itemsize


def export(trained: Trained, folder: Path) -> None:
    """Merge the adapter into its base and write the model, without a processor, to `folder`.

    The base is loaded unquantized, in the recipe's precision: 4-bit weights with the adapter added
    and rounded again would no longer answer as they were trained to.

    Raises:
        UserError: it has a second head, or the base cannot be loaded.
    """
    check(trained)
    recipe = trained.recipe.model_copy(update={"quantization": UNQUANTIZED})
    merged = load_tuned(trained.base_folder, trained.adapter, recipe).merge_and_unload()
    merged.save_pretrained(folder)
