"""Drawn faces as the FER set on Kaggle has them: small, grey, uneven, and with its known faults.

Light falls on them as on a head, so that a detector of real faces finds them.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from src.drawing import Lesson, faces
from src.drawing.faces import Box, Colour, Face, Looks
from src.schema import Drawn

SIZE = 48  # pixels, as the pictures of that set
EMOTIONS: dict[str, Looks] = {
    "angry": (("frowning", "flat"), ("steep",), ("narrow", "normal")),
    "disgusted": (("zigzag",), ("steep",), ("narrow",)),
    "fearful": (("zigzag",), ("slanted", "raised"), ("wide",)),
    "happy": (("smiling",), ("level", "raised"), ("normal", "narrow")),
    "neutral": (("flat",), ("level",), ("normal", "narrow")),
    "sad": (("frowning",), ("slanted",), ("normal", "narrow")),
    "surprised": (("round",), ("raised",), ("wide",)),
}
# Those of the set, but for disgusted: its 1.5 % would leave a small test split with none.
SHARES = {
    "angry": 0.13,
    "disgusted": 0.04,
    "fearful": 0.14,
    "happy": 0.24,
    "neutral": 0.17,
    "sad": 0.17,
    "surprised": 0.11,
}
VOCABULARY = tuple(EMOTIONS)
QUESTIONS = {k: faces.QUESTIONS[k] for k in ("mouth", "brows", "eyes", "glasses")} | {
    "skin": "Is the face light or dark?",
    "background": "Is the background light or dark?",
}
# Far enough apart that changing light leaves one of them the lighter.
SKINS: dict[str, Colour] = {"light": (215,) * 3, "dark": (145,) * 3}
BACKGROUNDS: dict[str, Colour] = {"light": (215,) * 3, "dark": (70,) * 3}

# One picture in so many is a copy of a training picture, or shows no face that could be judged.
COPIES, FAULTS = 50, 33
LIGHTER = 4  # one copy in so many is also lighter

Example = tuple[Image.Image, dict[str, Box]]


def random_face(rng: random.Random, emotion: str | None = None) -> Face:
    """A grey face of that emotion, or one with every attribute drawn for itself."""
    face = faces.random_face(rng, emotion, EMOTIONS)
    skin, background = rng.choice(list(SKINS)), rng.choice(list(BACKGROUNDS))
    return replace(face, skin=skin, background=background)


def lesson(rng: random.Random, size: int) -> Lesson:
    """A face without an emotion, with its caption and questions about its parts."""
    face = random_face(rng)
    # As the pictures of a data set of this size reach a model: drawn small, then enlarged.
    picture = draw(rng, face, SIZE)[0].resize((size, size), Image.Resampling.LANCZOS)
    answers = vars(face) | {"glasses": "yes" if face.glasses else "no"}
    caption = (
        f"a {face.skin} face with a {face.mouth} mouth, {face.brows} brows and {face.eyes} eyes "
        f"on a {face.background} background"
    )
    questions = {k: (q, answers[k]) for k, q in QUESTIONS.items()}
    return Lesson(picture.convert("RGB"), caption, questions)


def write(source: Drawn, folder: Path, seed: int) -> dict[str, object]:
    """Write train and test faces in the layout of the Kaggle set, uneven and faulty as it is.

    One picture in 50 is a copy of a training picture, in test too. One in 33 is nearly black, a
    blur, or no face at all. `regions.csv` names where the parts lie, as that of `faces` does.
    """
    seen: dict[str, list[Example]] = {emotion: [] for emotion in EMOTIONS}
    rows = []
    for split, count in (("train", source.train), ("test", source.test)):
        rng = random.Random(f"{seed} {split}")
        numbers: Counter[str] = Counter()
        for place, emotion in enumerate(_emotions(rng, count)):
            picture, boxes = _example(rng, place, emotion, source.size, seen[emotion])
            if split == "train":
                seen[emotion].append((picture, boxes))
            path = Path(split, emotion, f"im{numbers[emotion]}.png")
            numbers[emotion] += 1
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            picture.save(folder / path)
            rows += faces.region_rows(path, boxes)
    faces.write_regions(folder, rows)
    return {"drawing": source.drawing, "files": source.train + source.test}


def draw(rng: random.Random, face: Face, size: int) -> Example:
    """Draw a face of `size` by `size` pixels, as `faces.draw` does.

    Returns:
        The grey picture, and the boxes of its parts as x0, y0, x1, y1 in shares of its side.
    """
    picture, boxes = faces.draw(rng, face, size, SKINS, BACKGROUNDS)
    return picture.convert("L"), boxes


def _emotions(rng: random.Random, count: int) -> list[str]:
    """Each emotion once, then by their shares, in random order."""
    picked = list(EMOTIONS)
    given = Counter(picked)
    while len(picked) < count:
        behind = max(EMOTIONS, key=lambda e: SHARES[e] * (len(picked) + 1) - given[e])
        picked.append(behind)
        given[behind] += 1
    rng.shuffle(picked)
    return picked[:count]


def _example(
    rng: random.Random, place: int, emotion: str, size: int, seen: Sequence[Example]
) -> Example:
    """A face, a copy of one seen, or at its `place` in the set a picture of no use."""
    if place % COPIES == COPIES - 1 and seen:
        picture, boxes = rng.choice(seen)
        if place // COPIES % LIGHTER == LIGHTER - 1:
            picture = ImageEnhance.Brightness(picture).enhance(1.1)
        return picture, boxes
    picture, boxes = draw(rng, random_face(rng, emotion), size)
    if place % FAULTS == FAULTS - 1:
        spoil = (_black, _blur, _things)[place // FAULTS % 3]
        return spoil(rng, picture), {}
    return picture, boxes


def _black(rng: random.Random, picture: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(rng.uniform(0.02, 0.08))


def _blur(rng: random.Random, picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(picture.width * rng.uniform(0.05, 0.07)))


def _things(rng: random.Random, picture: Image.Image) -> Image.Image:
    """Boxes and discs where the face was."""
    picture = Image.new("L", picture.size, rng.randrange(60, 220))
    pen = ImageDraw.Draw(picture)
    for shape in rng.choices((pen.rectangle, pen.ellipse), k=6):
        x, y = (rng.uniform(0, 0.8) * picture.width for _ in "xy")
        width, height = (rng.uniform(0.1, 0.5) * picture.width for _ in "xy")
        shape((x, y, x + width, y + height), fill=rng.randrange(256))
    return picture
