import time
import tracemalloc
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from src.errors import UserError
from src.metrics.intervals import MEAN, interval, paired_gain, rounded, same_examples
from src.metrics.labels import accuracy, macro_f1

USUAL = {"resamples": 2000, "confidence": 0.95, "seed": 17}


def answers(n: int, classes: int, right: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True classes and predictions, so many of them right."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes, n)
    wrong = (truth + generator.integers(1, classes, n)) % classes
    return truth, np.where(generator.random(n) < right, truth, wrong)


def test_close_to_the_normal_interval_of_a_large_sample() -> None:
    truth, predicted = answers(4000, 6, 0.8, seed=0)
    share = accuracy(truth, predicted)
    half = norm.ppf(0.975) * np.sqrt(share * (1 - share) / 4000)
    found = interval(accuracy, truth, predicted, **USUAL)
    assert found == pytest.approx((share - half, share + half), abs=0.001)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for trial in range(300):
        truth, predicted = answers(200, 6, 0.7, seed=trial)
        low, high = interval(accuracy, truth, predicted, resamples=400, confidence=0.95, seed=trial)
        held += low <= 0.7 <= high
    assert 0.91 <= held / 300 <= 0.98


def test_a_higher_confidence_is_wider() -> None:
    columns = answers(300, 6, 0.7, seed=1)
    low, high = interval(accuracy, *columns, resamples=2000, confidence=0.8, seed=1)
    lower, higher = interval(accuracy, *columns, resamples=2000, confidence=0.99, seed=1)
    assert lower < low < high < higher


def test_the_same_seed_gives_the_same_interval() -> None:
    columns = answers(300, 6, 0.7, seed=2)
    macro = partial(macro_f1, classes=6)
    again = [interval(macro, *columns, resamples=200, confidence=0.95, seed=s) for s in (5, 5, 6)]
    assert again[0] == again[1] != again[2]


@pytest.mark.parametrize("right", [1.0, 0.0])
def test_all_right_or_all_wrong_is_as_sure_as_so_many_make_it(right: float) -> None:
    truth, predicted = answers(50, 6, right, seed=3)
    # Fewer than this share wrong would give none in 50 more often than once in 40.
    beyond = 1 - 0.025 ** (1 / 50)
    expected = (1 - beyond, 1) if right else (0, beyond)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for statistic in (accuracy, partial(macro_f1, classes=6)):
            assert interval(statistic, truth, predicted, **USUAL) == pytest.approx(expected)
            if not right:
                tenfold = interval(statistic, truth, predicted, greatest=10, **USUAL)
                assert tenfold == pytest.approx((0, 10 * beyond))
            gain = paired_gain(statistic, (truth, predicted), (truth, predicted), **USUAL)
            assert gain == {"value": 0, "low": 0, "high": 0}


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0)])
def test_a_gain_from_all_wrong_to_all_right_is_as_sure_as_so_many_make_it(before, after) -> None:
    base, tuned = np.full(12, float(before)), np.full(12, float(after))
    gain = paired_gain(MEAN, (base,), (tuned,), **USUAL)
    least, most = interval(MEAN, np.ones(12), **USUAL)
    assert gain["value"] == after - before
    expected = (least, most) if after else (-most, -least)
    assert (gain["low"], gain["high"]) == pytest.approx(expected)
    assert 0.7 < least < most == 1


def test_a_rounding_does_not_make_an_interval_of_no_width() -> None:
    perfect = np.array([10, 10 + 2e-15, 10 - 2e-15, 10.0])
    low, high = interval(MEAN, perfect, greatest=10, **USUAL)
    assert low == pytest.approx(10 * 0.025 ** (1 / 4))
    assert high == 10


@pytest.mark.parametrize(("n", "groups"), [(1, None), (4, np.zeros(4, int))])
def test_one_group_says_nothing_of_others(n: int, groups: np.ndarray | None) -> None:
    columns = np.ones(n, int), np.arange(n)
    assert interval(accuracy, *columns, groups=groups, **USUAL) == (0, 1)
    gain = paired_gain(accuracy, columns, columns, groups=groups, **USUAL)
    assert gain == {"value": 0, "low": -1, "high": 1}


def clustered(pictures: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of five to fifteen questions about each picture are right, half of all; the pictures.

    Those about one picture are right together more often than not.
    """
    generator = np.random.default_rng(seed)
    of = np.repeat(np.arange(pictures), generator.integers(5, 16, pictures))
    return (generator.random(len(of)) < generator.beta(2, 2, pictures)[of]).astype(float), of


def test_the_interval_holds_the_truth_though_questions_share_a_picture() -> None:
    held = np.zeros(2)
    for trial in range(150):
        right, of = clustered(80, trial)
        for i, groups in enumerate((of, None)):
            low, high = interval(
                MEAN, right, groups=groups, resamples=200, confidence=0.95, seed=trial
            )
            held[i] += low <= 0.5 <= high
    assert 0.9 <= held[0] / 150 <= 0.99
    assert held[1] / 150 < 0.8, "as if they were independent"


def test_groups_of_one_are_no_groups() -> None:
    columns = answers(100, 3, 0.6, seed=8)
    names = np.array([f"picture {i}" for i in range(100)])
    alone = interval(accuracy, *columns, **USUAL)
    assert interval(accuracy, *columns, groups=names, **USUAL) == alone


def test_a_gain_is_drawn_by_groups_too_and_in_any_order() -> None:
    right, of = clustered(60, 9)
    after = np.maximum(right, clustered(60, 10)[0][: len(right)].mean() > of / 60)
    options = USUAL | {"groups": of}
    wide = paired_gain(MEAN, (right,), (after,), **options)
    narrow = paired_gain(MEAN, (right,), (after,), **USUAL)
    assert wide["high"] - wide["low"] > 1.3 * (narrow["high"] - narrow["low"])
    shuffled = np.random.default_rng(1).permutation(len(of))
    options["groups"] = of[shuffled]
    again = paired_gain(MEAN, (right[shuffled],), (after[shuffled],), **options)
    assert (again["low"], again["high"]) == pytest.approx((wide["low"], wide["high"]), abs=0.02)


def test_none_is_an_error() -> None:
    with pytest.raises(UserError, match="no examples"):
        interval(accuracy, np.array([]), np.array([]), **USUAL)


def test_plain_floats_come_back() -> None:
    truth, predicted = answers(20, 3, 0.5, seed=4)
    low, high = interval(accuracy, truth, predicted, **USUAL)
    gain = paired_gain(accuracy, (truth, predicted), (truth, truth), **USUAL)
    assert {type(x) for x in (low, high, *gain.values())} == {float}


def test_macro_f1_of_ten_thousand_examples_is_quick_and_small() -> None:
    columns = answers(10_000, 6, 0.8, seed=5)
    started = time.perf_counter()
    interval(partial(macro_f1, classes=6), *columns, **USUAL)
    assert time.perf_counter() - started < 3
    tracemalloc.start()
    interval(partial(macro_f1, classes=6), *columns, **USUAL)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All resamples at once would be 160 MB for the indices alone.
    assert peak < 100e6


def test_a_gain_on_the_same_examples_is_known_better_than_of_two_samples() -> None:
    # Both models fail on the hard third; the tuned one also mends some of what the base gets wrong.
    generator = np.random.default_rng(6)
    truth = np.zeros(600, dtype=int)
    hard = generator.random(600) < 0.33
    base = np.where(hard | (generator.random(600) < 0.05), 1, 0)
    tuned = np.where(hard & (generator.random(600) < 0.8), 1, 0)
    gain = paired_gain(accuracy, (truth, base), (truth, tuned), **USUAL)
    assert gain["value"] == pytest.approx(accuracy(truth, tuned) - accuracy(truth, base))
    apart = [interval(accuracy, truth, model, **USUAL) for model in (base, tuned)]
    unpaired = np.hypot(*[high - low for low, high in apart])
    assert gain["high"] - gain["low"] < 0.75 * unpaired
    assert gain["low"] > 0


def test_the_gain_is_the_interval_of_the_differences() -> None:
    generator = np.random.default_rng(7)
    base, tuned = generator.normal(size=(2, 500))
    gain = paired_gain(MEAN, (base,), (tuned,), **USUAL)
    assert (gain["low"], gain["high"]) == pytest.approx(interval(MEAN, tuned - base, **USUAL))
    half = norm.ppf(0.975) * (tuned - base).std() / np.sqrt(500)
    assert gain["high"] - gain["value"] == pytest.approx(half, rel=0.1)


@given(st.integers(2, 60), st.integers(2, 6), st.floats(0, 1), st.integers(0, 1000))
def test_an_interval_is_in_order_and_in_range(
    n: int, classes: int, right: float, seed: int
) -> None:
    truth, predicted = answers(n, classes, right, seed)
    macro = partial(macro_f1, classes=classes)
    low, high = interval(macro, truth, predicted, resamples=100, confidence=0.9, seed=seed)
    assert 0 <= low <= high <= 1
    # The other way round it is the same loss.
    forth = paired_gain(
        macro, (truth, predicted), (truth, truth), resamples=100, confidence=0.9, seed=seed
    )
    back = paired_gain(
        macro, (truth, truth), (truth, predicted), resamples=100, confidence=0.9, seed=seed
    )
    assert (forth["low"], forth["high"]) == pytest.approx((-back["high"], -back["low"]))


def frame(*ids: str) -> pd.DataFrame:
    return pd.DataFrame({"id": list(ids), "label": [f"of {i}" for i in ids]})


def test_examples_are_matched_by_id() -> None:
    matched = same_examples(frame("a", "b", "c"), frame("c", "a", "b"))
    assert matched["id"].tolist() == ["a", "b", "c"]
    assert matched["label"].tolist() == ["of a", "of b", "of c"]


@pytest.mark.parametrize(
    ("base", "tuned", "says"),
    [
        (frame("a", "b"), frame("a"), "'b'"),
        (frame("a"), frame("a", "b"), "'b'"),
        (frame("a", "b"), frame("a", "c"), "2 stand in one of them only, 'b' first"),
        (frame("a", "a"), frame("a", "b"), "base predictions: 'a' stands there more than once"),
        (frame("a", "b"), frame("b", "b"), "tuned predictions: 'b' stands there more than once"),
    ],
)
def test_other_examples_are_refused(base: pd.DataFrame, tuned: pd.DataFrame, says: str) -> None:
    with pytest.raises(UserError, match=says):
        same_examples(base, tuned)


def test_floats_are_rounded_at_any_depth_and_nothing_else_is() -> None:
    found = rounded({"n": 3, "name": "x", "interval": {"accuracy": {"low": 1 / 3}}})
    assert found == {"n": 3, "name": "x", "interval": {"accuracy": {"low": 0.333333}}}
