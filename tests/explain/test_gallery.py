import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.explain import gallery
from src.explain.gallery import chosen, overlay, shown


@pytest.mark.parametrize(
    ("right", "wrong", "expected"), [(9, 9, (4, 4)), (9, 1, (7, 1)), (2, 9, (2, 6)), (1, 1, (1, 1))]
)
def test_a_gallery_is_half_right_and_half_wrong_where_there_are_as_many(right, wrong, expected):
    correct = np.array([True] * right + [False] * wrong)
    np.random.default_rng(0).shuffle(correct)
    found = chosen(correct, 8)
    assert len(set(found)) == len(found)
    assert (correct[found].sum(), (~correct[found]).sum()) == expected


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


def hot(sheet, column, row):
    """Whether a frame of a sheet is red in its middle, and not blue."""
    pitch = gallery.SMALL_SIDE + gallery.GAP
    middle = gallery.SMALL_SIDE // 2
    red, _, blue = sheet.getpixel((column * pitch + middle, row * pitch + middle))
    return red > blue


def test_every_frame_of_a_step_lies_under_the_map_of_that_step():
    video = [Image.new("RGB", (56, 56), "gray") for _ in range(8)]
    values = np.zeros((3, 12))
    values[:, 6:9] = 1  # the third of four steps: frames 4 and 5
    sheet = shown(video, values)
    assert sheet.size == (4 * 112 + 3 * 3, 2 * 112 + 3)
    found = {(x, y) for x in range(4) for y in range(2) if hot(sheet, x, y)}
    assert found == {(0, 1), (1, 1)}


def test_an_odd_last_frame_has_a_step_of_its_own():
    video = [Image.new("RGB", (56, 56), "gray") for _ in range(5)]
    values = np.zeros((2, 6))
    values[:, 4:] = 1
    sheet = shown(video, values)
    assert [hot(sheet, i % 4, i // 4) for i in range(5)] == [False] * 4 + [True]


def test_a_long_video_shows_frames_from_the_first_to_the_last():
    video = [Image.new("RGB", (56, 56), (i, 0, 0)) for i in range(100)]
    sheet = shown(video)
    assert sheet.size == (4 * 112 + 3 * 3, 2 * 112 + 3)
    assert sheet.getpixel((5, 5))[0] == 0
    assert sheet.getpixel((sheet.width - 5, sheet.height - 5))[0] == 99
    assert shown(video, small=True).size == (4 * 112 + 3 * 3, 112)


def test_the_frames_of_a_video_share_one_scale():
    video = [Image.new("RGB", (56, 56), "gray") for _ in range(4)]
    values = np.concatenate([np.full((2, 2), 0.1), np.full((2, 2), 1.0)], 1)
    sheet = shown(video, values)
    assert [hot(sheet, i, 0) for i in range(4)] == [False, False, True, True]


def test_words_that_cost_less_are_colder_and_those_left_out_are_counted(tmp_path):
    picture = Image.new("RGB", (56, 56), "gray")
    found = {
        "gradcam": np.ones((2, 3, 3)),
        "occlusion": np.stack([np.full((3, 3), 0.1), np.full((3, 3), 5.0)]),
    }
    entry = gallery.save_words(tmp_path, 7, picture, ["a", "dog", "runs"], found)
    assert [word["word"] for word in entry["words"]] == ["a", "dog"]
    assert entry["more_words"] == 1
    pixels = [Image.open(tmp_path / w["occlusion"]).getpixel((50, 50)) for w in entry["words"]]
    assert [red > blue for red, _, blue in pixels] == [False, True]
    cams = [Image.open(tmp_path / w["gradcam"]).getpixel((50, 50)) for w in entry["words"]]
    assert [red > blue for red, _, blue in cams] == [True, True]


def test_a_text_without_words_has_no_overlay(tmp_path):
    found = {name: np.empty((0, 3, 3)) for name in gallery.MAPS}
    entry = gallery.save_words(tmp_path, 0, Image.new("RGB", (9, 9)), [], found)
    assert entry == {"words": [], "more_words": 0}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", [None, np.nan])
def test_an_entry_is_plain_json_whatever_a_row_lacks(tmp_path, missing):
    row = pd.Series(
        {"id": "a", "question": "?", "predicted": "b", "probability": np.float64(0.5)}
        | {"correct": np.bool_(True), "label": missing, "answer": "c"}
    )
    entry = gallery.save(tmp_path, 3, Image.new("RGB", (9, 9)), row, {})
    assert json.loads(json.dumps(entry, allow_nan=False)) == {
        "id": "a",
        "question": "?",
        "predicted": "b",
        "probability": 0.5,
        "correct": True,
        "label": None,
        "picture": "03_picture.png",
        "gradcam": "03_gradcam.png",
        "occlusion": "03_occlusion.png",
    }
