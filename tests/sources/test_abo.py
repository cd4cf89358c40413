import errno
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from src.errors import UserError
from src.schema import Abo
from src.sources import abo, download
from tests.servers.bucket_server import BucketServer

REPOSITORY = Path(__file__).parents[2]
MEBIBYTE = 2**20  # what is written at once
LISTINGS, IMAGES = "archives/abo-listings.tar", "archives/abo-images-small.tar"
LICENCE = "LICENSE-CC-BY-4.0.txt"
LISTING_FILES = {
    "README.md": b"\n# Objects (c) by Somebody\nof the listings\n",
    LICENCE: b"Attribution 4.0\n",
    "listings/metadata/listings_0.json.gz": b"zero",
    "listings/metadata/listings_f.json.gz": b"f",
}
IMAGE_FILES = {
    "README.md": b"# Objects, of the pictures\n",
    "images/metadata/images.csv.gz": b"image_id",
    "images/small/00/00a.jpg": random.Random(1).randbytes(2 * MEBIBYTE),
    "images/small/ff/ffb.jpg": random.Random(2).randbytes(MEBIBYTE),
}
LAYOUT = {
    "about/listings/README.md": LISTING_FILES["README.md"],
    f"about/listings/{LICENCE}": LISTING_FILES[LICENCE],
    "about/images/README.md": IMAGE_FILES["README.md"],
    **{n: d for n, d in (LISTING_FILES | IMAGE_FILES).items() if "/" in n},
}


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as packed:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


OBJECTS = {LISTINGS: tarred(LISTING_FILES), IMAGES: tarred(IMAGE_FILES)}


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def source(url: str, **changed: dict[str, object]) -> Abo:
    keys = {"listings": LISTINGS, "images": IMAGES}
    archives = {
        key: {"path": path, "size": len(OBJECTS[path]), "etag": None, "sha256": None}
        | changed.get(key, {})
        for key, path in keys.items()
    }
    return Abo.model_validate({"url": url} | archives)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def kept(root: Path) -> list[Path]:
    """The archives that lie in .downloads, whole or not."""
    return list((root / ".downloads").rglob("*.tar"))


def resembling(archive: bytes) -> bytes:
    """An archive of the same length with other pictures."""
    changed = IMAGE_FILES | {"images/small/ff/ffb.jpg": random.Random(3).randbytes(MEBIBYTE)}
    assert len(tarred(changed)) == len(archive)
    return tarred(changed)


@pytest.fixture
def server():
    with BucketServer(dict(OBJECTS)) as server:
        yield server


@pytest.fixture(autouse=True)
def repository(tmp_path, monkeypatch):
    """A repository of one's own; no waiting between tries."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def fetch(server, raw):
    def fetch(**changed: dict[str, object]) -> dict[str, object]:
        return abo.fetch(source(server.url, **changed), raw, seed=0)

    return fetch


def test_both_archives_arrive_in_the_publishers_layout(fetch, server, raw):
    provenance = fetch()
    assert contents(raw) == LAYOUT
    assert provenance == {
        "url": server.url,
        "listings": {
            "path": LISTINGS,
            "bytes": len(OBJECTS[LISTINGS]),
            "etag": md5(OBJECTS[LISTINGS]),
            "sha256": sha256(OBJECTS[LISTINGS]),
            "files": 4,
            "texts": {LICENCE: "Attribution 4.0", "README.md": "# Objects (c) by Somebody"},
        },
        "images": {
            "path": IMAGES,
            "bytes": len(OBJECTS[IMAGES]),
            "etag": md5(OBJECTS[IMAGES]),
            "sha256": sha256(OBJECTS[IMAGES]),
            "files": 4,
            "texts": {"README.md": "# Objects, of the pictures"},
        },
    }
    assert [(a.path, a.range, a.status) for a in server.asked] == [
        (LISTINGS, None, 200),
        (IMAGES, None, 200),
    ]


def test_nothing_is_left_behind_by_a_success(fetch, tmp_path):
    fetch()
    assert [p.name for p in (tmp_path / ".downloads").iterdir()] in ([], ["abo.lock"])


def test_downloads_lie_in_the_repository_that_dvc_was_called_in(
    fetch, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "original"))
    del server.objects[IMAGES]
    with pytest.raises(UserError):
        fetch()
    assert len(kept(tmp_path / "original")) == 1
    assert not (tmp_path / ".downloads").exists()


def test_after_a_dropped_connection_only_the_rest_is_asked_for(fetch, server, raw):
    server.order("drop", IMAGES, times=2)
    fetch()
    assert contents(raw) == LAYOUT
    assert server.ranges(IMAGES) == [None, f"bytes={MEBIBYTE}-", f"bytes={2 * MEBIBYTE}-"]


@pytest.fixture
def break_off(fetch, server, raw, tmp_path):
    """Leave the listings and a mebibyte of the pictures in .downloads."""

    def break_off() -> None:
        server.order("drop", IMAGES)
        server.order("drop at once", IMAGES, times=99)
        with pytest.raises(UserError, match=r"images: the connection .* what has arrived is kept"):
            fetch()
        assert contents(raw) == {}
        assert sorted(p.stat().st_size for p in kept(tmp_path)) == [
            len(OBJECTS[LISTINGS]),
            MEBIBYTE,
        ]
        server.order("drop at once", IMAGES, times=0)
        server.asked.clear()

    return break_off


def test_the_next_call_asks_for_the_missing_bytes_only(fetch, server, raw, break_off):
    break_off()
    fetch()
    assert contents(raw) == LAYOUT
    [asked] = server.asked
    etag = f'"{hashlib.md5(OBJECTS[IMAGES]).hexdigest()}"'
    assert (asked.path, asked.range, asked.if_range) == (IMAGES, f"bytes={MEBIBYTE}-", etag)
    assert (asked.status, asked.length) == (206, len(OBJECTS[IMAGES]) - MEBIBYTE)


def test_an_object_that_changed_between_the_calls_is_fetched_whole(fetch, server, raw, break_off):
    break_off()
    server.objects[IMAGES] = resembling(OBJECTS[IMAGES])
    assert fetch()["images"]["sha256"] == sha256(server.objects[IMAGES])
    [asked] = server.asked
    assert (asked.range, asked.status) == (f"bytes={MEBIBYTE}-", 200)


@pytest.mark.parametrize("fault", ["no If-Range", "416"])
def test_an_answer_that_is_not_the_rest_starts_over(fetch, server, break_off, fault):
    break_off()
    if fault == "no If-Range":
        server.objects[IMAGES] = resembling(OBJECTS[IMAGES])
    server.order(fault, IMAGES)
    assert fetch()["images"]["sha256"] == sha256(server.objects[IMAGES])
    assert server.ranges(IMAGES) == [f"bytes={MEBIBYTE}-", None]


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_without_a_strong_etag_a_download_starts_over(fetch, server, raw, etag):
    server.etags[IMAGES] = etag
    server.order("drop", IMAGES)
    fetch()
    assert contents(raw) == LAYOUT
    assert server.ranges(IMAGES) == [None, None]


@pytest.mark.parametrize("fault", ["503", "drop at once", "elsewhere"])
def test_a_passing_fault_is_overcome(fetch, server, raw, fault):
    server.order(fault, IMAGES, times=3)
    fetch()
    assert contents(raw) == LAYOUT
    assert [a.status for a in server.asked if a.path == IMAGES].count(503) in (0, 3)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("403", "not there or not public (403)"),
        ("503", "status 503"),
        ("drop at once", "what has arrived is kept"),
        ("damage", "MD5"),
        ("file", "no address of HTTP"),
    ],
)
def test_a_lasting_fault_is_one_line_and_leaves_nothing_that_looks_whole(
    fetch, server, raw, fault, says
):
    server.order(fault, IMAGES, times=99)
    with pytest.raises(UserError) as caught:
        fetch()
    assert str(caught.value).startswith("images: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(raw) == {}
    server.order(fault, IMAGES, times=0)
    fetch()
    assert contents(raw) == LAYOUT


def test_a_file_that_is_not_there_is_asked_for_once(fetch, server, raw):
    with pytest.raises(UserError, match=r"images: .*/none\.tar is not there .*\(404\)"):
        fetch(images={"path": "archives/none.tar"})
    assert server.ranges("archives/none.tar") == [None]
    assert contents(raw) == {}


def test_a_size_that_the_parameters_do_not_say_is_not_downloaded(fetch, raw, tmp_path):
    size = len(OBJECTS[IMAGES])
    with pytest.raises(UserError, match=rf"^images\.size: .* has {size} bytes, not {size + 1}: "):
        fetch(images={"size": size + 1})
    assert [p for p in kept(tmp_path) if "images" in p.name] == []
    assert contents(raw) == {}


@pytest.mark.parametrize("change", [1, -1, -2 * MEBIBYTE - MEBIBYTE // 2])
def test_a_size_that_was_corrected_since_is_heeded(fetch, server, tmp_path, break_off, change):
    break_off()
    with pytest.raises(UserError, match=r"^images\.size: "):
        fetch(images={"size": len(OBJECTS[IMAGES]) + change})
    assert [p for p in kept(tmp_path) if "images" in p.name] == []


def test_a_wrong_sha256_is_told_and_the_file_removed(fetch, raw, tmp_path):
    theirs = sha256(OBJECTS[LISTINGS])
    with pytest.raises(UserError, match=rf"^listings\.sha256: .* has {theirs}, not {'0' * 64}"):
        fetch(listings={"sha256": "0" * 64})
    assert kept(tmp_path) == []
    assert contents(raw) == {}


def test_a_right_sha256_is_taken(fetch, raw):
    fetch(images={"sha256": sha256(OBJECTS[IMAGES])})
    assert contents(raw) == LAYOUT


def test_the_etag_of_an_upload_in_parts_is_no_checksum(fetch, server, raw, break_off):
    server.etags[IMAGES] = f'"{"0" * 32}-208"'
    break_off()
    fetch()
    assert contents(raw) == LAYOUT
    assert server.ranges(IMAGES) == [f"bytes={MEBIBYTE}-"]


@pytest.mark.parametrize(("etag", "left"), [(f'"{"0" * 32}-208"', 1), ("its MD5", 2)])
def test_a_damaged_archive_is_kept_only_if_a_checksum_vouches_for_it(
    fetch, server, tmp_path, etag, left
):
    whole = OBJECTS[IMAGES]
    server.objects[IMAGES] = whole[: len(whole) - 20_000] + bytes(range(200)) * 100
    if etag != "its MD5":
        server.etags[IMAGES] = etag
    with pytest.raises(UserError, match=r"^images: .*damaged"):
        fetch()
    assert len(kept(tmp_path)) == left


def test_an_archive_of_something_else_names_its_key(fetch):
    with pytest.raises(UserError, match=r"^images\.path: .* holds no folder 'images'"):
        fetch(images={"path": LISTINGS, "size": len(OBJECTS[LISTINGS])})


def test_what_fits_on_no_disk_is_not_begun(fetch, server, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)._replace(free=sum(map(len, OBJECTS.values())))
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="free some"):
        fetch()
    assert server.asked == []


def test_a_disk_that_fills_up_is_one_line_and_what_arrived_is_kept(
    fetch, server, tmp_path, monkeypatch, break_off
):
    break_off()

    def full(**options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(abo, "tqdm", full)
        with pytest.raises(UserError, match=r"^images: .*: No space left on device$"):
            fetch()
    assert sorted(p.stat().st_size for p in kept(tmp_path))[1] == MEBIBYTE


def test_no_connection_is_one_line(raw):
    with pytest.raises(UserError, match=r"^listings: the connection to \S+:9 failed"):
        abo.fetch(source("http://127.0.0.1:9"), raw, seed=0)


# As stages/fetch.py calls it.
CHILD = """
import sys
from pathlib import Path
from src.files import whole
from src.schema import Abo
from src.sources import abo

with whole(Path("data/raw/abo")) as folder:
    folder.mkdir()
    abo.fetch(Abo.model_validate_json(sys.argv[1]), folder, 0)
"""


def test_a_killed_run_goes_on_where_it_was(server, tmp_path, monkeypatch):
    monkeypatch.undo()
    command = [sys.executable, "-c", CHILD, source(server.url).model_dump_json()]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "NO_PROXY": "*", "DVC_ROOT": str(tmp_path)}
    server.order("stall", IMAGES)
    child = subprocess.Popen(command, cwd=tmp_path, env=env)
    deadline = time.monotonic() + 30
    while not any(p.stat().st_size == MEBIBYTE for p in kept(tmp_path)):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert contents(tmp_path / "data") == {}
    server.asked.clear()

    subprocess.run(command, cwd=tmp_path, env=env, check=True, timeout=60)
    assert contents(tmp_path / "data/raw/abo") == LAYOUT
    assert [(a.path, a.range, a.status) for a in server.asked] == [
        (IMAGES, f"bytes={MEBIBYTE}-", 206)
    ]
    assert kept(tmp_path) == []


def test_another_etag_than_that_of_the_parameters_is_not_downloaded(fetch, server, tmp_path):
    was, now = "0" * 32 + "-12", md5(OBJECTS[IMAGES])
    with pytest.raises(UserError, match=rf"^images\.etag: .* has {now}, not {was}: its publisher"):
        fetch(images={"etag": was})
    assert server.asked[-1].path == IMAGES
    assert not [file for file in kept(tmp_path) if "images" in file.name]
    assert fetch(images={"etag": now})["images"]["etag"] == now


@pytest.mark.parametrize("fault", ["503", "elsewhere"])
def test_what_the_bucket_announces_is_what_is_fetched(fetch, server, fault):
    server.checksums[LISTINGS] = hashlib.sha256(OBJECTS[LISTINGS]).digest()
    server.order(fault, IMAGES)
    announced, keys = abo.announced(source(server.url)), ("path", "bytes", "etag", "sha256")
    assert {a.method for a in server.asked} == {"HEAD"}
    fetched = fetch()
    assert announced["listings"] == {key: fetched["listings"][key] for key in keys}
    assert announced["images"] == {key: fetched["images"][key] for key in keys} | {"sha256": None}


@pytest.mark.parametrize("etag", [None, 'W/"0123"'])
def test_without_a_strong_etag_none_is_announced(server, etag):
    server.etags[IMAGES] = etag
    assert abo.announced(source(server.url))["images"]["etag"] is None


def test_what_cannot_be_asked_for_is_one_line_that_names_its_key(server):
    del server.objects[IMAGES]
    with pytest.raises(UserError, match=r"^images: .* is not there or not public \(404\)"):
        abo.announced(source(server.url))
