import csv
import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from src.drawing import products
from src.errors import UserError
from src.readers.abo import read
from src.readers.abo_words import words
from src.records import Raw, Rejected
from src.schema import Data, Drawn, Source

SOURCE = Drawn(drawing="products", train=300, test=100, size=32)


@pytest.fixture
def data() -> Data:
    return Data(
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
        source=Source(folder="products"),
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    products.write(SOURCE, folder, seed=1)
    return folder


def listing(item: str, image: str | None, color: str = "Red", **more: object) -> dict:
    tag = more.pop("tag", "en_US")
    return {
        "item_id": item,
        "color": [{"language_tag": tag, "value": color}],
        "product_type": [{"value": "WATER_BOTTLE"}],
        "main_image_id": image,
        "domain_name": "amazon.com",
    } | more


def publish(folder: Path, *lines: dict | str | bytes, name: str = "listings_0.json.gz") -> Path:
    path = folder / "listings/metadata" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = [
        x if isinstance(x, bytes) else (x if isinstance(x, str) else json.dumps(x)).encode()
        for x in lines
    ]
    text = b"\n".join(raw)
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def show(folder: Path, **pictures: str) -> None:
    """Pictures by their ids, listed in images.csv.gz."""
    (folder / "images/metadata").mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / "images/metadata/images.csv.gz", "wt") as file:
        rows = [(key, 9, 9, path) for key, path in pictures.items()]
        csv.writer(file).writerows([("image_id", "height", "width", "path"), *rows])
    for path in pictures.values():
        file = folder / "images/small" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def found(folder: Path, data: Data) -> dict[str, Raw]:
    return {r.id: r for r in read(folder, data) if isinstance(r, Raw)}


def rejected(folder: Path, data: Data) -> dict[str, str]:
    return {r.file: r.reason for r in read(folder, data) if isinstance(r, Rejected)}


@pytest.mark.parametrize("top", ["", "abo-listings"])
def test_each_question_about_a_product_is_an_example(tmp_path: Path, data: Data, top: str) -> None:
    publish(tmp_path / top, listing("B1", "a"))
    show(tmp_path / top, a="7f/7f00.jpg")
    path = tmp_path / top / "images/small/7f/7f00.jpg"
    identity = path.relative_to(tmp_path).as_posix()
    raws = found(tmp_path, data)
    assert list(raws) == [f"{identity}#product_type", f"{identity}#color"]
    assert raws[f"{identity}#color"] == Raw(
        f"{identity}#color",
        path,
        question="What color is the product?",
        answers=("red",),
        kind="color",
        group="B1",
        subgroup="water bottle",
    )


@pytest.mark.parametrize("name", ["listings.jsonl", "listings_3.json", "listings_3.json.gz"])
def test_without_a_table_a_picture_is_named_after_its_id(
    tmp_path: Path, data: Data, name: str
) -> None:
    publish(tmp_path, listing("B1", "81h1YmBrYNL"), name=name)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/81h1YmBrYNL.jpg").write_bytes(b"")
    assert {r.path.name for r in found(tmp_path, data).values()} == {"81h1YmBrYNL.jpg"}


def test_what_cannot_be_used_is_rejected_for_what_it_is(tmp_path: Path, data: Data) -> None:
    secret = listing("B8", "out")
    lines = [
        *(listing("B1", "a"), "", "{broken", b'{"item_id": "\xff"}', "[1]", {"main_image_id": "a"}),
        *(listing("B2", None), listing("B3", "unknown"), listing("B4", "gone")),
        *(listing("B5", "b", color="Assorted", product_type=[]), listing("B6", "a"), secret),
        listing("B10", "long"),
    ]
    publish(tmp_path, *lines)
    publish(tmp_path, listing("B7", "c"), name="listings_1.json.gz")
    damaged = publish(tmp_path, *([listing("B9", "c")] * 50), name="listings_2.json.gz")
    damaged.write_bytes(damaged.read_bytes()[:15])
    show(tmp_path, a="a.jpg", b="b.jpg", c="c.jpg", gone="gone.jpg")
    with gzip.open(tmp_path / "images/metadata/images.csv.gz", "at") as file:
        file.write(f"out,9,9,../../../out.jpg\nlong,9,9,{'x' * 256}\n,,,\nshort\n")
    (tmp_path / "images/small/gone.jpg").unlink()
    why = rejected(tmp_path, data)
    kinds = {file.partition("metadata/")[2]: r.partition(":")[0] for file, r in why.items()}
    assert kinds == {
        "listings_0.json.gz row 3": "no JSON",
        "listings_0.json.gz row 4": "no JSON",
        "listings_0.json.gz row 5": "no item_id",
        "listings_0.json.gz row 6": "no item_id",
        "listings_0.json.gz row 7": "no picture named",
        "listings_0.json.gz row 8": "picture not listed",
        "listings_0.json.gz row 9": "no such file",
        "listings_0.json.gz row 10": "no question can be made",
        "listings_0.json.gz row 11": "picture of another product",
        "listings_0.json.gz row 12": "outside the data's folder",
        "listings_0.json.gz row 13": "no such file",
        "listings_2.json.gz": "cut short or damaged",
    }
    assert {raw.group for raw in found(tmp_path, data).values()} == {"B1", "B7"}


def test_a_product_of_several_shops_is_one_and_english_where_it_can_be(
    tmp_path: Path, data: Data
) -> None:
    shops = [
        listing("B1", "a", "Rot", tag="de_DE", domain_name="amazon.de"),
        listing("B1", "a", "Green", tag="en_IN", domain_name="amazon.in"),
        listing("B1", "a", "Blue", tag="en_US", domain_name="amazon.com"),
        listing("B2", "b", "Gelb", tag="de_DE", domain_name="amazon.de"),
        # The German one says more, the English one is English.
        listing("B3", "c", "Gelb", tag="de_DE", domain_name="amazon.de"),
        listing("B3", "c", "Pink", tag="en_IN", domain_name="amazon.in", product_type=[]),
        # Both are English, and the second one says more.
        listing("B4", "d", "Black", domain_name="amazon.ca", product_type=[]),
        listing("B4", "d", "White", domain_name="amazon.in"),
    ]
    show(tmp_path, a="a.jpg", b="b.jpg", c="c.jpg", d="d.jpg")
    for order in (shops, shops[::-1]):
        publish(tmp_path, *order)
        raws = found(tmp_path, data).values()
        color = {r.group: r.answers[0] for r in raws if r.kind == "color"}
        assert color == {"B1": "blue", "B2": "yellow", "B3": "pink", "B4": "white"}
        assert Counter(r.kind for r in raws)["color"] == 4


def test_the_questions_do_not_depend_on_the_order_of_the_files(
    tmp_path: Path, data: Data, drawn: Path
) -> None:
    shutil.copytree(drawn, tmp_path / "other")
    files = sorted((tmp_path / "other/listings/metadata").iterdir())
    files[0].rename(files[0].with_name("listings_x.json.gz"))
    first, second = (
        {(r.id, r.question, r.answers) for r in read(folder, data)}
        for folder in (drawn, tmp_path / "other")
    )
    assert first == second


def test_drawn_products_give_questions_that_can_be_judged(drawn: Path, data: Data) -> None:
    raws = list(read(drawn, data))
    assert all(isinstance(raw, Raw) for raw in raws)
    assert len({raw.id for raw in raws}) == len(raws) > 2000
    assert len({raw.group for raw in raws}) == 400
    kinds: dict[str, Counter] = {}
    for raw in raws:
        (answer,) = raw.answers
        assert answer == answer.lower() and words(answer) == [answer]
        assert answer not in words(raw.question)
        kinds.setdefault(raw.kind, Counter())[answer] += 1
    assert {k: len(v) for k, v in kinds.items()} == {
        **{"product_type": 3, "color": 6, "material": 3, "pattern": 3, "count": 4, "yes_no": 2},
    }
    yes, no = kinds["yes_no"]["yes"], kinds["yes_no"]["no"]
    assert abs(yes - no) <= 0.02 * (yes + no)
    assert yes + no > 350


def test_a_folder_without_listings_says_what_is_expected(tmp_path: Path, data: Data) -> None:
    with pytest.raises(UserError, match=r"holds no listings; expected are listings/metadata/"):
        list(read(tmp_path, data))


def test_nothing_usable_says_what_is_expected(tmp_path: Path, data: Data) -> None:
    publish(tmp_path, listing("B1", "a"), listing("B2", "b"))
    with pytest.raises(UserError, match=r"none of 2 products .* expected are listings/metadata/"):
        list(read(tmp_path, data))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"image_id,height\na,1\n", "has no column path"),
        (b"image_id,path\n\xff,1\n", "cannot be read: .*utf-8"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error(
    tmp_path: Path, data: Data, table: bytes, message: str
) -> None:
    publish(tmp_path, listing("B1", "a"))
    show(tmp_path, a="a.jpg")
    path = tmp_path / "images/metadata/images.csv.gz"
    path.write_bytes(gzip.compress(table))
    with pytest.raises(UserError, match=rf"images\.csv\.gz: {message}"):
        list(read(tmp_path, data))


def test_a_table_without_its_pictures_is_an_error(tmp_path: Path, data: Data) -> None:
    publish(tmp_path, listing("B1", "a"))
    show(tmp_path, a="a.jpg")
    shutil.rmtree(tmp_path / "images/small")
    with pytest.raises(UserError, match="has no folder small or original"):
        list(read(tmp_path, data))
