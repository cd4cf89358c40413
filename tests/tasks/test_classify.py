import numpy as np
import pytest

from src.records import Generated
from src.schema import Prompt
from src.tasks.classify import Task
from tests.conftest import LABELS


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Joy", "Joy"),
        ("joy", "Joy"),
        (" Joy.\n", "Joy"),
        ('"SADNESS"', "Sadness"),
        ("Joyful", None),
        ("The emotion is Joy", None),
        ("Joy, Fear", None),
        ("", None),
        ("JoyJoy", None),
    ],
)
def test_an_answer_is_one_class_and_nothing_else(task, text, label):
    assert task.parse(text) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        *((label, label) for label in ("-1", "1", "A", "A+", "A-", "C", "c++", "+", "-", "B!")),
        (" C++\n", "c++"),
        ("a+", "A+"),
        ("cafe\u0301", "caf\u00e9"),
        ("B.", "B!"),
        ("A.", None),
        ("!", None),
        ("", None),
    ],
)
def test_classes_may_differ_by_their_punctuation_alone(text, label):
    labels = ["-1", "1", "A", "A+", "A-", "C", "c++", "+", "-", "B!", "caf\u00e9", "?!"]
    prompt = Prompt(system=None, question="Which? {labels}", pool=None)
    assert Task(prompt, labels).parse(text) == label


def test_the_question_names_every_class(task):
    assert all(label in task.question({}) for label in LABELS)


def test_predictions_follow_the_scores_and_add_up_to_one(task):
    records = [{"id": "a", "label": "Joy"}, {"id": "b", "label": "Fear"}]
    scores = np.log([[0.1, 0.1, 0.1, 0.5, 0.1, 0.1], [0.3, 0.2, 0.2, 0.1, 0.1, 0.1]]) - 700
    said = Generated(["joy", "none of them"], *np.ones((3, 2)))
    frame = task.predictions(records, said, scores)
    assert frame["predicted"].tolist() == ["Joy", "Natural"]
    assert frame["generated_label"][0] == "Joy"
    assert frame["generated_label"].isna().tolist() == [False, True]
    assert frame["probability"].tolist() == pytest.approx([0.5, 0.3])
    assert [sum(row) for row in frame["probabilities"]] == pytest.approx([1, 1])
