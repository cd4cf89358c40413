"""A publisher's files into checked, grouped and split records."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from src import media
from src.decoding import decoded, decoder
from src.duplicates import merge, near_duplicates, nearest
from src.errors import UserError
from src.files import read_json, write_json
from src.quality import Quality
from src.records import SPLITS, Raw, Record, Rejected, SplitWriter
from src.schema import Data, composed
from src.splits import Splits, assign

ROWS = 64  # pictures or videos held in memory at once
SHOWN = 10  # most frequent answers in the summary, by kind of question


@dataclass(frozen=True)
class Measured:
    """What is known of a picture's original."""

    width: int  # in pixels
    height: int
    quality: Quality


@dataclass(frozen=True)
class Pictures:
    """The examples with a usable picture, in order; the pixels wait in a file, once a picture."""

    raws: list[Raw]
    of: np.ndarray  # (examples,) the number of each one's picture
    measured: list[Measured]
    fingerprints: np.ndarray  # (pictures, 32) uint8
    mirrored: np.ndarray  # (pictures, 32) uint8


def prepare(data: Data, seed: int, folder: Path, out: Path) -> None:
    """Write train.parquet, validation.parquet, test.parquet, rejected.csv and summary.json.

    Args:
        data: its block of params.yaml.
        seed: of the splits that the publisher did not make.
        folder: the raw files.
        out: an empty folder to write to.

    Raises:
        UserError: nothing usable, one class alone, too little to split, or no training picture of
            a class.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: not there; bring it with dvc repro fetch@{data.name}")
    raws, rejected = _read(data, folder)
    raws = sample(raws, data.limit, seed)
    pixels = out / "pixels.parquet"
    pictures, unusable = _decode(raws, folder, data, pixels)
    rejected += unusable
    raws = pictures.raws
    if not raws:
        kinds = ", ".join(f"{kind} ({n})" for kind, n in _kinds(rejected).items())
        kinds = kinds or "the folders are empty"
        first = f"; first {rejected[0].file}: {rejected[0].reason}" if rejected else ""
        raise UserError(f"{folder}: holds no usable {data.medium}: {kinds}{first}")
    labels = data.labels or sorted({raw.label for raw in raws if raw.label}) or None
    if labels and len(labels) < 2:
        raise UserError(
            f"{folder}: every usable {data.medium} is a {labels[0]}, and two classes are the least "
            f"that can be told apart; add {data.medium}s of another"
        )
    near = near_duplicates(pictures.fingerprints, pictures.mirrored, data.near_duplicate_distance)
    groups = merge(near[pictures.of], [raw.group for raw in raws])
    splits, leaks = assign(data, seed, raws, groups)
    rejected += _leaked(pictures, near, leaks, data)
    counts = _counts(data, labels, raws, groups, splits)
    _write_splits(pixels, pictures, groups, splits, out)
    pixels.unlink()
    _write_rejected(out / "rejected.csv", rejected)
    dropped = {int(pictures.of[i]) for i in leaks if raws[i].split != "validation"}
    source = read_json(folder / "_source.json")
    summary = {
        "data": data.name,
        "labels": labels,
        "splits": counts,
        "answers": _answers(raws, splits),
        "rejected": _kinds(rejected),
        "near_duplicates": _near_counts(near) | {"dropped_from_train": len(dropped)},
        "label_conflicts": _conflicts(raws, near[pictures.of]),
        "publisher_test": any(raw.split == "test" for raw in raws),
        "licence": data.terms(source["source"]),
        "source": source,
    }
    write_json(out / "summary.json", summary)


def _read(data: Data, folder: Path) -> tuple[list[Raw], list[Rejected]]:
    """What the reader found, in the order of the ids, each id once."""
    found = list(import_module(f"src.readers.{data.reader}").read(folder, data))
    rejected = [
        Rejected(_utf8(entry.file), _utf8(entry.reason))
        for entry in found
        if isinstance(entry, Rejected)
    ]
    raws: dict[str, Raw] = {}
    for raw in (entry for entry in found if isinstance(entry, Raw)):
        if odd := _no_utf8(raw):
            rejected.append(Rejected(_utf8(raw.id), odd))
        elif raw.id in raws:
            rejected.append(Rejected(raw.id, f"listed twice: as {raws[raw.id].label}, {raw.label}"))
        else:
            raws[raw.id] = _composed(raw if data.publisher_splits else replace(raw, split=None))
    return [raws[identity] for identity in sorted(raws)], rejected


def _no_utf8(raw: Raw) -> str:
    """Which text of an example no file can hold, such as half an emoji; empty where none is."""
    texts = {
        "name of its file or table": (raw.id,),
        "question": (raw.question,),
        "answer": raw.answers,
        "label": (raw.label,),
        "subgroup": (raw.subgroup,),
    }
    for what, found in texts.items():
        for text in filter(None, found):
            if (safe := _utf8(text)) != text:
                return f"no UTF-8: the {what}: {safe}"
    return ""


def _composed(raw: Raw) -> Raw:
    """The example with what a model reads and should write in Unicode's composed form."""
    names = ("label", "question", "subgroup")
    texts = {name: composed(text) for name in names if (text := getattr(raw, name))}
    return replace(raw, answers=tuple(map(composed, raw.answers)), **texts)


def _utf8(text: str) -> str:
    """The text with what is no UTF-8 replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def sample(raws: Sequence[Raw], limit: int | None, seed: int) -> Sequence[Raw]:
    """The examples of at most `limit` pictures, in their order."""
    files = list(dict.fromkeys(raw.path for raw in raws))
    if limit is None or len(files) <= limit:
        return raws
    drawn = np.random.default_rng(seed).choice(len(files), limit, replace=False)
    kept = {files[i] for i in drawn}
    return [raw for raw in raws if raw.path in kept]


def _decode(
    raws: Sequence[Raw], folder: Path, data: Data, path: Path
) -> tuple[Pictures, list[Rejected]]:
    """Decode every file once; the PNGs go to a Parquet file, in the order of their numbers."""
    decode = decoder(data.image_size, data.frames)
    files = list(dict.fromkeys(raw.path for raw in raws))
    numbers: dict[Path, int] = {}
    measured, hashes, waiting, rejected = [], [], [], []
    schema = pa.schema({"frames": pa.list_(pa.binary())})
    # Absolute: joblib's workers keep the working directory that they were started in.
    results = decoded([file.absolute() for file in files], decode)
    with pq.ParquetWriter(path, schema, compression="none", write_statistics=False) as pixels:
        for file, stored in tqdm(
            zip(files, results, strict=True), total=len(files), unit="file", desc="prepare"
        ):
            if isinstance(stored, str):
                rejected.append(Rejected(file.relative_to(folder).as_posix(), stored))
                continue
            numbers[file] = len(measured)
            measured.append(Measured(stored.width, stored.height, stored.quality))
            hashes.append(stored.fingerprint + stored.mirrored)
            waiting.append(stored.frames)
            if len(waiting) == ROWS:
                pixels.write_table(pa.table({"frames": waiting}, schema))
                waiting.clear()
        pixels.write_table(pa.table({"frames": waiting}, schema))
    size = media.FINGERPRINT_BYTES
    both = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 2 * size)
    kept = [raw for raw in raws if raw.path in numbers]
    of = np.array([numbers[raw.path] for raw in kept], int)
    return Pictures(kept, of, measured, both[:, :size], both[:, size:]), rejected


def _leaked(
    pictures: Pictures, near: np.ndarray, leaks: dict[int, list[int]], data: Data
) -> Iterator[Rejected]:
    """Why each picture had to give way, naming the most similar one on the other side."""
    of = pictures.of
    for i, holders in leaks.items():
        shown: dict[int, int] = {}
        for holder in holders:
            shown.setdefault(int(of[holder]), holder)
        mine, others = int(of[i]), list(shown)
        picture, bits = nearest(pictures.fingerprints, pictures.mirrored, mine, others)
        rival = shown[picture]
        held = f"a {pictures.raws[rival].split} {data.medium}"
        if bits <= data.near_duplicate_distance:
            reason = f"near-duplicate of {held}"
        elif near[mine] == near[picture]:
            reason = f"linked by near-duplicates to {held}"
        else:
            reason = f"of one group with {held}"
        yield Rejected(pictures.raws[i].id, f"{reason}: {pictures.raws[rival].id}")


def _counts(
    data: Data,
    labels: Sequence[str] | None,
    raws: Sequence[Raw],
    groups: np.ndarray,
    splits: Splits,
) -> dict[str, dict[str, Any]]:
    """Examples and groups of each split, and examples by label or by kind of question."""
    counts: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        own = [i for i, name in enumerate(splits) if name == split]
        if not own:
            raise UserError(f"data.{data.name}: no {data.medium} is left for {split}; add some")
        counts[split] = {"n": len(own), "groups": len({int(groups[i]) for i in own})}
        if labels:
            found = Counter(raws[i].label for i in own)
            counts[split]["labels"] = {label: found[label] for label in labels}
        if any(raws[i].question for i in own):
            kinds = Counter(_kind(raws[i]) for i in own)
            counts[split]["kinds"] = dict(sorted(kinds.items()))
    if missing := [label for label in labels or [] if not counts["train"]["labels"][label]]:
        raise UserError(
            f"data.{data.name}: no training {data.medium} is a {missing[0]}; add some, "
            f"or take it out of data.{data.name}.labels in params.yaml"
        )
    return counts


def _answers(raws: Sequence[Raw], splits: Splits) -> dict[str, dict[str, Any]] | None:
    """How the answers are distributed by kind of question; None where nothing is asked."""
    by_kind: dict[str, Counter[str]] = {}
    for raw, split in zip(raws, splits, strict=True):
        if split and raw.question and raw.answers:
            by_kind.setdefault(_kind(raw), Counter())[raw.answers[0]] += 1
    return {
        kind: {
            "distinct": len(found),
            "majority": round(max(found.values()) / found.total(), 4),
            "most_frequent": dict(sorted(found.items(), key=lambda a: (-a[1], a[0]))[:SHOWN]),
        }
        for kind, found in sorted(by_kind.items())
    } or None


def _kind(raw: Raw) -> str:
    return raw.kind or "other"


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
    """Send each example to the file of its split. A group is named after its first example."""
    names: dict[int, str] = {}
    examples: dict[int, list[int]] = {}
    for i, picture in enumerate(pictures.of):
        names.setdefault(int(groups[i]), pictures.raws[i].id)
        examples.setdefault(int(picture), []).append(i)
    with ExitStack() as stack, pq.ParquetFile(pixels, pre_buffer=False) as file:
        writers = {s: stack.enter_context(SplitWriter(out / f"{s}.parquet")) for s in SPLITS}
        stored = (frames for batch in file.iter_batches(ROWS) for frames in batch["frames"])
        for picture, frames in enumerate(stored):
            for i in examples[picture]:
                if split := splits[i]:
                    measured, group = pictures.measured[picture], names[int(groups[i])]
                    writers[split].write(_record(pictures.raws[i], group, measured, frames))


def _record(raw: Raw, group: str, measured: Measured, frames: pa.ListScalar) -> Record:
    return Record(
        id=raw.id,
        frames=tuple(frames.as_py()),
        group=group,
        width=measured.width,
        height=measured.height,
        **asdict(measured.quality),
        question=raw.question,
        answers=raw.answers,
        kind=raw.kind,
        label=raw.label,
        subgroup=raw.subgroup,
        regions=raw.regions,
    )


def _kinds(rejected: Sequence[Rejected]) -> dict[str, int]:
    """How often each kind of reason occurs, most frequent first."""
    kinds = Counter(entry.reason.partition(":")[0] for entry in rejected)
    return dict(sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0])))


def _write_rejected(path: Path, rejected: Sequence[Rejected]) -> None:
    rows = sorted((entry.file, entry.reason) for entry in rejected)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("file", "reason"), *rows])
