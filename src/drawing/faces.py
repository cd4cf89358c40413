"""Drawn faces: mouth, brows and eyes carry the emotion, everything else is nuisance."""

import csv
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from src.drawing import Lesson
from src.schema import Drawn

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

# Where a head is dark and light: what is added to its light around a place on it and on its mirror
# image, with the spread there. A detector of faces looks for dark eyes between light cheeks and
# nose. Places are shares of the head's radius, from its middle to the right and down.
SHADES = {
    "eye sockets": (-0.5, (0.36, -0.22), (0.33, 0.14)),
    "bridge of the nose": (0.18, (0, -0.05), (0.1, 0.3)),
    "cheeks": (0.25, (0.4, 0.18), (0.22, 0.18)),
    "nostrils": (-0.25, (0, 0.18), (0.17, 0.06)),
}
WIDTH, HEIGHT = 0.92, 1.05  # of the head in shares of its radius
FEATURES = 0.82  # the disc that eyes, brows and mouth are laid out on, likewise
HAIR = 0.35  # its light as a share of the skin's
# Thick strokes and pastel skin, because a model of this size learns nothing from thin or loud ones.
STROKE = 0.11 / FEATURES  # of brows and mouth, as a share of that disc
COLOURS: dict[str, Colour] = {
    "red": (240, 130, 120),
    "green": (140, 215, 140),
    "blue": (140, 170, 240),
    "yellow": (240, 225, 120),
    "purple": (200, 150, 225),
    "orange": (250, 185, 110),
    "white": (240, 240, 240),
    "gray": (170, 170, 170),
}
INK = (25, 20, 20)
MOUTHS = ("smiling", "frowning", "flat", "round", "zigzag")
BROWS = ("level", "raised", "steep", "slanted")
EYES = ("wide", "normal", "narrow")
# Mouths, brows and eyes that show an emotion.
Looks = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
EMOTIONS: dict[str, Looks] = {
    "Natural": (("flat",), ("level",), ("normal", "narrow")),
    "Anger": (("frowning", "flat"), ("steep",), ("narrow", "normal")),
    "Fear": (("zigzag",), ("slanted", "raised"), ("wide",)),
    "Joy": (("smiling",), ("level", "raised"), ("normal", "narrow")),
    "Sadness": (("frowning",), ("slanted",), ("normal", "narrow")),
    "Surprise": (("round",), ("raised",), ("wide",)),
}
QUESTIONS = {
    "mouth": "What is the shape of the mouth?",
    "brows": "What are the brows like?",
    "eyes": "What are the eyes like?",
    "skin": "What color is the face?",
    "background": "What color is the background?",
    "glasses": "Are there glasses?",
}
VOCABULARY = tuple(EMOTIONS)

# The layout of the Kaggle set: a nested top folder, Train and Test, class folders of mixed case.
TOP = "Autistic Children Emotions - Dr. Fatma M. Talaat"
FOLDERS = {"Natural": "Natural"} | {e: e.lower() for e in EMOTIONS if e != "Natural"}


@dataclass(frozen=True)
class Face:
    """What is seen of a face, in words."""

    mouth: str
    brows: str
    eyes: str
    skin: str
    background: str
    glasses: bool


def random_face(
    rng: random.Random, emotion: str | None = None, emotions: Mapping[str, Looks] = EMOTIONS
) -> Face:
    """A face of that emotion, or one with every attribute drawn for itself."""
    mouths, brows, eyes = emotions[emotion] if emotion else (MOUTHS, BROWS, EYES)
    skin, background = rng.sample(list(COLOURS), 2)
    return Face(
        rng.choice(mouths),
        rng.choice(brows),
        rng.choice(eyes),
        skin,
        background,
        rng.random() < 0.25,
    )


def lesson(rng: random.Random, size: int) -> Lesson:
    """A face without an emotion, with its caption and questions about its parts."""
    face = random_face(rng)
    picture, _ = draw(rng, face, size)
    answers = vars(face) | {"glasses": "yes" if face.glasses else "no"}
    caption = (
        f"a {face.skin} face with a {face.mouth} mouth, {face.brows} brows and {face.eyes} eyes "
        f"on a {face.background} background"
    )
    return Lesson(picture, caption, {k: (q, answers[k]) for k, q in QUESTIONS.items()})


def write(source: Drawn, folder: Path, seed: int) -> dict[str, object]:
    """Write train and test faces in the layout of the Kaggle set.

    `regions.csv` beside them names where mouth, eyes and brows lie, relative to the picture.
    """
    top = folder / TOP
    rows = []
    for split, count in (("Train", source.train), ("Test", source.test)):
        rng = random.Random(f"{seed} {split}")
        for number in range(count):
            emotion = list(EMOTIONS)[number % len(EMOTIONS)]
            picture, boxes = draw(rng, random_face(rng, emotion), source.size)
            path = Path(split, FOLDERS[emotion], f"{number:05d}.jpg")
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            picture.save(top / path, quality=92)
            rows += region_rows(path, boxes)
    write_regions(top, rows)
    return {"drawing": source.drawing, "files": source.train + source.test}


def region_rows(path: PurePath, boxes: Mapping[str, Box]) -> Iterator[tuple[str | float, ...]]:
    """The rows of regions.csv for the picture at `path`, relative to the data's top folder."""
    for name, box in boxes.items():
        yield path.as_posix(), name, *(round(v, 4) for v in box)


def write_regions(top: Path, rows: Iterable[tuple[str | float, ...]]) -> None:
    """Write regions.csv to the data's top folder."""
    with (top / "regions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "name", "x0", "y0", "x1", "y1"), *rows])


def draw(
    rng: random.Random,
    face: Face,
    size: int,
    skins: Mapping[str, Colour] = COLOURS,
    backgrounds: Mapping[str, Colour] = COLOURS,
) -> tuple[Image.Image, dict[str, Box]]:
    """Draw a face of `size` by `size` pixels, in the colours that its words stand for.

    Returns:
        The picture, and the boxes of its parts as x0, y0, x1, y1 in shares of its side.
    """
    side = 2 * size
    tone = jitter(rng, backgrounds[face.background])
    picture = _background(rng, tone, side)
    x, y = (side * rng.uniform(0.47, 0.53) for _ in "xy")
    radius = side * rng.uniform(0.39, 0.45)
    skin = jitter(rng, skins[face.skin])
    _head(picture, x, y, radius, skin)
    ink = jitter(rng, INK)
    pen = ImageDraw.Draw(picture)
    boxes = _parts(rng, pen, face, x, y + 0.1 * radius, FEATURES * radius, ink, skin)
    picture, boxes = _tilt(picture, boxes, x, y, rng.uniform(-7, 7), tone)
    return _photograph(rng, picture.resize((size, size), Image.Resampling.BILINEAR)), boxes


def _head(picture: Image.Image, x: float, y: float, radius: float, skin: Colour) -> None:
    """Draw a head with hair, its shape seen by light and shade."""
    rows, columns = np.mgrid[0 : picture.height, 0 : picture.width]
    right, down = (columns - x) / radius, (rows - y) / radius
    light = 1 - 0.3 * (right / WIDTH) ** 2 - 0.4 * np.clip((down - 0.8) / 0.2, 0, 1)
    for add, place, spread in SHADES.values():
        distances = (np.abs(right) - place[0]) / spread[0], (down - place[1]) / spread[1]
        light += add * np.exp(-np.square(distances).sum(axis=0))
    light[down < 0.25 * right**2 - 0.68] = HAIR
    head = Image.fromarray(np.clip(light[..., None] * skin, 0, 255).astype(np.uint8))
    outline = Image.new("L", picture.size)
    width, height = WIDTH * radius, HEIGHT * radius
    ImageDraw.Draw(outline).ellipse((x - width, y - height, x + width, y + height), fill=255)
    picture.paste(head, mask=outline)


def _tilt(
    picture: Image.Image, boxes: Mapping[str, Box], x: float, y: float, degrees: float, fill: Colour
) -> tuple[Image.Image, dict[str, Box]]:
    """Turn a square picture around a point; the boxes come out in shares of its side."""
    turned = picture.rotate(degrees, Image.Resampling.BILINEAR, center=(x, y), fillcolor=fill)
    side = picture.width
    return turned, {
        name: tuple(v / side for v in _rotate(box, x, y, degrees)) for name, box in boxes.items()
    }


def jitter(rng: random.Random, colour: Colour, by: float = 12) -> Colour:
    """A colour close by."""
    return tuple(int(min(255, max(0, v + rng.uniform(-by, by)))) for v in colour)


def _background(rng: random.Random, colour: Colour, side: int) -> Image.Image:
    """A plain background with a soft gradient in a random direction."""
    towards = rng.uniform(0, 2 * math.pi)
    ys, xs = np.mgrid[0:side, 0:side] / side - 0.5
    slope = (xs * math.cos(towards) + ys * math.sin(towards)) * rng.uniform(0, 50)
    pixels = np.clip(np.array(colour) + slope[..., None], 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _parts(
    rng: random.Random,
    pen: ImageDraw.ImageDraw,
    face: Face,
    x: float,
    y: float,
    radius: float,
    ink: Colour,
    white: Colour,
) -> dict[str, Box]:
    """Draw eyes, brows, glasses and mouth on a disc of `radius` pixels; their boxes in pixels."""
    apart, eye_y = radius * rng.uniform(0.36, 0.44), y - radius * rng.uniform(0.18, 0.26)
    tall = {"wide": 0.25, "normal": 0.14, "narrow": 0.055}[face.eyes] * rng.uniform(0.9, 1.1)
    boxes = {}
    for name, sign in (("left", -1), ("right", 1)):
        eye_x = x + sign * apart
        boxes[f"{name} eye"] = _eye(pen, eye_x, eye_y, radius, tall, ink, white)
        boxes[f"{name} brow"] = _brow(rng, pen, face, eye_x, eye_y, radius, sign, ink)
    if face.glasses:
        _glasses(pen, x, apart, eye_y, radius, ink)
    mouth_y = y + radius * rng.uniform(0.42, 0.5)
    boxes["mouth"] = _mouth(rng, pen, face.mouth, x, mouth_y, radius, ink)
    return boxes


def _eye(
    pen: ImageDraw.ImageDraw,
    x: float,
    y: float,
    radius: float,
    tall: float,
    ink: Colour,
    white: Colour,
) -> Box:
    height, width = tall * radius, radius * 0.19
    box = (x - width, y - height, x + width, y + height)
    pen.ellipse(box, fill=white, outline=ink, width=2)
    pupil = min(height * 0.8, radius * 0.07)
    pen.ellipse((x - pupil, y - pupil, x + pupil, y + pupil), fill=ink)
    return box


def _brow(
    rng: random.Random,
    pen: ImageDraw.ImageDraw,
    face: Face,
    x: float,
    eye_y: float,
    radius: float,
    sign: int,
    ink: Colour,
) -> Box:
    y = eye_y - radius * (0.47 if face.brows == "raised" else 0.33)
    length, width = radius * 0.27, max(2, int(radius * STROKE))
    slope = {"steep": 0.17, "slanted": -0.17}.get(face.brows, 0) * radius * rng.uniform(0.85, 1.15)
    inner, outer = x - sign * length, x + sign * length
    pen.line((inner, y + slope, outer, y - slope), fill=ink, width=width)
    reach = abs(slope) + width
    return (min(inner, outer), y - reach, max(inner, outer), y + reach)


def _glasses(
    pen: ImageDraw.ImageDraw, x: float, apart: float, y: float, radius: float, ink: Colour
) -> None:
    lens, width = radius * 0.27, max(1, int(radius * 0.035))
    for eye_x in (x - apart, x + apart):
        pen.ellipse((eye_x - lens, y - lens, eye_x + lens, y + lens), outline=ink, width=width)
    pen.line((x - apart + lens, y, x + apart - lens, y), fill=ink, width=width)


def _mouth(
    rng: random.Random,
    pen: ImageDraw.ImageDraw,
    mouth: str,
    x: float,
    y: float,
    radius: float,
    ink: Colour,
) -> Box:
    width, height = radius * rng.uniform(0.42, 0.52), radius * rng.uniform(0.24, 0.32)
    stroke = max(2, int(radius * STROKE))
    left, right = x - width, x + width
    if mouth == "smiling":
        pen.arc((left, y - 2 * height, right, y + height), 20, 160, fill=ink, width=stroke)
        return (left, y - height * 0.6, right, y + height)
    if mouth == "frowning":
        pen.arc((left, y - height * 0.5, right, y + 2.5 * height), 200, 340, fill=ink, width=stroke)
        return (left, y - height * 0.5, right, y + height)
    if mouth == "flat":
        pen.line((left, y, right, y), fill=ink, width=stroke)
        return (left, y - stroke, right, y + stroke)
    if mouth == "round":
        box = (x - width / 2, y - height, x + width / 2, y + height * 1.2)
        pen.ellipse(box, fill=(70, 20, 30), outline=ink, width=stroke // 2)
        return box
    teeth = [(left + 2 * width * i / 6, y + (1 if i % 2 else -1) * height * 0.35) for i in range(7)]
    pen.line(teeth, fill=ink, width=stroke)
    return (left, y - height * 0.5, right, y + height * 0.5)


def _rotate(box: Box, x: float, y: float, degrees: float) -> Box:
    """The upright box around a box that the picture's rotation has turned."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def corners() -> Iterator[tuple[float, float]]:
        for px in (box[0], box[2]):
            for py in (box[1], box[3]):
                dx, dy = px - x, py - y
                yield x + dx * cos + dy * sin, y - dx * sin + dy * cos

    xs, ys = zip(*corners(), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _photograph(rng: random.Random, picture: Image.Image) -> Image.Image:
    """Blur, light and sensor noise; one picture in ten is grey."""
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.7)))
    if rng.random() < 0.1:
        picture = picture.convert("L").convert("RGB")
    # The noise of a 96-pixel sensor: a smaller picture of it has less.
    sigma = rng.uniform(2, 12) * min(1, picture.width / 96)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, sigma, picture.size)
    pixels = np.asarray(picture, np.float32) * rng.uniform(0.85, 1.1) + noise[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
