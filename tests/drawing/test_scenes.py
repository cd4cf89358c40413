import csv
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.drawing import scenes
from src.schema import Drawn

SOURCE = Drawn(drawing="scenes", train=60, test=20, size=112)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    assert scenes.write(SOURCE, folder, seed=1) == {"drawing": "scenes", "files": 86}
    return folder


def rows(folder: Path, split: str) -> list[dict[str, str]]:
    with (folder / f"esnlive_{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_scenes_are_written_in_the_layout_of_e_snli_ve(written: Path) -> None:
    header = (written / "esnlive_dev.csv").read_text().splitlines()[0]
    assert header == ",pairID,Flickr30kID,hypothesis,gold_label,explanation"
    pictures = {split: {r["Flickr30kID"] for r in rows(written, split)} for split in SPLITS}
    assert {split: len(names) for split, names in pictures.items()} == SPLITS
    everything = set().union(*pictures.values())
    assert len(everything) == sum(SPLITS.values()), "a picture lies in two splits"
    assert {p.name for p in (written / "flickr30k_images").iterdir()} == everything
    for split in SPLITS:
        found = rows(written, split)
        assert len({r["pairID"] for r in found}) == len(found)
        assert len({(r["Flickr30kID"], r["hypothesis"]) for r in found}) == len(found)


SPLITS = {"train": 60, "dev": 6, "test": 20}


def colours(path: Path) -> dict[str, str]:
    """The colour that most of each half's saturated pixels are nearest to."""
    pixels = np.asarray(Image.open(path).convert("RGB"), float)
    found = {}
    for side, half in zip(scenes.SIDES, np.split(pixels, 2, axis=1), strict=True):
        vivid = half[np.ptp(half, axis=2) > 90]
        names = list(scenes.COLOURS)
        distances = [np.abs(vivid - np.array(scenes.COLOURS[name])).sum(1) for name in names]
        found[side] = names[Counter(np.argmin(distances, 0).tolist()).most_common(1)[0][0]]
    return found


def test_labels_and_explanations_are_true_of_the_picture(written: Path) -> None:
    """Judged by the pixels: what the explanation says is seen, and the label follows from it."""
    checked = 0
    for row in rows(written, "train"):
        if row["gold_label"] == "neutral":
            continue
        seen = colours(written / "flickr30k_images" / row["Flickr30kID"])
        words = row["explanation"].removesuffix(".").replace(",", "").split()
        side, colour = words[4], words[6]
        assert seen[side] == colour, row
        said = next(c for c in scenes.COLOURS if c in row["hypothesis"].removesuffix(".").split())
        assert (said == colour) == (row["gold_label"] == "entailment"), row
        assert words[1] in row["hypothesis"] or f"on the {side}" in row["hypothesis"]
        checked += 1
    assert checked > 100


def test_half_is_entailed_and_the_words_alone_tell_no_more_than_that_and_the_neutral() -> None:
    rng = random.Random(5)
    by_text = defaultdict(Counter)
    labels = Counter()
    for _ in range(20000):
        label = rng.choice(scenes.LABELS)
        said = scenes.statement(rng, scenes.random_scene(rng), label)
        labels[label] += 1
        by_text[said.text][label == "entailment"] += 1
    total = labels.total()
    assert labels["entailment"] / total == pytest.approx(0.5, abs=0.02)
    assert labels["neutral"] / total == pytest.approx(0.25, abs=0.02)
    blind = sum(max(counts.values()) for counts in by_text.values()) / total
    assert blind < 0.76


def test_explanations_are_short_and_name_what_is_seen() -> None:
    rng = random.Random(6)
    for label in ("entailment", "neutral", "contradiction"):
        said = scenes.statement(rng, scenes.random_scene(rng), label)
        assert said.label == label
        assert len(said.explanation.split()) <= 14
        assert said.explanation.endswith(".")


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    source = SOURCE.model_copy(update={"train": 4, "test": 2})
    files = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        scenes.write(source, folder, seed)
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        files.append([(path.relative_to(folder), path.read_bytes()) for path in found])
    assert files[0] == files[1]
    assert not {content for _, content in files[0]} & {content for _, content in files[2]}


def test_a_lesson_is_true_and_never_says_why() -> None:
    rng = random.Random(7)
    for _ in range(50):
        lesson = scenes.lesson(rng, 56)
        assert lesson.picture.size == (56, 56)
        left, _, right = lesson.caption.partition(" then ")
        seen = dict(part.split()[::-1] for part in (left, right))
        for name, (question, answer) in lesson.questions.items():
            if not name.startswith("check"):
                continue
            assert answer in ("yes", "no")
            said = question.removeprefix("Right or wrong? ").removesuffix(".").split()
            if said[0] == "There":
                assert (seen[said[-1]] == said[-2]) == (answer == "yes")
        assert "entail" not in str(lesson.questions)
