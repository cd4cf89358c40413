"""A publisher's files into checked, grouped and split records."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from src import media
from src.decoding import BLOCK, decoded
from src.duplicates import merge, near_duplicates, nearest
from src.errors import UserError
from src.files import read_json, write_json
from src.records import SPLITS, Raw, Record, Rejected, SplitWriter
from src.schema import Data
from src.splits import Splits, assign


@dataclass(frozen=True)
class Pictures:
    """The usable pictures, in order; their pixels wait in a file."""

    raws: list[Raw]
    sizes: list[tuple[int, int]]  # width and height of the originals in pixels
    fingerprints: np.ndarray  # (n, 32) uint8
    mirrored: np.ndarray  # (n, 32) uint8


def prepare(data: Data, seed: int, folder: Path, out: Path) -> None:
    """Write train.parquet, validation.parquet, test.parquet, rejected.csv and summary.json.

    Args:
        data: its block of params.yaml.
        seed: of the splits that the publisher did not make.
        folder: the raw files.
        out: an empty folder to write to.

    Raises:
        UserError: nothing usable, too little to split, or no training picture of a class.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: not there; bring it with dvc repro fetch@{data.name}")
    raws, rejected = _read(data, folder)
    pixels = out / "pixels.parquet"
    pictures, unusable = _decode(raws, data.image_size, pixels)
    rejected += unusable
    raws = pictures.raws
    if not raws:
        kinds = ", ".join(f"{kind} ({n})" for kind, n in _kinds(rejected).items())
        raise UserError(f"{folder}: holds no usable picture: {kinds or 'the folders are empty'}")
    near = near_duplicates(pictures.fingerprints, pictures.mirrored, data.near_duplicate_distance)
    groups = merge(near, [raw.group for raw in raws])
    splits, leaks = assign(data, seed, raws, groups)
    rejected += _leaked(pictures, near, leaks, data.near_duplicate_distance)
    labels = data.labels or sorted({raw.label for raw in raws if raw.label})
    counts = _counts(data, labels, raws, splits)
    _write_splits(pixels, pictures, groups, splits, out)
    pixels.unlink()
    _write_rejected(out / "rejected.csv", rejected)
    dropped = sum(raws[i].split != "validation" for i in leaks)
    summary = {
        "data": data.name,
        "labels": labels,
        "splits": counts,
        "rejected": _kinds(rejected),
        "near_duplicates": _near_counts(near) | {"dropped_from_train": dropped},
        "label_conflicts": _conflicts(raws, near),
        "publisher_test": any(raw.split == "test" for raw in raws),
        "licence": data.licence,
        "source": read_json(folder / "_source.json"),
    }
    write_json(out / "summary.json", summary)


def _read(data: Data, folder: Path) -> tuple[list[Raw], list[Rejected]]:
    """What the reader found, in the order of the ids, each id once."""
    found = list(import_module(f"src.readers.{data.reader}").read(folder, data))
    rejected = [entry for entry in found if isinstance(entry, Rejected)]
    raws: dict[str, Raw] = {}
    for raw in (entry for entry in found if isinstance(entry, Raw)):
        if raw.id in raws:
            rejected.append(Rejected(raw.id, f"listed twice: as {raws[raw.id].label}, {raw.label}"))
        else:
            raws[raw.id] = raw
    return [raws[identity] for identity in sorted(raws)], rejected


def _decode(raws: Sequence[Raw], side: int, path: Path) -> tuple[Pictures, list[Rejected]]:
    """Decode every file once; the PNGs go to a Parquet file, in order."""
    kept: list[Raw] = []
    sizes, hashes, pngs = [], [], []
    rejected = []
    schema = pa.schema({"png": pa.binary()})
    # Absolute: joblib's workers keep the working directory that they were started in.
    results = decoded([raw.path.absolute() for raw in raws], partial(media.stored, side=side))
    with pq.ParquetWriter(path, schema, compression="none", write_statistics=False) as file:
        for raw, stored in tqdm(
            zip(raws, results, strict=True), total=len(raws), unit="picture", desc="prepare"
        ):
            if isinstance(stored, str):
                rejected.append(Rejected(raw.id, stored))
                continue
            kept.append(raw)
            sizes.append((stored.width, stored.height))
            hashes.append(stored.fingerprint + stored.mirrored)
            pngs.append(stored.png)
            if len(pngs) == BLOCK:
                file.write_table(pa.table({"png": pngs}, schema))
                pngs.clear()
        file.write_table(pa.table({"png": pngs}, schema))
    size = media.FINGERPRINT_BYTES
    both = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 2 * size)
    return Pictures(kept, sizes, both[:, :size], both[:, size:]), rejected


def _leaked(
    pictures: Pictures, near: np.ndarray, leaks: dict[int, list[int]], distance: int
) -> Iterator[Rejected]:
    """Why each picture had to give way, naming the most similar one on the other side."""
    for i, holders in leaks.items():
        rival, bits = nearest(pictures.fingerprints, pictures.mirrored, i, holders)
        held = f"a {pictures.raws[rival].split} picture"
        if bits <= distance:
            reason = f"near-duplicate of {held}"
        elif near[i] == near[rival]:
            reason = f"linked by near-duplicates to {held}"
        else:
            reason = f"of one group with {held}"
        yield Rejected(pictures.raws[i].id, f"{reason}: {pictures.raws[rival].id}")


def _counts(
    data: Data, labels: Sequence[str], raws: Sequence[Raw], splits: Splits
) -> dict[str, dict[str, Any]]:
    """Pictures of each split, in all and by label."""
    found = {
        s: Counter(r.label for r, own in zip(raws, splits, strict=True) if own == s) for s in SPLITS
    }
    for name, by_label in found.items():
        if not by_label:
            raise UserError(f"data.{data.name}: no picture is left for {name}; add some")
    if missing := [label for label in labels if not found["train"][label]]:
        raise UserError(
            f"data.{data.name}: no training picture is a {missing[0]}; add some, "
            f"or take it out of data.{data.name}.labels in params.yaml"
        )
    return {s: {"n": c.total(), "labels": {k: c[k] for k in labels}} for s, c in found.items()}


def _near_counts(near: np.ndarray) -> dict[str, int]:
    sizes = np.bincount(near)
    return {"groups": int((sizes > 1).sum()), "pictures": int(sizes[sizes > 1].sum())}


def _conflicts(raws: Sequence[Raw], near: np.ndarray) -> int:
    """Groups of near-duplicates whose pictures do not all have one label."""
    labels = {(int(group), raw.label) for group, raw in zip(near, raws, strict=True)}
    return sum(n > 1 for n in Counter(group for group, _ in labels).values())


def _write_splits(
    pixels: Path, pictures: Pictures, groups: np.ndarray, splits: Splits, out: Path
) -> None:
    """Send each picture to the file of its split. A group is named after its first picture."""
    names: dict[int, str] = {}
    with ExitStack() as stack, pq.ParquetFile(pixels, pre_buffer=False) as file:
        writers = {s: stack.enter_context(SplitWriter(out / f"{s}.parquet")) for s in SPLITS}
        pngs = (png for batch in file.iter_batches(BLOCK) for png in batch["png"])
        for i, (raw, png) in enumerate(zip(pictures.raws, pngs, strict=True)):
            group = names.setdefault(int(groups[i]), raw.id)
            if split := splits[i]:
                width, height = pictures.sizes[i]
                record = Record(
                    id=raw.id,
                    image=png.as_py(),
                    group=group,
                    width=width,
                    height=height,
                    label=raw.label,
                    regions=raw.regions,
                )
                writers[split].write(record)


def _kinds(rejected: Sequence[Rejected]) -> dict[str, int]:
    """How often each kind of reason occurs, most frequent first."""
    kinds = Counter(entry.reason.partition(":")[0] for entry in rejected)
    return dict(sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0])))


def _write_rejected(path: Path, rejected: Sequence[Rejected]) -> None:
    rows = sorted((entry.file, entry.reason) for entry in rejected)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("file", "reason"), *rows])
