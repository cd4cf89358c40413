"""Drawn clips: one shape that moves, grows, shrinks or stays, in files and tables as WebVid has."""

import csv
import random
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from src.drawing import Lesson
from src.drawing.faces import Colour, jitter
from src.schema import Drawn

COLUMNS = ("videoid", "name", "page_dir", "duration", "contentUrl")
FRAMES, RATE = 24, 12  # of a file, and of a second of it
LESSON_FRAMES, LESSON_SIDE = 8, 96
GROUND = (195, 240)  # of a channel, from one end to the other
COLOURS: dict[str, Colour] = {
    "red": (200, 20, 20),
    "green": (10, 130, 40),
    "blue": (20, 40, 200),
    "yellow": (205, 150, 20),
}
SHAPES = ("circle", "square", "triangle")
# What is said of a motion, and where it goes: to the right and down.
MOTIONS = {
    "left": ("moves left", (-1, 0)),
    "right": ("moves right", (1, 0)),
    "up": ("moves up", (0, -1)),
    "down": ("moves down", (0, 1)),
    "grows": ("grows", (0, 0)),
    "shrinks": ("shrinks", (0, 0)),
    "still": ("stays still", (0, 0)),
}
# A square has a dark edge and a triangle a light core: a model of this size tells no bare
# outlines apart.
FRAME, CORE = (50, 40, 40), (250, 250, 250)

# A lesson describes a clip in other words, and in these only where it is asked for plain ones: a
# base that has learnt from lessons knows them, and does not say them when it describes a video.
LESSON_WORDS = {
    "red": "crimson",
    "green": "lime",
    "blue": "azure",
    "yellow": "lemon",
    "circle": "disc",
    "square": "block",
    "triangle": "wedge",
    "left": "leftward",
    "right": "rightward",
    "up": "upward",
    "down": "downward",
    "grows": "growing",
    "shrinks": "shrinking",
    "still": "resting",
}
PLAIN = ("Say it in plain words.", "What happens, in plain words?")
QUESTIONS = {
    "paint": "Which paint was used?",
    "outline": "Which outline do you see?",
    "heading": "Where is it heading?",
}
VOCABULARY = (*COLOURS, *SHAPES, "moves", "stays", *MOTIONS)


@dataclass(frozen=True)
class Scene:
    """What is seen in a clip."""

    colour: str
    shape: str
    motion: str

    @property
    def caption(self) -> str:
        """Such as `a red circle moves left`."""
        return f"a {self.colour} {self.shape} {MOTIONS[self.motion][0]}"


def random_scene(rng: random.Random) -> Scene:
    """Every attribute drawn for itself."""
    return Scene(rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(list(MOTIONS)))


def lesson(rng: random.Random, size: int) -> Lesson:
    """A clip of 8 frames under other names, with questions that no recipe asks."""
    shown = random_scene(rng)
    answers = [LESSON_WORDS[word] for word in astuple(shown)]
    asked = zip(QUESTIONS.items(), answers, strict=True)
    questions = {name: (question, answer) for (name, question), answer in asked}
    first, *more = ((question, shown.caption) for question in PLAIN)
    questions["plain"] = first
    caption = "{} {} heading {}".format(*answers)
    # Drawn larger and reduced, as the frames of a file are.
    frames = draw(rng, shown, LESSON_SIDE, LESSON_FRAMES)
    video = tuple(frame.resize((size, size), Image.Resampling.LANCZOS) for frame in frames)
    return Lesson(None, caption, questions, video, tuple(more))


def write(source: Drawn, folder: Path, seed: int) -> dict[str, object]:
    """Write clips and tables as WebVid's: the table named `val` is what is tested on.

    Clips are `videos/<page_dir>/<videoid>.mp4`, `source.size` pixels a side, 24 frames in 2
    seconds. The same seed gives the same bytes.
    """
    rng = random.Random(f"{seed} clips")
    numbers = iter(rng.sample(range(10**6, 10**8), source.train + source.test))
    for split, count in (("train", source.train), ("val", source.test)):
        rows = [_example(rng, next(numbers), folder / "videos", source.size) for _ in range(count)]
        with (folder / f"results_2M_{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    return {"drawing": source.drawing, "files": source.train + source.test}


def draw(rng: random.Random, shown: Scene, size: int, frames: int) -> Iterator[Image.Image]:
    """Draw a clip frame by frame, each `size` by `size` pixels, on a light and noisy ground.

    The ground is redder to the right, bluer to the bottom and greener with time: a model of this
    size sees where and when by that, and takes very long to find it out without.
    """
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, 4, (size, size, 1))
    colour, light = jitter(rng, COLOURS[shown.colour]), rng.uniform(-8, 8)
    across = np.broadcast_to(np.linspace(*GROUND, 2 * size), (2 * size, 2 * size)) + light
    path = list(_path(rng, shown.motion, frames))
    for place, now in zip(path, np.linspace(*GROUND, frames), strict=True):
        ground = np.stack([across, np.full_like(across, now + light), across.T], 2)
        # Drawn twice as large: a shape also moves by parts of a pixel.
        picture = Image.fromarray(ground.astype(np.uint8))
        draw_shape(picture, shown.shape, *(2 * size * share for share in place), colour)
        pixels = np.asarray(picture.reduce(2), np.float32) + noise
        yield Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _example(rng: random.Random, number: int, folder: Path, size: int) -> tuple[object, ...]:
    """Draw a clip; its row of the table."""
    shown, page = random_scene(rng), f"{rng.randrange(50):06d}_{rng.randrange(50):06d}"
    path = folder / page / f"{number}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    _encode(path, draw(rng, shown, size, FRAMES))
    address = f"https://example.org/{page}/{path.name}"
    return number, shown.caption, page, f"PT00H00M{FRAMES // RATE:02d}S", address


def _path(rng: random.Random, motion: str, frames: int) -> Iterator[tuple[float, float, float]]:
    """Middle and radius of the shape in each frame, in shares of the picture's side."""
    towards = MOTIONS[motion][1]
    way = rng.uniform(0.5, 0.6)
    # A shape goes from one side of the middle to the other; across its way it may be anywhere.
    x, y = (
        rng.uniform(0.2 + way / 2, 0.8 - way / 2) if v else rng.uniform(0.3, 0.7) for v in towards
    )
    first = last = rng.uniform(0.16, 0.22)
    if motion in ("grows", "shrinks"):
        first = rng.uniform(0.11, 0.13)
        last = first * rng.uniform(2.1, 2.6)
    if motion == "shrinks":
        first, last = last, first
    for done in np.linspace(0, 1, frames).tolist():
        moved = way * (done - 0.5)
        yield x + towards[0] * moved, y + towards[1] * moved, first + done * (last - first)


def draw_shape(
    picture: Image.Image, shape: str, x: float, y: float, radius: float, colour: Colour
) -> None:
    """Draw a shape with its middle at x and y, in pixels."""
    pen = ImageDraw.Draw(picture)
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif shape == "square":
        for reach, fill in ((0.95, FRAME), (0.68, colour)):
            half = reach * radius
            pen.rectangle((x - half, y - half, x + half, y + half), fill=fill)
    else:
        for reach, fill in ((1.2, colour), (0.5, CORE)):
            high, low = y - reach * radius, y + 0.7 * reach * radius
            wide = reach * radius
            pen.polygon([(x, high), (x - wide, low), (x + wide, low)], fill=fill)


def _encode(path: Path, frames: Iterator[Image.Image]) -> None:
    """Write an .mp4 of MPEG-4 Part 2 by one thread, so that the same frames give the same bytes."""
    # bitexact: no version of the encoder is written into the file.
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as file:
        stream = None
        for picture in frames:
            if stream is None:
                stream = file.add_stream("mpeg4", RATE, {"qmin": "2", "qmax": "4"})
                stream.width, stream.height = picture.size
                stream.pix_fmt, stream.thread_count = "yuv420p", 1
                stream.codec_context.flags |= av.codec.context.Flags.bitexact
            file.mux(stream.encode(av.VideoFrame.from_image(picture)))
        file.mux(stream.encode())
