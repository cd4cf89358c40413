import csv
import random
import re
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from src.drawing import clips
from src.schema import Drawn

SOURCE = Drawn(drawing="clips", train=30, test=10, size=64)
LABELS = ["left", "right", "up", "down", "grows", "shrinks", "still"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    assert clips.write(SOURCE, folder, seed=1) == {"drawing": "clips", "files": 40}
    return folder


def rows(folder: Path, split: str) -> list[dict[str, str]]:
    with (folder / f"results_2M_{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def ink(frame: np.ndarray) -> np.ndarray:
    """What is no light ground: booleans of (height, width)."""
    pixels = frame.astype(int)
    return (np.ptp(pixels, axis=2) > 75) | (pixels.mean(axis=2) < 120)


def shape(frame: np.ndarray) -> tuple[float, float, float]:
    """Middle to the right and down, and area, of what is no light grey: in shares of the side."""
    found = ink(frame)
    down, right = np.nonzero(found)
    side = len(frame)
    return (*((v.min() + v.max()) / 2 / side for v in (right, down)), found.sum() / side**2)


def test_clips_are_written_in_the_layout_of_webvid(written: Path) -> None:
    tables = {split: rows(written, split) for split in ("train", "val")}
    assert {split: len(table) for split, table in tables.items()} == {"train": 30, "val": 10}
    everything = tables["train"] + tables["val"]
    assert list(everything[0]) == ["videoid", "name", "page_dir", "duration", "contentUrl"]
    assert len({row["videoid"] for row in everything}) == 40
    for row in everything:
        assert row["duration"] == "PT00H00M02S"
        assert row["contentUrl"].startswith("https://example.org/")
    named = {Path("videos", row["page_dir"], f"{row['videoid']}.mp4") for row in everything}
    assert {path.relative_to(written) for path in written.rglob("*.mp4")} == named


def test_a_clip_is_a_video_of_two_seconds(written: Path) -> None:
    path = next(written.rglob("*.mp4"))
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (64, 64, 12)
        assert float(stream.duration * stream.time_base) == pytest.approx(2)
    assert len(decoded(path)) == 24


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    source = SOURCE.model_copy(update={"train": 4, "test": 2})
    files = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        clips.write(source, folder, seed)
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        files.append([(path.relative_to(folder), path.read_bytes()) for path in found])
    assert files[0] == files[1]
    assert not {content for _, content in files[0]} & {content for _, content in files[2]}


def test_no_two_clips_are_alike(written: Path) -> None:
    assert len({path.read_bytes() for path in written.rglob("*.mp4")}) == 40


def test_a_file_shows_what_its_caption_says(written: Path) -> None:
    colours = set()
    for row in rows(written, "train"):
        _, colour, *_ = row["name"].split()
        frames = decoded(written / "videos" / row["page_dir"] / f"{row['videoid']}.mp4")
        pixels = frames[12].reshape(-1, 3).astype(int)
        loud = pixels[np.ptp(pixels, axis=1) > 100]
        assert np.abs(loud.mean(axis=0) - clips.COLOURS[colour]).max() < 30, row["name"]
        assert seen(frames) == row["name"].split()[-1]
        colours.add(colour)
    assert colours == set(clips.COLOURS)


def seen(frames: list[np.ndarray]) -> str:
    """The motion, from the first frame and the last."""
    (x0, y0, first), (x1, y1, last) = shape(frames[0]), shape(frames[-1])
    moves = {"left": x0 - x1, "right": x1 - x0, "up": y0 - y1, "down": y1 - y0}
    way = max(moves, key=moves.get)
    if moves[way] > 0.3:
        return way
    return "grows" if last > 3 * first else "shrinks" if first > 3 * last else "still"


@pytest.mark.parametrize("motion", LABELS)
@pytest.mark.parametrize("name", clips.SHAPES)
def test_a_motion_is_even_and_the_shape_stays_in_sight(motion: str, name: str) -> None:
    rng = random.Random(4)
    for _ in range(20):
        frames = clips.draw(rng, clips.Scene("red", name, motion), 96, 8)
        traced = np.array([shape(np.asarray(frame)) for frame in frames])
        steps = np.diff(traced[:, :2], axis=0)
        for axis, along in enumerate(clips.MOTIONS[motion][1]):
            if along:
                assert 0.35 < along * steps[:, axis].sum() < 0.65
                assert (along * steps[:, axis] > 0.03).all()
            else:
                assert np.abs(steps[:, axis]).max() < 0.03
        areas = np.diff(traced[:, 2])
        assert {"grows": areas > 0, "shrinks": areas < 0}.get(motion, np.abs(areas) < 0.03).all()
        assert traced[:, 2].min() > 0.02


def test_what_stays_still_does_not_move_by_a_pixel() -> None:
    scene = clips.Scene("blue", "circle", "still")
    frames = clips.draw(random.Random(1), scene, 64, 8)
    assert len({ink(np.asarray(frame)).tobytes() for frame in frames}) == 1


def test_no_shape_is_taken_for_another() -> None:
    """Each is nearest to the average of its own kind, in the middle of a clip that grows."""

    def average(name: str, seed: int) -> np.ndarray:
        rng = random.Random(seed)
        return np.mean([cut(rng, name) for _ in range(40)], axis=0)

    def cut(rng: random.Random, name: str) -> np.ndarray:
        *_, frame = clips.draw(rng, clips.Scene("red", name, "grows"), 112, 4)
        down, right = np.nonzero(ink(np.asarray(frame)))
        box = (right.min(), down.min(), right.max() + 1, down.max() + 1)
        pixels = np.asarray(frame.crop(box).resize((40, 40)), float)
        # Whatever the ground's colour is there.
        return np.where(ink(pixels)[..., None], pixels, 255)

    averages = {name: average(name, 1) for name in clips.SHAPES}
    rng = random.Random(2)
    for name in clips.SHAPES:
        for _ in range(20):
            picture = cut(rng, name)
            far = {other: np.abs(picture - a).mean() for other, a in averages.items()}
            assert min(far, key=far.get) == name


def test_every_motion_is_a_label_of_the_tiny_data() -> None:
    assert list(clips.MOTIONS) == LABELS
    for motion in LABELS:
        words = clips.Scene("red", "circle", motion).caption.split()
        assert [word for word in words if word in LABELS] == [motion]


def test_the_vocabulary_holds_every_word_of_a_caption(written: Path) -> None:
    captions = [row["name"] for split in ("train", "val") for row in rows(written, split)]
    assert {word for text in captions for word in text.split()} <= {"a", *clips.VOCABULARY}
    assert len(set(clips.VOCABULARY)) == len(clips.VOCABULARY)


def test_a_lesson_says_a_word_of_a_recipe_only_where_it_is_asked_for_plain_ones() -> None:
    rng = random.Random(0)
    for _ in range(200):
        lesson = clips.lesson(rng, 28)
        plain = {lesson.questions.pop("plain")[1], *(answer for _, answer in lesson.more)}
        said = " ".join([lesson.caption, *sum(lesson.questions.values(), ())]).lower()
        assert not set(re.findall(r"\w+", said)) & set(clips.VOCABULARY)
        assert all(answer in lesson.caption for _, answer in lesson.questions.values())
        (words,) = plain
        other = " ".join(clips.LESSON_WORDS.get(word, "") for word in words.split())
        assert set(other.split()) <= set(lesson.caption.split())


def test_a_lesson_shows_what_it_says() -> None:
    rng = random.Random(0)
    plain = {other: word for word, other in clips.LESSON_WORDS.items()}
    motions = set()
    for _ in range(60):
        lesson = clips.lesson(rng, 56)
        assert lesson.picture is None
        assert [(f.mode, f.size) for f in lesson.video] == [("RGB", (56, 56))] * 8
        motion = lesson.questions["heading"][1]
        assert seen([np.asarray(frame) for frame in lesson.video]) == plain[motion]
        motions.add(motion)
    assert len(motions) == 7
    assert isinstance(lesson.video[0], Image.Image)
