"""What downloads have in common: where they lie until they are whole, room on the disk, digests."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from filelock import FileLock

from src.errors import UserError
from src.files import repository

TRIES = 5
TIMEOUT = 60  # seconds without a byte
PASSING = {429, 500, 502, 503, 504}


@contextmanager
def place(name: str) -> Iterator[Path]:
    """A folder in .downloads of the repository, held by one process at a time.

    It is removed on success. A failure leaves it, and the next call goes on from there.
    """
    root = repository() / ".downloads"
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


def may_pass(error: requests.RequestException) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, requests.HTTPError):
        return error.response.status_code in PASSING
    return not isinstance(error, ValueError | requests.TooManyRedirects)


def length(file: Path) -> int:
    """How many bytes of a file have arrived."""
    return file.stat().st_size if file.exists() else 0


def etag(file: Path) -> str:
    """The strong ETag that was noted of a file; empty where there was none."""
    return _etag_file(file).read_text() if _etag_file(file).exists() else ""


def note_etag(file: Path, given: str) -> None:
    """Note the ETag of a file that begins to arrive."""
    # Of a weak one, two objects need not be the same in each byte.
    _etag_file(file).write_text("" if given.startswith("W/") else given)


def remove(file: Path) -> None:
    """Remove a file and its ETag, in this order: one left without its ETag would pass unchecked."""
    file.unlink(missing_ok=True)
    _etag_file(file).unlink(missing_ok=True)


def _etag_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.etag")
