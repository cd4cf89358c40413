"""What a stage has read against what DVC will record of it."""

import re

import pytest
from dvc.dependency import ParamsDependency
from dvc.repo import Repo

from src import config, recorded
from src.errors import UserError
from src.overrides import override
from src.sources import drawn
from stages import fetch
from tests.conftest import ROOT

STAGES = Repo(str(ROOT)).index.stages


@pytest.fixture
def before(tmp_path, monkeypatch) -> str:
    """The text of params.yaml, in a place with that and dvc.yaml alone."""
    for path in (config.PARAMS, recorded.STAGES):
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    monkeypatch.chdir(tmp_path)
    return config.text()


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_keys_are_those_that_dvc_records(stage):
    (dep,) = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
    assert recorded.keys(stage.name, config.parsed(config.text())) == dep.params


@pytest.mark.parametrize(
    ("changes", "stages", "named"),
    [
        ({"seed": 5}, ["fetch@fer", "train@emotion_llava", "report"], "seed"),
        ({"scale": "full"}, ["build@llava", "encode@emotion_llava"], "scale"),
        (
            {"recipes.emotion_llava.lora.r": 2},
            ["train@emotion_llava", "report"],
            "recipes.emotion_llava.lora.r",
        ),
        # A default, of which the recipe has none of its own.
        ({"train.tiny.batch_size": 3}, ["train@emotion_llava"], "train.tiny.batch_size"),
        ({"data.fer.frames": 2}, ["prepare@fer", "train@emotion_llava"], "data.fer.frames"),
        ({"recipes.emotion_llava.classifier": {"weight": 1}}, ["train@emotion_llava"], None),
    ],
)
def test_a_key_that_changed_while_its_stage_ran_is_named(before, changes, stages, named):
    override(config.PARAMS, changes)
    for stage in stages:
        with pytest.raises(UserError) as fault:
            recorded.check(before, stage)
        assert str(fault.value) == (
            f"params.yaml changed while this ran: {named or next(iter(changes))}; "
            "put it back and run again"
        )


@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ({}, "report"),
        ({"recipes.vqa_blip2.lora.r": 2, "explain.deleted": 0.3}, "train@emotion_llava"),
        ({"train.full.batch_size": 3, "data.fer.limit.full": 9}, "train@emotion_llava"),
        ({"recipes.emotion_llava.lora.r": 2}, "baseline@emotion_llava"),
        ({"seed": 5}, "encode@emotion_llava"),
        ({"ablations.video_frames.seeds": [1]}, "report"),
    ],
)
def test_what_dvc_does_not_record_of_a_stage_may_change(before, changes, stage):
    override(config.PARAMS, changes)
    recorded.check(before, stage)


def test_words_beside_the_values_may_change(before):
    config.PARAMS.write_text("# mine\n" + before)
    recorded.check(before, "report")


def test_a_key_that_went_is_named(before):
    head, llava, tail = before.partition("  emotion_llava:\n")
    config.PARAMS.write_text(head + llava + tail.replace("      system:\n", "", 1))
    with pytest.raises(UserError, match=r"while this ran: recipes\.emotion_llava\.prompt; put"):
        recorded.check(before, "report")


def test_a_stage_refuses_at_its_end_what_was_edited_under_it(before, monkeypatch):
    def slow(*given):
        override(config.PARAMS, {"data.fer.tiny.drawn.train": 9})
        return {"files": 0}

    monkeypatch.setattr(drawn, "fetch", slow)
    with pytest.raises(SystemExit) as stopped:
        fetch.main("fer")
    assert str(stopped.value) == (
        "error: params.yaml changed while this ran: data.fer.tiny.drawn.train; "
        "put it back and run again"
    )


@pytest.mark.parametrize("script", sorted((ROOT / "stages").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_every_stage_checks_what_it_has_read_under_its_own_name(script):
    text = script.read_text()
    assert text.index("before = config.text()") < text.index("config.load()")
    assert re.search(rf'recorded\.check[(,] ?before, f?"{script.stem}\b', text)
