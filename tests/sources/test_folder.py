import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.errors import UserError
from src.sources.folder import fetch


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"<" + name.encode() + b">")
    return folder


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def repository(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    return repository


@pytest.fixture
def out(repository):
    out = repository / "data/raw/.mine.part-1"
    out.mkdir(parents=True)
    return out


@pytest.fixture
def mine(tmp_path):
    return tmp_path / "my pictures"


def refused(source: Path | str, out: Path) -> str:
    with pytest.raises(UserError) as caught:
        fetch(str(source), out, seed=0)
    assert "\n" not in str(caught.value)
    assert list(out.rglob("*")) == []
    return str(caught.value)


@pytest.mark.parametrize(
    "layout",
    [
        ["joy/1.png", "fear/2.jpg"],
        ["train/joy/1.png", "train/fear/2.png", "test/joy/3.png"],
        ["labels.json", "pictures/1.png", "pictures/2.png"],
    ],
)
def test_every_layout_is_copied_as_it_is(layout, mine, out):
    provenance = fetch(str(fill(mine, *layout)), out, seed=0)
    assert {n: (out / n).read_bytes() for n in names(out)} == {
        n: b"<" + n.encode() + b">" for n in layout
    }
    size = sum(len(n) + 2 for n in layout)
    assert provenance == {"folder": str(mine), "files": len(layout), "bytes": size}


def test_hidden_files_and_what_systems_leave_behind_stay_out(mine, out):
    fill(
        mine,
        "joy/1.png",
        ".DS_Store",
        "joy/.hidden.png",
        "joy/Thumbs.db",
        "joy/desktop.ini",
        "__MACOSX/joy/1.png",
        ".git/config",
    )
    assert fetch(str(mine), out, seed=0)["files"] == 1
    assert names(out) == {"joy/1.png"}


def test_links_to_files_and_folders_become_the_files_themselves(mine, tmp_path, out):
    fill(mine, "fear/1.png")
    elsewhere = fill(tmp_path / "big disk", "joy/2.png", "3.png")
    (mine / "joy").symlink_to(elsewhere / "joy")
    (mine / "fear/3.png").symlink_to(elsewhere / "3.png")
    fetch(str(mine), out, seed=0)
    assert names(out) == {"fear/1.png", "joy/2.png", "fear/3.png"}
    assert not any(p.is_symlink() for p in out.rglob("*"))


def test_links_to_a_folder_around_them_are_not_followed(mine, tmp_path, out):
    fill(mine, "joy/1.png")
    outside = fill(tmp_path / "big disk", "2.png")
    (mine / "joy/itself").symlink_to(".")
    (mine / "joy/up").symlink_to("..")
    (mine / "all").symlink_to(tmp_path)
    (mine / "fear").symlink_to(outside)
    (outside / "back").symlink_to(mine)
    fetch(str(mine), out, seed=0)
    assert names(out) == {"joy/1.png", "fear/2.png"}


def test_a_dead_link_is_named(mine, out):
    fill(mine, "joy/1.png")
    (mine / "joy/2.png").symlink_to("nowhere.png")
    assert f"{mine}/joy/2.png: links to nothing" in refused(mine, out)


def test_a_relative_path_counts_from_where_one_stands(repository, out):
    fill(repository.parent / "pictures", "joy/1.png")
    provenance = fetch("../pictures", out, seed=0)
    assert names(out) == {"joy/1.png"}
    assert provenance["folder"] == "../pictures"


def test_a_home_may_be_written_as_a_tilde(mine, out, monkeypatch):
    monkeypatch.setenv("HOME", str(fill(mine, "pictures/joy/1.png")))
    fetch("~/pictures", out, seed=0)
    assert names(out) == {"joy/1.png"}


def test_a_missing_folder_is_told_with_its_path(out):
    assert refused("../nowhere", out).startswith("../nowhere: there is no such folder")


def test_a_folder_without_files_is_told_with_its_path(mine, out):
    fill(mine, ".DS_Store")
    (mine / "joy").mkdir()
    assert refused(mine, out).startswith(f"{mine}: holds no files")


def test_a_file_in_place_of_a_folder_is_told(mine, out):
    assert "is a file, not a folder" in refused(fill(mine, "1.zip") / "1.zip", out)


@pytest.mark.parametrize("source", [".", "data", "data/raw", "..", ""])
def test_a_folder_around_the_repositorys_own_data_is_refused(source, repository, out):
    fill(repository, "joy/1.png")
    assert "the repository's own" in refused(source, out)


def test_a_copy_larger_than_the_free_disk_is_refused(mine, out, monkeypatch):
    usage = shutil.disk_usage(out)._replace(free=3)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "free some" in refused(fill(mine, "joy/1.png"), out)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(mine, out):
    fill(mine, "joy/1.png")
    (mine / "joy/1.png").chmod(0)
    with pytest.raises(UserError, match=r"joy/1\.png: cannot be copied"):
        fetch(str(mine), out, seed=0)


def test_a_folder_that_cannot_be_read_is_named(mine, out, monkeypatch):
    fill(mine, "joy/1.png")
    listing = Path.iterdir

    def locked(path: Path):
        if path.name == "joy":
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", locked)
    assert f"{mine}/joy: cannot be copied: Permission denied" in refused(mine, out)


STAGE = """
import sys
from pathlib import Path
from src.sources.folder import fetch
out = Path("out")
out.mkdir()
print(fetch("../pictures", out, seed=0)["files"], file=open(sys.argv[1], "a"))
"""


@pytest.mark.parametrize("how", [["repro"], ["exp", "run", "--temp"]])
def test_a_relative_path_means_the_same_in_a_temporary_experiment(
    how, repository, tmp_path, monkeypatch
):
    fill(tmp_path / "pictures", "joy/1.png", "fear/2.png")
    (repository / "stage.py").write_text(STAGE)
    seen = tmp_path / "seen"
    (repository / "dvc.yaml").write_text(
        f"stages:\n  fetch:\n    cmd: '{sys.executable} stage.py {seen}'\n    outs: [out]\n"
    )
    here = str(Path(__file__).parents[2])
    author = {f"GIT_{w}_{k}": "a@b" for w in ("AUTHOR", "COMMITTER") for k in ("NAME", "EMAIL")}
    for name, value in (author | {"PYTHONPATH": here, "DVC_NO_ANALYTICS": "1"}).items():
        monkeypatch.setenv(name, value)
    dvc = [sys.executable, "-m", "dvc"]
    for command in (
        ["git", "init", "-q"],
        [*dvc, "init", "-q"],
        ["git", "add", "-A"],
        ["git", "commit", "-q", "-m", "x"],
        [*dvc, *how],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert seen.read_text() == "2\n"
