"""Whole files or none: written beside their place, then renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VIDEO_SUFFIXES = {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}
PICTURE_SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".heic", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff"),
    ".webp",
}


# Names the repository to experiments of `tools.ablate`, which run in a clone.
REPOSITORY = "VLM_RECIPES_REPOSITORY"


def repository() -> Path:
    """The repository that the user works in, wherever a stage runs.

    `dvc exp run --temp` and the queue run in a copy below .dvc/tmp, and DVC_ROOT names the
    original. In a clone, DVC names the clone itself.
    """
    return Path(os.environ.get(REPOSITORY) or os.environ.get("DVC_ROOT", "."))


def is_file(path: Path) -> bool:
    """Whether a path that somebody wrote is a file; one that no file can have is none."""
    try:
        return path.is_file()
    except OSError:  # a name that is too long, say
        return False


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or fill a folder at; renamed to `path` on success.

    A failure inside leaves whatever `path` was before, and what a killed process left is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    _remove(beside)
    try:
        yield beside
        for file in beside.rglob("*") if beside.is_dir() else [beside]:
            if file.is_file():
                # Some writers make files that their owner alone can read: no cache to share.
                file.chmod(file.stat().st_mode | 0o044)
        if path.is_dir() or beside.is_dir():
            _remove(path)
        beside.replace(path)  # of a file at once: at no moment is neither there
    finally:
        _remove(beside)


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files below a folder; hexadecimal."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = (f"{file.relative_to(path)} {digest(file)}\n" for file in files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, values: Any) -> None:
    """Write indented JSON whole; NaN and infinity are a ValueError."""
    with whole(path) as beside:
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
        beside.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a file of `write_json`."""
    return json.loads(path.read_text(encoding="utf-8"))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
