"""Means over seeds, and whether two points differ by more than seeds do."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import t


def over_seeds(values: Mapping[int, float]) -> dict[str, Any]:
    """`mean`, `sd` and `n` of a metric's values by seed; None where there are too few for it."""
    numbers = np.array(list(values.values()), dtype=float)
    return {
        "mean": float(numbers.mean()) if len(numbers) else None,
        "sd": float(numbers.std(ddof=1)) if len(numbers) > 1 else None,
        "n": len(numbers),
    }


def difference(
    point: Mapping[int, float],
    reference: Mapping[int, float],
    *,
    confidence: float,
    comparisons: int = 1,
) -> dict[str, Any]:
    """A point minus the reference over the seeds that both have, and what noise would make of it.

    A pair of runs with one seed has the same order of examples, so the noise is that of their
    differences: `low` to `high` is Student's t interval of the mean of paired differences
    (Student 1908, The probable error of a mean). With k `comparisons` against one reference each
    is at 1 - (1 - `confidence`) / k, so that all together are wrong no more often than one would
    be (Bonferroni; Dunn 1961, Multiple comparisons among means). That seeds, not examples alone,
    are to be drawn for such a claim is Bouthillier et al. 2021, Accounting for variance in machine
    learning benchmarks.

    Returns:
        `value`, `low`, `high`, `n` pairs, and `beyond_noise`: true where the interval leaves out
        zero; None where it cannot be told, which is with one pair, and where all pairs differ by
        the same amount, so that there is no spread to judge by.
    """
    pairs = np.array([point[seed] - reference[seed] for seed in point if seed in reference])
    found: dict[str, Any] = {"value": None, "low": None, "high": None, "n": len(pairs)}
    if not len(pairs):
        return found | {"beyond_noise": None}
    mean = float(pairs.mean())
    # Values have six decimals: what differs by less is the rounding of the subtraction.
    if len(pairs) == 1 or np.ptp(pairs) < 1e-9:
        same = len(pairs) > 1 and abs(mean) < 1e-9
        return found | {"value": mean, "beyond_noise": False if same else None}
    tail = (1 - confidence) / comparisons / 2
    half = float(t.isf(tail, len(pairs) - 1) * pairs.std(ddof=1) / np.sqrt(len(pairs)))
    low, high = mean - half, mean + half
    return found | {"value": mean, "low": low, "high": high, "beyond_noise": low > 0 or high < 0}
