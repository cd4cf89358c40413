import os
import re
import shutil
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from src.files import read_json
from src.publishing import bundle
from tests.conftest import ROOT
from tests.publishing import workspace
from tests.publishing.workspace import edit
from tools import publish

NAME = "emotion_qwen2vl"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return workspace.make(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "here"))
    return tmp_path / "here"


def run(*arguments):
    app = typer.Typer()
    app.command()(publish.main)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def files(folder):
    left_out = {".dvc", ".dvcignore"}  # DVC keeps notes of what it has hashed
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(str(p) for p in found if p.parts[0] not in left_out)


def one_line(result):
    assert result.exit_code == 1 or isinstance(result.exception, SystemExit)
    said = str(result.exception.code)
    assert "\n" not in said
    assert said.startswith("error: ")
    return said


def test_without_yes_it_says_what_it_would_send_and_writes_nothing(here):
    before = files(here)
    result = run(NAME, "--to", "folder", "--output", here / "out")
    assert result.exit_code == 0, result.output
    assert f"{NAME} (tiny) to folder {here / 'out'}" in result.output
    size = (here / f"models/adapters/{NAME}/adapter_model.safetensors").stat().st_size
    assert re.search(rf"^ +{size:,}  adapter_model.safetensors$", result.output, re.M)
    assert re.search(r"^ +[\d,]+  bytes in \d+ files$", result.output, re.M)
    assert "dry run: nothing was sent" in result.output
    assert files(here) == before


def test_with_yes_the_folder_is_there_for_everybody_to_read_and_nothing_beside_it(here):
    before = files(here)
    result = run(NAME, "--to", "folder", "--output", here / "out", "--yes")
    assert result.exit_code == 0, result.output
    new = set(files(here)) - set(before)
    assert new
    assert all(name.startswith("out/") for name in new)
    assert (here / "out").stat().st_mode & 0o055 == 0o055
    assert (here / "out/adapter_model.safetensors").stat().st_mode & 0o044 == 0o044
    assert str(here) not in (here / "out/README.md").read_text()
    assert run(NAME, "--to", "folder", "--output", here / "out", "--yes").exit_code == 0


def test_a_merged_model_is_not_merged_for_a_dry_run(here):
    asked = (NAME, "--to", "hub", "--repo", "someone/model", "--merged")
    result = run(*asked)
    assert result.exit_code == 0, result.output
    assert "to hub someone/model, private" in result.output
    assert "400,000  model.safetensors (about, not merged yet)" in result.output
    assert "someone/model, public" in run(*asked, "--public").output


def test_a_folder_that_holds_something_else_is_left_alone(here):
    (here / "pictures").mkdir()
    (here / "pictures/1.png").write_bytes(b"mine")
    said = one_line(run(NAME, "--to", "folder", "--output", here / "pictures", "--yes"))
    assert "pictures: holds 1.png, which this command is not known to have written" in said
    assert (here / "pictures/1.png").read_bytes() == b"mine"
    written = (NAME, "--to", "folder", "--output", here / "out", "--yes")
    assert run(*written).exit_code == 0
    (here / "out/LICENSE").write_text("mine")
    assert "out: holds LICENSE, which" in one_line(run(*written))
    assert (here / "out/LICENSE").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_merged(here, monkeypatch):
    monkeypatch.setattr(bundle, "staged", lambda *_: pytest.fail("it was merged"))
    (here / "file").write_text("mine")
    output = here / "file/deep/out"
    said = one_line(run(NAME, "--to", "folder", "--output", output, "--merged", "--yes"))
    assert said == f"error: --output {output}: cannot be written: Not a directory"


def test_what_changed_since_the_training_stops_it_but_for_force(here):
    edit(here, NAME, precision={"tiny": "bf16", "full": "bf16"})
    asked = (NAME, "--to", "folder", "--output", here / "out", "--yes")
    said = one_line(run(*asked))
    assert f"before recipes.{NAME}.precision changed: run `dvc repro evaluate@{NAME}`" in said
    assert not (here / "out").exists()
    assert run(*asked, "--force").exit_code == 0
    assert f"recipes.{NAME}.precision" in (here / "out/README.md").read_text()
    changed = read_json(here / "out/parameters.json")["changed_since"]
    assert changed == [f"recipes.{NAME}.precision"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--to", "hub"), "--to hub goes with --repo owner/name"),
        (("--to", "hub", "--repo", "model"), "--repo model: must be owner/name"),
        (("--to", "hub", "--repo", "a/b c"), "--repo a/b c: "),
        (("--to", "folder", "--repo", "a/b"), "--to folder goes with --output FOLDER"),
        (("--to", "kaggle", "--repo", "someone/model"), "Kaggle wants a licence"),
        (("--to", "hub", "--repo", "someone/model"), "was made here and is nowhere else"),
    ],
)
def test_what_does_not_go_together_is_one_line(here, arguments, says):
    assert says in one_line(run(NAME, *arguments, "--yes"))


def test_an_unknown_recipe_and_one_that_is_not_trained_are_one_line(here):
    asked = ("--to", "folder", "--output", here / "out")
    assert "recipes.nothing: not there" in one_line(run("nothing", *asked))
    said = one_line(run("vqa_blip2", *asked))
    assert "models/adapters/vqa_blip2/adapter_model.safetensors: not there" in said


@pytest.mark.slow
def test_an_error_in_a_terminal_is_one_line_without_a_traceback(here):
    done = subprocess.run(
        [sys.executable, "-m", "tools.publish", NAME, "--to", "hub", "--repo", "someone/model"],
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {NAME}: its base qwen2_vl was made")
