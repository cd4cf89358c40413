import os
from pathlib import Path

import pytest

from src.errors import UserError
from src.readers.webvid import read
from src.records import Raw, Rejected
from src.schema import Data, Source

HEADING = "videoid,name,page_dir,duration,contentUrl"
CUT = "7,A man walks, then sits,a,PT1S,http://x"  # a caption without its quotes


@pytest.fixture
def data() -> Data:
    return Data(
        name="webvid",
        reader="webvid",
        labels=None,
        licence="",
        publisher_splits=True,
        validation=0.1,
        test=0.1,
        near_duplicate_distance=0,
        limit=None,
        frames=8,
        image_size=56,
        source=Source(folder="videos"),
    )


def fill(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def table(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")


def found(folder: Path, data: Data) -> list[Raw]:
    return [r for r in read(folder, data) if isinstance(r, Raw)]


def rejected(folder: Path, data: Data) -> dict[str, str]:
    return {r.file: r.reason for r in read(folder, data) if isinstance(r, Rejected)}


def test_rows_are_videos_with_their_captions(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "videos/001_050/7.mp4")
    table(tmp_path / "results_2M_train.csv", HEADING, "7,A dog runs,001_050,PT00H00M12S,http://x")
    path = tmp_path / "videos/001_050/7.mp4"
    caption = ("A dog runs",)
    expected = Raw("videos/001_050/7.mp4", path, answers=caption, split="train", group="7")
    assert found(tmp_path, data) == [expected]


def test_columns_may_stand_in_any_order_beside_others(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "videos/a/7.mp4")
    table(tmp_path / "all.csv", "page_idx,Name, VideoID ,page_dir", '0,"A dog, running",7,a')
    assert [raw.answers for raw in found(tmp_path, data)] == [("A dog, running",)]


@pytest.mark.parametrize(
    "file",
    [
        "videos/a/7.mp4",
        "videos/a/7.WEBM",
        "a/7.mkv",
        "videos/7.avi",
        "set/videos/a/7.mp4",
        "set/a/7.mov",
        "set/videos/7.mpeg",
    ],
)
def test_a_video_may_lie_in_several_places(tmp_path: Path, data: Data, file: str) -> None:
    fill(tmp_path, file, "videos/a/77.mp4", "videos/a/7.txt")
    table(tmp_path / "set/all.csv", HEADING, "7,A dog runs,a,,")
    assert [raw.path for raw in found(tmp_path, data)] == [tmp_path / file]


def test_a_videoid_may_hold_dots_and_have_no_page_dir(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "videos/v_1.5.mp4")
    table(tmp_path / "all.csv", "videoid,name", "v_1.5,A dog runs")
    assert [raw.id for raw in found(tmp_path, data)] == ["videos/v_1.5.mp4"]


def test_a_videoid_may_be_a_file_name(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "videos/a/7.mp4", "videos/8.WEBM", "videos/9.mp4", "videos/9.mp4.mp4")
    rows = ["7.mp4,A dog,a,,", "8.webm,A cat,,,", "9.mp4,A cow,,,", "10.mp4,A hen,,,"]
    table(tmp_path / "all.csv", HEADING, *rows)
    assert {raw.id: raw.answers for raw in found(tmp_path, data)} == {
        "videos/a/7.mp4": ("A dog",),
        "videos/8.WEBM": ("A cat",),
        "videos/9.mp4.mp4": ("A cow",),
    }
    assert rejected(tmp_path, data) == {"all.csv row 4": "no such file: videos/10.mp4"}


def test_the_videos_may_be_links_into_a_cache(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "cache/x")
    (tmp_path / "raw/videos/a").mkdir(parents=True)
    (tmp_path / "raw/videos/a/7.mp4").symlink_to(tmp_path / "cache/x")
    table(tmp_path / "raw/all.csv", HEADING, "7,A dog runs,a,,")
    assert [raw.id for raw in found(tmp_path / "raw", data)] == ["videos/a/7.mp4"]


@pytest.mark.parametrize(
    ("tables", "splits"),
    [
        (["results_2M_train", "results_2M_val"], ["train", "test"]),
        (["results_train", "results_val", "results_test"], ["train", "validation", "test"]),
        (["data_train_partitions_0000"], ["train"]),
        (["captions"], [None]),
    ],
)
def test_the_table_names_the_split(
    tmp_path: Path, data: Data, tables: list[str], splits: list[str | None]
) -> None:
    for number, name in enumerate(tables):
        fill(tmp_path, f"videos/a/{number}.mp4")
        table(tmp_path / f"{name}.csv", HEADING, f"{number},A dog runs,a,,")
    raws = sorted(found(tmp_path, data), key=lambda raw: raw.id)
    assert [raw.split for raw in raws] == splits


def test_further_captions_of_a_video_are_further_references(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "videos/a/7.mp4")
    rows = ["7,A dog runs,a,,", "7,A dog runs,a,,", "7,It is running,a,,"]
    table(tmp_path / "all.csv", HEADING, *rows)
    assert [raw.answers for raw in found(tmp_path, data)] == [("A dog runs", "It is running")]
    assert rejected(tmp_path, data) == {}


def test_a_video_of_two_tables_stays_with_the_one_held_out(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "videos/a/7.mp4", "videos/b/8.mp4", "videos/c/8.mp4")
    table(tmp_path / "train.csv", HEADING, "7,A dog runs,a,,", "8,A cat,b,,", "8,A cat,c,,")
    table(tmp_path / "val.csv", HEADING, "7,A dog is running,a,,")
    raws = found(tmp_path, data)
    assert {raw.id: raw.split for raw in raws} == {
        "videos/a/7.mp4": "test",
        "videos/b/8.mp4": "train",
    }
    assert rejected(tmp_path, data) == {
        "train.csv row 1": "videoid twice: 7 is that of val.csv row 1",
        "train.csv row 3": "videoid twice: 8 is that of train.csv row 2",
    }


def test_rows_that_cannot_be_used_are_rejected_with_their_reason(
    tmp_path: Path, data: Data
) -> None:
    folder = tmp_path / "raw"
    fill(folder, "videos/a/7.mp4")
    fill(tmp_path, "secret.mp4")
    outside = os.fspath(tmp_path / "secret")
    rows = ["7,A dog runs,a,,", ",A dog,a,,", "7, ,a,,", "9,A cat,a,,", f"{outside},A cat,,,"]
    table(folder / "all.csv", HEADING, *rows, "../../../secret,A cat,,,", "", ",,,,", CUT)
    assert rejected(folder, data) == {
        "all.csv row 2": "no videoid",
        "all.csv row 3": "no caption: 7",
        "all.csv row 4": "no such file: videos/a/9.mp4",
        "all.csv row 5": f"outside the data's folder: {outside}",
        "all.csv row 6": "outside the data's folder: ../../../secret",
        "all.csv row 8": "more cells than columns: put quotes around a text with a comma",
    }
    assert [raw.group for raw in found(folder, data)] == ["7"]


def test_a_caption_must_name_one_label_where_there_are_some(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, *(f"videos/a/{n}.mp4" for n in range(3)))
    rows = ["0,It moves Left,a,,", "1,It stays,a,,", "2,left then right,a,,"]
    table(tmp_path / "all.csv", HEADING, *rows)
    labelled = data.model_copy(update={"labels": ["left", "right"]})
    assert [raw.label for raw in found(tmp_path, labelled)] == ["left"]
    assert rejected(tmp_path, labelled) == {
        "all.csv row 2": "none of the labels: It stays",
        "all.csv row 3": "several of the labels: left, right",
    }


def test_the_list_of_dead_links_is_no_table(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "videos/a/7.mp4")
    table(tmp_path / "all.csv", HEADING, "7,A dog runs,a,,")
    table(tmp_path / "dead_links.csv", "videoid,contentUrl,reason", "8,http://x,no answer")
    assert len(found(tmp_path, data)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"video,name\n", "has no column videoid; its columns are video, name"),
        (b"videoid,caption\n", "has no column name; its columns are videoid, caption"),
        (b"", "has no column videoid; its columns are none"),
        (b"videoid,name\n7,\xff\n", "is no CSV in UTF-8"),
    ],
)
def test_a_table_of_another_form_is_an_error(
    tmp_path: Path, data: Data, text: bytes, message: str
) -> None:
    (tmp_path / "all.csv").write_bytes(text)
    with pytest.raises(UserError, match=rf"all\.csv: {message}"):
        list(read(tmp_path, data))


def test_a_folder_without_a_table_is_an_error(tmp_path: Path, data: Data) -> None:
    fill(tmp_path, "videos/a/7.mp4", ".hidden.csv")
    with pytest.raises(UserError, match="holds no CSV file"):
        list(read(tmp_path, data))
