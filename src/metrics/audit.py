"""For whom and on what pictures a model is right, and how far it knows when it is.

All of it is read off frames of predictions with the columns `id`, `probability` (of the answer, 0
to 1) and `correct`. Of the columns `subgroup`, `kind`, `brightness`, `contrast`, `sharpness`,
`width` and `height` (pixels) and `doubt`, a frame may lack any: it is then not audited by it.
Examples of one `group`, where there is that column, are drawn together.
"""

from typing import Any

import numpy as np
import pandas as pd

from src.metrics.intervals import MEAN, groups_of, interval, percentiles, resampling
from src.metrics.labels import (
    area_under_risk_coverage,
    expected_calibration_error,
    reliability,
    risk_coverage,
    thinned,
)
from src.schema import Evaluate

NAMED = ("subgroup", "kind")
MEASURED = ("brightness", "contrast", "sharpness", "size")
PERMUTATIONS = 200
# The tables behind plots are made without a seed of the run.
_PLOT_SEED = 0


def summary(
    frame: pd.DataFrame, metric: str, evaluate: Evaluate, seed: int
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """What stands beside `metric`, the mean of `correct`: numbers, and the intervals of some.

    `ece`, `aurc`; `doubted`, the share of examples with a doubt, and `<metric>_undoubted`, the
    metric without them; `largest_gap` and `largest_gap_chance`. The latter four are left out where
    there is nothing to take them from.
    """
    right = _right(frame)
    confidence = frame["probability"].to_numpy(dtype=float)
    numbers = {
        "ece": expected_calibration_error(confidence, right, evaluate.calibration_bins),
        "aurc": area_under_risk_coverage(risk_coverage(frame)),
    }
    if "doubt" in frame:
        doubted = frame["doubt"].fillna("").to_numpy() != ""
        numbers["doubted"] = float(doubted.mean())
        if not doubted.all():
            numbers[f"{metric}_undoubted"] = float(right[~doubted].mean())
    gap = largest_gap(frame, evaluate, seed)
    if gap is None:
        return numbers, {}
    numbers |= {"largest_gap": gap["value"], "largest_gap_chance": gap["chance"]}
    return numbers, {"largest_gap": {bound: gap[bound] for bound in ("low", "high")}}


def tables(base: pd.DataFrame, tuned: pd.DataFrame, evaluate: Evaluate) -> dict[str, pd.DataFrame]:
    """`reliability`, `coverage` and `audit`, by name, each with the column `model`."""
    found: dict[str, list[pd.DataFrame]] = {"reliability": [], "coverage": [], "audit": []}
    for model, frame in (("base", base), ("tuned", tuned)):
        confidence = frame["probability"].to_numpy(dtype=float)
        bins = reliability(confidence, _right(frame), evaluate.calibration_bins)
        bins.insert(0, "bin", (bins["low"] + bins["high"]) / 2)
        found["reliability"].append(bins.drop(columns=["low", "high"]))
        found["coverage"].append(thinned(risk_coverage(frame)))
        found["audit"].append(audit(frame, evaluate, _PLOT_SEED))
        for parts in found.values():
            parts[-1].insert(0, "model", model)
    return {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}


def audit(frame: pd.DataFrame, evaluate: Evaluate, seed: int) -> pd.DataFrame:
    """One row a group: `property, group, n, score, low, high`, the score its mean of `correct`.

    Examples are grouped by each name of NAMED of which there are two or more, and by each measure
    of MEASURED in about equal thirds (`size` is the shorter side). Groups of all sizes are listed;
    the interval of a small one is wide.
    """
    right, drawn, rows = _right(frame), groups_of(frame), []
    for name, groups in _groups(frame).items():
        for code, group in enumerate(groups.categories):
            own = groups.codes == code
            low, high = interval(MEAN, right[own], groups=drawn[own], **resampling(evaluate, seed))
            rows.append((name, group, int(own.sum()), float(right[own].mean()), low, high))
    return pd.DataFrame(rows, columns=["property", "group", "n", "score", "low", "high"])


def largest_gap(frame: pd.DataFrame, evaluate: Evaluate, seed: int) -> dict[str, Any] | None:
    """The largest difference of `audit`'s score between two groups of one property, 0 to 1.

    `value`, and between which: `property, best, worst`. Groups of fewer than
    `evaluate.audit_minimum` examples do not count; None if no property has two that do.

    The largest of many differences is biased upwards: some groups differ by chance. `chance` is
    what is found when nothing makes a group better: the mean over 200 random permutations of
    `correct`, in which examples that are drawn together stay together. Only a gap well above it
    says something. `low` and `high` bound the difference of these two groups, as if they had been
    named beforehand, and so do not mend the bias.
    """
    right, counted = _right(frame), _counted(frame, evaluate.audit_minimum)
    drawn, options = groups_of(frame), resampling(evaluate, seed)
    if not counted:
        return None
    scores = {name: _scores(right, groups.codes) for name, groups in counted.items()}
    name = max(scores, key=lambda name: np.ptp(scores[name]))
    best, worst = int(scores[name].argmax()), int(scores[name].argmin())
    if best == worst:  # all are equal, and one group has no difference from itself
        worst = best + 1
    groups = counted[name]
    low, high = _gap_bounds(right, groups.codes == best, groups.codes == worst, drawn, options)
    return {
        "value": float(np.ptp(scores[name])),
        "low": low,
        "high": high,
        "chance": _chance(right, drawn, counted, seed),
        "property": name,
        "best": groups.categories[best],
        "worst": groups.categories[worst],
    }


def _gap_bounds(
    right: np.ndarray,
    best: np.ndarray,
    worst: np.ndarray,
    drawn: np.ndarray,
    options: dict[str, Any],
) -> tuple[float, float]:
    """Bounds of the difference of two groups, each of them booleans (n,).

    Where every resample has the same one, as where all are right, it is that of the two groups'
    own bounds, which is no narrower than it should be.
    """
    two = best | worst
    low, high = percentiles(_difference, right[two], best[two], groups=drawn[two], **options)
    if low < high:
        return low, high
    (low, high), (other_low, other_high) = (
        interval(MEAN, right[own], groups=drawn[own], **options) for own in (best, worst)
    )
    return low - other_high, high - other_low


def _chance(
    right: np.ndarray, drawn: np.ndarray, counted: dict[str, pd.Categorical], seed: int
) -> float:
    generator = np.random.default_rng(seed)
    together, names = pd.factorize(drawn)
    places = np.argsort(together, kind="stable")
    permuted, largest = np.empty_like(right), []
    for _ in range(PERMUTATIONS):
        # What is drawn together goes together to other places, in an order of its own.
        rows, order = generator.permutation(len(right)), generator.permutation(len(names))
        permuted[places] = right[rows[np.argsort(order[together[rows]], kind="stable")]]
        largest.append(max(np.ptp(_scores(permuted, g.codes)) for g in counted.values()))
    return float(np.mean(largest))


def _difference(right: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Mean inside a group minus outside, over the last axis; an empty group's mean is 0."""
    sizes = inside.sum(axis=-1), (~inside).sum(axis=-1)
    sums = (right * inside).sum(axis=-1), (right * ~inside).sum(axis=-1)
    return sums[0] / np.maximum(sizes[0], 1) - sums[1] / np.maximum(sizes[1], 1)


def _scores(right: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Mean of `right` (n,) in each group; the codes (n,) are 0 … groups-1, or -1 for no group."""
    inside = codes >= 0
    return np.bincount(codes[inside], right[inside]) / np.bincount(codes[inside])


def _counted(frame: pd.DataFrame, minimum: int) -> dict[str, pd.Categorical]:
    """The properties with two groups or more of at least so many examples; these groups alone."""
    counted = {}
    for name, groups in _groups(frame).items():
        sizes = np.bincount(groups.codes[groups.codes >= 0])
        kept = groups.set_categories(groups.categories[sizes >= minimum])
        if len(kept.categories) > 1:
            counted[name] = kept
    return counted


def _groups(frame: pd.DataFrame) -> dict[str, pd.Categorical]:
    """By property, the group of each example; only properties that make two groups or more."""
    named = {name: pd.Categorical(frame[name]) for name in NAMED if name in frame}
    measured = {name: frame[name] for name in MEASURED if name in frame}
    if {"width", "height"} <= set(frame):
        measured["size"] = frame[["width", "height"]].min(axis=1)
    thirds = {name: _thirds(values.to_numpy(dtype=float)) for name, values in measured.items()}
    return {name: groups for name, groups in (named | thirds).items() if len(groups.categories) > 1}


def _thirds(values: np.ndarray) -> pd.Categorical:
    """Measures (n,) as low, middle and high; two groups where many values are equal, or none."""
    known = values[~np.isnan(values)]
    distinct = np.unique(known)
    if len(distinct) < 2:
        return pd.Categorical(np.full(len(values), None))
    cuts = np.quantile(known, [1 / 3, 2 / 3], method="higher")
    # Where a third or more share the least value, they are the low group.
    cuts = np.unique(np.maximum(cuts, distinct[1]))
    texts = [f"{cut:.4g}" for cut in cuts]
    names = [f"low (below {texts[0]})", f"high ({texts[-1]} and above)"]
    if len(cuts) == 2:
        names.insert(1, f"middle ({texts[0]} to {texts[1]})")
    return pd.cut(values, [-np.inf, *cuts, np.inf], right=False, labels=names)


def _right(frame: pd.DataFrame) -> np.ndarray:
    return frame["correct"].to_numpy(dtype=float)
