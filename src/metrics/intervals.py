"""Bootstrap confidence intervals over examples (Efron and Tibshirani 1993, chapters 13 and 16)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from src.errors import UserError
from src.schema import Evaluate

Statistic = Callable[..., np.ndarray]
# By the metric's name: what computes it, and from which columns, each (n,).
Metrics = Mapping[str, tuple[Statistic, tuple[np.ndarray, ...]]]

MEAN = partial(np.mean, axis=-1)

# Resampled values held in memory at once, per column.
_BATCH_VALUES = 1_000_000


def interval(
    statistic: Statistic, *columns: np.ndarray, resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Percentile interval of `statistic(*columns)`, examples drawn with replacement.

    Each column is (n,); row i of all columns is one example and is drawn as one. `statistic` must
    reduce the last axis of columns (resamples, n).
    """
    n = len(columns[0])
    if n == 0:
        raise UserError("there are no examples to take an interval over")
    if n == 1:
        only = float(statistic(*columns))
        return only, only
    result = bootstrap(
        columns,
        lambda *drawn, axis: statistic(*drawn),
        n_resamples=resamples,
        confidence_level=confidence,
        batch=max(1, _BATCH_VALUES // n),
        vectorized=True,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def paired_gain(
    statistic: Statistic,
    base: Sequence[np.ndarray],
    tuned: Sequence[np.ndarray],
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, float]:
    """`value, low, high` of `statistic(*tuned) - statistic(*base)` on the same examples.

    Each resample holds the same examples for both models, so what makes an example hard for both
    cancels (Koehn 2004). Row i of every column is the same example: see `same_examples`.
    """

    def difference(*columns: np.ndarray) -> np.ndarray:
        return statistic(*columns[len(base) :]) - statistic(*columns[: len(base)])

    columns = (*base, *tuned)
    low, high = interval(
        difference, *columns, resamples=resamples, confidence=confidence, seed=seed
    )
    return {"value": float(difference(*columns)), "low": low, "high": high}


def same_examples(base: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """`tuned` in the order of `base`, by the column `id`.

    Raises:
        UserError: an id that stands twice in one of them, or in one of them only.
    """
    for name, frame in (("base", base), ("tuned", tuned)):
        if (twice := frame["id"].duplicated()).any():
            example = frame["id"][twice].iloc[0]
            raise UserError(f"{name} predictions: {example!r} stands there more than once")
    if odd := sorted(set(base["id"]) ^ set(tuned["id"])):
        raise UserError(
            f"base and tuned predictions are not of the same examples: {len(odd)} stand in one of "
            f"them only, {odd[0]!r} first; evaluate both on the same split"
        )
    return tuned.set_index("id", drop=False).loc[base["id"]].reset_index(drop=True)


def resampling(evaluate: Evaluate, seed: int) -> dict[str, Any]:
    """The keywords of `interval` and `paired_gain`."""
    return {"resamples": evaluate.bootstrap, "confidence": evaluate.confidence, "seed": seed}


def values(metrics: Metrics) -> dict[str, float]:
    """`{metric: value}`."""
    return {name: float(statistic(*columns)) for name, (statistic, columns) in metrics.items()}


def bounds(metrics: Metrics, evaluate: Evaluate, seed: int) -> dict[str, dict[str, float]]:
    """`{metric: {low, high}}`, by `interval`."""
    found = {}
    for name, (statistic, columns) in metrics.items():
        low, high = interval(statistic, *columns, **resampling(evaluate, seed))
        found[name] = {"low": low, "high": high}
    return found


def paired_gains(
    before: Metrics, after: Metrics, evaluate: Evaluate, seed: int
) -> dict[str, dict[str, float]]:
    """`{metric: {value, low, high}}`, by `paired_gain`; both have the same metrics and examples."""
    return {
        name: paired_gain(statistic, columns, after[name][1], **resampling(evaluate, seed))
        for name, (statistic, columns) in before.items()
    }


def rounded(value: Any) -> Any:
    """Each float in nested dictionaries, to the 6 decimals that metrics files hold."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return round(value, 6) if isinstance(value, float) else value
