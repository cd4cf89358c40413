import shutil
import threading
from pathlib import Path

import pytest

from src import tasks
from src.errors import UserError
from src.files import write_json
from src.records import SPLITS, Record, SplitWriter
from src.training.load import collator_of
from src.training.run import (
    checkpoint_folder,
    held,
    kept_evaluation,
    run,
    tell_cut_answers,
    write_curve,
)
from tests.conftest import LABELS, png


@pytest.fixture
def small(base, recipe, faces, tmp_path, monkeypatch):
    """A recipe of a few steps, in a place with all that its training reads."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/base").mkdir(parents=True)
    (tmp_path / "models/base" / recipe.base).symlink_to(base)
    prepared = tmp_path / "data/prepared" / recipe.data
    prepared.mkdir(parents=True)
    write_json(prepared / "summary.json", {"labels": LABELS})
    for split in SPLITS:
        with SplitWriter(prepared / f"{split}.parquet") as writer:
            for face in faces:
                media = (png(face["image"]),)
                known = (face["id"], 56, 56, 0.5, 0.25, 1.5, 1)
                writer.write(Record(face["id"], media, *known, label=face["label"]))
    write_json(tmp_path / "data/features" / recipe.name / "features.json", {})
    train = recipe.train.model_copy(update={"epochs": 2.0, "batch_size": 4, "evaluations": 2})
    return recipe.model_copy(update={"train": train})


def test_what_a_check_refuses_at_the_end_leaves_nothing_more_to_train(small, params, capsys):
    data = params.data[small.data]

    def go(check):
        run(small, data, params.evaluate, 1, check)
        return {p.name: p.read_bytes() for p in Path("models/adapters").glob("*/*")}, Path(
            f"metrics/{small.name}/loss.csv"
        ).read_bytes()

    def refuse():
        raise UserError("params.yaml changed")

    whole = go(lambda: None)
    assert "{'loss'" in capsys.readouterr().out
    assert not list(Path(".checkpoints").iterdir())
    for outputs in ("models/adapters", "metrics"):
        shutil.rmtree(outputs)  # as DVC does before it runs a stage
    with pytest.raises(UserError, match="changed"):
        go(refuse)
    shutil.rmtree("models/adapters")
    capsys.readouterr()
    assert go(lambda: None) == whole
    assert "{'loss'" not in capsys.readouterr().out
    assert not list(Path(".checkpoints").iterdir())


def test_checkpoints_of_other_weights_settings_or_seeds_are_not_gone_on_from(recipe):
    first = checkpoint_folder(recipe, 1, {"base": "one"})
    assert checkpoint_folder(recipe, 1, {"base": "one"}) == first
    other = recipe.model_copy(update={"family": "another"})
    assert checkpoint_folder(other, 1, {"base": "one"}) != first
    assert checkpoint_folder(recipe, 2, {"base": "one"}) != first
    assert checkpoint_folder(recipe, 1, {"base": "two"}) != first


def test_what_changes_no_loss_goes_on_from_the_same_checkpoints(recipe):
    first, answered = checkpoint_folder(recipe, 1, {}), {"answered_each_epoch": 9}
    for change in ({"gradient_checkpointing": True}, {"workers": 3}, {"processes": 2}, answered):
        train = recipe.train.model_copy(update=change)
        assert checkpoint_folder(recipe.model_copy(update={"train": train}), 1, {}) == first
    longer = recipe.generation.model_copy(update={"max_new_tokens": 99})
    assert checkpoint_folder(recipe.model_copy(update={"generation": longer}), 1, {}) == first
    assert checkpoint_folder(recipe.model_copy(update={"doubt": None}), 1, {}) == first
    train = recipe.train.model_copy(update={"batch_size": 1})
    assert checkpoint_folder(recipe.model_copy(update={"train": train}), 1, {}) != first


def test_checkpoints_lie_where_dvc_was_started(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert checkpoint_folder(recipe, 1, {}).is_relative_to(tmp_path / ".checkpoints")


def test_two_of_the_same_training_come_one_after_the_other(tmp_path, capsys):
    checkpoints, order, begun = tmp_path / ".checkpoints/mine-1", [], threading.Event()

    def first() -> None:
        with held(checkpoints):
            checkpoints.mkdir()
            begun.set()
            assert told.wait(10)
            order.append("first ends")
            checkpoints.rmdir()

    told = threading.Event()
    other = threading.Thread(target=first)
    other.start()
    assert begun.wait(10)
    threading.Timer(0.5, told.set).start()
    with held(checkpoints):
        order.append("second begins")
        assert not checkpoints.exists()
        with held(tmp_path / ".checkpoints/mine-2"):  # another training need not wait
            pass
    other.join()
    assert order == ["first ends", "second begins"]
    lock = f"{checkpoints}.lock"
    assert capsys.readouterr().err == (
        f"waits for another run of the same training: it holds {lock}\n"
    )
    assert not list(checkpoints.parent.iterdir())


def test_a_training_that_failed_keeps_its_checkpoints_and_holds_them_no_more(tmp_path, capsys):
    checkpoints = tmp_path / "mine-1"
    with pytest.raises(KeyboardInterrupt), held(checkpoints):
        checkpoints.mkdir()
        raise KeyboardInterrupt
    with held(checkpoints):
        assert checkpoints.exists()
    assert capsys.readouterr().err == ""


def test_a_curve_has_a_row_a_loss(tmp_path):
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "eval_loss": 1.5}, {"step": 2, "train_loss": 9.0}]
    write_curve(log, tmp_path / "loss.csv")
    expected = "step,split,loss\n1,train,2.0\n2,validation,1.5\n"
    assert (tmp_path / "loss.csv").read_text() == expected


@pytest.mark.parametrize(("select_by", "step"), [("loss", 8), ("accuracy", 4)])
def test_of_evaluations_that_are_equally_good_the_first_is_kept(select_by, step):
    rows = [(4, 0.5, 0.75), (8, 0.25, 0.5), (12, 0.25, 0.75)]
    log = [
        {"step": 2, "loss": 0.1},
        *({"step": s, "eval_loss": loss, "eval_accuracy": right} for s, loss, right in rows),
        {"step": 12, "answered_accuracy": 1.0},
        {"step": 12, "train_loss": 0.1},
    ]
    found = kept_evaluation(log, select_by)
    assert found["step"] == step
    assert (step, found["loss"], found["accuracy"]) in rows


def test_answers_that_could_not_be_written_whole_are_told(base, recipe, capsys):
    asks = recipe.prompt.model_copy(update={"question": "{question}"})
    recipe = recipe.model_copy(update={"task": "answer", "prompt": asks})
    short = recipe.generation.model_copy(update={"max_new_tokens": 4})
    recipe = recipe.model_copy(update={"generation": short})
    collator = collator_of(base, recipe, tasks.load(recipe, None), answers=True)
    records = [{"answers": ["on the left side of the wooden table"]}, {"answers": ["a"]}]
    longest = len(collator.answer_ids(records[0]["answers"][0]))
    tell_cut_answers(recipe, collator, records)
    assert capsys.readouterr().err == (
        "note: params.yaml: recipes.emotion_qwen2vl.generation.max_new_tokens: 4 cuts answers like "
        f"1 of the 2 that are learned; the longest has {longest} tokens\n"
    )
    tell_cut_answers(recipe, collator, records[1:])
    assert capsys.readouterr().err == ""


def test_names_of_classes_are_written_whole_and_nothing_is_told(base, recipe, capsys):
    short = recipe.generation.model_copy(update={"max_new_tokens": 1})
    recipe = recipe.model_copy(update={"generation": short})
    collator = collator_of(base, recipe, tasks.load(recipe, LABELS), answers=True)
    tell_cut_answers(recipe, collator, [{"label": label} for label in LABELS])
    assert capsys.readouterr().err == ""
