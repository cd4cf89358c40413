"""Bootstrap confidence intervals over examples (Efron and Tibshirani 1993, chapters 13 and 16)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest, bootstrap

from src.errors import UserError
from src.schema import Evaluate

Statistic = Callable[..., np.ndarray]
MEAN = partial(np.mean, axis=-1)

# Resampled values held in memory at once, per column.
_BATCH_VALUES = 1_000_000


class Metric(NamedTuple):
    """A number in 0 to `greatest`: what computes it, and from which columns, each (n,)."""

    statistic: Statistic
    columns: tuple[np.ndarray, ...]
    greatest: float = 1.0
    chosen: np.ndarray | None = None  # of all examples, those that the columns are of; None: all


Metrics = Mapping[str, Metric]


def percentiles(
    statistic: Statistic,
    *columns: np.ndarray,
    resamples: int,
    confidence: float,
    seed: int,
    groups: np.ndarray | None = None,
) -> tuple[float, float]:
    """Percentile interval of `statistic(*columns)`, groups drawn with replacement.

    Each column is (n,); row i of all columns is one example. Those of one group, such as questions
    about one picture, are right or wrong together, and so are drawn together (Davison and Hinkley
    1997, section 3.8): an interval that took them for independent would be too narrow. `statistic`
    must reduce the last axis of columns (..., n).

    Args:
        statistic: what to compute.
        columns: what from.
        resamples: how many to draw.
        confidence: share of such intervals that hold the true value.
        seed: of the draws.
        groups: (n,) the name of each example's group; None: each example is drawn by itself.
    """
    n = len(columns[0])
    if n == 0:
        raise UserError("there are no examples to take an interval over")
    codes, names = pd.factorize(np.arange(n) if groups is None else groups)
    count = len(names)
    if count == 1:
        only = float(statistic(*columns))
        return only, only

    def of_groups(drawn: np.ndarray) -> np.ndarray:
        rows = np.repeat(np.arange(n), np.bincount(drawn, minlength=count)[codes])
        return statistic(*(column[rows] for column in columns))

    alone = count == n
    result = bootstrap(
        columns if alone else (np.arange(count),),
        (lambda *drawn, axis: statistic(*drawn)) if alone else of_groups,
        n_resamples=resamples,
        confidence_level=confidence,
        batch=max(1, _BATCH_VALUES // n),
        vectorized=alone,
        paired=alone,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def interval(
    statistic: Statistic,
    *columns: np.ndarray,
    groups: np.ndarray | None = None,
    greatest: float = 1.0,
    **options: Any,
) -> tuple[float, float]:
    """`percentiles` of a number in 0 to `greatest`.

    Where all resamples are 0, or all are the greatest, what the sample lacks is in none of them:
    the bounds are then those of so many groups that are all wrong, or all right (Clopper and
    Pearson 1934). A single group says nothing of any other: its bounds are the whole range.
    """
    low, high = percentiles(statistic, *columns, groups=groups, **options)
    count = _drawn_apart(columns[0], groups)
    if count == 1:
        return min(low, 0.0), max(high, greatest)
    if np.isclose(low, high) and np.isclose(low, (0, greatest)).any():
        return _all_alike(count, not np.isclose(low, 0), options["confidence"], greatest)
    return low, high


def _drawn_apart(column: np.ndarray, groups: np.ndarray | None) -> int:
    """How many groups there are, or without them examples."""
    return len(column if groups is None else pd.unique(groups))


def _all_alike(count: int, right: bool, confidence: float, greatest: float) -> tuple[float, float]:
    """Bounds of a number in 0 to `greatest` of which so many groups are all 0, or all greatest."""
    alike = binomtest(count if right else 0, count).proportion_ci(confidence)
    return float(alike.low) * greatest, float(alike.high) * greatest


def paired_gain(
    statistic: Statistic,
    base: Sequence[np.ndarray],
    tuned: Sequence[np.ndarray],
    *,
    groups: np.ndarray | None = None,
    greatest: float = 1.0,
    **options: Any,
) -> dict[str, float]:
    """`value, low, high` of `statistic(*tuned) - statistic(*base)` on the same examples.

    Each resample holds the same examples for both models, so what makes an example hard for both
    cancels (Koehn 2004). Row i of every column is the same example: see `same_examples`. A single
    group says nothing of any other: its bounds are the whole range, from `-greatest`. Where one
    model is all wrong and the other all right, the bounds are those that `interval` gives of that.
    """

    def difference(*columns: np.ndarray) -> np.ndarray:
        return statistic(*columns[len(base) :]) - statistic(*columns[: len(base)])

    columns = (*base, *tuned)
    low, high = percentiles(difference, *columns, groups=groups, **options)
    count = _drawn_apart(columns[0], groups)
    if count == 1:
        low, high = min(low, -greatest), max(high, greatest)
    elif np.isclose(low, high) and np.isclose(abs(low), greatest):
        least, most = _all_alike(count, True, options["confidence"], greatest)
        low, high = (least, most) if low > 0 else (-most, -least)
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


def groups_of(frame: pd.DataFrame) -> np.ndarray:
    """The group (n,) of each example, from the column `group`; without it, each is its own."""
    return frame["group"].to_numpy() if "group" in frame else np.arange(len(frame))


def counts(frame: pd.DataFrame) -> dict[str, int]:
    """`n`, the examples, and `n_groups`, the groups that they are drawn in."""
    return {"n": len(frame), "n_groups": len(pd.unique(groups_of(frame)))}


def resampling(evaluate: Evaluate, seed: int) -> dict[str, Any]:
    """The keywords of `percentiles`, `interval` and `paired_gain`."""
    return {"resamples": evaluate.bootstrap, "confidence": evaluate.confidence, "seed": seed}


def values(metrics: Metrics) -> dict[str, float]:
    """`{metric: value}`."""
    return {name: float(metric.statistic(*metric.columns)) for name, metric in metrics.items()}


def bounds(
    metrics: Metrics, frame: pd.DataFrame, evaluate: Evaluate, seed: int
) -> dict[str, dict[str, float]]:
    """`{metric: {low, high}}`, by `interval`; the frame is what the metrics are of."""
    found = {}
    for name, metric in metrics.items():
        low, high = interval(
            metric.statistic,
            *metric.columns,
            **_drawn(metric, frame),
            **resampling(evaluate, seed),
        )
        found[name] = {"low": low, "high": high}
    return found


def paired_gains(
    before: Metrics, after: Metrics, frame: pd.DataFrame, evaluate: Evaluate, seed: int
) -> dict[str, dict[str, float]]:
    """`{metric: {value, low, high}}`, by `paired_gain`.

    Both have the same metrics, of the same examples: those of the frame.
    """
    return {
        name: paired_gain(
            metric.statistic,
            metric.columns,
            after[name].columns,
            **_drawn(metric, frame),
            **resampling(evaluate, seed),
        )
        for name, metric in before.items()
    }


def _drawn(metric: Metric, frame: pd.DataFrame) -> dict[str, Any]:
    groups = groups_of(frame)
    own = groups if metric.chosen is None else groups[metric.chosen]
    return {"groups": own, "greatest": metric.greatest}


def rounded(value: Any) -> Any:
    """Each float in nested dictionaries, to the 6 decimals that metrics files hold."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return round(value, 6) if isinstance(value, float) else value
