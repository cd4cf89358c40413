from pathlib import Path

import pytest

from src.readers.common import find, one_label, split_in

LABELS = ["left", "Right", "not left"]


@pytest.mark.parametrize(
    ("texts", "label"),
    [
        (["A ball moves LEFT."], "left"),
        (["right"], "Right"),
        (["It moves, not left"], "not left"),
        (["It leftovers", "to the right"], "Right"),
        (["to the right", "right it goes"], "Right"),
    ],
)
def test_the_label_is_the_one_that_stands_there_as_a_word(texts: list[str], label: str) -> None:
    assert one_label(texts, LABELS) == (label, "")


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["lefty and upright"], "none of the labels: lefty and upright"),
        (["left or right"], "several of the labels: Right, left"),
        (["to the left", "to the right"], "several of the labels: Right, left"),
    ],
)
def test_none_or_several_labels_are_told(texts: list[str], reason: str) -> None:
    assert one_label(texts, LABELS) == (None, reason)


def test_a_label_may_hold_what_has_a_meaning_in_patterns() -> None:
    assert one_label(["a C++ talk"], ["C++", "C"]) == ("C++", "")


def test_a_label_may_be_composed_or_not() -> None:
    assert one_label(["A CAFE\u0301."], ["caf\u00e9", "bar"]) == ("caf\u00e9", "")
    assert one_label(["a caf\u00e9"], ["cafe\u0301", "bar"]) == ("cafe\u0301", "")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("results_2M_train.csv", "train"),
        ("data/train/partitions/0000.csv", "train"),
        ("train/more-val.csv", "validation"),
        ("Test.csv", "test"),
        ("vqa-dev.csv", "validation"),
        ("train/train_test.csv", None),
        ("test/images.csv", "test"),
        ("devices.csv", None),
        ("trainees.csv", None),
        ("captions.train", None),
    ],
)
def test_a_split_is_a_word_of_the_path(name: str, split: str | None) -> None:
    assert split_in(Path(name)) == split


def test_a_text_where_a_name_is_expected_is_no_file(tmp_path: Path) -> None:
    text = "What is it? " * 30
    assert find(text, [tmp_path], tmp_path) == f"no such file: {text}"
