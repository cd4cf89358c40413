import csv
import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from src.csv_rows import rows as read_rows
from src.errors import UserError
from src.files import read_json
from src.readers import webvid as reader
from src.records import Raw, Rejected
from src.schema import WebVid
from src.sources import clips, webvid
from tests.servers.bucket_server import RETRY_AFTER, BucketServer
from tests.servers.hub_server import serve

ROOT = Path(__file__).parents[2]
REPO, COMMIT = "TempoFunk/webvid-10M", "0123456789abcdef0123456789abcdef01234567"
HEADING = ("videoid", "contentUrl", "duration", "page_dir", "name")
TRAIN = "results_2M_train.csv"
CLIP = 3 * clips.CHUNK


def video(number: int) -> bytes:
    return random.Random(number).randbytes(CLIP)


@pytest.fixture
def server():
    with BucketServer({f"{n}.mp4": video(n) for n in range(6)}) as server:
        server.types = dict.fromkeys(server.objects, "video/mp4")
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


def write(path: Path, *rows: tuple[object, ...], heading: tuple[str, ...] = HEADING) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([heading, *rows])


def listed(server: BucketServer, *numbers: int) -> list[tuple[object, ...]]:
    return [(n, f"{server.url}/{n}.mp4", "PT1S", "001_050", f"Clip {n}") for n in numbers]


def source(clips: int = 6, tables: tuple[str, ...] = (TRAIN,), **changed: object) -> WebVid:
    keys = {"dataset": None, "revision": None, "tables": list(tables), "clips": clips}
    return WebVid.model_validate(keys | changed)


@pytest.fixture
def fetch(server, raw, tmp_path):
    """Fetch the six videos of one table."""
    write(tmp_path / TRAIN, *listed(server, *range(6)))

    def fetch(**changed: object) -> dict[str, object]:
        return webvid.fetch(source(**changed), raw, seed=1)

    return fetch


def videos(folder: Path) -> dict[str, bytes]:
    top = folder / "videos"
    return {p.relative_to(top).as_posix(): p.read_bytes() for p in top.rglob("*.*")}


def dead(folder: Path) -> dict[str, str]:
    table = read_rows(folder / "dead_links.csv", ("videoid", "contenturl"))
    return {row["videoid"]: row["reason"] for _, row in table}


WHOLE = {f"001_050/{n}.mp4": video(n) for n in range(6)}


def test_the_videos_of_a_table_arrive_where_readers_look(fetch, raw, server):
    assert fetch() == {
        "dataset": None,
        "revision": None,
        "tables": [TRAIN],
        "rows": 6,
        "unusable": 0,
        "clips": 6,
        "downloaded": 6,
        "dead": 0,
        "bytes": 6 * CLIP,
    }
    assert videos(raw) == WHOLE
    table = [row for _, row in read_rows(raw / TRAIN, ("videoid", "page_dir"))]
    assert [row["videoid"] for row in table] == ["0", "1", "2", "3", "4", "5"]
    assert table[3]["name"] == "Clip 3"
    assert dead(raw) == {}


def test_the_reader_finds_what_has_come(fetch, server, raw, params):
    del server.objects["3.mp4"]
    fetch()
    data = params.data["webvid"].model_copy(update={"labels": None})
    found = list(reader.read(raw, data))
    assert {r.id: r.split for r in found if isinstance(r, Raw)} == {
        f"videos/{name}": "train" for name in WHOLE if name != "001_050/3.mp4"
    }
    assert [r for r in found if isinstance(r, Rejected)] == [
        Rejected(f"{TRAIN} row 4", "no such file: videos/001_050/3.mp4")
    ]


def test_nothing_is_left_behind_by_a_success(fetch, tmp_path):
    fetch()
    assert [p.name for p in (tmp_path / ".downloads").iterdir()] in ([], ["webvid.lock"])


def test_tables_and_downloads_lie_where_dvc_was_called(fetch, server, tmp_path, monkeypatch):
    (tmp_path / TRAIN).rename(tmp_path / "original.csv")
    original = tmp_path / "original"
    write(original / "data/train/0000.csv", *listed(server, 0, 9))
    monkeypatch.setenv("DVC_ROOT", str(original))
    fetch(tables=("data/train/0000.csv",))
    assert (tmp_path / "raw/data_train_0000.csv").is_file()
    assert (original / ".downloads").is_dir()
    assert not (tmp_path / ".downloads").exists()


def drawn(folder: Path, seed: int, clips: int) -> set[str]:
    folder.mkdir()
    webvid.fetch(source(clips), folder, seed)
    return set(videos(folder))


def test_the_seed_draws_and_more_clips_hold_the_fewer(fetch, tmp_path):
    first = drawn(tmp_path / "a", 1, 3)
    assert len(first) == 3
    assert drawn(tmp_path / "b", 1, 3) == first
    assert drawn(tmp_path / "c", 1, 5) > first
    others = {frozenset(drawn(tmp_path / f"seed{seed}", seed, 3)) for seed in range(2, 8)}
    assert others - {frozenset(first)}


def test_only_what_was_drawn_is_asked_for_and_listed(fetch, server, raw):
    assert fetch(clips=2)["rows"] == 6
    assert len(server.asked) == 2
    assert len(list(read_rows(raw / TRAIN, ()))) == 2


def test_all_captions_of_a_video_come_with_it(server, raw, tmp_path):
    rows = listed(server, 0, 1)
    again = [(0, rows[0][1], "PT1S", "001_050", "Once more")]
    write(tmp_path / TRAIN, *rows, *again)
    write(tmp_path / "results_2M_val.csv", *listed(server, 2))
    tables = (TRAIN, "results_2M_val.csv")
    assert webvid.fetch(source(tables=tables), raw, seed=1)["clips"] == 3
    names = [row["name"] for _, row in read_rows(raw / TRAIN, ())]
    assert names == ["Clip 0", "Once more", "Clip 1"]
    assert [row["name"] for _, row in read_rows(raw / tables[1], ())] == ["Clip 2"]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "unusable",
    [
        ("../../../1", "1.mp4", "", "001", "Clip"),
        ("1", "1.mp4", "", "../../..", "Clip"),
        ("1", "1.mp4", "", "/etc", "Clip"),
        ("1", "1.mp4", "", "001", ""),
        ("", "1.mp4", "", "001", "Clip"),
        ("1", "", "", "001", "Clip"),
        ("1\0", "1.mp4", "", "001", "Clip"),
        ("1", "1.mp4", "", "001", "A cat", " a dog and a bird"),
        ("0", "1.mp4", "", "001", "A cat", " of the same video"),
    ],
)
def test_a_row_that_cannot_be_a_video_is_counted_and_never_drawn(server, raw, tmp_path, unusable):
    write(tmp_path / TRAIN, *listed(server, 0), unusable)
    found = webvid.fetch(source(), raw, seed=1)
    assert (found["rows"], found["unusable"], found["clips"]) == (2, 1, 1)
    assert videos(raw) == {"001_050/0.mp4": video(0)}
    assert [row["name"] for _, row in read_rows(raw / TRAIN, ())] == ["Clip 0"]


PAGE = b"<!DOCTYPE html>" + b" gone" * 1000


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("404", "status 404"),
        ("403", "status 403"),
        ("503", "status 503"),
        ("page", "no video: text/html; charset=utf-8"),
        ("page as video", "no video: a web page"),
        ("short", "too small: 999 bytes"),
        ("empty", "too small: 0 bytes"),
        ("file", "no address of HTTP"),
        ("no address", "no address of HTTP"),
        ("drop at once", "no connection: ChunkedEncodingError"),
    ],
)
def test_a_dead_link_is_listed_and_stops_nothing(fetch, server, raw, tmp_path, fault, reason):
    contents = {"page": PAGE, "page as video": PAGE, "short": bytes(999), "empty": b""}
    if fault == "404":
        del server.objects["3.mp4"]
    elif fault in contents:
        server.objects["3.mp4"] = contents[fault]
        server.types["3.mp4"] = "text/html; charset=utf-8" if fault == "page" else "video/mp4"
    elif fault == "no address":
        rows = [r if r[0] != 3 else (3, "ftp//x", *r[2:]) for r in listed(server, *range(6))]
        write(tmp_path / TRAIN, *rows)
    else:
        server.order(fault, "3.mp4", times=99)
    provenance = fetch()
    assert {k: provenance[k] for k in ("clips", "downloaded", "dead")} == {
        "clips": 6,
        "downloaded": 5,
        "dead": 1,
    }
    assert videos(raw) == {k: v for k, v in WHOLE.items() if k != "001_050/3.mp4"}
    assert dead(raw) == {"3": reason}


def test_a_dead_link_is_asked_for_once(fetch, server):
    del server.objects["3.mp4"]
    fetch()
    assert server.ranges("3.mp4") == [None]


def test_what_would_fill_the_disk_is_no_video(fetch, raw, monkeypatch):
    monkeypatch.setattr(clips, "MOST", CLIP - 1)
    with pytest.raises(UserError, match=r"none of 6 videos can be had: too large: over 196,607 "):
        fetch()


@pytest.mark.parametrize("fault", ["503", "drop at once"])
def test_what_did_not_answer_is_asked_for_once_more_when_the_others_are_through(
    fetch, server, raw, fault
):
    server.order(fault, "3.mp4", times=clips.TRIES)
    assert fetch()["dead"] == 0
    assert videos(raw) == WHOLE


def test_more_than_a_few_that_did_not_answer_end_the_run_and_the_next_goes_on(
    fetch, server, raw, monkeypatch
):
    monkeypatch.setattr(clips, "FEW", 1)
    del server.objects["1.mp4"]
    for path in ("3.mp4", "4.mp4"):
        server.order("503", path, times=2 * clips.TRIES)
    says = r"^2 of 6 addresses did not answer \(status 503\); run it again: what has come is kept$"
    with pytest.raises(UserError, match=says):
        fetch()
    assert list(raw.iterdir()) == []
    server.asked.clear()
    fetch()
    assert videos(raw) == {k: v for k, v in WHOLE.items() if k != "001_050/1.mp4"}
    assert dead(raw) == {"1": "status 404"}
    assert sorted(a.path for a in server.asked) == ["1.mp4", "3.mp4", "4.mp4"]


def test_hosts_that_are_gone_are_no_reason_to_run_it_again(
    fetch, server, raw, tmp_path, monkeypatch
):
    monkeypatch.setattr(clips, "FEW", 1)
    monkeypatch.setattr(clips, "LOST", 3)
    monkeypatch.setattr(clips, "AT_ONCE", 1)
    gone = [(n, f"http://127.0.0.1:9/{n}.mp4", "", "001_050", "Clip") for n in (3, 4, 5)]
    odd = (7, "http://[x/7.mp4", "", "001_050", "Clip")
    some, more = listed(server, 0, 1), listed(server, 2)
    write(tmp_path / TRAIN, *some, *gone[:2], *more, gone[2], odd)
    assert fetch(clips=7)["dead"] == 4
    silent = dict.fromkeys("345", "no connection: ConnectionError")
    assert dead(raw) == silent | {"7": "no address of HTTP"}


def test_a_busy_server_is_given_the_time_that_it_asks_for(fetch, server, raw, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    server.order("429", "3.mp4")
    fetch()
    assert videos(raw) == WHOLE
    assert slept == [RETRY_AFTER]


@pytest.mark.parametrize("fault", ["503", "drop at once", "elsewhere", "slow"])
def test_a_passing_fault_is_overcome(fetch, server, raw, fault):
    server.order(fault, "3.mp4", times=2)
    fetch()
    assert videos(raw) == WHOLE


def test_after_a_dropped_connection_only_the_rest_is_asked_for(fetch, server, raw):
    server.order("drop", "3.mp4")
    fetch()
    assert videos(raw) == WHOLE
    assert server.ranges("3.mp4") == [None, f"bytes={clips.CHUNK}-"]


@pytest.mark.parametrize("fault", ["no ETag", "416", "no If-Range"])
def test_what_is_not_the_rest_starts_over(fetch, server, raw, fault, monkeypatch):
    server.order("drop", "3.mp4")
    if fault == "no ETag":
        server.etags["3.mp4"] = None
    elif fault == "416":
        server.order("416", "3.mp4")
    else:
        server.order(fault, "3.mp4")
        calls = []

        def changing(part: Path, answer: object) -> None:
            calls.append(part)
            try:
                append(part, answer)
            except Exception:
                server.objects["3.mp4"] = video(33)
                raise

        append = clips._append
        monkeypatch.setattr(clips, "_append", changing)
    fetch()
    assert videos(raw)["001_050/3.mp4"] == server.objects["3.mp4"]
    assert server.ranges("3.mp4")[-1] is None


def test_a_server_that_falls_silent_is_given_up(fetch, server, raw, monkeypatch):
    monkeypatch.setattr(clips, "TIMEOUT", (5, 0.2))
    server.order("stall", "3.mp4", times=99)
    fetch()
    assert len(videos(raw)) == 5
    assert dead(raw) == {"3": "no connection: ConnectionError"}


def test_a_video_that_takes_too_long_is_given_up(server, raw, tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "PATIENCE", -1)
    write(tmp_path / TRAIN, *listed(server, 3))
    with pytest.raises(UserError, match=r"none of 1 videos can be had: no connection: Timeout"):
        webvid.fetch(source(), raw, seed=1)


def test_not_one_video_is_one_line_that_says_why(fetch, server, raw):
    server.objects.clear()
    with pytest.raises(UserError, match=r"none of 6 videos can be had: status 404 \(6\); .*folder"):
        fetch()
    assert list(raw.iterdir()) == []


def test_a_lost_network_ends_the_run_and_the_next_goes_on(
    fetch, server, raw, tmp_path, monkeypatch
):
    monkeypatch.setattr(clips, "LOST", 3)
    monkeypatch.setattr(clips, "AT_ONCE", 1)
    lost = [(n, "http://127.0.0.1:9/x.mp4", "", "001_050", "Clip") for n in (3, 4, 5)]
    write(tmp_path / TRAIN, *listed(server, 0, 1, 2), *lost)
    with pytest.raises(UserError, match=r"last 3 videos could not be reached .* arrived is kept"):
        fetch()
    assert list(raw.iterdir()) == []
    server.asked.clear()
    write(tmp_path / TRAIN, *listed(server, *range(6)))
    fetch()
    assert videos(raw) == WHOLE
    assert sorted(a.path for a in server.asked) == ["3.mp4", "4.mp4", "5.mp4"]


def test_a_full_disk_is_one_line(fetch, raw, monkeypatch):
    def full(part: Path, answer: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(clips, "_append", full)
    with pytest.raises(UserError, match=r"\.part: No space left on device$"):
        fetch()


def test_a_disk_that_is_full_when_the_tables_are_written_is_one_line(fetch, raw, monkeypatch):
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(webvid, "_write_csv", full)
    with pytest.raises(UserError, match=f"^{raw}: No space left on device$"):
        fetch()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"videoid,name\n", "has no column contentUrl; its columns are videoid, name"),
        (b"", "has no column videoid; its columns are none"),
        (b"videoid,name,contentUrl\n1,\xff,x\n", "is no CSV in UTF-8"),
        (
            b"videoid,name,contentUrl\n1,A cat, and a dog,a.mp4\n,A cat,a.mp4\n\n,,\n",
            "none of their rows is a clip's; 1 with more cells than columns: put quotes around a "
            "text with a comma; 1 with no videoid, name or contentUrl, or a path out of the folder",
        ),
        (None, "cannot be read: No such file or directory; correct its name"),
    ],
)
def test_a_table_of_another_form_is_one_line(raw, tmp_path, text, says):
    if text is not None:
        (tmp_path / TRAIN).write_bytes(text)
    with pytest.raises(UserError, match=f"^{TRAIN}: {says}"):
        webvid.fetch(source(), raw, seed=1)


# As stages/fetch.py calls it.
CHILD = """
import sys
from pathlib import Path
from src.files import whole
from src.schema import WebVid
from src.sources import webvid

with whole(Path("data/raw/webvid")) as folder:
    folder.mkdir()
    webvid.fetch(WebVid.model_validate_json(sys.argv[1]), folder, 0)
"""


def test_a_killed_run_goes_on_where_it_was(server, tmp_path, monkeypatch):
    monkeypatch.undo()
    write(tmp_path / TRAIN, *listed(server, *range(6)))
    command = [sys.executable, "-c", CHILD, source().model_dump_json()]
    env = os.environ | {"PYTHONPATH": str(ROOT), "NO_PROXY": "*", "DVC_ROOT": str(tmp_path)}
    server.order("stall", "3.mp4")
    child = subprocess.Popen(command, cwd=tmp_path, env=env)
    deadline = time.monotonic() + 30
    folder = tmp_path / ".downloads/webvid"
    while not (
        len(list(folder.glob("*.mp4"))) == 5
        and any(p.stat().st_size >= clips.CHUNK for p in folder.glob("*.part"))
    ):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "data/raw/webvid").exists()
    server.asked.clear()

    subprocess.run(command, cwd=tmp_path, env=env, check=True, timeout=60)
    assert videos(tmp_path / "data/raw/webvid") == WHOLE
    assert [(a.path, a.range, a.status) for a in server.asked] == [
        ("3.mp4", f"bytes={clips.CHUNK}-", 206)
    ]


@pytest.fixture
def hub(server, tmp_path):
    """A repository of tables, in the layout of the Hub's copy of WebVid."""
    write(tmp_path / "repo/data/train/partitions/0000.csv", *listed(server, *range(6)))
    with serve(tmp_path / "repo", REPO, COMMIT, kind="datasets") as hub:
        yield hub


def stage(hub, tmp_path: Path, **changed: object) -> subprocess.CompletedProcess[str]:
    yaml = YAML()
    values = yaml.load(ROOT / "params.yaml")
    values["scale"] = "full"
    table = "data/train/partitions/0000.csv"
    keys = {"dataset": REPO, "revision": None, "tables": [table], "clips": 4}
    values["data"]["webvid"]["full"]["webvid"] = keys | changed
    yaml.dump(values, tmp_path / "params.yaml")
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": hub.url}
    command = [sys.executable, "-m", "stages.fetch", "webvid"]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_tables_of_the_hub_come_at_a_commit_that_is_recorded(hub, tmp_path, revision):
    done = stage(hub, tmp_path, revision=revision)
    assert done.returncode == 0, done.stderr
    raw = tmp_path / "data/raw/webvid"
    provenance = read_json(raw / "_source.json")
    assert (provenance["dataset"], provenance["revision"]) == (REPO, COMMIT)
    assert (provenance["source"], provenance["downloaded"]) == ("webvid", 4)
    assert len(videos(raw)) == 4
    assert (raw / "data_train_partitions_0000.csv").is_file()


@pytest.mark.parametrize(
    ("refuse", "changed", "says"),
    [
        ((403, "GatedRepo"), {}, "is gated; accept its terms on its page"),
        ((404, "RepoNotFound"), {}, f"cannot download the tables of {REPO} at main"),
        (None, {"tables": ["data/none.csv"]}, "check dataset, revision, tables and the network"),
        (None, {"revision": "f" * 40}, f"cannot download the tables of {REPO} at {'f' * 40}"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line_that_names_the_key(hub, tmp_path, refuse, changed, says):
    hub.refuse = refuse
    done = stage(hub, tmp_path, **changed)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert errors[0].startswith("error: params.yaml: data.webvid.full.webvid: ")
    assert says in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data/raw/webvid").exists()
