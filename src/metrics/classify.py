"""The numbers of `metrics/<recipe>/base.json` and `tuned.json` for a task that names a class.

A frame of predictions has one row an example: `id`, `label`, `predicted` (the most probable label),
`probability` (of it), `probabilities` (of all labels, in order) and `generated_label` (the class
that the generated text names, or None).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from src.errors import UserError
from src.metrics import audit
from src.metrics.intervals import (
    Metric,
    Metrics,
    bounds,
    counts,
    paired_gains,
    rounded,
    same_examples,
    values,
)
from src.metrics.labels import (
    INVALID,
    accuracy,
    brier,
    encode,
    macro_f1,
    majority,
    per_class,
)
from src.schema import Evaluate

# Half-precision probabilities add up to 1 no better than this.
_SUM_TOLERANCE = 0.01


def ready(evaluate: Evaluate) -> None:
    """It measures with nothing but the predictions."""


def correct(frame: pd.DataFrame) -> np.ndarray:
    """Whether the most probable class is the true one (n,), as bool."""
    return frame["predicted"].to_numpy() == frame["label"].to_numpy()


def summarise(
    frame: pd.DataFrame, labels: Sequence[str], evaluate: Evaluate, seed: int
) -> dict[str, Any]:
    """All numbers of one model, rounded to 6 decimals; those of `audit.summary` are among them.

    All are in 0 to 1 but the count `n` and the bounds of a difference, which go from -1.

    Raises:
        UserError: no examples, a name that is none of the labels, or broken probabilities.
    """
    truth, generated = (encode(frame[name], labels) for name in ("label", "generated_label"))
    probabilities = shares(frame, len(labels))
    metrics = _headline(frame, labels)
    frame = frame.assign(correct=correct(frame))
    audited, audited_bounds = audit.summary(frame, "accuracy", evaluate, seed)
    numbers = {
        **counts(frame),
        **values(metrics),
        "invalid_rate": float(np.mean(generated == INVALID)),
        "brier": brier(truth, probabilities),
        **audited,
        "chance": 1 / len(labels),
        "majority": majority(truth),
        "interval": bounds(metrics, frame, evaluate, seed) | audited_bounds,
    }
    return rounded(numbers)


def gains(
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    labels: Sequence[str],
    evaluate: Evaluate,
    seed: int,
) -> dict[str, Any]:
    """`{metric: {value, low, high}}`: tuned minus base, with its paired interval, in -1 to 1.

    Raises:
        UserError: the two frames are not of the same examples with the same labels.
    """
    tuned = same_labels(base, tuned)
    before, after = _headline(base, labels), _headline(tuned, labels)
    return rounded(paired_gains(before, after, base, evaluate, seed))


def plots(
    base: pd.DataFrame, tuned: pd.DataFrame, labels: Sequence[str], evaluate: Evaluate
) -> dict[str, pd.DataFrame]:
    """The tables behind the plots, by name; `confusion` is of the tuned model.

    The `score` of a class is its F1.
    """
    base, tuned = (frame.assign(correct=correct(frame)) for frame in (base, tuned))
    classes = []
    for model, frame in (("base", base), ("tuned", tuned)):
        truth, predicted = (encode(frame[name], labels) for name in ("label", "predicted"))
        table = per_class(truth, predicted, labels)
        classes.append(table.assign(model=model, score=table["f1"]))
    columns = ["model", "label", "score", "precision", "recall", "f1", "support"]
    tables = {
        "confusion": tuned[["label", "predicted"]].set_axis(["actual", "predicted"], axis=1),
        "classes": pd.concat(classes)[columns],
        **audit.tables(base, tuned, evaluate),
    }
    return {name: table.round(6) for name, table in tables.items()}


def same_labels(base: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """`tuned` in the order of `base`.

    Raises:
        UserError: the two frames are not of the same examples with the same labels.
    """
    tuned = same_examples(base, tuned)
    labels = [frame["label"].astype(object).fillna("").to_numpy() for frame in (base, tuned)]
    changed = base["id"][labels[0] != labels[1]]
    if len(changed):
        raise UserError(
            f"{changed.iloc[0]!r} has one label in the base predictions and another in the tuned "
            "ones; evaluate both on the same split"
        )
    return tuned


def of_classes(frame: pd.DataFrame, labels: Sequence[str]) -> Metrics:
    """`accuracy` and `macro_f1` of the most probable class."""
    truth, predicted = (encode(frame[name], labels) for name in ("label", "predicted"))
    return {
        "accuracy": Metric(accuracy, (truth, predicted)),
        "macro_f1": Metric(partial(macro_f1, classes=len(labels)), (truth, predicted)),
    }


def shares(frame: pd.DataFrame, classes: int) -> np.ndarray:
    """Probabilities (n, classes): a model that overflowed must not pass for an uncertain one.

    Raises:
        UserError: a row of `probabilities` is no `classes` shares of 1.
    """
    for example, row in zip(frame["id"], frame["probabilities"], strict=True):
        row = np.asarray(row, dtype=float)
        # Written so that NaN, which compares false, is refused.
        whole = row.shape == (classes,) and abs(row.sum() - 1) <= _SUM_TOLERANCE
        if not (whole and row.min() >= 0):
            raise UserError(
                f"{example!r}: its label probabilities {row.tolist()} are not {classes} shares "
                "of 1; if they are nan, the model overflowed: use precision bf16 or fp32"
            )
    return np.stack(frame["probabilities"].to_list()).astype(float)


def _headline(frame: pd.DataFrame, labels: Sequence[str]) -> Metrics:
    """The metrics that carry an interval and a gain."""
    truth, generated = (encode(frame[name], labels) for name in ("label", "generated_label"))
    return {
        **of_classes(frame, labels),
        "generated_accuracy": Metric(accuracy, (truth, generated)),
    }
