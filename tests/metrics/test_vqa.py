import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.metrics.vqa import exact_match, normalise, soft_accuracy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Red Ball.", "red ball"),
        (" a\tcat\nand an apple ", "cat and apple"),
        ("two dogs", "2 dogs"),
        ("ten", "10"),
        ("None", "0"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("don't", "don't"),
        ("Whats that", "what's that"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("'ows'at", "'ow's'at"),
        ("yall'd've", "y'all'd've"),
        ("she's", "she's"),
        ("shes", "shes"),
        ("somebody'd", "somebodyd"),
        ("T.V.", "tv"),
        ("1.5 m", "1.5 m"),
        (".5", ".5"),
        ("3.", "3"),
        ("1,000", "1000"),
        ("1,000 dollars/day", "1000 dollarsday"),
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("on/off /auto", "onoff auto"),
        ("t-shirt", "t shirt"),
        ("t-shirt - red", "tshirt red"),
        ("is it?yes!", "is it yes"),
        ("10:30", "10:30"),
        ("50%", "50%"),
        ("the", ""),
        ("", ""),
    ],
)
def test_normalised_as_the_official_scorer_does(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text(max_size=20))
def test_case_and_space_around_an_answer_do_not_matter(text: str) -> None:
    assert normalise(f" \n{text}\t ") == normalise(text.strip(" \n\t"))
    if text.isascii():
        assert normalise(text.upper()) == normalise(text.lower())


def test_an_exact_match_is_with_any_reference() -> None:
    assert exact_match("A box.", ["the box"]) == 1
    assert exact_match("three", ["2", "3", "4"]) == 1
    assert exact_match("boxes", ["box"]) == 0
    assert exact_match("", ["box"]) == 0
    assert exact_match("box", []) == 0
    assert exact_match("box", np.array(["Box"], dtype=object)) == 1


@pytest.mark.parametrize(
    ("agree", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)]
)
def test_the_accuracy_of_vqa_v2_of_ten_people(agree: int, expected: float) -> None:
    references = ["Yes"] * agree + [f"no {i}" for i in range(10 - agree)]
    assert soft_accuracy("yes", references) == pytest.approx(expected)


@given(st.lists(st.sampled_from(["a cat", "cat", "dog", "two", "2"]), min_size=2, max_size=10))
def test_the_accuracy_leaves_each_person_out_in_turn(references: list[str]) -> None:
    accuracies = []
    for left_out in range(len(references)):
        others = references[:left_out] + references[left_out + 1 :]
        accuracies.append(min(sum(normalise(r) == "cat" for r in others) / 3, 1))
    assert soft_accuracy("the cat", references) == pytest.approx(sum(accuracies) / len(accuracies))


def test_one_reference_has_no_such_accuracy() -> None:
    with pytest.raises(ValueError, match="several people"):
        soft_accuracy("yes", ["yes"])
