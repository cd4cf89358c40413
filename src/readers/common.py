"""What the readers of tables and lists share: rows, files named in them, splits and labels."""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from src.errors import UserError
from src.files import is_file
from src.schema import spelling

Row = Mapping[str, str]

SURPLUS = "more cells than columns: put quotes around a text with a comma"
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


def rows(
    table: Path, required: Sequence[str], either: Sequence[str] = ()
) -> Iterator[tuple[int, Row | str]]:
    """The rows of a CSV file that hold anything, numbered from 1 without the heading.

    Columns are named in lower case, and what is missing in a row is empty. Of a row with a text
    beyond the last column, whose cells may be shifted, only that is told.

    Raises:
        UserError: a required column is missing, or all of which it must have `either`, or the file
            is no CSV in UTF-8.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True, restval="")
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
            missing = [name for name in required if name not in reader.fieldnames]
            if either and not set(either) & set(reader.fieldnames):
                missing.append(" or ".join(either))
            if missing:
                raise UserError(
                    f"{table}: has no column {missing[0]}; its columns are "
                    f"{', '.join(reader.fieldnames) or 'none'}"
                )
            for number, row in enumerate(reader, start=1):
                surplus = row.pop(None, [])
                texts = {k: v.strip() for k, v in row.items()}
                if any(cell.strip() for cell in surplus):
                    yield number, SURPLUS
                elif any(texts.values()):
                    yield number, texts
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: is no CSV in UTF-8: {error}; save it anew") from None


def find(name: str, tops: Iterable[Path], folder: Path) -> Path | str:
    """The file of that name below one of `tops`, inside `folder`, or why there is none."""
    # Lexical, not resolved: DVC may have checked the files out as links to its cache.
    paths = [Path(os.path.normpath(top / name.replace("\\", "/"))) for top in tops]
    inside = [path for path in paths if path.is_relative_to(folder)]
    if not inside:
        return f"outside the data's folder: {name}"
    return next((path for path in inside if is_file(path)), f"no such file: {name}")


def split_in(path: Path) -> str | None:
    """The split that words of a relative path name, the file's own before those of its folders.

    None where there is none, or where one name has those of several, as train_test.csv has.
    """
    for name in reversed(path.with_suffix("").parts):
        named = {SPLITS[word] for word in re.split(r"[^a-z0-9]+", name.lower()) if word in SPLITS}
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def one_label(texts: Iterable[str], labels: Sequence[str]) -> tuple[str | None, str]:
    """The one label that the texts name as whole words, whatever the case; and why there is none.

    Of labels that hold one another, such as "happy" and "not happy", the longer one counts.
    """
    spelled = {spelling(label): label for label in labels}
    longest = sorted(spelled, key=lambda label: (-len(label), label))
    words = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)")
    told = list(texts)
    named = sorted({spelled[word] for text in told for word in words.findall(spelling(text))})
    if len(named) == 1:
        return named[0], ""
    if named:
        return None, f"several of the labels: {', '.join(named)}"
    return None, f"none of the labels: {told[0]}"
