import numpy as np
import pytest

from src import tasks
from src.errors import UserError
from src.records import Generated
from src.schema import Prompt


@pytest.fixture
def recipe(params):
    return params.recipes["vqa_blip2"]


def test_each_record_asks_its_own_question_and_the_first_reference_is_learnt(recipe):
    asked = Prompt(system=None, question="In one word: {question}")
    task = tasks.load(recipe.model_copy(update={"prompt": asked}), None)
    record = {"id": "a", "question": "What color is it?", "answers": ["red", "crimson"]}
    assert task.question(record) == "In one word: What color is it?"
    assert task.answer(record) == "red"


def test_predictions_hold_references_and_probabilities(recipe):
    task = tasks.load(recipe, None)
    records = [
        {"id": "a", "question": "What?", "answers": ["red", "crimson"]},
        {"id": "b", "question": "Which?", "answers": []},
    ]
    said = Generated(["red", "two"], np.log([0.5, 0.25]), np.array([2, 2]), np.array([True] * 2))
    frame = task.predictions(records, said, None)
    assert frame["answer"].tolist()[0] == "red"
    assert [list(r) for r in frame["answers"]] == [["red", "crimson"], []]
    assert frame["probability"].tolist() == pytest.approx([0.5, 0.25])
    assert frame["generated"].tolist() == ["red", "two"]


@pytest.mark.parametrize(
    ("name", "question", "says"),
    [
        ("vqa_blip2", "One of {labels}?", "does not fill {labels}, but {question}"),
        ("emotion_llava", "{question}", "does not fill {question}, but {labels}"),
    ],
)
def test_a_placeholder_that_the_task_does_not_fill_is_refused(params, name, question, says):
    recipe = params.recipes[name]
    prompt = recipe.prompt.model_copy(update={"question": question})
    with pytest.raises(UserError) as fault:
        tasks.load(recipe.model_copy(update={"prompt": prompt}), ["a", "b"])
    assert f"recipes.{name}.prompt.question" in str(fault.value)
    assert says in str(fault.value)
