import difflib
import shutil

import pytest
from ruamel.yaml import YAML

from src.errors import UserError
from src.overrides import override
from tests.conftest import ROOT

RECIPE = "recipes.esnlive_qwen2vl"


@pytest.fixture
def path(tmp_path):
    return shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")


def test_an_override_changes_its_key_and_keeps_the_rest(path):
    before = YAML(typ="safe", pure=True).load(path)
    questions = ["Is {hypothesis}: true?", 'say "why" # now']
    override(path, {f"{RECIPE}.prompt.pool": questions, f"{RECIPE}.classifier": None, "seed": 7})
    after = YAML(typ="safe", pure=True).load(path)
    recipe = before["recipes"]["esnlive_qwen2vl"]
    recipe["prompt"]["pool"], recipe["classifier"], before["seed"] = questions, None, 7
    assert after == before


def test_no_line_changes_but_that_of_the_key(path):
    text = path.read_text()
    override(path, {"data.abo.full.abo.images.sha256": "f" * 64, "seed": 7})
    lines = list(difflib.ndiff(text.splitlines(), path.read_text().splitlines()))
    removed, added = ([line for line in lines if line[0] == sign] for sign in "-+")
    assert [len(removed), len(added)] == [2, 2]
    assert added[0].startswith("+ seed: 7   ") and "# of the drawings" in added[0]
    assert added[1] == removed[1].replace("- ", "+ ", 1).replace(
        "sha256: null", f"sha256: {'f' * 64}"
    )


def test_a_key_that_is_not_there_is_named_and_nothing_is_written(path):
    text = path.read_text()
    with pytest.raises(UserError, match=r"lora\.rank: not there"):
        override(path, {"seed": 7, f"{RECIPE}.lora.rank": 3})
    assert path.read_text() == text
