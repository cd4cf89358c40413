"""A folder of what goes out: adapter or merged model, processor, numbers, parameters, card."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

from src.errors import UserError
from src.files import read_json, write_json
from src.models import RECIPE, load_processor
from src.publishing import card, merge
from src.publishing.trained import ADAPTER, Trained, record

PARAMETERS, METRICS, CARD = "parameters.json", "metrics.json", "README.md"
MERGED_WEIGHTS = "model.safetensors"
BASE = "base"  # the folder of a base that was made here, beside its adapter


class Place(StrEnum):
    """Where models are published: the Hugging Face Hub, Kaggle Models, or a folder."""

    hub = "hub"
    kaggle = "kaggle"
    folder = "folder"


@dataclass(frozen=True)
class Target:
    """Where it goes, and as what; `address` is owner/name, or what the card calls the folder."""

    place: Place
    address: str
    private: bool = True
    licence: str | None = None
    merged: bool = False


def check(trained: Trained, target: Target) -> None:
    """Refuse what nobody could load from there.

    Raises:
        UserError: the base is nowhere but here, or plain transformers has no class for it.
    """
    if target.merged:
        merge.check(trained.recipe)
    elif trained.built and target.place is not Place.folder:
        raise UserError(
            f"{trained.recipe.name}: its base {trained.base.name} was made here and is nowhere "
            "else; add --merged, or publish --to folder, which puts the base beside the adapter"
        )


@contextmanager
def staged(trained: Trained, target: Target, weights: bool = True) -> Iterator[Path]:
    """A filled folder on the repository's own disk, for as long as the context lasts."""
    with TemporaryDirectory(prefix=".publish-", suffix=".part", dir=".") as name:
        folder = Path(name) / "model"  # the one around it may be read by its owner alone
        folder.mkdir()
        fill(trained, target, folder, weights)
        yield folder


def fill(trained: Trained, target: Target, folder: Path, weights: bool = True) -> None:
    """Write everything that goes out to `folder`; no picture and no prediction is among it.

    Args:
        trained: what is published.
        target: says whether it is merged, and what the card calls it.
        folder: is there and empty.
        weights: merge them; without, all else is written.

    Raises:
        UserError: the base or its processor cannot be loaded.
    """
    load_processor(trained.base_folder, trained.recipe).save_pretrained(folder)
    if target.merged and weights:
        merge.export(trained.base_folder, trained.adapter, trained.recipe, folder)
    if not target.merged:
        _adapter(trained, folder)
    write_json(folder / RECIPE, trained.knowledge)
    write_json(folder / METRICS, trained.metrics)
    card.of(trained, target.address, target.licence, target.merged).save(folder / CARD)
    # With the names of all files, by which a later run knows what it may write over.
    write_json(folder / PARAMETERS, record(trained) | {"files": [*contents(folder), PARAMETERS]})


def _adapter(trained: Trained, folder: Path) -> None:
    """The chosen weights with the name of their base as others know it."""
    for name in ADAPTER:
        shutil.copyfile(trained.adapter / name, folder / name)
    config = read_json(folder / ADAPTER[1])
    if trained.built:
        shutil.copytree(trained.manifest["id"], folder / BASE)
        known = {"base_model_name_or_path": BASE, "revision": None}
    else:
        known = {"base_model_name_or_path": trained.manifest["id"]}
        known |= {"revision": trained.manifest["revision"]}
    write_json(folder / ADAPTER[1], config | known)


def strangers(folder: Path) -> list[str]:
    """The files of a folder that `fill` did not write."""
    own = written(folder / PARAMETERS)
    return [name for name in contents(folder) if name not in own]


def written(parameters: Path) -> set[str]:
    """The files that `fill` wrote, by its parameters.json; none where that names none."""
    try:
        return set(read_json(parameters)["files"])
    except (OSError, ValueError, LookupError, TypeError):
        return set()  # another's, or one of before it named its files


def contents(folder: Path) -> dict[str, int]:
    """The bytes of each file below a folder by its name there, in order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
