"""Answers compared as the official scorer of VQA does.

Its source is `VQAEval` of https://github.com/GT-Vision-Lab/VQA, for Antol et al. (2015), VQA:
Visual Question Answering, and Goyal et al. (2017), Making the V in VQA Matter.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

PEOPLE = 10  # who answer each question of VQA v2

_ARTICLES = ("a", "an", "the")
_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five"),
    *("six", "seven", "eight", "nine", "ten"),
)
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}

# Apostrophes, colons and other marks are kept, as there.
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_GROUPED_DIGITS = re.compile(r"\d,\d")
# The period of 1.5 and of .5 stays.
_PERIOD = re.compile(r"\.(?!\d)")

_FULL_FORMS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're
    you've
"""
# A form that lacks one of its apostrophes gets it back. `somebody'd` goes the other way there, and
# so do answers that were scored with it.
_CONTRACTIONS = {
    form[: mark.start()] + form[mark.end() :]: form
    for form in _FULL_FORMS.split()
    for mark in re.finditer("'", form)
} | {"somebody'd": "somebodyd"}


@lru_cache(maxsize=65536)
def normalise(text: str) -> str:
    """An answer in lower case, without articles and punctuation, number words as digits.

    A mark that stands at a word's edge anywhere in the text, or any mark where a comma groups
    digits, is dropped; any other becomes a space. The same answers come out as of the official
    scorer's `processPunctuation` and `processDigitArticle`, but that theirs stops at 32 periods.
    """
    text = re.sub(r"[\n\t]", " ", text).strip()
    grouped = _GROUPED_DIGITS.search(text) is not None
    bare = text
    for mark in _MARKS:
        dropped = grouped or f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if dropped else " ")
    words = [_DIGITS.get(word, word) for word in _PERIOD.sub("", bare).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def exact_match(predicted: str, references: Sequence[str]) -> float:
    """1 where the answer is any of the references, both normalised, else 0; 0 without any."""
    answer = normalise(predicted)
    return float(any(normalise(reference) == answer for reference in references))


def soft_accuracy(predicted: str, references: Sequence[str]) -> float:
    """Accuracy of VQA v2 in 0 to 1: three people who said the same make an answer right.

    It is the mean of min(people who agree / 3, 1) over each choice of all people but one. Of
    PEOPLE, whose answers are the references, 0 to 4 who agree make 0, 0.3, 0.6, 0.9 and 1.
    References are normalised as answers are. With fewer than four, no answer reaches 1.

    Raises:
        ValueError: fewer than two references.
    """
    if len(references) < 2:
        raise ValueError("the accuracy of VQA v2 is of an answer that several people gave")
    answer = normalise(predicted)
    agrees = np.array([normalise(reference) == answer for reference in references], dtype=int)
    return float(np.minimum((agrees.sum() - agrees) / 3, 1).mean())
