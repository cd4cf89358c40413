import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from src.errors import UserError
from src.sources import unpack as module
from src.sources.unpack import unpack

FILES = {"train/joy/1.png": os.urandom(3000), "train/joy/2.png": b"", "notes.txt": b"hello"}


def zipped(path: Path, members: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members:
            packed.writestr(name, data)
    return path


def tarred(path: Path, members: list[tuple[str | tarfile.TarInfo, bytes]], mode: str) -> Path:
    with tarfile.open(path, mode) as packed:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return path


def packed(kind: str, path: Path, members: list[tuple[str, bytes]]) -> Path:
    if kind == "zip":
        return zipped(path, members)
    return tarred(path, members, "w:gz" if kind == "tar.gz" else "w")


@pytest.fixture
def archive(tmp_path):
    # An archive's kind is in its bytes: the Kaggle client calls everything .zip.
    return tmp_path / "archive.zip"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def refuses(folder):
    """Asserts one line with archive, member and reason, and that nothing was written."""

    def refuses(archive: Path, *says: str) -> None:
        with pytest.raises(UserError) as caught:
            unpack(archive, folder)
        for text in (str(archive), *says):
            assert text in str(caught.value)
        assert "\n" not in str(caught.value)
        assert list(folder.rglob("*")) == []

    return refuses


KINDS = pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])


@KINDS
def test_every_file_comes_out_as_it_went_in(kind, archive, folder):
    assert unpack(packed(kind, archive, list(FILES.items())), folder) == 3
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == FILES


@KINDS
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/etc/passwd", "absolute path"),
        ("C:\\Users\\x", "absolute path"),
        ("../outside.png", "leaves the folder"),
        ("train/../../outside.png", "leaves the folder"),
        ("train\\..\\..\\outside.png", "leaves the folder"),
    ],
)
def test_a_path_out_of_the_folder_is_refused(kind, name, says, archive, refuses):
    packed(kind, archive, [("train/1.png", b"one"), (name, b"evil")])
    refuses(archive, repr(name), says)


@KINDS
@pytest.mark.parametrize("name", ["train/1.png", "./train/1.png", "train", "train/1.png/2.png"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_in_one_place_are_refused(kind, name, archive, refuses):
    packed(kind, archive, [("train/1.png", b"one"), (name, b"two")])
    refuses(archive, repr(name))


@pytest.mark.parametrize(
    "form", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(form, archive, refuses):
    link = tarfile.TarInfo("train/1.png")
    link.type, link.linkname = form, "/etc/passwd"
    refuses(tarred(archive, [(link, b"")], "w:gz"), "'train/1.png'", "a link or a device")


def test_a_link_in_a_zip_is_refused(archive, refuses):
    link = zipfile.ZipInfo("train/1.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    refuses(zipped(archive, [(link, b"/etc/passwd")]), "'train/1.png'", "a link or a device")


def test_an_encrypted_zip_is_refused(archive, refuses):
    zipped(archive, [("1.png", b"one")])
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    refuses(archive, "'1.png'", "encrypted")


def test_a_flipped_byte_in_a_zip_is_found_before_anything_is_written(archive, refuses):
    with zipfile.ZipFile(archive, "w") as stored:
        stored.writestr("1.png", b"one")
        stored.writestr("2.png", b"twotwotwo")
    data = archive.read_bytes()
    archive.write_bytes(data.replace(b"twotwotwo", b"twotwoowt"))
    refuses(archive, "'2.png'", "damaged")


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_flipped_byte_in_a_tar_gz_is_found(place, archive, refuses):
    tarred(archive, [(f"{i}.png", os.urandom(500)) for i in range(9)], "w:gz")
    data = bytearray(archive.read_bytes())
    data[int(len(data) * place)] ^= 1
    archive.write_bytes(data)
    refuses(archive, "damaged")


def test_a_damaged_header_in_a_plain_tar_does_not_pass_for_its_end(archive, refuses):
    tarred(archive, [(f"{i}.png", b"x" * 500) for i in range(9)], "w")
    data = bytearray(archive.read_bytes())
    data[4 * 1024 + 150] ^= 1
    archive.write_bytes(data)
    refuses(archive, "damaged", "4,096")


@KINDS
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_half_an_archive_is_refused(kind, share, archive, refuses):
    packed(kind, archive, [(f"{i}.png", os.urandom(3000)) for i in range(9)])
    data = archive.read_bytes()
    end = len(data) if kind != "tar" else data.rindex(b"8.png") + 512 + 3072
    archive.write_bytes(data[: int(end * share)])
    refuses(archive, "damaged")


def test_a_tar_that_ends_between_two_members_is_refused(archive, refuses):
    tarred(archive, [("1.png", b"one"), ("2.png", b"two")], "w")
    archive.write_bytes(archive.read_bytes()[:1024])
    refuses(archive, "damaged")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\n <!DOCTYPE html><html>", "login page; check your Kaggle token"),
        (b"<?xml version='1.0'?><Error/>", "web page"),
        (b"\xef\xbb\xbf<html>", "web page"),
        (b"label,pixels\n", "neither zip, tar nor tar.gz"),
        (b"", "neither zip, tar nor tar.gz"),
    ],
)
def test_what_is_no_archive_is_named(data, says, archive, refuses):
    archive.write_bytes(data)
    refuses(archive, says)


def test_a_zip_bomb_is_refused(archive, refuses):
    bomb = zipfile.ZipInfo("zeros")
    bomb.compress_type = zipfile.ZIP_BZIP2
    refuses(zipped(archive, [(bomb, bytes(20_000_000))]), "'zeros'", "decompression bomb")


def test_a_tar_gz_bomb_is_refused(archive, refuses):
    member = tarfile.TarInfo("zeros")
    member.size = 10**12
    archive.write_bytes(gzip.compress(member.tobuf() + bytes(100_000)))
    refuses(archive, "'zeros'", "decompression bomb")


def test_a_sparse_tar_bomb_is_refused(archive, refuses):
    member = tarfile.TarInfo("zeros")
    member.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,1",
        "GNU.sparse.size": str(10**12),
    }
    tarred(archive, [(member, b"x")], "w")
    refuses(archive, "'zeros'", "decompression bomb")


def test_a_header_that_would_fill_the_memory_is_refused(archive, refuses):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 50_000_000
    archive.write_bytes(gzip.compress(header.tobuf() + bytes(header.size)))
    refuses(archive, "a header of 50,000,")


@pytest.mark.parametrize("announced", [10, 2000])
def test_a_zip_that_lies_about_a_size_is_refused(announced, archive, refuses):
    zipped(archive, [("1.png", bytes(1000))])
    data = bytearray(archive.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, announced)
    archive.write_bytes(data)
    refuses(archive, "'1.png'", "damaged")


def test_no_more_than_the_announced_size_is_written(tmp_path):
    member = module._Member("1.png", "file", 5, lambda: io.BytesIO(b"b" * 5000))
    with (tmp_path / "1.png").open("xb") as file, pytest.raises(EOFError):
        module._copy(member, file, module._progress("", 0))
    assert (tmp_path / "1.png").stat().st_size <= 5


def test_an_archive_larger_than_the_free_disk_is_refused(archive, refuses, tmp_path, monkeypatch):
    usage = module.shutil.disk_usage(tmp_path)._replace(free=3000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    zipped(archive, list(FILES.items()))
    refuses(archive, "'notes.txt'", "free some")


def test_modes_owners_and_times_are_not_taken_over(archive, folder):
    member = tarfile.TarInfo("1.sh")
    member.mode, member.uid, member.mtime = 0o4777, 12345, 1
    unpack(tarred(archive, [(member, b"x")], "w"), folder)
    got = (folder / "1.sh").stat()
    assert not got.st_mode & 0o7111
    assert got.st_uid == os.getuid()
