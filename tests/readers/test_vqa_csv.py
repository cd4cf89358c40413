from pathlib import Path

import pytest

from src.errors import UserError
from src.readers.vqa_csv import read
from src.records import Raw, Rejected
from src.schema import Data, Source


@pytest.fixture
def data() -> Data:
    return Data(
        name="vqa",
        reader="vqa_csv",
        labels=None,
        licence="",
        publisher_splits=True,
        validation=0.2,
        test=0.1,
        near_duplicate_distance=0,
        limit=None,
        image_size=56,
        source=Source(folder="questions"),
    )


def fill(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def table(path: Path, *lines: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\r\n".join(lines).encode(encoding))


def found(folder: Path, data: Data) -> list[Raw]:
    return [r for r in read(folder, data) if isinstance(r, Raw)]


def rejected(folder: Path, data: Data) -> dict[str, str]:
    return {r.file: r.reason for r in read(folder, data) if isinstance(r, Rejected)}


def test_rows_are_questions_about_their_pictures(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "a.jpg")
    lines = ["image_name,question,answer", "a.jpg,What is it?,cup", "a.jpg,Is it red?,Yes"]
    table(tmp_path / "all.csv", *lines)
    common = {"path": tmp_path / "a.jpg", "group": "a.jpg"}
    assert found(tmp_path, data) == [
        Raw("a.jpg#all.csv:1", question="What is it?", answers=("cup",), kind="other", **common),
        Raw("a.jpg#all.csv:2", question="Is it red?", answers=("Yes",), kind="yes_no", **common),
    ]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("set/a.jpg", "a.jpg"),
        ("set/images/a.jpg", "a.jpg"),
        ("set/images/x/a.jpg", "x\\a.jpg"),
        ("set/images/x/a.jpg", "images/x/a.jpg"),
        ("pictures/a.jpg", "pictures/a.jpg"),
        ("images/a.jpg", "a.jpg"),
        ("images/a.jpg", "../images/a.jpg"),
    ],
)
def test_a_picture_may_lie_in_several_places(
    tmp_path: Path, data: Data, file: str, name: str
) -> None:
    fill(tmp_path, file)
    table(tmp_path / "set/all.csv", "image_name,question,answer", f"{name},What is it?,cup")
    assert [raw.path for raw in found(tmp_path, data)] == [tmp_path / file]


def test_what_spreadsheets_write_is_read(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "a, b.jpg")
    lines = ["Image_Name, Question ,ANSWER", '"a, b.jpg","A ""cup"", or\nnot?",  été ', ",,", ""]
    table(tmp_path / "all.csv", *lines, encoding="utf-8-sig")
    (raw,) = found(tmp_path, data)
    assert (raw.question, raw.answers) == ('A "cup", or\nnot?', ("été",))
    assert rejected(tmp_path, data) == {}


@pytest.mark.parametrize(
    ("lines", "answers"),
    [
        (["answer,answers", 'cup,"[""mug"", ""cup""]"'], ("cup", "mug")),
        (["answers", '"[""mug"", 2]"'], ("mug", "2")),
        (["answers", "mug| cup |"], ("mug", "cup")),
        (["answers", "[cup|mug"], ("[cup", "mug")),
        (["answers", "cup"], ("cup",)),
        (["answer,answers", "no,yes|yes|no|yes|no"], ("no", "yes", "yes", "yes", "no")),
        (["answer,answers", "Yes,yes|no|yes"], ("Yes", "no", "yes")),
        (["answers", '"[""yes"", ""no"", ""yes""]"'], ("yes", "no", "yes")),
        (["answers", '"[\'net\', \'net\', ""fisher\'s"", 2]"'], ("net", "net", "fisher's", "2")),
        (["answers", '"[{""answer"": ""net"", ""answer_id"": 1}]"'], ("net",)),
        (["answers", "\"[{'answer': 'net'}, {'answer': 'mesh'}]\""], ("net", "mesh")),
    ],
)
def test_there_may_be_several_references_each_as_often_as_it_was_given(
    tmp_path: Path, data: Data, lines: list[str], answers: tuple[str, ...]
) -> None:
    fill(tmp_path, "a.jpg")
    heading, row = lines
    table(tmp_path / "all.csv", f"image_name,question,{heading}", f"a.jpg,What is it?,{row}")
    assert [raw.answers for raw in found(tmp_path, data)] == [answers]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ('["net", null]', "no text or number among the answers: None"),
        ('["net", true]', "no text or number among the answers: True"),
        ('[["net"]]', "no text or number among the answers: ['net']"),
        ('[{"text": "net"}]', "no text or number among the answers: {'text': 'net'}"),
        ("['net', nan]", "answers are no list in JSON or Python: ['net', nan]"),
        ("[net]", "answers are no list in JSON or Python: [net]"),
        ("['net' 'mesh']", "answers without a comma between them: ['net' 'mesh']"),
    ],
)
def test_a_list_of_anything_but_answers_is_rejected(
    tmp_path: Path, data: Data, cell: str, reason: str
) -> None:
    fill(tmp_path, "a.jpg")
    quoted = cell.replace('"', '""')
    table(tmp_path / "all.csv", "image_name,question,answers", f'a.jpg,What is it?,"{quoted}"')
    assert rejected(tmp_path, data) == {"all.csv row 1": reason}


def test_a_split_is_named_in_the_row_or_by_the_table(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "a.jpg")
    for name in ("train", "Val", "vqa_test", "attested"):
        table(tmp_path / f"{name}.csv", "image_name,question,answer", f"a.jpg,{name}?,cup")
    heading = "image_name,question,answer,split"
    table(tmp_path / "rows.csv", heading, "a.jpg,row 1?,cup,TEST", "a.jpg,row 2?,cup,")
    assert {raw.question: raw.split for raw in found(tmp_path, data)} == {
        **{"train?": "train", "Val?": "validation", "vqa_test?": "test", "attested?": None},
        **{"row 1?": "test", "row 2?": None},
    }


def test_a_group_may_have_several_pictures(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    lines = ["a.jpg,What?,cup,7", "b.jpg,What?,cup, 7", "c.jpg,What?,cup,", "c.jpg,Which?,cup"]
    table(tmp_path / "all.csv", "image_name,question,answer,Group", *lines)
    assert [raw.group for raw in found(tmp_path, data)] == ["7", "7", "c.jpg", "c.jpg"]


def test_rows_that_cannot_be_used_are_rejected_with_their_reason(
    tmp_path: Path, data: Data
) -> None:
    folder = tmp_path / "raw"
    fill(folder, "a.jpg")
    fill(tmp_path, "secret.jpg")
    lines = [
        *("image_name,question,answer,split", "a.jpg,What is it?,cup,train", ",What?,cup,"),
        *("none.jpg,What?,cup,", "../secret.jpg,What?,cup,", "a.jpg, ,cup,", "a.jpg,What?,,"),
        *("", "a.jpg,What?,cup,later", "a.jpg", "a.jpg,Spare?,cup,,,"),
        "a.jpg,What colour is it, mostly?,red,,left,over",
    ]
    table(folder / "all.csv", *lines)
    assert rejected(folder, data) == {
        "all.csv row 2": "no image named",
        "all.csv row 3": "no such file: none.jpg",
        "all.csv row 4": "no such file: ../secret.jpg",
        "all.csv row 5": "no question",
        "all.csv row 6": "no answer",
        "all.csv row 7": "no split: later",
        "all.csv row 8": "no question",
        "all.csv row 10": "more cells than columns: put quotes around a text with a comma",
    }
    assert [raw.question for raw in found(folder, data)] == ["What is it?", "Spare?"]


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_an_answer_is_needed_in_every_split(tmp_path: Path, data: Data, name: str) -> None:
    fill(tmp_path, "a.jpg")
    heading = "image_name,question,answer,answers"
    table(tmp_path / f"{name}.csv", heading, "a.jpg,What is it?,,", "a.jpg,What?,,cup")
    assert rejected(tmp_path, data) == {f"{name}.csv row 1": "no answer"}
    assert [raw.answers for raw in found(tmp_path, data)] == [("cup",)]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("no", "yes_no"), ("12", "number"), ("Three", "number"), ("red", "other")],
)
def test_the_answer_tells_the_kind(tmp_path: Path, data: Data, answer: str, kind: str) -> None:
    fill(tmp_path, "a.jpg")
    table(tmp_path / "all.csv", "image_name,question,answer", f"a.jpg,What?,{answer}")
    assert [raw.kind for raw in found(tmp_path, data)] == [kind]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"image,question,answer\n", "has no column image_name; its columns are image, question,"),
        (b"image_name,text\n", "has no column question; its columns are image_name, text"),
        (b"", "has no column image_name; its columns are none"),
        (b"image_name,question,reply\n", "has no column answer or answers; its columns are image_"),
        (b"image_name,question,answer\na.jpg,\xff?,1\n", "is no CSV in UTF-8"),
    ],
)
def test_a_table_of_another_form_is_an_error(
    tmp_path: Path, data: Data, text: bytes, message: str
) -> None:
    (tmp_path / "all.csv").write_bytes(text)
    with pytest.raises(UserError, match=rf"all\.csv: {message}"):
        list(read(tmp_path, data))


def test_a_folder_without_a_table_is_an_error(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "a.jpg", ".hidden.csv")
    with pytest.raises(UserError, match="holds no CSV file"):
        list(read(tmp_path, data))
