"""What the readers of tables and lists share: files named in them, splits and labels."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.files import is_file
from src.schema import spelling

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
