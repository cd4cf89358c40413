import csv
import gzip
import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.drawing import products
from src.readers import abo
from src.readers.abo_questions import QUESTIONS, YES_NO
from src.schema import Data, Drawn, Source

SOURCE = Drawn(drawing="products", train=80, test=20, size=64)
DATA = Data(
    name="abo",
    reader="abo",
    labels=None,
    licence="",
    publisher_splits=True,
    validation=0.2,
    test=0.1,
    near_duplicate_distance=0,
    limit=None,
    image_size=56,
    source=Source(drawn=SOURCE),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("products")
    products.write(SOURCE, folder, seed=1)
    return folder


def listings(folder: Path) -> list[dict]:
    files = sorted((folder / "listings/metadata").iterdir())
    assert [f.name for f in files] == [f"listings_{d}.json.gz" for d in "0123456789abcdef"]
    return [json.loads(line) for f in files for line in gzip.open(f, "rt", encoding="utf-8")]


def test_products_are_written_in_the_layout_of_abo(written: Path) -> None:
    found = listings(written)
    with gzip.open(written / "images/metadata/images.csv.gz", "rt") as file:
        table = {row["image_id"]: row for row in csv.DictReader(file)}
    assert len(table) == len({listing["item_id"] for listing in found}) == 100
    assert {listing["main_image_id"] for listing in found} == set(table)
    for row in table.values():
        assert re.fullmatch(r"([0-9a-f]{2})/\1[0-9a-f]{6}\.jpg", row["path"])
        with Image.open(written / "images/small" / row["path"]) as picture:
            assert picture.size == (int(row["width"]), int(row["height"])) == (64, 64)
    assert len({path.read_bytes() for path in written.rglob("*.jpg")}) == 100


def test_products_are_listed_in_several_languages_and_some_twice(written: Path) -> None:
    found = listings(written)
    tags = {name["language_tag"] for listing in found for name in listing["item_name"]}
    assert {"en_US", "de_DE", "ja_JP", "fr_CA"} <= tags
    assert max(Counter(listing["item_id"] for listing in found).values()) == 2
    assert any(len(listing["item_name"]) > 1 for listing in found)


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    written = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        products.write(SOURCE.model_copy(update={"train": 5, "test": 2}), folder, seed)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        written.append([(p.relative_to(folder), p.read_bytes()) for p in files])
    assert written[0] == written[1] != written[2]


def test_the_listings_say_what_the_pictures_show(tmp_path: Path, monkeypatch) -> None:
    """Each answer that the reader finds is that of the product that was drawn."""
    drawn = []

    def draw(rng: random.Random, shown: products.Product, size: int) -> Image.Image:
        drawn.append(shown)
        return Image.new("RGB", (size, size), (len(drawn),) * 3)

    monkeypatch.setattr(products, "draw", draw)
    products.write(SOURCE, tmp_path, seed=3)
    with gzip.open(tmp_path / "images/metadata/images.csv.gz", "rt") as file:
        assert len(drawn) == len(list(csv.DictReader(file)))
    kinds = Counter()
    for raw in abo.read(tmp_path, DATA):
        shown = drawn[round(np.asarray(Image.open(raw.path)).mean()) - 1]
        true = {
            "color": shown.colour,
            "product_type": shown.noun,
            "material": products.MATERIALS[shown.noun],
            "pattern": shown.pattern,
            "count": str(shown.count),
            "yes_no": "yes" if raw.question == YES_NO.format(shown.colour) else "no",
        }
        assert raw.answers == (true[raw.kind],), raw
        kinds[raw.kind] += 1
    assert all(kinds[kind] == 100 for kind in ("color", "product_type", "material", "pattern"))
    assert kinds["count"] > 50
    assert kinds["yes_no"] >= 90


def test_the_vocabulary_holds_every_answer(written: Path) -> None:
    answers = {raw.answers[0] for raw in abo.read(written, DATA)}
    assert answers == set(products.VOCABULARY)


def test_a_lesson_neither_asks_nor_says_what_a_recipe_does() -> None:
    rng = random.Random(0)
    recipe = {q.lower() for q in QUESTIONS.values()}
    for _ in range(300):
        lesson = products.lesson(rng, 28)
        asked = {q.lower() for q, _ in lesson.questions.values()}
        said = " ".join([lesson.caption, *sum(lesson.questions.values(), ())]).lower()
        assert not set(re.findall(r"\w+", said)) & set(products.VOCABULARY)
        assert not asked & recipe


def test_a_caption_says_what_the_questions_answer() -> None:
    rng = random.Random(0)
    for _ in range(50):
        lesson = products.lesson(rng, 28)
        assert all(answer in lesson.caption for _, answer in lesson.questions.values())


@pytest.mark.parametrize("noun", products.MATERIALS)
@pytest.mark.parametrize("pattern", products.PATTERNS)
def test_so_many_products_of_that_colour_are_drawn(noun: str, pattern: str) -> None:
    one, four = (
        products.draw(random.Random(2), products.Product("blue", noun, pattern, n), 112)
        for n in (1, 4)
    )
    blue = []
    for picture in (one, four):
        pixels = np.asarray(picture, int)
        blue.append((pixels[..., 2] > pixels[..., 0] + 80).sum())
    assert blue[0] > 300
    assert 2.5 < blue[1] / blue[0] < 6
