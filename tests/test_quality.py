import random
from pathlib import Path

import cv2
import joblib
import numpy as np
import pytest
from PIL import Image, ImageFilter

from src.drawing import fer
from src.quality import Quality, doubts, measure
from src.schema import Doubt

REAL = Path(__file__).parents[1] / "../shared/real"
LIMITS = Doubt(min_side=48, min_brightness=0.1, min_contrast=0.04, min_sharpness=0.1, face=True)
GOOD = Quality(brightness=0.5, contrast=0.2, sharpness=0.5, faces=1)


def drawn(emotion: str = "happy", seed: int = 1) -> Image.Image:
    rng = random.Random(seed)
    return fer.draw(rng, fer.random_face(rng, emotion), 48)[0].convert("RGB")


def dimmed(picture: Image.Image, by: float) -> Image.Image:
    return picture.point(lambda value: value * by)


def blurred(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(4 * picture.width / 96))


def test_light_is_measured_in_shares_of_white():
    picture = Image.new("RGB", (100, 60), "white")
    picture.paste("black", (0, 0, 50, 60))
    quality = measure(picture)
    assert (quality.brightness, quality.contrast) == pytest.approx((0.5, 0.5), abs=0.01)
    quality = measure(Image.new("RGB", (100, 60), (51, 51, 51)))
    assert quality == Quality(pytest.approx(0.2), contrast=0, sharpness=0, faces=0)


def test_sharpness_is_the_laplacians_variance_in_variances():
    """A single light pixel has four neighbours of one and a middle of minus four."""
    picture = Image.new("RGB", (20, 20))
    picture.putpixel((10, 10), (255, 255, 255))
    share = 1 / 400
    expected = (20 * share) / (share - share**2)
    assert measure(picture).sharpness == pytest.approx(expected, rel=1e-4)


def test_sharpness_depends_neither_on_size_nor_on_contrast():
    small = drawn()
    sharpness = measure(small).sharpness
    large = small.resize((480, 480), Image.Resampling.NEAREST)
    assert measure(large).sharpness == pytest.approx(sharpness, rel=0.01)
    assert measure(dimmed(small, 0.3)).sharpness == pytest.approx(sharpness, rel=0.1)
    assert measure(blurred(small)).sharpness < 0.3 * sharpness


@pytest.mark.parametrize("size", [48, 350])
def test_an_upright_face_is_seen_at_any_size(size):
    pictures = [drawn("happy", seed).resize((size, size)) for seed in range(20)]
    assert sum(measure(p).faces == 1 for p in pictures) >= 18
    lying = [p.transpose(Image.Transpose.ROTATE_90) for p in pictures]
    assert sum(measure(p).faces for p in lying) <= 5


def test_a_face_that_fills_the_picture_is_seen():
    pictures = [drawn("sad", seed).crop((6, 6, 42, 42)) for seed in range(20)]
    assert sum(measure(p).faces == 1 for p in pictures) >= 14


def test_a_face_in_a_corner_of_the_picture_is_seen():
    found = 0
    for seed in range(10):
        picture = Image.new("RGB", (160, 160), (120, 120, 120))
        picture.paste(drawn("happy", seed), (10, 100))
        found += measure(picture).faces
    assert found >= 8


def test_each_of_two_faces_is_counted():
    both = Image.new("RGB", (96, 48))
    both.paste(drawn("sad", 1))
    both.paste(drawn("angry", 2), (48, 0))
    assert measure(both).faces == 2


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_a_picture_of_any_shape_is_measured(size):
    assert measure(Image.new("RGB", size, "white")) == Quality(1, 0, 0, 0)


def test_workers_measure_alike_on_one_thread_each():
    def work(picture: Image.Image) -> tuple[Quality, int]:
        return measure(picture), cv2.getNumThreads()

    pictures = [drawn(seed=seed) for seed in range(4)]
    results = joblib.Parallel(2, backend="loky")(joblib.delayed(work)(p) for p in pictures)
    assert results == [(measure(p), 1) for p in pictures]


@pytest.mark.parametrize(
    ("change", "size", "expected"),
    [
        ({}, (48, 48), []),
        ({}, (48, 47), ["too small: 48 x 47 pixels"]),
        ({}, (24, 300), ["too small: 24 x 300 pixels"]),
        ({"brightness": 0.09}, (48, 48), ["too dark"]),
        ({"contrast": 0.03}, (48, 48), ["low contrast"]),
        ({"sharpness": 0.09}, (48, 48), ["blurred"]),
        ({"faces": 0}, (48, 48), ["no visible face"]),
        ({"faces": 2}, (48, 48), []),
    ],
)
def test_each_doubt_has_its_words(change, size, expected):
    assert doubts(Quality(**vars(GOOD) | change), *size, LIMITS) == expected


def test_all_doubts_are_said_in_order_and_a_face_only_where_one_must_be():
    nothing = Quality(0, 0, 0, 0)
    said = ["too small: 1 x 2 pixels", "too dark", "low contrast", "blurred", "no visible face"]
    assert doubts(nothing, 1, 2, LIMITS) == said
    assert doubts(nothing, 1, 2, LIMITS.model_copy(update={"face": False})) == said[:-1]


def share_doubted(files: list[Path], reason: str, change=lambda picture: picture) -> float:
    """The share of the files that are doubted for that reason, for any where it is empty."""
    pictures = [change(Image.open(path).convert("RGB")) for path in files]
    reasons = [doubts(measure(p), *p.size, LIMITS) for p in pictures]
    return np.mean([any(reason in r for r in found) for found in reasons])


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/real is not there")
@pytest.mark.parametrize("size", [48, 350])
def test_photographs_of_faces_are_doubted_where_they_were_spoilt(size):
    files = sorted((REAL / "faces7").rglob("*.jpg"))[::4]
    assert len(files) > 40

    def sized(picture: Image.Image) -> Image.Image:
        return picture.resize((size, size), Image.Resampling.LANCZOS)

    assert share_doubted(files, "", sized) <= 0.05
    assert share_doubted(files, "too dark", lambda p: dimmed(sized(p), 0.15)) >= 0.95
    assert share_doubted(files, "blurred", lambda p: blurred(sized(p))) >= 0.95


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/real is not there")
def test_photographs_of_products_show_no_face():
    files = sorted((REAL / "products/images").iterdir())[::4]
    assert len(files) == 50
    assert share_doubted(files, "no visible face") >= 0.95
