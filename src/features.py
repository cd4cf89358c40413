"""Features of the frozen vision side, computed once for each distinct picture or video.

A store is a folder: `features.arrow`, one row a distinct picture or video in Arrow's file format,
which is mapped from the disk and not read; and `features.json`, which row belongs to which record,
and what the features hang on; or nothing where a recipe reads pixels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset

from src.errors import UserError
from src.files import digest, read_json, write_json
from src.records import SPLITS, read_split
from src.schema import Recipe

ROWS = "features.arrow"
INDEX = "features.json"
ROW = "feature"  # the column of a split that names a row
BLOCK = 64  # rows in a batch of the file, which is the least that is mapped at once


@dataclass(frozen=True)
class Features:
    """An open store."""

    medium: str  # image or video
    frames: int | None  # of a video
    size: int  # side of its pictures in pixels
    shape: tuple[int, int]  # of a row: tokens, width
    dtype: torch.dtype
    splits: dict[str, list[int]]  # by split, the row of each of its records
    blocks: tuple[pa.RecordBatch, ...]

    def of(self, rows: Sequence[int]) -> torch.Tensor:
        """The features of some rows: (rows, tokens, width)."""
        return torch.stack([self._row(row) for row in rows])

    def _row(self, row: int) -> torch.Tensor:
        stored = self.blocks[row // BLOCK].column(0)[row % BLOCK].as_buffer()
        # Copied by `stack`: what is mapped cannot be written to, and nobody does.
        return torch.frombuffer(memoryview(stored), dtype=self.dtype).view(self.shape)


def key(recipe: Recipe) -> dict[str, str]:
    """What the features of a recipe hang on: precision, and digests of its base and of each split.

    The base's folder holds its weights and processor, or the commit of the Hub that has them.

    Raises:
        UserError: one of them is not there.
    """
    prepared = Path("data/prepared") / recipe.data
    try:
        splits = {f"{split} split": digest(prepared / f"{split}.parquet") for split in SPLITS}
        base = digest(Path("models/base") / recipe.base)
    except FileNotFoundError as error:
        stage = f"encode@{recipe.name}"
        raise UserError(f"{error.filename}: not there; make it with `dvc repro {stage}`") from None
    return {"precision": recipe.precision, "base": base} | splits


def write(folder: Path, blocks: Iterable[torch.Tensor], known: dict[str, Any]) -> None:
    """Write a store to a new folder, some features of (rows, tokens, width) at a time.

    The same features give the same bytes. `known` are `medium`, `frames`, `size` and `splits`, and
    `key` where there is a recipe.
    """
    folder.mkdir(parents=True)
    blocks = iter(blocks)
    first = next(blocks)
    schema = pa.schema([pa.field("features", pa.binary(first[0].nbytes), nullable=False)])
    with pa.OSFile(str(folder / ROWS), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        waiting: list[bytes] = []

        def flush(least: int) -> None:
            while len(waiting) >= least:
                rows = pa.array(waiting[:BLOCK], schema[0].type)
                writer.write_batch(pa.record_batch([rows], schema=schema))
                del waiting[:BLOCK]

        for block in chain([first], blocks):
            raw = block.cpu().contiguous().view(torch.uint8).flatten(1).numpy()
            waiting += [row.tobytes() for row in raw]
            flush(BLOCK)
        flush(1)
    shape, dtype = list(first.shape[1:]), str(first.dtype).removeprefix("torch.")
    write_json(folder / INDEX, {"shape": shape, "dtype": dtype} | known)


def opened(folder: Path, recipe: Recipe | None = None) -> Features | None:
    """The store that the encode stage left; None where the recipe reads pictures as they are.

    With a recipe it must be made of what `key` names of it.

    Raises:
        UserError: it is not there, is no store, or was made of something else.
    """
    try:
        known = read_json(folder / INDEX)
    except FileNotFoundError:
        raise UserError(
            f"{folder}: not there; make it with `dvc repro encode@{folder.name}`"
        ) from None
    if not known:
        return None
    own = known.pop("key", {})
    for part, value in key(recipe).items() if recipe else ():
        if own.get(part) != value:
            raise UserError(
                f"{folder}: holds features of another {part}; make them anew with "
                f"`dvc repro encode@{folder.name}`"
            )
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(folder / ROWS)))
        blocks = tuple(reader.get_batch(i) for i in range(reader.num_record_batches))
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(
            f"{folder / ROWS}: cannot be read: {error}; bring it back with "
            f"`dvc repro -s -f encode@{folder.name}`"
        ) from None
    dtype = getattr(torch, known.pop("dtype"))
    return Features(shape=tuple(known.pop("shape")), dtype=dtype, blocks=blocks, **known)


def shown(path: Path, features: Features | None) -> Dataset:
    """The split of a file as a collator reads it: with its media, or the rows of their features."""
    if features is None:
        return read_split(path)
    return read_split(path, media=False).add_column(ROW, features.splits[path.stem])
