"""Labelled pictures: class folders, or a JSON list of image paths and labels.

Either may lie below folders that hold nothing else, as archives unpack. Class folders may lie in
split folders such as train or training_set, a list may name a split in each row or in its own
file's name, and in each row a `group` that must not lie on two sides of a split and a `subgroup`
that results are audited by.
Boxes of named parts may stand beside them in `regions.csv`: image, name, x0, y0, x1, y1 in shares
of the sides.
"""

import json
import math
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from src.csv_rows import rows
from src.errors import UserError
from src.files import PICTURE_SUFFIXES, is_file
from src.readers.common import SPLITS, split_in
from src.records import Raw, Region, Rejected
from src.schema import Data, spelling

IMAGE_KEYS = ("image", "image_path", "path")
LABEL_KEYS = ("label", "emotion")
LIST = f"a .json of rows with one of {', '.join(IMAGE_KEYS)} and one of {', '.join(LABEL_KEYS)}"
SIDES = ("x0", "y0", "x1", "y1")
LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"}
PROVENANCE = "_source.json"  # written by the fetch stage, at the root

Lists = dict[Path, list[Any]]
Regions = dict[str, tuple[Region, ...]]


def read(folder: Path, data: Data) -> Iterator[Raw | Rejected]:
    """The labelled pictures below `folder`, unopened, and what cannot be one.

    Labels are matched to `data.labels` without regard to case and Unicode form.

    Raises:
        UserError: nothing bears one of the labels, or a JSON or CSV file is malformed.
    """
    top = _top(folder, _by_spelling(data.labels or []))
    regions = _regions(top / "regions.csv", folder)
    if lists := _lists(top):
        return _from_lists(lists, folder, data, regions)
    return _from_folders(top, folder, data, regions)


def _from_folders(
    top: Path, folder: Path, data: Data, regions: Regions
) -> Iterator[Raw | Rejected]:
    known = _by_spelling(data.labels or [])
    splits = _splits(top, known)
    parents: dict[Path, str | None] = {_top(p, known): split for p, split in splits.items()}
    named = data.labels or [c.name for parent in parents or [top] for c in _folders(parent)]
    labels = _by_spelling(named)
    classes = {c: split for parent, split in parents.items() for c in _folders(parent)}
    classes |= {c: None for c in _folders(top) if c not in splits}
    if not any(spelling(c.name) in labels for c in classes):
        names = ", ".join(sorted({c.name for c in classes})) or "none"
        raise UserError(
            f"{top}: no folder is named after a class; it has the folders {names}; "
            f"correct data.{data.name}.labels in params.yaml{_unused(top)}"
        )
    if data.labels is None:
        _check_unnamed(top, [c for c in classes if spelling(c.name) in labels], data)
        above = [path for path in (top, *top.parents) if path.is_relative_to(folder)]
        for path in (file for level in [*above, *parents] for file in _unread(level)):
            yield Rejected(_id(path, folder), f"no list of pictures: that is {LIST}")
    for path, split in classes.items():
        files = list(_files(path))
        label = labels.get(spelling(path.name))
        if label is None:
            reason = f"none of the classes: a folder of {len(files)} files"
            yield Rejected(_id(path, folder), reason)
        else:
            yield from (_raw(f, folder, label, split, None, regions) for f in files)
    for path in (file for parent in [top, *parents] for file in _pictures(parent)):
        yield Rejected(_id(path, folder), "outside the class folders")


def _check_unnamed(top: Path, classes: list[Path], data: Data) -> None:
    """Refuse folders above the class folders where no labels tell these."""
    if any(map(_folders, classes)) and not any(map(_pictures, classes)):
        names = ", ".join(sorted({c.name for c in classes})[:20])
        raise UserError(
            f"{top}: no classes are named, and the folders {names} hold folders but no pictures; "
            "give the folder right above the class folders, call those of splits train, val and "
            f"test, or name the classes in data.{data.name}.labels in params.yaml{_unused(top)}"
        )
    if len({spelling(c.name) for c in classes}) == 1 and (unused := _unused(top)):
        raise UserError(f"{top}: has one folder alone, {classes[0].name}, to name classes{unused}")


def _from_lists(
    lists: Lists, folder: Path, data: Data, regions: Regions
) -> Iterator[Raw | Rejected]:
    entries = [
        (path, number, row)
        for path, listed in lists.items()
        for number, row in enumerate(listed, start=1)
    ]
    found = [label for *_, row in entries if (label := _label(row))]
    labels = _by_spelling(data.labels or found)
    if not any(spelling(label) in labels for label in found):
        told = sorted({str(_first(row, LABEL_KEYS)) for *_, row in entries})
        raise UserError(
            f"{', '.join(map(str, lists))}: no row has one of the classes, a text or a whole number"
            f"; its labels are {', '.join(told[:20])}; correct data.{data.name}.labels in "
            "params.yaml"
        )
    for path, number, row in entries:
        listed = f"{_id(path, folder)} row {number}"
        yield _from_row(row, listed, path, folder, labels, regions)


def _from_row(
    row: Any, listed: str, path: Path, folder: Path, labels: dict[str, str], regions: Regions
) -> Raw | Rejected:
    image, label = _first(row, IMAGE_KEYS), _label(row)
    if not isinstance(image, str) or not image:
        return Rejected(listed, "no image named")
    # Lexical, not resolved: DVC may have checked the files out as links to its cache.
    file = Path(os.path.normpath(path.parent / image.replace("\\", "/")))
    if not file.is_relative_to(folder):
        return Rejected(listed, f"outside the data's folder: {image}")
    if not is_file(file):
        return Rejected(listed, f"no such file: {image}")
    if label == "":
        return Rejected(listed, "no label")
    if label is None or spelling(label) not in labels:
        return Rejected(listed, f"none of the classes: {_first(row, LABEL_KEYS)}")
    split, group, subgroup = (_text(row.get(key)) for key in ("split", "group", "subgroup"))
    if split and split.lower() not in SPLITS:
        return Rejected(listed, f"no split: {split}")
    split = SPLITS[split.lower()] if split else split_in(Path(path.name))
    return _raw(file, folder, labels[spelling(label)], split, group, regions, subgroup)


def _raw(
    file: Path,
    folder: Path,
    label: str,
    split: str | None,
    group: str | None,
    regions: Regions,
    subgroup: str | None = None,
) -> Raw | Rejected:
    identity = _id(file, folder)
    if identity != file.relative_to(folder).as_posix():
        return Rejected(identity, "the file's name is no UTF-8")
    boxes = regions.get(identity, ())
    return Raw(identity, file, label, split=split, group=group, subgroup=subgroup, regions=boxes)


def _id(path: Path, folder: Path) -> str:
    """The path below `folder`, with what is no UTF-8 replaced."""
    return os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "replace")


def _by_spelling(labels: Iterable[str]) -> dict[str, str]:
    """One spelling of each label, the first in sorted order."""
    return {spelling(label): label for label in sorted(labels, reverse=True)}


def _first(row: Any, keys: tuple[str, ...]) -> Any:
    return next((row[k] for k in keys if k in row), None) if isinstance(row, dict) else None


def _label(row: Any) -> str | None:
    """The class that a row names, by a text or a whole number."""
    label = _whole(_first(row, LABEL_KEYS))
    named = isinstance(label, str | int) and not isinstance(label, bool)
    return str(label).strip() if named else None


def _text(value: Any) -> str | None:
    """What a row says in words; None where it says nothing, which pandas may write as NaN."""
    missing = value is None or value != value
    return None if missing else str(_whole(value)).strip() or None


def _whole(value: Any) -> Any:
    """The whole number that stands there as 7.0, as pandas writes it where one is missing."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _unread(folder: Path) -> list[Path]:
    """Tables and lists that were not taken for lists of pictures."""
    return [
        path
        for path in _visible(folder)
        if path.suffix.lower() in (".json", ".jsonl", ".csv") and path.name != "regions.csv"
    ]


def _unused(folder: Path) -> str:
    """What to do about them."""
    listed = ", ".join(path.name for path in _unread(folder))
    return f"; {listed} is no list of them, which is {LIST}" if listed else ""


def _top(folder: Path, labels: Collection[str]) -> Path:
    """The folder to read, below folders that hold one folder and nothing else of use."""
    while len(inside := _folders(folder)) == 1 and not _lists(folder):
        (only,) = inside
        named_again = folder.name.lower() in SPLITS
        if spelling(only.name) in labels or (only.name.lower() in SPLITS and not named_again):
            break
        if not (_folders(only) or _lists(only)):
            break
        folder = only
    return folder


def _splits(folder: Path, labels: Collection[str]) -> dict[Path, str]:
    """The split folders inside: of a split's name, or with one in it, as training_set has.

    The latter are no classes where they name two splits and hold folders without pictures.
    """
    inside = _folders(folder)
    named = {p: SPLITS[p.name.lower()] for p in inside if p.name.lower() in SPLITS}
    others = [
        p for p in inside if spelling(p.name) not in labels and _folders(p) and not _pictures(p)
    ]
    worded = named | {p: split for p in others if (split := split_in(Path(p.name)))}
    return worded if len(set(worded.values())) > 1 else named


def _visible(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.lower() not in {*LITTER, PROVENANCE}
    )


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _pictures(folder: Path) -> list[Path]:
    return [p for p in _visible(folder) if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file()]


def _files(folder: Path) -> Iterator[Path]:
    for path in _visible(folder):
        if not path.is_dir():
            yield path
        elif not path.is_symlink():
            yield from _files(path)


def _lists(folder: Path) -> Lists:
    """The JSON files of the folder that list images; others are the publisher's own affair."""
    lists = {}
    for path in _visible(folder):
        if path.suffix.lower() != ".json" or not path.is_file():
            continue
        try:
            listed = json.loads(path.read_text(encoding="utf-8-sig"))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{path}: is no JSON: {error}; mend or remove it") from None
        if isinstance(listed, list) and any(_first(row, IMAGE_KEYS) for row in listed):
            lists[path] = listed
    return lists


def _regions(path: Path, folder: Path) -> Regions:
    """Named boxes by the image's id."""
    regions: Regions = {}
    if not path.is_file():
        return regions
    for number, row in rows(path, ("image", "name", *SIDES)):
        if isinstance(row, str):
            raise UserError(f"{path}: row {number}: {row}")
        try:
            box = tuple(float(row[side]) for side in SIDES)
            if not all(map(math.isfinite, box)):
                raise ValueError("a coordinate is not finite")
        except ValueError as error:
            raise UserError(f"{path}: row {number}: {error}") from None
        image = path.parent / row["image"]
        if not image.is_relative_to(folder):
            raise UserError(f"{path}: row {number}: outside the data's folder: {row['image']}")
        identity = _id(image, folder)
        regions[identity] = (*regions.get(identity, ()), Region(row["name"], box))
    return regions
