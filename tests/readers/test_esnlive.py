import csv
import random
import time
from pathlib import Path

import pytest
from PIL import Image

from src.drawing import scenes
from src.errors import UserError
from src.files import read_json, write_json
from src.prepare import prepare
from src.readers.esnlive import read
from src.records import SPLITS, Raw, Rejected, read_split
from src.schema import Data, Drawn, Source

COLUMNS = ("", "pairID", "Flickr30kID", "hypothesis", "gold_label", "explanation")
THREE = ["entailment", "neutral", "contradiction"]


@pytest.fixture
def data() -> Data:
    return Data(
        name="esnlive",
        reader="esnlive",
        labels=THREE,
        licence="",
        publisher_splits=True,
        validation=0.1,
        test=0.1,
        near_duplicate_distance=0,
        limit=None,
        image_size=56,
        source=Source(folder="pairs"),
    )


def fill(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def table(path: Path, *rows: tuple[object, ...], columns: tuple[str, ...] = COLUMNS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def row(pair: str, label: object = "neutral", **changed: str) -> tuple[object, ...]:
    """A row whose picture is what stands before the pair's number."""
    values = {"picture": pair.partition("#")[0], "said": "A man sits.", "why": "He sits."} | changed
    return (7, pair, values["picture"], values["said"], label, values["why"])


def found(folder: Path, data: Data) -> list[Raw]:
    return [r for r in read(folder, data) if isinstance(r, Raw)]


def rejected(folder: Path, data: Data) -> dict[str, str]:
    return {r.file: r.reason for r in read(folder, data) if isinstance(r, Rejected)}


def test_rows_are_hypotheses_about_their_pictures(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "flickr30k_images/1.jpg")
    table(
        tmp_path / "esnlive_train.csv",
        row("1.jpg#2r1e", "entailment", said='A "man", seated.', why="He sits,\nas one sees."),
        row("1.jpg#2r1n"),
    )
    path = tmp_path / "flickr30k_images/1.jpg"
    common = {"path": path, "split": "train", "group": "1.jpg"}
    assert found(tmp_path, data) == [
        Raw(
            "flickr30k_images/1.jpg#1.jpg#2r1e",
            label="entailment",
            question='A "man", seated.',
            answers=("He sits,\nas one sees.",),
            kind="entailment",
            **common,
        ),
        Raw(
            "flickr30k_images/1.jpg#1.jpg#2r1n",
            label="neutral",
            question="A man sits.",
            answers=("He sits.",),
            kind="neutral",
            **common,
        ),
    ]


def test_the_table_names_the_split(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "images/1.jpg")
    for name in ("train", "dev", "test", "reduced"):
        table(tmp_path / f"tables/esnlive_{name}.csv", row(f"1.jpg#{name}"))
    # Flickr30k's own captions.
    (tmp_path / "images/results.csv").write_text("image_name| comment_number| comment\n1.jpg| 0| x")
    splits = {raw.id.partition("#1.jpg#")[2]: raw.split for raw in found(tmp_path, data)}
    assert splits == {"train": "train", "dev": "validation", "test": "test"}


@pytest.mark.parametrize(
    "folder",
    [
        "flickr30k_images",
        "flickr30k-images",
        "flickr30k_images/flickr30k_images",
        "images",
        "flickr/flickr30k_images",
    ],
)
def test_the_pictures_may_lie_in_several_folders(tmp_path: Path, data: Data, folder: str) -> None:
    fill(tmp_path, f"{folder}/1.jpg", "elsewhere/2.jpg")
    table(tmp_path / "esnlive_train.csv", row("1.jpg#0r1n"), row("2.jpg#0r1n"))
    assert [raw.path for raw in found(tmp_path, data)] == [tmp_path / folder / "1.jpg"]
    assert rejected(tmp_path, data) == {"esnlive_train.csv row 2": "no such picture: 2.jpg"}


def test_columns_go_by_their_names(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "images/1.jpg")
    columns = ("explanation", "Gold_Label", "hypothesis", "Flickr30kID", "pairID", "more")
    values = ("He sits.", "NEUTRAL", "A man.", "1.jpg", "1.jpg#0r1n", "")
    table(tmp_path / "esnlive_dev.csv", values, columns=columns)
    (raw,) = found(tmp_path, data)
    assert (raw.question, raw.answers, raw.kind) == ("A man.", ("He sits.",), "neutral")


def test_there_may_be_several_explanations(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "images/1.jpg")
    table(
        tmp_path / "esnlive_test.csv",
        (*row("1.jpg#0r1n", why="One."), "Two.", "One."),
        (*row("1.jpg#1r1n", why=""), "", "Three."),
        columns=(*COLUMNS, "explanation_1", "explanation_2"),
    )
    assert [raw.answers for raw in found(tmp_path, data)] == [("One.", "Two."), ("Three.",)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (THREE, THREE),
        (["yes", "maybe", "no"], ["yes", "maybe", "no"]),
        (["entailment", "not entailment"], ["entailment", "not entailment", "not entailment"]),
    ],
)
@pytest.mark.parametrize("given", [THREE, ["Entailment", "NEUTRAL", "contradiction"], [0, 1, 2]])
def test_labels_are_of_two_or_three_classes(
    tmp_path: Path, data: Data, labels: list[str], expected: list[str], given: list[object]
) -> None:
    fill(tmp_path, "images/1.jpg")
    table(tmp_path / "esnlive_train.csv", *(row(f"1.jpg#{i}", g) for i, g in enumerate(given)))
    raws = found(tmp_path, data.model_copy(update={"labels": labels}))
    assert [raw.label for raw in raws] == expected
    assert [raw.kind for raw in raws] == THREE


@pytest.mark.parametrize("labels", [None, ["a", "b", "c", "d"], ["a", "a"]])
def test_any_other_number_of_labels_is_an_error(
    tmp_path: Path, data: Data, labels: list[str] | None
) -> None:
    with pytest.raises(UserError, match=r"^data\.esnlive\.labels: is .*name what is entailment, "):
        list(read(tmp_path, data.model_copy(update={"labels": labels})))


def test_rows_that_cannot_be_used_are_rejected_with_their_reason(
    tmp_path: Path, data: Data
) -> None:
    folder = tmp_path / "raw"
    fill(folder, "images/1.jpg", "2.jpg", "images/notes.txt")
    fill(tmp_path, "secret.jpg")
    table(
        folder / "esnlive_train.csv",
        row("1.jpg#0"),
        row("1.jpg#0"),
        row("1.jpg#1", "-"),
        row("1.jpg#2", ""),
        row("1.jpg#3", "3"),
        row("1.jpg#4", said=" "),
        row("1.jpg#5", why=""),
        row("2.jpg#0"),
        row("1.jpg#6", picture="../../secret.jpg"),
        row("1.jpg#7", picture=""),
        row("", picture="1.jpg"),
        row("", picture="1.jpg"),
        row("1.jpg#8", picture="notes.txt"),
        row("1.jpg#9"),
        (*row("1.jpg#10", why="He sits"), "as one sees."),
    )
    assert rejected(folder, data) == {
        "esnlive_train.csv row 2": "pairID twice: 1.jpg#0 is that of row 1",
        "esnlive_train.csv row 3": "no gold label: -",
        "esnlive_train.csv row 4": "no gold label: empty",
        "esnlive_train.csv row 5": "no gold label: 3",
        "esnlive_train.csv row 6": "no hypothesis: 1.jpg#4",
        "esnlive_train.csv row 7": "no explanation: 1.jpg#5",
        "esnlive_train.csv row 8": "no such picture: 2.jpg",
        "esnlive_train.csv row 9": "no such picture: ../../secret.jpg",
        "esnlive_train.csv row 10": "no Flickr30kID: 1.jpg#7",
        "esnlive_train.csv row 11": "no pairID",
        "esnlive_train.csv row 12": "no pairID",
        "esnlive_train.csv row 13": "no such picture: notes.txt",
        "esnlive_train.csv row 15": "more cells than columns: put quotes around a text with a "
        "comma",
    }
    ids = [raw.id for raw in found(folder, data)]
    assert ids == ["images/1.jpg#1.jpg#0", "images/1.jpg#1.jpg#9"]


@pytest.mark.parametrize("name", ["train", "dev", "test"])
def test_an_explanation_is_needed_in_every_split(tmp_path: Path, data: Data, name: str) -> None:
    fill(tmp_path, "images/1.jpg")
    table(tmp_path / f"esnlive_{name}.csv", row("1.jpg#0", why=""), row("1.jpg#1"))
    assert rejected(tmp_path, data) == {f"esnlive_{name}.csv row 1": "no explanation: 1.jpg#0"}
    assert len(found(tmp_path, data)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b",pairID,Flickr30kID,hypothesis,gold_label\n", "has no column explanation; its columns "),
        (b"", "has no column pairid; its columns are none"),
        (",".join(COLUMNS).encode() + b"\n0,1.jpg#0,1.jpg,\xff,neutral,x\n", "is no CSV in UTF-8"),
    ],
)
def test_a_table_of_another_form_is_an_error(
    tmp_path: Path, data: Data, text: bytes, message: str
) -> None:
    fill(tmp_path, "images/1.jpg")
    (tmp_path / "esnlive_dev.csv").write_bytes(text)
    with pytest.raises(UserError, match=rf"esnlive_dev\.csv: {message}"):
        list(read(tmp_path, data))


def test_a_folder_that_lacks_tables_or_pictures_is_an_error(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "pictures/1.jpg", "train.csv")
    with pytest.raises(UserError, match=r"holds none of esnlive_test\.csv, esnlive_dev\.csv, "):
        list(read(tmp_path, data))
    table(tmp_path / "esnlive_train.csv", row("1.jpg#0"))
    with pytest.raises(UserError, match="holds no pictures in a folder flickr30k_images, "):
        list(read(tmp_path, data))


def test_many_rows_are_read_in_seconds(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, *(f"images/{i}.jpg" for i in range(100)))
    table(tmp_path / "esnlive_train.csv", *(row(f"{i % 100}.jpg#{i}") for i in range(40_000)))
    before = time.process_time()
    assert sum(isinstance(raw, Raw) for raw in read(tmp_path, data)) == 40_000
    assert time.process_time() - before < 4


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Drawn scenes in the publisher's layout."""
    folder = tmp_path / "raw"
    folder.mkdir()
    source = Drawn(drawing="scenes", train=40, test=8, size=96)
    write_json(folder / "_source.json", {"source": "drawn"} | scenes.write(source, folder, 3))
    return folder


def prepared(data: Data, raw: Path, out: Path) -> tuple[dict[str, list[dict]], dict[str, str]]:
    """The records of each split, and the reasons of what was left out."""
    out.mkdir()
    prepare(data, 1, raw, out)
    splits = {s: read_split(out / f"{s}.parquet").remove_columns("image").to_list() for s in SPLITS}
    with (out / "rejected.csv").open(newline="") as file:
        return splits, {row["file"]: row["reason"] for row in csv.DictReader(file)}


def test_drawn_scenes_become_records_of_two_classes(tmp_path: Path, data: Data, raw: Path) -> None:
    binary = data.model_copy(update={"labels": ["entailment", "not entailment"]})
    splits, left_out = prepared(binary, raw, tmp_path / "out")
    assert left_out == {}
    tables = {"train": "train", "dev": "validation", "test": "test"}
    for name, split in tables.items():
        with (raw / f"esnlive_{name}.csv").open(newline="") as file:
            wanted = {row["pairID"]: row for row in csv.DictReader(file)}
        records = {record["id"].partition("#")[2]: record for record in splits[split]}
        assert records.keys() == wanted.keys()
        for pair, record in records.items():
            assert record["question"] == wanted[pair]["hypothesis"]
            assert record["answers"] == [wanted[pair]["explanation"]]
            assert record["kind"] == wanted[pair]["gold_label"]
            entailed = record["kind"] == "entailment"
            assert record["label"] == ("entailment" if entailed else "not entailment")
    counts = read_json(tmp_path / "out/summary.json")["splits"]
    assert {split: counts[split]["groups"] for split in SPLITS} == {
        "train": 40,
        "validation": 4,
        "test": 8,
    }


def test_pictures_of_the_test_leave_the_training(tmp_path: Path, data: Data, raw: Path) -> None:
    pictures = raw / "flickr30k_images"
    with (raw / "esnlive_test.csv").open(newline="") as file:
        listed = [row["Flickr30kID"] for row in csv.DictReader(file)]
    shared, copied = listed[0], listed[-1]
    with Image.open(pictures / copied) as picture:
        picture.save(pictures / "99.png")
    with (raw / "esnlive_train.csv").open("a", newline="") as file:
        rows = [row(f"{shared}#9r1n"), row("99.png#0r1n")]
        csv.writer(file, lineterminator="\n").writerows(rows)
    splits, left_out = prepared(data, raw, tmp_path / "out")
    group = f"flickr30k_images/{shared}#{shared}#9r1n"
    assert left_out.keys() == {group, "flickr30k_images/99.png#99.png#0r1n"}
    assert left_out[group].startswith(
        f"near-duplicate of a test picture: flickr30k_images/{shared}"
    )
    near = left_out["flickr30k_images/99.png#99.png#0r1n"]
    assert near.startswith(f"near-duplicate of a test picture: flickr30k_images/{copied}#")
    names = {s: {record["id"].partition("#")[0] for record in splits[s]} for s in SPLITS}
    assert not names["train"] & (names["test"] | names["validation"])
    assert len(names["test"]) == 8


def test_a_pair_of_two_tables_stays_with_the_one_held_out(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "images/1.jpg")
    for name in random.sample(["train", "dev", "test"], 3):
        table(tmp_path / f"esnlive_{name}.csv", row("1.jpg#0r1n"))
    assert [raw.split for raw in found(tmp_path, data)] == ["test", "validation", "train"]
