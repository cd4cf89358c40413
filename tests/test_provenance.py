import subprocess

import pytest

from src import provenance
from src.files import write_json
from src.schema import Esnlive, HubBase, KaggleDataset, WebVid

SETS = {"dataset": "someone/faces"}


@pytest.mark.parametrize(
    ("asked", "found", "ref"),
    [
        (HubBase(id="a/b", revision=None), {"id": "a/b", "revision": "c" * 40}, "main"),
        (Esnlive(**SETS, revision="v1", rows=1), {"revision": "c" * 40}, "v1"),
        (Esnlive(**SETS, revision="c" * 40, rows=1), {"revision": "c" * 40}, "c" * 40),
        (KaggleDataset(**SETS, version=None), {"version": 3}, "the newest version"),
        (KaggleDataset(**SETS, version=3), {"version": 3}, "version 3"),
    ],
)
def test_a_record_holds_the_name_that_was_asked_for(asked, found, ref):
    assert provenance.of(asked, found) == found | {"ref": ref}


def test_what_comes_from_here_has_no_such_name():
    assert provenance.of("my/pictures", {"files": 3}) == {"files": 3}
    local = WebVid(dataset=None, revision=None, tables=["mine.csv"], clips=1)
    assert provenance.of(local, {"revision": None}) == {"revision": None}


def bucket(etag: str | None, sha256: str | None) -> dict[str, object]:
    archive = {"path": "a.tar", "bytes": 9, "etag": etag, "sha256": sha256}
    return {"url": "http://bucket", "listings": archive, "images": {"path": "b.tar", "bytes": 1}}


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        (
            {"revision": "c"},
            {"revision": "d"},
            ["someone/faces at main has changed: commit c, now d"],
        ),
        ({"revision": "c"}, {"revision": "c"}, []),
        ({"revision": "c", "ref": "v1"}, {"revision": "d"}, []),
        ({"revision": "c", "dataset": "another/set"}, {"revision": "d"}, []),
        ({"archive_md5": "c"}, {"archive_md5": None}, []),
        (
            {"archive_md5": "c"},
            {"archive_md5": "d"},
            ["someone/faces at main has changed: MD5 c, now d"],
        ),
    ],
)
def test_a_change_under_the_same_name_is_told(before, now, says):
    same = SETS | {"ref": "main"}
    assert list(provenance.moved(same | before, same | now)) == says


def test_each_file_of_a_bucket_is_held_against_what_it_was():
    told = list(provenance.moved(bucket("e", "s"), bucket("f", "s")))
    assert told == ["http://bucket/a.tar has changed: ETag e, now f"]
    assert list(provenance.moved(bucket("e", "s"), bucket("e", None))) == []
    assert list(provenance.moved(None, bucket("e", "s"))) == []


def test_the_last_record_is_that_of_git_and_there_may_be_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert provenance.committed("data", "faces") is None
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    write_json(provenance.path("data", "faces"), {"version": 3})
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "."]):
        subprocess.run([*git, *command], check=True)
    write_json(provenance.path("data", "faces"), {"version": 4})
    assert provenance.committed("data", "faces") == {"version": 3}
    assert provenance.read("data", "faces") == {"version": 4}
    assert provenance.committed("data", "products") is provenance.read("data", "products") is None
    monkeypatch.setenv("PATH", "")
    assert provenance.committed("data", "faces") is None
