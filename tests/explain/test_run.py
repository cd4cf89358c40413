import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.explain.run import gallery, overlay, pick


@pytest.mark.parametrize(
    ("right", "wrong", "expected"), [(9, 9, (4, 4)), (9, 1, (7, 1)), (2, 9, (2, 6)), (1, 1, (1, 1))]
)
def test_a_gallery_is_half_right_and_half_wrong_where_there_are_as_many(right, wrong, expected):
    correct = np.array([True] * right + [False] * wrong)
    np.random.default_rng(0).shuffle(correct)
    shown = gallery(correct, 8)
    assert len(set(shown)) == len(shown)
    assert (correct[shown].sum(), (~correct[shown]).sum()) == expected


def test_a_sample_is_seeded_and_never_larger_than_the_split(params):
    frame = pd.DataFrame({"id": range(100)})
    explain = params.explain.model_copy(update={"pictures": 10})
    assert pick(frame, explain, 1).equals(pick(frame, explain, 1))
    assert not pick(frame, explain, 1).equals(pick(frame, explain, 2))
    assert len(pick(frame.head(3), explain, 1)) == 3


def test_an_overlay_is_red_where_the_map_is_hot_and_blue_where_it_is_cold():
    cells = np.zeros((4, 4))
    cells[0, 0] = 1
    pixels = np.asarray(overlay(Image.new("RGB", (64, 64), "gray"), cells))
    hot, cold = pixels[4, 4].astype(int), pixels[60, 60].astype(int)
    assert hot[0] > hot[2]
    assert cold[2] > cold[0]


def test_a_map_that_speaks_only_against_the_answer_is_cold_everywhere():
    pixels = np.asarray(overlay(Image.new("RGB", (64, 64), "gray"), -np.ones((4, 4))))
    assert (pixels[..., 2] > pixels[..., 0]).all()
