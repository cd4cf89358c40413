"""What downloads have in common: where they lie until they are whole, room on the disk, digests."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from src.errors import UserError


@contextmanager
def place(name: str) -> Iterator[Path]:
    """A folder in .downloads of the repository, held by one process at a time.

    It is removed on success. A failure leaves it, and the next call goes on from there.
    """
    root = Path(os.environ.get("DVC_ROOT", ".")) / ".downloads"
    folder = root / name
    root.mkdir(parents=True, exist_ok=True)
    # Queued experiments may fetch the same files at the same time, into the same folder.
    with FileLock(f"{folder}.lock"):
        folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder)


def check_room(name: str, folder: Path, needed: int) -> None:
    """See that the disk of `folder` has as many bytes free.

    Raises:
        UserError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{name}: needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on the disk of"
            f" {folder}; free some"
        )


def digest(path: Path, kind: str) -> str:
    """The digest of a file in hexadecimal digits; `kind` is "md5" or "sha256"."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
