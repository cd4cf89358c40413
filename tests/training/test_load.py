"""Data that do not fit a recipe's task are refused before a model is looked for."""

import pytest

from src.errors import UserError
from src.files import write_json
from src.records import SPLITS, Record, SplitWriter
from src.training.load import check_records
from src.training.run import run
from stages.baseline import predict_and_measure

ASKED, ANSWERED, LABELLED = {"question": "Which?"}, {"answers": ("red",)}, {"label": "a"}
KINDS = {
    "labelled pictures": LABELLED,
    "questions": ASKED | ANSWERED,
    "explanations": ASKED | ANSWERED | LABELLED,
    "captions": ANSWERED,
    "captions that name a label": ANSWERED | LABELLED,
}
OF_TASK = {
    "answer": "vqa_blip2",
    "classify": "emotion_llava",
    "describe": "video_qwen2vl",
    "entail_explain": "esnlive_qwen2vl",
}


@pytest.fixture
def recipe_on(params, tmp_path, monkeypatch):
    """The recipe of a task, on prepared data of a kind."""
    monkeypatch.chdir(tmp_path)

    def recipe(task, kind, last=None):
        found = params.recipes[OF_TASK[task]].model_copy(update={"data": "mine"})
        folder = tmp_path / "data/prepared/mine"
        folder.mkdir(parents=True)
        write_json(folder / "summary.json", {"labels": ["a", "b"] if "label" in kind else None})
        for split in SPLITS:
            with SplitWriter(folder / f"{split}.parquet") as writer:
                for name, row in (("0.png", kind), ("1.png", last or kind)):
                    writer.write(Record(name, (b"",), "g", 9, 7, 0.5, 0.25, 1.5, 1, **row))
        return found

    return recipe


@pytest.mark.parametrize(
    ("task", "kind", "lacks"),
    [
        ("answer", "labelled pictures", "the question of every record, and 0.png of the data mine"),
        ("answer", "captions", "the question of every record"),
        ("classify", "questions", "chooses among labels, and the data mine have none"),
        ("classify", "captions", "chooses among labels, and the data mine have none"),
        ("describe", "labelled pictures", "the answers of every record"),
        ("entail_explain", "labelled pictures", "the question of every record"),
        ("entail_explain", "questions", "chooses among labels"),
        ("entail_explain", "captions that name a label", "the question of every record"),
    ],
)
def test_data_without_what_a_task_needs_are_one_line(recipe_on, params, task, kind, lacks):
    recipe = recipe_on(task, KINDS[kind])
    name = OF_TASK[task]
    for stage in (
        lambda: run(recipe, params.data["fer"], params.evaluate, 1, lambda: None),
        lambda: predict_and_measure(params, recipe, ""),
    ):
        with pytest.raises(UserError) as fault:
            stage()
        assert str(fault.value).startswith(f"params.yaml: recipes.{name}.task: {task} ")
        assert lacks in str(fault.value)
        assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("answer", "questions"),
        ("answer", "explanations"),
        ("classify", "labelled pictures"),
        ("classify", "captions that name a label"),
        ("describe", "captions"),
        ("describe", "questions"),
        ("entail_explain", "explanations"),
    ],
)
def test_data_with_it_are_let_through(recipe_on, task, kind):
    check_records(recipe_on(task, KINDS[kind]))


def test_one_record_without_it_is_named(recipe_on):
    with pytest.raises(UserError, match=r"the answers of every record, and 1\.png of the data"):
        check_records(recipe_on("describe", ANSWERED, last=ASKED))
