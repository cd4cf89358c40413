"""Unpack a zip or tar archive, once the whole of it has been read and found sound."""

import gzip
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from src.errors import UserError

EXPANSION = 1000  # pictures and texts stay far below; deflate itself ends at 1032
CHUNK = 2**20
HEADER = 16 * 2**20
BIG = 200 * 2**20
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    OSError,
    zlib.error,
    LZMAError,
    struct.error,
    ValueError,
    NotImplementedError,
)


@dataclass(frozen=True)
class _Member:
    name: str
    kind: str  # "file", "folder", or what else it is
    size: int  # as announced
    open: Callable[[], IO[bytes]]

    @property
    def path(self) -> PurePosixPath:
        return PurePosixPath(self.name)


def unpack(archive: Path, folder: Path) -> int:
    """Unpack a zip, tar or tar.gz into an empty folder; returns the number of files.

    Members become plain files and folders: no modes, owners, times or links are taken over.

    Raises:
        UserError: the archive is damaged, is no archive, or holds what could harm: paths that
            leave the folder, links, duplicates, a thousandfold expansion, more than the disk
            holds. Nothing has been written then.
    """
    room = shutil.disk_usage(folder).free
    try:
        with _opened(archive) as members:
            files, total = _check(archive, members, room)
    except DAMAGED as error:
        raise UserError(f"{archive}: {_damage(error)}") from None
    try:
        with _opened(archive) as members:
            _extract(members, folder, total)
    except DAMAGED as error:
        raise UserError(f"{archive}: cannot be unpacked to {folder}: {error}") from None
    return files


def _damage(error: BaseException) -> str:
    return f"the archive is damaged ({error}); fetch it again"


@contextmanager
def _opened(archive: Path) -> Iterator[Iterable[_Member]]:
    with archive.open("rb") as file:
        start = file.read(512)
        file.seek(0)
        if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            with zipfile.ZipFile(file) as packed:
                yield _zip_members(packed)
        elif start.startswith(b"\x1f\x8b"):
            with _Gzip(fileobj=file) as unzipped:
                yield _tar_members(archive, unzipped)
        elif start[257:262] == b"ustar":
            yield _tar_members(archive, file)
        elif start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
            raise UserError(
                f"{archive}: a web page instead of an archive, perhaps a login page;"
                " check your Kaggle token"
            )
        else:
            raise UserError(f"{archive}: neither zip, tar nor tar.gz; fetch it again")


class _Gzip(gzip.GzipFile):
    """Refuses the one read of tarfile whose size the archive chooses: that of a header."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return super().read(size)


def _zip_members(packed: zipfile.ZipFile) -> Iterator[_Member]:
    for info in packed.infolist():
        form = stat.S_IFMT(info.external_attr >> 16)
        if info.flag_bits & 1:
            kind = "encrypted"
        elif form not in (0, stat.S_IFREG, stat.S_IFDIR):
            kind = "a link or a device"
        else:
            kind = "folder" if info.is_dir() else "file"
        yield _Member(info.filename, kind, info.file_size, lambda info=info: packed.open(info))


def _tar_members(archive: Path, file: IO[bytes]) -> Iterator[_Member]:
    with tarfile.open(fileobj=file, mode="r:") as packed:
        for info in packed:
            kind = "folder" if info.isdir() else "file" if info.isfile() else "a link or a device"
            yield _Member(info.name, kind, info.size, lambda info=info: packed.extractfile(info))
        _check_end(packed, file)


def _check_end(packed: tarfile.TarFile, file: IO[bytes]) -> None:
    """Read to the end, for the checksum of gzip; tarfile takes a damaged header for the end."""
    file.seek(packed.offset)
    rest = 0
    while chunk := file.read(CHUNK):
        rest += len(chunk)
        if chunk.strip(b"\0"):
            raise tarfile.ReadError(f"a bad header at byte {packed.offset:,}")
    if rest < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends too early")


def _check(archive: Path, members: Iterable[_Member], room: int) -> tuple[int, int]:
    """Read everything, write nothing; returns the numbers of files and of their bytes."""
    limit = EXPANSION * archive.stat().st_size
    files: set[PurePosixPath] = set()
    folders = {PurePosixPath(".")}
    total = 0
    with _progress("checking", archive.stat().st_size) as progress:
        for member in members:
            if fault := _fault(member, files, folders):
                raise UserError(f"{archive}: {member.name!r}: {fault}")
            total += member.size
            if total > limit:
                raise UserError(
                    f"{archive}: {member.name!r}: grows more than {EXPANSION} times when unpacked,"
                    " as a decompression bomb does; do not use this archive"
                )
            if total > room:
                raise UserError(
                    f"{archive}: {member.name!r}: the archive needs more than the"
                    f" {room / 1e9:.1f} GB that are free on the disk; free some"
                )
            folders.update(member.path.parents)
            if member.kind == "folder":
                folders.add(member.path)
            else:
                files.add(member.path)
                try:
                    _copy(member, None, progress)
                except DAMAGED as error:
                    raise UserError(f"{archive}: {member.name!r}: {_damage(error)}") from None
    return len(files), total


def _fault(member: _Member, files: set[PurePosixPath], folders: set[PurePosixPath]) -> str | None:
    path = member.path
    if path.is_absolute() or re.match(r"[A-Za-z]:[/\\]|\\", member.name):
        return "an absolute path; do not use this archive"
    if ".." in re.split(r"[/\\]", member.name):
        return "leaves the folder by '..'; do not use this archive"
    if member.kind not in ("file", "folder"):
        return f"is {member.kind}, which is not unpacked; pack plain files"
    if path in files or (member.kind == "file" and path in folders):
        return "is there twice; remove one of the two"
    if any(parent in files for parent in path.parents):
        return "lies in what is a file in the same archive; do not use this archive"
    return None


def _extract(members: Iterable[_Member], folder: Path, total: int) -> None:
    with _progress("unpacking", total) as progress:
        for member in members:
            target = folder / member.path
            if member.kind == "folder":
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                _copy(member, file, progress)


def _copy(member: _Member, target: IO[bytes] | None, progress: tqdm) -> None:
    """Read a member to its end, into `target` if there is one; its announced size must be true."""
    size = 0
    with member.open() as source:
        while size <= member.size and (chunk := source.read(CHUNK)):
            size += len(chunk)
            if target and size <= member.size:
                target.write(chunk)
            progress.update(len(chunk))
    if size != member.size:
        raise EOFError(f"it holds {size:,} bytes and announces {member.size:,}")


def _progress(what: str, size: int) -> tqdm:
    return tqdm(
        desc=what, total=size, unit="B", unit_scale=True, disable=True if size < BIG else None
    )
