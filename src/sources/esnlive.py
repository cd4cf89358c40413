"""e-SNLI-VE with its pictures: streamed from the Hub and written in the official layout."""

import csv
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

import datasets
from datasets import ClassLabel, Image, IterableDataset, load_dataset
from datasets.exceptions import DatasetsError
from tqdm import tqdm

from src.errors import UserError
from src.files import PICTURE_SUFFIXES
from src.repositories import commit, in_one_line
from src.schema import Esnlive

PICTURES = "flickr30k_images"
HEADING = ("", "pairID", "Flickr30kID", "hypothesis", "gold_label", "explanation")
MORE = ("explanation_1", "explanation_2")  # no pair of e-SNLI has more than three explanations
SPLITS = {"train": ("train",), "dev": ("validation", "dev", "val"), "test": ("test",)}
# What the columns are called in copies, in lower case; no column of a copy is taken twice.
COLUMNS = {
    "image": ("image",),
    "hypothesis": ("hypothesis", "sentence2", "text"),
    "gold_label": ("gold_label", "label"),
    "explanation": ("explanation", "explanations", "explanation_1"),
    "Flickr30kID": ("flickr30kid", "flickr30k_id", "flickr_id", "image_id"),
    "pairID": ("pairid", "pair_id"),
    "explanation_1": ("explanation_1", "explanation_2"),
    "explanation_2": ("explanation_2", "explanation_3"),
}
NEEDED = ("image", "hypothesis", "gold_label", "explanation")
PNG = b"\x89PNG"
# What `datasets` would also do: import torch, where there is one, to be read by its loaders, and
# tell a counter in a bucket elsewhere that something was loaded.
OFF = ("TORCH_AVAILABLE", "HF_UPDATE_DOWNLOAD_COUNTS")

Columns = Mapping[str, str]
Row = Mapping[str, Any]


def fetch(source: Esnlive, folder: Path, seed: int) -> dict[str, object]:
    """Stream at most `source.rows` rows of each split into the empty `folder`.

    `folder` then holds `esnlive_train.csv`, `esnlive_dev.csv` and `esnlive_test.csv`, as far as
    there are such splits, and `flickr30k_images/<Flickr30kID>`: each picture once, its bytes as
    they came. A picture without an id is named by the SHA-256 of its bytes; one with other bytes
    than the first of its id bears the beginning of it in its name. However many rows there are,
    memory holds a few parts of one file.

    Returns:
        Where the rows come from and at which commit, what the columns are called there, the
        number of rows by split, of pictures, of those among them that bear another name than
        their id, and of the bytes of all.

    Raises:
        UserError: a data set that cannot be had, or that lacks a training split, a column or
            pictures; no connection, or a full disk.
    """
    with _in_one_line(source):
        revision = commit(source.dataset, source.revision)
    try:
        (folder / PICTURES).mkdir()
        with _quiet():
            streams = _streams(source, revision)
            columns = _columns(source, streams["train"])
            written = {s: _write(source, x, columns, folder, s) for s, x in streams.items()}
        sizes = [path.stat().st_size for path in (folder / PICTURES).iterdir()]
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror}") from None
    if not sizes:
        raise UserError(f"{source.dataset} holds no pictures in its column {columns['image']}")
    return {
        "dataset": source.dataset,
        "revision": revision,
        "columns": columns,
        "rows": {split: rows for split, (rows, _) in written.items()},
        "pictures": len(sizes),
        "pictures_renamed": sum(renamed for _, renamed in written.values()),
        "bytes": sum(sizes),
    }


@contextmanager
def _in_one_line(source: Esnlive) -> Iterator[None]:
    advice = "check dataset, revision and the network, then start again"
    try:
        with in_one_line("the rows", source.dataset, source.revision, advice):
            yield
    except (DatasetsError, ValueError, RuntimeError) as error:
        why = str(error).partition("\n")[0]
        raise UserError(f"{source.dataset} cannot be streamed: {why}; correct dataset") from None


@contextmanager
def _quiet() -> Iterator[None]:
    before = {name: getattr(datasets.config, name) for name in OFF}
    vars(datasets.config).update(dict.fromkeys(OFF, False))
    try:
        yield
    finally:
        vars(datasets.config).update(before)


def _streams(source: Esnlive, revision: str) -> dict[str, IterableDataset]:
    """The splits under their official names."""
    with _in_one_line(source):
        found = load_dataset(source.dataset, revision=revision, streaming=True)
    named = {ours: next((s for s in theirs if s in found), None) for ours, theirs in SPLITS.items()}
    if not named["train"]:
        raise UserError(f"{source.dataset} has no split train; its splits are {', '.join(found)}")
    return {ours: found[theirs] for ours, theirs in named.items() if theirs}


def _columns(source: Esnlive, stream: IterableDataset) -> dict[str, str]:
    """What each column is called in the data set."""
    with _in_one_line(source):
        # Where the format tells no columns, the first row does.
        theirs = list(stream.features or next(iter(stream), {}))
    left = {name.lower(): name for name in theirs}
    found: dict[str, str] = {}
    for ours, names in COLUMNS.items():
        if name := next((name for name in names if name in left), None):
            found[ours] = left.pop(name)
        elif ours in NEEDED:
            raise UserError(
                f"{source.dataset} has no column {' or '.join(names)}; its columns are "
                f"{', '.join(theirs) or 'none'}"
            )
    return found


def _write(
    source: Esnlive, stream: IterableDataset, columns: Columns, folder: Path, split: str
) -> tuple[int, int]:
    """Write the table of a split and the pictures that it names first.

    Returns:
        The number of its rows, and of pictures written under another name than their id.
    """
    label = (stream.features or {}).get(columns["gold_label"])
    number = renamed = 0
    with (folder / f"esnlive_{split}.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        rows = tqdm(_rows(source, stream, columns), split, unit="row", disable=None)
        for number, row in enumerate(rows, start=1):
            explanations, several = _explanations(row)
            if number == 1:
                table.writerow(HEADING + MORE if several else HEADING)
            picture, other = _picture(row, folder / PICTURES)
            renamed += other
            gold = row["gold_label"]
            if isinstance(label, ClassLabel) and gold is not None and gold >= 0:
                gold = label.int2str(gold)
            pair = _text(row.get("pairID")) or f"{picture}#{split}{number}"
            values = (pair, picture, _text(row["hypothesis"]), _text(gold))
            table.writerow((number - 1, *values, *explanations))
    if not number:
        raise UserError(f"{source.dataset} has no rows for {split}")
    return number, renamed


def _rows(source: Esnlive, stream: IterableDataset, columns: Columns) -> Iterator[Row]:
    """The first rows under the official names of their columns, pictures not decoded."""
    with _in_one_line(source):
        picked = stream.select_columns(list(columns.values()))
        encoded = picked.cast_column(columns["image"], Image(decode=False))
        for row in islice(encoded, source.rows):
            yield {ours: row[theirs] for ours, theirs in columns.items()}


def _explanations(row: Row) -> tuple[list[str], bool]:
    """The explanations of a row, and whether rows may have several."""
    if isinstance(row["explanation"], list):
        return [_text(text) for text in row["explanation"]][: 1 + len(MORE)], True
    further = [row[name] for name in MORE if name in row]
    return [_text(text) for text in (row["explanation"], *further)], bool(further)


def _picture(row: Row, folder: Path) -> tuple[str, bool]:
    """Write the picture of a row, where it has one that is not there yet.

    Returns:
        Its name, and whether it was written under another than its id, which has other bytes here.
    """
    content = (row["image"] or {}).get("bytes") or b""
    name = re.sub(r"[^\w.-]", "_", PurePath(_text(row.get("Flickr30kID"))).name)
    if not (name or content):
        return "", False
    name = name or _digest(content)
    if PurePath(name).suffix.lower() not in PICTURE_SUFFIXES:
        name += ".png" if content.startswith(PNG) else ".jpg"
    path = folder / name
    # Looked up on the disk: names in memory would grow with the rows.
    other = bool(content) and path.exists() and not _holds(path, content)
    if other:
        path = path.with_stem(f"{path.stem}-{_digest(content)[:8]}")
    new = bool(content) and not path.exists()
    if new:
        path.write_bytes(content)
    return path.name, other and new


def _holds(path: Path, content: bytes) -> bool:
    return path.stat().st_size == len(content) and path.read_bytes() == content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _text(value: object) -> str:
    return "" if value is None else str(value)
