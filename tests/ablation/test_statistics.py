import numpy as np
import pytest
from scipy.stats import ttest_rel

from src.ablation.statistics import difference, over_seeds


def by_seed(*values):
    return dict(enumerate(values))


def test_mean_and_sample_deviation_over_seeds():
    assert over_seeds(by_seed(0.5, 0.7, 0.9)) == pytest.approx({"mean": 0.7, "sd": 0.2, "n": 3})
    assert over_seeds(by_seed(0.5)) == {"mean": 0.5, "sd": None, "n": 1}
    assert over_seeds({}) == {"mean": None, "sd": None, "n": 0}


def test_the_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    point, reference = rng.random(6), rng.random(6)
    found = difference(by_seed(*point), by_seed(*reference), confidence=0.9)
    low, high = ttest_rel(point, reference).confidence_interval(0.9)
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert found["value"] == pytest.approx((point - reference).mean())
    assert found["n"] == 6


def test_seeds_are_paired_by_their_number_not_by_their_place():
    reference = {1: 0.1, 2: 0.5, 3: 0.9}
    point = {3: 0.95, 1: 0.16, 2: 0.54, 4: 0.0}
    found = difference(point, reference, confidence=0.95)
    assert found["value"] == pytest.approx(0.05)
    assert found["n"] == 3
    assert found["beyond_noise"] is True


def test_more_comparisons_make_the_interval_wider():
    point, reference = by_seed(0.6, 0.63, 0.61), by_seed(0.5, 0.54, 0.48)
    one = difference(point, reference, confidence=0.95)
    five = difference(point, reference, confidence=0.95, comparisons=5)
    assert five["low"] < one["low"] and five["high"] > one["high"]
    alone = difference(point, reference, confidence=0.99)
    assert (five["low"], five["high"]) == pytest.approx((alone["low"], alone["high"]))
    assert (one["beyond_noise"], five["beyond_noise"]) == (True, False)


@pytest.mark.parametrize(
    ("point", "reference", "told"),
    [
        (by_seed(0.9), by_seed(0.1), None),  # one seed
        ({1: 0.9, 2: 0.9}, {2: 0.1, 3: 0.1}, None),  # one pair
        ({1: 0.9}, {2: 0.1}, None),  # none
        (by_seed(0.9, 0.8, 0.7), by_seed(0.8, 0.7, 0.6), None),  # no spread to judge by
        (by_seed(0.9, 0.8), by_seed(0.9, 0.8), False),  # the same
    ],
)
def test_where_seeds_tell_no_noise_nothing_is_marked(point, reference, told):
    found = difference(point, reference, confidence=0.95)
    assert found["beyond_noise"] is told
    assert found["low"] is None and found["high"] is None


@pytest.mark.parametrize(("seeds", "others"), [(3, 1), (3, 4), (5, 4)])
def test_where_nothing_differs_a_grid_is_marked_no_more_often_than_stated(seeds, others):
    rng = np.random.default_rng(1)
    grids = 1500

    def marked() -> bool:
        # What is hard with one seed is hard for every point with that seed.
        shared = rng.normal(0, 0.05, seeds)
        noise = rng.normal(0, 0.01, (others + 1, seeds))
        reference, *points = (by_seed(*(shared + own)) for own in noise)
        return any(
            difference(p, reference, confidence=0.95, comparisons=others)["beyond_noise"]
            for p in points
        )

    rate = sum(marked() for _ in range(grids)) / grids
    assert rate <= 0.05 + 3 * (0.05 * 0.95 / grids) ** 0.5
    assert rate > 0.01
