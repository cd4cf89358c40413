"""Drawn scenes of one shape with hypotheses about it, in the files that e-SNLI-VE has."""

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from src.drawing import Lesson
from src.drawing.clips import COLOURS, SHAPES, draw_shape
from src.drawing.faces import jitter
from src.schema import Drawn

COLUMNS = ("", "pairID", "Flickr30kID", "hypothesis", "gold_label", "explanation")
PICTURES = "flickr30k_images"
SIDES = ("left", "right")
LESSON_SIDE = 112
HYPOTHESES = 3  # of each picture
# Half of the hypotheses are true, so that neither of two classes is the more frequent one.
LABELS = ("entailment", "entailment", "neutral", "contradiction")
# What no picture tells: what is said, and the explanation.
UNSEEN = {
    "The {shape} is made of wood.": "One cannot see what the {shape} is made of.",
    "The {shape} belongs to a child.": "One cannot see who owns the {shape}.",
    "The {shape} is very old.": "One cannot see how old the {shape} is.",
}
# How a lesson asks whether something holds.
CHECKS = (
    "Right or wrong? {}",
    "{} Is that so?",
    "Does the picture show this: {}",
    "Judge this: {}",
)
CHECKED = 12  # in a lesson: to compare words with a picture takes the most practice
ENDINGS = ("", " Explain.", " Say why.", " Why?")
VOCABULARY = ("entailment", "not entailment", "neutral", "contradiction", "wood", "child", "old")


@dataclass(frozen=True)
class Scene:
    """What is seen in a picture."""

    colour: str
    shape: str
    side: str


@dataclass(frozen=True)
class Statement:
    """A hypothesis about a scene, with what is to be said of it."""

    text: str
    label: str
    explanation: str


def random_scene(rng: random.Random) -> Scene:
    """Every attribute drawn for itself."""
    return Scene(rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(SIDES))


def statement(rng: random.Random, scene: Scene, label: str) -> Statement:
    """A hypothesis of that label; its words alone do not tell a true from a false one."""
    if label == "neutral":
        said, why = rng.choice(list(UNSEEN.items()))
        text, explanation = (words.format(shape=scene.shape) for words in (said, why))
        return Statement(text, label, explanation)
    attribute, values, hypothesis, other = rng.choice(
        (
            ("colour", COLOURS, "The shape is {}.", "not a {} one"),
            ("shape", SHAPES, "There is a {}.", "not a {}"),
            ("side", SIDES, "It is on the {}.", "not on the {}"),
        )
    )
    seen = said = getattr(scene, attribute)
    explanation = f"There is a {scene.colour} {scene.shape} on the {scene.side}."
    if label == "contradiction":
        said = rng.choice([value for value in values if value != seen])
        explanation = f"{explanation.removesuffix('.')}, {other.format(said)}."
    return Statement(hypothesis.format(said), label, explanation)


def lesson(rng: random.Random, size: int) -> Lesson:
    """A scene with a caption and questions: what is where, and whether something holds.

    A base that has learnt from lessons sees what the recipe asks about and can compare it with
    words. It has never said that something is entailed, nor why.
    """
    scene = random_scene(rng)
    caption = f"{scene.side}: {scene.shape}, {scene.colour}"
    questions = {
        "color": ("Which color do you see?", scene.colour),
        "outline": ("Which outline do you see?", scene.shape),
        "place": ("Which side is it?", scene.side),
    }
    checks = []
    for _ in range(CHECKED):
        checked = statement(rng, scene, rng.choice(("entailment", "contradiction")))
        asked = rng.choice(CHECKS).format(checked.text) + rng.choice(ENDINGS)
        checks.append((asked, "yes" if checked.label == "entailment" else "no"))
    questions["check"] = checks[0]
    # Drawn larger and reduced, as the pictures of a file are.
    picture = draw(rng, scene, LESSON_SIDE).resize((size, size), Image.Resampling.LANCZOS)
    return Lesson(picture, caption, questions, more=tuple(checks[1:]))


def write(source: Drawn, folder: Path, seed: int) -> dict[str, object]:
    """Write `source.train` and `source.test` pictures, and a tenth of `train` for validation.

    Each has three hypotheses. Pictures are `flickr30k_images/<Flickr30kID>`. The same seed gives
    the same bytes.
    """
    rng = random.Random(f"{seed} scenes")
    counts = {"train": source.train, "dev": max(1, source.train // 10), "test": source.test}
    numbers = iter(rng.sample(range(10**6, 10**10), sum(counts.values())))
    (folder / PICTURES).mkdir()
    for split, count in counts.items():
        labels = list(_labels(rng, HYPOTHESES * count))
        rows: list[tuple[object, ...]] = []
        for _ in range(count):
            name, scene = f"{next(numbers)}.jpg", random_scene(rng)
            draw(rng, scene, source.size).save(folder / PICTURES / name, quality=92)
            stated: dict[str, Statement] = {}
            while len(stated) < HYPOTHESES:
                said = statement(rng, scene, labels[-1])
                if said.text not in stated:
                    stated[said.text] = said
                    labels.pop()
            for k, said in enumerate(stated.values()):
                pair = f"{name}#{k}r1{said.label[0]}"
                rows.append((len(rows), pair, name, said.text, said.label, said.explanation))
        with (folder / f"esnlive_{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    return {"drawing": source.drawing, "files": sum(counts.values())}


def draw(rng: random.Random, scene: Scene, size: int) -> Image.Image:
    """Draw a scene on a light ground, in a picture of `size` by `size` pixels."""
    picture = Image.new("RGB", (2 * size, 2 * size), (rng.randint(205, 240),) * 3)
    x = {"left": 0.28, "right": 0.72}[scene.side] + rng.uniform(-0.03, 0.03)
    place = (2 * size * v for v in (x, rng.uniform(0.3, 0.7), rng.uniform(0.18, 0.22)))
    draw_shape(picture, scene.shape, *place, jitter(rng, COLOURS[scene.colour]))
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, 4, (size, size, 1))
    pixels = np.asarray(picture.reduce(2), np.float32) + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _labels(rng: random.Random, count: int) -> Iterator[str]:
    """So many labels in their shares, in any order."""
    labels = [LABELS[i % len(LABELS)] for i in range(count)]
    rng.shuffle(labels)
    yield from labels
