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
from src.metrics.intervals import Statistic, interval, paired_gain, same_examples
from src.metrics.labels import (
    INVALID,
    accuracy,
    brier,
    encode,
    expected_calibration_error,
    macro_f1,
    majority,
    per_class,
    reliability,
)
from src.schema import Evaluate

# Half-precision probabilities add up to 1 no better than this.
_SUM_TOLERANCE = 0.01


def summarise(
    frame: pd.DataFrame, labels: Sequence[str], evaluate: Evaluate, seed: int
) -> dict[str, Any]:
    """All numbers of one model, in 0 to 1 but for the count `n`, rounded to 6 decimals.

    Raises:
        UserError: no examples, a name that is none of the labels, or broken probabilities.
    """
    truth, predicted = encode(frame["label"], labels), encode(frame["predicted"], labels)
    generated = encode(frame["generated_label"], labels)
    probabilities = _probabilities(frame, len(labels))
    resampling = _resampling(evaluate, seed)
    metrics = _headline(frame, labels)
    numbers = {
        "n": len(frame),
        **{name: float(statistic(*columns)) for name, (statistic, columns) in metrics.items()},
        "invalid_rate": float(np.mean(generated == INVALID)),
        "ece": expected_calibration_error(
            frame["probability"].to_numpy(dtype=float),
            truth == predicted,
            evaluate.calibration_bins,
        ),
        "brier": brier(truth, probabilities),
        "chance": 1 / len(labels),
        "majority": majority(truth),
        "interval": {
            name: dict(
                zip(("low", "high"), interval(statistic, *columns, **resampling), strict=True)
            )
            for name, (statistic, columns) in metrics.items()
        },
    }
    return _rounded(numbers)


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
    tuned = same_examples(base, tuned)
    changed = base["id"][base["label"].to_numpy() != tuned["label"].to_numpy()]
    if len(changed):
        raise UserError(
            f"{changed.iloc[0]!r} has one label in the base predictions and another in the tuned "
            "ones; evaluate both on the same split"
        )
    before, after = _headline(base, labels), _headline(tuned, labels)
    resampling = _resampling(evaluate, seed)
    return _rounded(
        {
            name: paired_gain(statistic, columns, after[name][1], **resampling)
            for name, (statistic, columns) in before.items()
        }
    )


def plots(
    base: pd.DataFrame, tuned: pd.DataFrame, labels: Sequence[str], evaluate: Evaluate
) -> dict[str, pd.DataFrame]:
    """The tables behind the plots, by name; `confusion` is of the tuned model."""
    bins, classes = [], []
    for model, frame in (("base", base), ("tuned", tuned)):
        truth, predicted = encode(frame["label"], labels), encode(frame["predicted"], labels)
        confidence = frame["probability"].to_numpy(dtype=float)
        table = reliability(confidence, truth == predicted, evaluate.calibration_bins)
        bins.append(table.assign(model=model, bin=(table["low"] + table["high"]) / 2))
        classes.append(per_class(truth, predicted, labels).assign(model=model))
    tables = {
        "confusion": tuned[["label", "predicted"]].set_axis(["actual", "predicted"], axis=1),
        "reliability": pd.concat(bins)[["model", "bin", "confidence", "accuracy", "count"]],
        "classes": pd.concat(classes)[["model", "label", "precision", "recall", "f1", "support"]],
    }
    return {name: table.round(6) for name, table in tables.items()}


def _headline(
    frame: pd.DataFrame, labels: Sequence[str]
) -> dict[str, tuple[Statistic, tuple[np.ndarray, ...]]]:
    """The metrics that carry an interval and a gain: what computes each, and from which columns."""
    truth, predicted = encode(frame["label"], labels), encode(frame["predicted"], labels)
    generated = encode(frame["generated_label"], labels)
    return {
        "accuracy": (accuracy, (truth, predicted)),
        "macro_f1": (partial(macro_f1, classes=len(labels)), (truth, predicted)),
        "generated_accuracy": (accuracy, (truth, generated)),
    }


def _probabilities(frame: pd.DataFrame, classes: int) -> np.ndarray:
    """(n, classes), checked: a model that overflowed must not pass for an uncertain one."""
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


def _resampling(evaluate: Evaluate, seed: int) -> dict[str, Any]:
    return {"resamples": evaluate.bootstrap, "confidence": evaluate.confidence, "seed": seed}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, 6) if isinstance(value, float) else value
