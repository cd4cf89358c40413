"""A folder of the user's own files."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from src.errors import UserError
from src.files import repository

LITTER = {"thumbs.db", "desktop.ini", "__macosx"}


def fetch(source: str, folder: Path, seed: int) -> dict[str, object]:
    """Copy the files below `source` into the empty `folder`, under the same names.

    A relative path counts from the repository's root, in temporary experiments, too. Hidden
    files and what Windows and macOS leave behind stay out. Links are followed, but for those to
    a folder around them.

    Raises:
        UserError: the folder is missing, empty or not to be read, or holds a dead link.
    """
    origin = repository() / Path(source).expanduser()
    try:
        return {"folder": source} | _copy_folder(origin, folder)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be copied: {error.strerror}") from None


def _copy_folder(origin: Path, folder: Path) -> dict[str, object]:
    if not origin.is_dir():
        what = "is a file, not a folder" if origin.exists() else "there is no such folder"
        raise UserError(f"{origin}: {what}; correct the path")
    if folder.resolve().is_relative_to(origin.resolve()):
        raise UserError(f"{origin}: holds the repository's own {folder.parent}; name another")
    files = list(files_below(origin))
    if not files:
        raise UserError(f"{origin}: holds no files; put some there or correct the path")
    return {"files": len(files), "bytes": _copy(files, origin, folder)}


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files below a folder in a fixed order, without hidden ones and litter.

    Links are followed, but for those to `above`, the real folders around it.

    Raises:
        UserError: a link leads to nothing.
    """
    around = (*above, folder.resolve())
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in LITTER:
            continue
        if path.is_file():
            yield path
        elif path.is_dir():
            real = path.resolve()
            if not any(outer.is_relative_to(real) for outer in around):
                yield from files_below(path, around)
        elif path.is_symlink():
            raise UserError(f"{path}: links to nothing; remove it or bring its file back")


def _copy(files: list[Path], origin: Path, folder: Path) -> int:
    size = sum(path.stat().st_size for path in files)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{origin}: its copy needs {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on"
            " the disk; free some"
        )
    for path in tqdm(files, desc="copying", unit="file", disable=None):
        target = folder / path.relative_to(origin)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return size
