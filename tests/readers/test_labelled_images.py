import json
from pathlib import Path

import pytest

from src.errors import UserError
from src.readers.labelled_images import read
from src.records import Raw, Region, Rejected
from src.schema import Data

LABELS = ["Natural", "Joy", "Fear"]
NESTED = "Autistic Children Emotions - Dr. Fatma M. Talaat"


@pytest.fixture
def data(params) -> Data:
    return params.data["autism_faces"].model_copy(update={"name": "faces", "labels": LABELS})


def fill(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / "_source.json").write_text('{"source": "folder"}')


def found(folder: Path, data: Data) -> set[tuple[str, str | None, str | None]]:
    return {(r.id, r.label, r.split) for r in read(folder, data) if isinstance(r, Raw)}


def rejected(folder: Path, data: Data) -> dict[str, str]:
    return {r.file: r.reason for r in read(folder, data) if isinstance(r, Rejected)}


@pytest.mark.parametrize("top", ["", NESTED, f"{NESTED}/{NESTED}"])
@pytest.mark.parametrize("splits", [("Train", "Test"), ("train", "test"), ("TRAIN", "TEST")])
def test_class_folders_in_split_folders(
    tmp_path: Path, data: Data, top: str, splits: tuple[str, str]
) -> None:
    train, test = (str(Path(top, name)) for name in splits)
    fill(tmp_path, f"{train}/joy/1.jpg", f"{train}/Natural/2.jpg", f"{test}/FEAR/1.jpg")
    assert found(tmp_path, data) == {
        (f"{train}/joy/1.jpg", "Joy", "train"),
        (f"{train}/Natural/2.jpg", "Natural", "train"),
        (f"{test}/FEAR/1.jpg", "Fear", "test"),
    }
    assert rejected(tmp_path, data) == {}


@pytest.mark.parametrize("labels", [LABELS, None])
@pytest.mark.parametrize("splits", [("training_set", "test_set"), ("Seg_Train", "test")])
def test_split_folders_may_have_a_split_in_their_names(
    tmp_path: Path, data: Data, labels: list[str] | None, splits: tuple[str, str]
) -> None:
    train, test = splits
    fill(tmp_path, f"{train}/{train}/Joy/1.jpg", f"{train}/{train}/Fear/2.jpg")
    fill(tmp_path, f"{test}/Joy/3.jpg", "pred/4.jpg")
    data = data.model_copy(update={"labels": labels})
    assert found(tmp_path, data) == {
        (f"{train}/{train}/Joy/1.jpg", "Joy", "train"),
        (f"{train}/{train}/Fear/2.jpg", "Fear", "train"),
        (f"{test}/Joy/3.jpg", "Joy", "test"),
    }
    assert rejected(tmp_path, data) == {"pred": "none of the classes: a folder of 1 files"}


@pytest.mark.parametrize(
    ("files", "labels"),
    [
        (("test tube/1.jpg", "training shoe/2.jpg"), None),
        (("test tube/a/1.jpg", "training shoe/b/2.jpg"), ["Test tube", "Training shoe"]),
        (("test tube/1.jpg", "test tube/a/2.jpg", "training shoe/a/3.jpg"), None),
        (("crash test/a/1.jpg", "cat/2.jpg"), None),
    ],
)
def test_a_class_with_a_split_in_its_name_is_no_split(
    tmp_path: Path, data: Data, files: tuple[str, ...], labels: list[str] | None
) -> None:
    fill(tmp_path, *files)
    expected = {(name, name.partition("/")[0].capitalize(), None) for name in files}
    classes = found(tmp_path, data.model_copy(update={"labels": labels}))
    assert {(name, label.capitalize(), split) for name, label, split in classes} == expected


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_a_validation_folder_is_known_by_any_name(tmp_path: Path, data: Data, name: str) -> None:
    fill(tmp_path, "train/joy/1.jpg", f"{name}/joy/2.jpg")
    assert (f"{name}/joy/2.jpg", "Joy", "validation") in found(tmp_path, data)


def test_a_split_folder_may_be_nested_in_itself(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "train/train/joy/1.jpg", "train/train/fear/1.jpg", "test/joy/2.jpg")
    assert ("train/train/joy/1.jpg", "Joy", "train") in found(tmp_path, data)


def test_class_folders_without_splits_and_with_folders_inside(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "all/joy/ann/1.jpg", "all/fear/2.jpg")
    assert found(tmp_path, data) == {
        ("all/joy/ann/1.jpg", "Joy", None),
        ("all/fear/2.jpg", "Fear", None),
    }


def test_a_single_class_folder_is_read(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "joy/ann/1.jpg")
    assert found(tmp_path, data) == {("joy/ann/1.jpg", "Joy", None)}


@pytest.mark.parametrize("splits", [("Train/", "Test/"), ("", "")])
def test_without_labels_the_class_folders_name_them(
    tmp_path: Path, data: Data, splits: tuple[str, str]
) -> None:
    data = data.model_copy(update={"labels": None})
    train, test = splits
    fill(tmp_path, f"{train}Joy/1.jpg", f"{train}sad/2.jpg", f"{test}joy/3.jpg", f"{test}sad/4.jpg")
    assert {label for _, label, _ in found(tmp_path, data)} == {"Joy", "sad"}


@pytest.mark.parametrize("top", ["", "train/"])
def test_without_labels_folders_of_folders_are_no_classes(
    tmp_path: Path, data: Data, top: str
) -> None:
    unnamed = data.model_copy(update={"labels": None})
    fill(tmp_path, f"{top}fruit/fig/1.jpg", f"{top}roots/yam/2.jpg", f"{top}docs/plan.txt")
    told = (
        r"the folders docs, fruit, roots hold folders but no pictures; give the folder right above "
        r".* data\.faces\.labels in params\.yaml$"
    )
    with pytest.raises(UserError, match=told):
        list(read(tmp_path, unnamed))
    named = data.model_copy(update={"labels": ["fruit", "roots"]})
    assert {label for _, label, _ in found(tmp_path, named)} == {"fruit", "roots"}
    fill(tmp_path, f"{top}fruit/3.jpg")
    assert {label for _, label, _ in found(tmp_path, unnamed)} >= {"fruit", "roots"}


def test_without_labels_a_table_that_is_not_read_is_told(tmp_path: Path, data: Data) -> None:
    data = data.model_copy(update={"labels": None})
    fill(tmp_path, "set/joy/1.jpg", "set/sad/2.jpg", "labels.csv", "set/labels.jsonl")
    told = "no list of pictures: that is a .json of rows with one of image, image_path, path and "
    told += "one of label, emotion"
    assert rejected(tmp_path, data) == {"labels.csv": told, "set/labels.jsonl": told}
    assert {label for _, label, _ in found(tmp_path, data)} == {"joy", "sad"}


def test_one_folder_beside_a_table_that_is_not_read_is_an_error(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "images/1.jpg", "labels.csv")
    told = r"has one folder alone, images, to name classes; labels\.csv is no list of them, which "
    with pytest.raises(UserError, match=told):
        list(read(tmp_path, data.model_copy(update={"labels": None})))


def test_what_the_system_leaves_behind_is_no_data(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "joy/1.jpg", "joy/.hidden.jpg", "joy/Thumbs.db", "fear/desktop.ini")
    fill(tmp_path, "__MACOSX/joy/._1.jpg", ".git/joy/1.jpg", "README.txt", "info.json")
    (tmp_path / "info.json").write_text('{"title": "of the publisher"}')
    assert found(tmp_path, data) == {("joy/1.jpg", "Joy", None)}
    assert rejected(tmp_path, data) == {}


def test_other_folders_and_loose_pictures_are_rejected(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "train/joy/1.jpg", "train/angry/1.jpg", "train/angry/2.jpg")
    fill(tmp_path, "train/loose.png", "docs/plan.txt")
    assert rejected(tmp_path, data) == {
        "train/angry": "none of the classes: a folder of 2 files",
        "docs": "none of the classes: a folder of 1 files",
        "train/loose.png": "outside the class folders",
    }


def test_folders_of_other_classes_alone_are_an_error(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "train/angry/1.jpg", "train/sad/1.jpg")
    message = r"has the folders angry, sad; correct data\.faces\.labels"
    with pytest.raises(UserError, match=message):
        list(read(tmp_path, data))


def test_an_empty_folder_is_an_error(tmp_path: Path, data: Data) -> None:
    with pytest.raises(UserError, match="it has the folders none"):
        list(read(tmp_path, data))


def write_list(path: Path, rows: object) -> None:
    path.write_text(json.dumps(rows), encoding="utf-8-sig")


def test_a_json_list_names_images_and_labels(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, *(f"set/images/{i}.jpg" for i in range(4)))
    rows = [
        {"image": "images/0.jpg", "label": "joy"},
        {"image_path": "images/1.jpg", "emotion": "FEAR", "split": "Test"},
        {
            "path": "images\\2.jpg",
            "label": "Natural",
            "split": "val",
            "group": 7,
            "subgroup": "girls",
        },
        {"image": "./images/../images/3.jpg", "label": "Joy", "split": None},
    ]
    write_list(tmp_path / "set/labels.json", rows)
    assert found(tmp_path, data) == {
        ("set/images/0.jpg", "Joy", None),
        ("set/images/1.jpg", "Fear", "test"),
        ("set/images/2.jpg", "Natural", "validation"),
        ("set/images/3.jpg", "Joy", None),
    }
    assert {r.group for r in read(tmp_path, data)} == {None, "7"}
    assert {r.subgroup for r in read(tmp_path, data)} == {None, "girls"}


def test_a_list_may_be_named_after_its_split(tmp_path: Path, data: Data) -> None:
    names = ("Train", "labels_test", "attested")
    for name in names:
        fill(tmp_path, f"{name}.jpg")
        write_list(tmp_path / f"{name}.json", [{"image": f"{name}.jpg", "label": "joy"}])
    splits = {identity: split for identity, _, split in found(tmp_path, data)}
    assert splits == {"Train.jpg": "train", "labels_test.jpg": "test", "attested.jpg": None}


def test_rows_that_cannot_be_used_are_rejected_with_their_reason(
    tmp_path: Path, data: Data
) -> None:
    folder = tmp_path / "raw"
    fill(folder, "1.jpg")
    (tmp_path / "secret.jpg").write_bytes(b"")
    rows = [
        {"image": "1.jpg", "label": "joy"},
        {"image": "none.jpg", "label": "joy"},
        {"image": "x" * 256, "label": "joy"},
        {"image": "1.jpg", "label": "bored"},
        {"image": "1.jpg"},
        {"image": "../secret.jpg", "label": "joy"},
        {"image": str(tmp_path / "secret.jpg"), "label": "joy"},
        {"image": "1.jpg", "label": "joy", "split": "later"},
        {"label": "joy"},
        "1.jpg",
    ]
    write_list(folder / "list.json", rows)
    assert found(folder, data) == {("1.jpg", "Joy", None)}
    assert rejected(folder, data) == {
        "list.json row 2": "no such file: none.jpg",
        "list.json row 3": f"no such file: {'x' * 256}",
        "list.json row 4": "none of the classes: bored",
        "list.json row 5": "none of the classes: None",
        "list.json row 6": "outside the data's folder: ../secret.jpg",
        "list.json row 7": f"outside the data's folder: {tmp_path / 'secret.jpg'}",
        "list.json row 8": "no split: later",
        "list.json row 9": "no image named",
        "list.json row 10": "no image named",
    }


def test_a_list_of_other_classes_alone_is_an_error(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "1.jpg")
    write_list(tmp_path / "list.json", [{"image": "1.jpg", "label": "bored"}])
    with pytest.raises(UserError, match=r"its labels are bored; correct data\.faces\.labels"):
        list(read(tmp_path, data))


def test_a_list_by_other_names_is_told_how_to_be_one(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "images/1.jpg")
    write_list(tmp_path / "rows.json", [{"file_name": "images/1.jpg", "label": "joy"}])
    (tmp_path / "labels.csv").write_text("image,label\nimages/1.jpg,joy\n")
    told = (
        r"labels\.csv, rows\.json is no list of them, .* one of image, image_path, path and one of"
    )
    with pytest.raises(UserError, match=told):
        list(read(tmp_path, data))


def test_whole_numbers_are_classes_too(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    rows = [("1.jpg", 0), ("2.jpg", 7), ("3.jpg", True)]
    write_list(tmp_path / "list.json", [{"image": i, "label": label} for i, label in rows])
    anything = data.model_copy(update={"labels": None})
    assert found(tmp_path, anything) == {("1.jpg", "0", None), ("2.jpg", "7", None)}
    assert rejected(tmp_path, anything) == {"list.json row 3": "none of the classes: True"}


def test_a_list_may_be_written_by_pandas(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, *(f"{i}.jpg" for i in range(5)))
    nan = float("nan")
    rows = [
        {"label": 1.0, "split": "", "group": nan, "subgroup": nan},
        {"label": 2.0, "split": nan, "group": 7.0, "subgroup": ""},
        {"label": "1", "split": " train ", "group": "", "subgroup": 3.0},
        {"label": 1.5, "split": None, "group": None, "subgroup": None},
        {"label": nan, "split": None, "group": None, "subgroup": None},
    ]
    listed = [{"image": f"{i}.jpg"} | row for i, row in enumerate(rows)]
    write_list(tmp_path / "list.json", listed)
    anything = data.model_copy(update={"labels": None})
    assert found(tmp_path, anything) == {
        ("0.jpg", "1", None),
        ("1.jpg", "2", None),
        ("2.jpg", "1", "train"),
    }
    raws = [raw for raw in read(tmp_path, anything) if isinstance(raw, Raw)]
    assert [(raw.group, raw.subgroup) for raw in raws] == [(None, None), ("7", None), (None, "3")]
    assert rejected(tmp_path, anything) == {
        "list.json row 4": "none of the classes: 1.5",
        "list.json row 5": "none of the classes: nan",
    }


def test_labels_of_another_type_are_told(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "1.jpg", "2.jpg")
    listed = [{"image": "1.jpg", "label": 0.5}, {"image": "2.jpg", "label": ["joy"]}]
    write_list(tmp_path / "list.json", listed)
    told = r"the classes, a text or a whole number; its labels are 0\.5, \['joy'\]; correct"
    with pytest.raises(UserError, match=told):
        list(read(tmp_path, data))


@pytest.mark.parametrize("labels", [None, ["Cat", "dog"]])
def test_spaces_around_a_label_are_none_of_it(
    tmp_path: Path, data: Data, labels: list[str] | None
) -> None:
    names = ["Cat", " cat", "dog\n", " ", ""]
    fill(tmp_path, *(f"{i}.jpg" for i in range(len(names))))
    rows = [{"image": f"{i}.jpg", "label": name} for i, name in enumerate(names)]
    write_list(tmp_path / "list.json", rows)
    data = data.model_copy(update={"labels": labels})
    expected = {("0.jpg", "Cat", None), ("1.jpg", "Cat", None), ("2.jpg", "dog", None)}
    assert found(tmp_path, data) == expected
    assert rejected(tmp_path, data) == {
        "list.json row 4": "no label",
        "list.json row 5": "no label",
    }


def test_a_folder_from_another_system_may_decompose_its_name(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "train/U\u0308berraschung/1.jpg", "test/\u00fcberraschung/2.jpg")
    fill(tmp_path, "train/Angst/3.jpg")
    for labels in (None, ["\u00dcberraschung", "Angst"]):
        classes = found(tmp_path, data.model_copy(update={"labels": labels}))
        assert len(classes) == 3
        assert len({label for _, label, _ in classes}) == 2


def test_a_malformed_list_is_an_error(tmp_path: Path, data: Data) -> None:
    (tmp_path / "list.json").write_text('[{"image": ')
    with pytest.raises(UserError, match=r"list\.json: is no JSON"):
        list(read(tmp_path, data))


def test_regions_are_joined_by_image(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "top/Train/joy/1.jpg", "top/Train/fear/2.jpg")
    lines = ["image,name,x0,y0,x1,y1", "Train/joy/1.jpg,mouth,0.1,0.2,0.3,0.4"]
    lines += ["Train/joy/1.jpg,left eye,0,0,1,1"]
    (tmp_path / "top/regions.csv").write_text("\n".join(lines))
    regions = {raw.label: raw.regions for raw in read(tmp_path, data)}
    mouth, eye = Region("mouth", (0.1, 0.2, 0.3, 0.4)), Region("left eye", (0, 0, 1, 1))
    assert regions == {"Joy": (mouth, eye), "Fear": ()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,name,x0,y0,x1\n1.jpg,eye,0,0,1", "has no column y1"),
        ("image,name,x0,y0,x1,y1\n1.jpg,eye,0,0,1,one", "row 1: could not convert"),
        ("image,name,x0,y0,x1,y1\n1.jpg,eye,0,0,1,nan", "row 1: .* not finite"),
        ("image,name,x0,y0,x1,y1\n1.jpg,eye,0", "row 1: "),
        ("image,name,x0,y0,x1,y1\n1, 2.jpg,0,0,1,1,1,eye", "row 1: more cells than columns"),
        ("image,name,x0,y0,x1,y1\n/1.jpg,eye,0,0,1,1", "row 1: outside the data's folder: /1.jpg"),
    ],
)
def test_malformed_regions_are_an_error(
    tmp_path: Path, data: Data, text: str, message: str
) -> None:
    fill(tmp_path, "joy/1.jpg")
    (tmp_path / "regions.csv").write_text(text)
    with pytest.raises(UserError, match=rf"regions\.csv: {message}"):
        list(read(tmp_path, data))


def test_regions_in_another_encoding_are_an_error(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "joy/1.jpg")
    lines = "image,name,x0,y0,x1,y1\njoy/1.jpg,Mundwinkel über,0,0,1,1\n"
    (tmp_path / "regions.csv").write_bytes(lines.encode("latin-1"))
    with pytest.raises(UserError, match=r"regions\.csv: is no CSV in UTF-8: .*; save it anew"):
        list(read(tmp_path, data))


def test_a_name_that_is_no_utf8_is_rejected(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "joy/1.jpg", "joy/\udcff.jpg")
    assert found(tmp_path, data) == {("joy/1.jpg", "Joy", None)}
    assert rejected(tmp_path, data) == {"joy/\ufffd.jpg": "the file's name is no UTF-8"}
