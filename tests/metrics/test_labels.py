import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from src.errors import UserError
from src.metrics.labels import (
    INVALID,
    accuracy,
    area_under_risk_coverage,
    brier,
    confusion,
    encode,
    expected_calibration_error,
    macro_f1,
    majority,
    per_class,
    reliability,
    risk_coverage,
    thinned,
)

LABELS = ["cat", "dog", "cow"]
K = len(LABELS)


def pairs(least: int = 1) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """True and predicted classes of the same examples, invalid predictions among them."""
    pair = st.tuples(st.integers(0, K - 1), st.integers(INVALID, K - 1))
    return st.lists(pair, min_size=least, max_size=40).map(lambda rows: tuple(np.array(rows).T))


# By hand: cat 2 of 3 found and 2 of 3 claims right, dog 1 of 2 found and 1 of 2 claims right.
TRUTH = np.array([0, 0, 0, 1, 1])
PREDICTED = np.array([0, 0, 1, 1, 0])


def test_by_hand() -> None:
    assert accuracy(TRUTH, PREDICTED) == 3 / 5
    assert macro_f1(TRUTH, PREDICTED, K) == pytest.approx((2 / 3 + 1 / 2) / 2)
    table = per_class(TRUTH, PREDICTED, LABELS).set_index("label")
    assert table.loc["cat"].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 3])
    assert table.loc["dog"].tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 2, 2])
    assert majority(TRUTH) == 3 / 5


def test_a_class_absent_from_the_split_does_not_enter_the_mean() -> None:
    # Were cow counted as a class of F1 0, a perfect model would have 2/3.
    assert macro_f1(TRUTH, TRUTH, K) == 1
    assert per_class(TRUTH, TRUTH, LABELS).set_index("label").loc["cow"].tolist() == [0, 0, 0, 0]


def test_claiming_an_absent_class_is_wrong_and_changes_no_number_of_classes() -> None:
    # Of three cats one is called a cow: recall 2/3, precision 1. scikit-learn's own default would
    # average over cow as well, and so over other classes for one model than for another.
    predicted = np.array([0, 0, 2, 1, 1])
    assert macro_f1(TRUTH, predicted, K) == pytest.approx((4 / 5 + 1) / 2)


def test_an_invalid_prediction_is_wrong_and_no_class_claims_it() -> None:
    predicted = np.array([0, 0, INVALID, 1, INVALID])
    assert accuracy(TRUTH, predicted) == 3 / 5
    table = per_class(TRUTH, predicted, LABELS).set_index("label")
    assert table["precision"].tolist() == [1, 1, 0]
    assert table["recall"].tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert confusion(TRUTH, predicted, K).tolist() == [[2, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]]


def test_nothing_but_invalid_predictions_is_zero_without_a_warning() -> None:
    nothing = np.full(5, INVALID)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert accuracy(TRUTH, nothing) == 0
        assert macro_f1(TRUTH, nothing, K) == 0
        assert not per_class(TRUTH, nothing, LABELS)[["precision", "recall", "f1"]].any(axis=None)


@given(pairs())
def test_equal_to_scikit_learn(columns: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = columns
    assert accuracy(truth, predicted) == accuracy_score(truth, predicted)
    assert macro_f1(truth, predicted, K) == pytest.approx(
        f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
    )
    if (predicted != INVALID).all():
        expected = confusion_matrix(truth, predicted, labels=range(K))
        assert (confusion(truth, predicted, K)[:, :K] == expected).all()


@given(pairs(), st.integers(1, 5))
def test_many_resamples_at_once_are_each_alone(
    columns: tuple[np.ndarray, np.ndarray], resamples: int
) -> None:
    truth, predicted = columns
    drawn = np.random.default_rng(0).integers(0, len(truth), (resamples, len(truth)))
    together = macro_f1(truth[drawn], predicted[drawn], K)
    alone = [macro_f1(truth[rows], predicted[rows], K) for rows in drawn]
    assert together.tolist() == alone


@given(pairs(), st.permutations(range(K)))
def test_the_order_of_classes_and_examples_does_not_matter(
    columns: tuple[np.ndarray, np.ndarray], order: list[int]
) -> None:
    truth, predicted = columns
    renamed = np.array([*order, INVALID])
    assert macro_f1(renamed[truth][::-1], renamed[predicted][::-1], K) == pytest.approx(
        macro_f1(truth, predicted, K)
    )


def test_brier_in_its_published_example() -> None:
    # Brier (1950), table 1: ten forecasts of rain; two classes; the score is 0.19 by his sum.
    rain = np.array([0.7, 0.9, 0.8, 0.4, 0.2, 0, 0, 0, 0, 0.1])
    happened = np.array([0, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    assert brier(happened, np.stack([1 - rain, rain], axis=1)) == pytest.approx(0.19 / 2)


def test_brier_by_hand() -> None:
    assert brier(np.array([0]), np.array([[0.5, 0.3, 0.2]])) == pytest.approx(
        (0.5**2 + 0.3**2 + 0.2**2) / 2
    )
    sure = np.eye(K)[[0, 1, 2]]
    assert brier(np.array([0, 1, 2]), sure) == 0
    assert brier(np.array([1, 2, 0]), sure) == 1


def test_calibration_by_hand() -> None:
    # Bins of a half: (0, .5] holds .4 and .5 with one right, (.5, 1] holds .9 and 1 with two right.
    confidence, right = np.array([0.4, 0.5, 0.9, 1.0]), np.array([True, False, True, True])
    table = reliability(confidence, right, 2)
    assert table["count"].tolist() == [2, 2]
    assert table["confidence"].tolist() == pytest.approx([0.45, 0.95])
    assert table["accuracy"].tolist() == [0.5, 1.0]
    expected = (2 * abs(0.45 - 0.5) + 2 * abs(0.95 - 1)) / 4
    assert expected_calibration_error(confidence, right, 2) == pytest.approx(expected)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    edges = np.linspace(0, 1, 11)
    assert reliability(edges, np.ones(11), 10)["count"].tolist() == [2] + [1] * 9


def test_an_empty_bin_has_no_means_and_costs_nothing() -> None:
    table = reliability(np.array([0.95]), np.array([True]), 10)
    assert table["count"].tolist() == [0] * 9 + [1]
    assert table["accuracy"].isna().sum() == 9
    assert expected_calibration_error(np.array([0.95]), np.array([True]), 10) == pytest.approx(0.05)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50), st.integers(2, 20)
)
def test_calibration_error_is_a_share(rows: list[tuple[float, bool]], bins: int) -> None:
    confidence, right = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    error = expected_calibration_error(confidence, right, bins)
    # With one bin it is the gap of the means, and finer bins never make it smaller.
    assert abs(confidence.mean() - right.mean()) - 1e-9 <= error <= 1
    assert reliability(confidence, right, bins)["count"].sum() == len(rows)


def test_confidence_that_comes_true_is_calibrated() -> None:
    generator = np.random.default_rng(3)
    confidence = generator.uniform(0, 1, 100_000)
    assert expected_calibration_error(confidence, generator.random(100_000) < confidence, 10) < 0.01


def test_names_become_classes() -> None:
    assert encode(["dog", None, "cat", float("nan")], LABELS).tolist() == [1, INVALID, 0, INVALID]


def test_a_name_that_is_no_label_is_refused() -> None:
    with pytest.raises(UserError, match="'horse' is none of the labels cat, dog, cow"):
        encode(["cat", "horse", None], LABELS)


def test_no_predictions_are_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        encode([], LABELS)


def answered(probability: list[float], correct: list[bool]) -> pd.DataFrame:
    ids = [f"{i:04}" for i in range(len(correct))]
    return pd.DataFrame({"id": ids, "probability": probability, "correct": correct})


def test_coverage_by_hand() -> None:
    # Surest first, and of equals the first by id: right, wrong, right, wrong.
    frame = answered([0.5, 0.25, 0.75, 0.5], [False, False, True, True])
    curve = risk_coverage(frame.iloc[::-1])
    assert curve["coverage"].tolist() == [0.25, 0.5, 0.75, 1]
    assert curve["accuracy"].tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert curve["threshold"].tolist() == [0.75, 0.5, 0.5, 0.25]
    assert area_under_risk_coverage(curve) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_confidence_that_tells_right_from_wrong_has_the_smaller_area() -> None:
    right = [True] * 50 + [False] * 50
    telling, misleading = np.linspace(1, 0, 100).tolist(), np.linspace(0, 1, 100).tolist()
    areas = [
        area_under_risk_coverage(risk_coverage(answered(p, right))) for p in (telling, misleading)
    ]
    assert areas[0] < 0.2 < 0.8 < areas[1]
    assert area_under_risk_coverage(risk_coverage(answered(telling, [True] * 100))) == 0


@pytest.mark.parametrize("n", [1, 2, 19, 40, 100, 105, 106, 3000])
def test_a_thinned_curve_ends_at_full_coverage_and_starts_at_a_twentieth(n: int) -> None:
    curve = risk_coverage(answered(np.linspace(1, 0, n).tolist(), [True] * n))
    kept = thinned(curve)
    assert len(kept) == min(100, n - max(1, n // 20) + 1)
    assert not kept.index.duplicated().any()
    assert kept["coverage"].iloc[0] == max(1, n // 20) / n
    assert kept["coverage"].iloc[-1] == 1
