"""Each distinct picture or video of a recipe's data through the frozen vision side, once."""

import hashlib
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import typer
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from src import families
from src.errors import UserError
from src.features import key, write
from src.files import whole
from src.inference.generate import to_device
from src.models import load_base, load_processor
from src.records import MEDIA, ROW_GROUP, SPLITS, read_split
from src.schema import Recipe
from src.training.prompts import media, rendered

BATCH = 16  # pictures or frames in one forward pass
Place = tuple[str, int]  # a split, and the place of a record in it


def run(recipe: Recipe, place: Path) -> None:
    """Write a folder of features.

    Raises:
        UserError: features of this family are not kept, or the disk has no room for them.
    """
    family = families.load(recipe.family)
    if not hasattr(family, "features"):
        raise UserError(
            f"params.yaml: recipes.{recipe.name}.vision_features: cached: features of a "
            f"{recipe.family} take more room and time to read than its tower saves; set live"
        )
    prepared = Path("data/prepared") / recipe.data
    splits = {name: read_split(prepared / f"{name}.parquet") for name in SPLITS}
    rows, firsts = distinct(splits)
    shown = _Shown(splits)
    base = Path("models/base") / recipe.base
    model, processor = load_base(base, recipe, language=False), load_processor(base, recipe)
    found = _features(model, processor, family, shown, firsts)
    first = next(found)
    _announce(place, len(firsts), first, recipe.name)
    known = {"medium": shown.medium, "frames": shown.frames, "size": shown.size, "splits": rows}
    known |= {"key": key(recipe)}
    with whole(place) as beside:
        write(beside, chain([first], found), known)


def distinct(splits: dict[str, Dataset]) -> tuple[dict[str, list[int]], list[Place]]:
    """By split the number of each record's picture or video, and where each number comes first.

    Those whose stored bytes are equal have one number.
    """
    numbers: dict[bytes, int] = {}
    rows: dict[str, list[int]] = {}
    firsts: list[Place] = []
    for split, records in splits.items():
        rows[split] = []
        # As they are stored: nothing is decoded.
        stored = records.select_columns(MEDIA).with_format("arrow")
        for record in chain.from_iterable(table.to_pylist() for table in stored.iter(ROW_GROUP)):
            digest = hashlib.sha256()
            for frame in record["video"] or [record["image"]]:
                digest.update(frame["bytes"])
            number = numbers.setdefault(digest.digest(), len(numbers))
            if number == len(firsts):
                firsts.append((split, len(rows[split])))
            rows[split].append(number)
    return rows, firsts


class _Shown:
    """What the records of a data set show, all of one kind and size."""

    def __init__(self, splits: dict[str, Dataset]) -> None:
        self.splits = splits
        first = next(records[0] for records in splits.values() if len(records))
        self.medium = "video" if first["video"] else "image"
        self.frames = len(first["video"]) if first["video"] else None
        self.size = (first["video"] or [first["image"]])[0].width

    def at(self, place: Place) -> Any:
        split, i = place
        return self.splits[split][i][self.medium]


def _features(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    family: ModuleType,
    shown: _Shown,
    firsts: list[Place],
) -> Iterator[torch.Tensor]:
    """The features of all, a batch at a time: (batch, tokens, width)."""
    size = max(1, BATCH // (shown.frames or 1))
    prompt = rendered(family, processor, None, "", shown.medium)
    with tqdm(total=len(firsts), desc="encode", unit="example") as bar:
        for start in range(0, len(firsts), size):
            batch = [shown.at(place) for place in firsts[start : start + size]]
            inputs = processor(
                text=[prompt] * len(batch), return_tensors="pt", **media(shown.medium, batch)
            )
            yield family.features(model, to_device(inputs, model))
            bar.update(len(batch))


def _announce(place: Path, count: int, first: torch.Tensor, name: str) -> None:
    needed = count * first[0].nbytes
    _, tokens, width = first.shape
    kind = str(first.dtype).removeprefix("torch.")
    typer.echo(
        f"{count:,} distinct, each {tokens} x {width} in {kind}: {needed / 1e6:,.0f} MB, and as "
        "much again in DVC's cache where its disk makes no links",
        err=True,
    )
    place.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place.parent).free
    if needed > free:
        raise UserError(
            f"{place}: needs {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free on its "
            f"disk; free some, or set recipes.{name}.vision_features: live"
        )
