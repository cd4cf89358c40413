import csv
import random
import re
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


def look(path: Path) -> tuple[str, str]:
    """The side that holds the saturated pixels, and the colour that most of them are nearest to."""
    pixels = np.asarray(Image.open(path).convert("RGB"), float)
    vivid = np.ptp(pixels, axis=2) > 90
    side = scenes.SIDES[int(np.nonzero(vivid)[1].mean() > pixels.shape[1] / 2)]
    names = list(scenes.COLOURS)
    distances = [np.abs(pixels[vivid] - np.array(scenes.COLOURS[name])).sum(1) for name in names]
    return side, names[Counter(np.argmin(distances, 0).tolist()).most_common(1)[0][0]]


def test_labels_and_explanations_are_true_of_the_picture(written: Path) -> None:
    """Judged by the pixels: what the explanation says is seen, and the label follows from it."""
    shapes = defaultdict(set)
    for row in rows(written, "train"):
        if row["gold_label"] == "neutral":
            assert "cannot see" in row["explanation"]
            continue
        seen, _, denied = row["explanation"].removesuffix(".").partition(",")
        *_, colour, shape, _, _, side = seen.split()
        assert look(written / "flickr30k_images" / row["Flickr30kID"]) == (side, colour), row
        shapes[row["Flickr30kID"]].add(shape)
        said = row["hypothesis"].removesuffix(".").split()[-1]
        assert (said in (colour, shape, side)) == (row["gold_label"] == "entailment"), row
        assert (said in denied) == (row["gold_label"] == "contradiction"), row
    assert len(shapes) > 40
    assert all(len(names) == 1 for names in shapes.values())


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
        seen = lesson.caption.replace(":", "").replace(",", "").split()
        asked = [*lesson.questions.items(), *(("check", pair) for pair in lesson.more)]
        assert len(asked) == 3 + scenes.CHECKED
        for name, (question, answer) in asked:
            if name == "check":
                words = set(re.findall(r"\w+", question))
                assert bool(words & set(seen)) == (answer == "yes")
            else:
                assert answer in seen
        assert "entail" not in str(lesson.questions)
