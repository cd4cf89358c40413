import stat
from pathlib import Path

import pytest

from src.files import is_file, read_json, whole, write_json


def test_a_failure_leaves_what_was_there_and_nothing_beside_it(tmp_path):
    path = tmp_path / "numbers.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), whole(path) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_the_one_before(tmp_path):
    for name in ("one", "two"):
        with whole(tmp_path / "folder") as beside:
            beside.mkdir()
            (beside / name).touch()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["two"]


def test_a_file_is_there_at_every_moment_while_another_takes_its_place(tmp_path, monkeypatch):
    path = tmp_path / "answers"
    path.write_text("old")
    seen = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda s, t: (seen.append(t.read_text()), replace(s, t)))
    with whole(path) as beside:
        beside.write_text("new")
    assert seen == ["old"]
    assert path.read_text() == "new"


def test_what_a_killed_process_left_is_removed(tmp_path):
    left = tmp_path / ".folder.part"
    left.mkdir()
    (left / "old").touch()
    with whole(tmp_path / "folder") as beside:
        beside.mkdir()
    assert list((tmp_path / "folder").iterdir()) == []


def test_others_can_read_what_was_written(tmp_path):
    with whole(tmp_path / "folder") as beside:
        beside.mkdir()
        (beside / "file").touch(mode=0o600)
    assert (tmp_path / "folder/file").stat().st_mode & stat.S_IROTH


def test_no_number_that_is_none_reaches_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "numbers.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 256, "a\0b", "\ud83d", "none", "file/below", "."])
def test_what_no_file_can_be_called_is_no_file(tmp_path, name):
    (tmp_path / "file").touch()
    assert is_file(tmp_path / "file")
    assert not is_file(tmp_path / name)
