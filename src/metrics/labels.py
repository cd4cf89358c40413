"""Metrics of predicted classes and of the confidence in them.

Classes are integers 0 … K-1 in the order of the data set's labels; INVALID stands for an answer
that names no class. It is wrong whatever the truth, and no class is ever credited with it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import brier_score_loss, precision_recall_fscore_support

from src.errors import UserError

INVALID = -1


def encode(names: Sequence[str | None] | pd.Series, labels: Sequence[str]) -> np.ndarray:
    """Class names as integers (n,); None is INVALID.

    Raises:
        UserError: no names at all, or a name that is none of the labels.
    """
    names = pd.Series(names, dtype=object)
    if names.empty:
        raise UserError("there are no predictions to score: the split is empty")
    found = names.map({label: i for i, label in enumerate(labels)})
    if len(unknown := names[found.isna() & names.notna()]):
        raise UserError(f"{unknown.iloc[0]!r} is none of the labels {', '.join(labels)}")
    return found.fillna(INVALID).to_numpy(np.int64)


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Share of right answers over the last axis: (..., n) classes to (...) in 0 to 1."""
    return np.mean(truth == predicted, axis=-1)


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (..., classes, classes + 1) of true class by predicted; the last column is INVALID."""
    cells = classes * (classes + 1)
    cell = truth * (classes + 1) + np.where(predicted == INVALID, classes, predicted)
    rows = cell.reshape(-1, cell.shape[-1])
    # One count over all resamples at once: each row's cells get a range of their own.
    rows = rows + cells * np.arange(len(rows))[:, None]
    counts = np.bincount(rows.ravel(), minlength=cells * len(rows))
    return counts.reshape(*cell.shape[:-1], classes, classes + 1)


def macro_f1(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Unweighted mean of the F1 of the classes that occur in `truth`, over the last axis.

    A class without a single true example has no recall to speak of. Leaving it out by the truth
    alone keeps the mean over the same classes for every model that is judged on a split.
    """
    counts = confusion(truth, predicted, classes)
    support = counts.sum(axis=-1)
    claimed = counts[..., :classes].sum(axis=-2)
    right = np.diagonal(counts[..., :classes], axis1=-2, axis2=-1)
    f1 = 2 * right / np.maximum(support + claimed, 1)
    present = support > 0
    return (f1 * present).sum(axis=-1) / present.sum(axis=-1)


def per_class(truth: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> pd.DataFrame:
    """One row a label: `label, precision, recall, f1, support`.

    A ratio without a denominator (class never predicted, or not in the split) is 0.
    """
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=range(len(labels)), average=None, zero_division=0
    )
    return pd.DataFrame(
        {"label": labels, "precision": precision, "recall": recall, "f1": f1, "support": support}
    )


def brier(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Half of Brier's score (1950): squared errors of (n, K) probabilities, summed over classes.

    Brier's own sum runs from 0 (sure and right) to 2 (sure and wrong); half of it, from 0 to 1.
    """
    classes = range(probabilities.shape[1])
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    return float(brier_score_loss(truth, probabilities, labels=classes, scale_by_half=True))


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int) -> pd.DataFrame:
    """One row a bin of equal width: `low, high, confidence, accuracy, count`.

    `confidence` (n,) is the probability of the predicted class, in 0 to 1, `right` (n,) whether it
    is the true one. Bins are open below and closed above, as in Guo et al. (2017); the means of an
    empty bin are missing.
    """
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], confidence, side="left")
    examples = pd.DataFrame({"confidence": confidence, "accuracy": np.asarray(right, dtype=float)})
    grouped = examples.groupby(bin_of)
    table = grouped.mean().reindex(range(bins))
    table["count"] = grouped.size().reindex(range(bins), fill_value=0)
    table.insert(0, "low", edges[:-1])
    table.insert(1, "high", edges[1:])
    return table


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Mean gap of confidence and accuracy over the bins of `reliability`, weighted by their counts.

    Guo et al. (2017), On Calibration of Modern Neural Networks, equation 3. In 0 to 1.
    """
    table = reliability(confidence, right, bins)
    gaps = (table["confidence"] - table["accuracy"]).abs() * table["count"]
    return float(gaps.sum() / table["count"].sum())


def risk_coverage(frame: pd.DataFrame) -> pd.DataFrame:
    """What accuracy is left if only the surest answers are given: one row an example, surest first.

    Row k, `coverage, accuracy, threshold`, is of answering the k examples of highest `probability`
    (where equal, in order of `id`): their share, their mean of `correct` and the least of their
    probabilities. El-Yaniv and Wiener (2010), On the Foundations of Noise-free Selective
    Classification; Geifman and El-Yaniv (2017), Selective Classification for Deep Neural Networks.
    """
    ordered = frame.sort_values(["probability", "id"], ascending=[False, True])
    answered = np.arange(1, len(ordered) + 1)
    return pd.DataFrame(
        {
            "coverage": answered / len(ordered),
            "accuracy": ordered["correct"].to_numpy(dtype=float).cumsum() / answered,
            "threshold": ordered["probability"].to_numpy(dtype=float),
        }
    )


def area_under_risk_coverage(curve: pd.DataFrame) -> float:
    """Mean share of wrong answers over the coverages of `risk_coverage`: AURC, 0 to 1, low is good.

    Geifman, Uziel and El-Yaniv (2019), Bias-Reduced Uncertainty Estimation for Deep Neural
    Classifiers.
    """
    return float(1 - curve["accuracy"].mean())


def thinned(curve: pd.DataFrame, points: int = 100) -> pd.DataFrame:
    """At most so many rows of `risk_coverage`, evenly spaced from a coverage of a twentieth to 1.

    Below it, an accuracy is of too few examples to be read.
    """
    first = max(1, len(curve) // 20)
    kept = np.linspace(first, len(curve), min(points, len(curve) - first + 1))
    return curve.iloc[kept.round().astype(int) - 1]


def majority(truth: np.ndarray) -> float:
    """Accuracy of always answering the class that is most frequent in `truth`."""
    return float(np.bincount(truth).max() / len(truth))
