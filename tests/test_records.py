import gc
import os
import random
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from PIL import Image

from src.files import write_json
from src.media import stored
from src.records import MEDIA, ROW_GROUP, Record, Region, SplitWriter, read_labels, read_split

ROOT = Path(__file__).parents[1]


def write(path: Path, count: int) -> list[Record]:
    picture = path.with_suffix(".png")
    Image.new("RGB", (9, 7), (10, 20, 30)).save(picture)
    frames = stored(picture, 8).frames
    regions = (Region("mouth", (0.25, 0.5, 0.75, 1.0)),)
    records = [
        Record(
            f"joy/{i}.png",
            frames,
            *("g", 9, 7, 0.5, 0.25, 1.5, 1),
            question="Who is it?",
            answers=("Ann", "a girl"),
            kind="name",
            label="joy",
            subgroup="child",
            regions=regions if i % 2 else (),
        )
        for i in range(count)
    ]
    with SplitWriter(path) as writer:
        for record in records:
            writer.write(record)
    return records


def test_a_video_comes_back_as_its_frames(tmp_path: Path) -> None:
    frames = []
    for level in (0, 100, 200):
        picture = tmp_path / f"{level}.png"
        Image.new("RGB", (9, 7), (level, 0, 0)).save(picture)
        frames += stored(picture, 8).frames
    with SplitWriter(tmp_path / "train.parquet") as writer:
        for i in range(ROW_GROUP):
            writer.write(Record(f"{i}.mp4", tuple(frames), "g", 9, 7, 0, 0, 0, 0))
    split = read_split(tmp_path / "train.parquet")
    assert len(split) == ROW_GROUP
    assert split[5]["image"] is None
    assert [frame.getpixel((0, 0)) for frame in split[5]["video"]] == [
        (level, 0, 0) for level in (0, 100, 200)
    ]
    # A row group is of so many frames, not of so many videos.
    assert pq.ParquetFile(tmp_path / "train.parquet").metadata.row_group(0).num_rows < ROW_GROUP


def test_a_split_comes_back_as_it_was_written(tmp_path: Path) -> None:
    count = 2 * ROW_GROUP + 3
    write(tmp_path / "train.parquet", count)
    split = read_split(tmp_path / "train.parquet")
    assert len(split) == count
    assert list(split.features) == [
        *("id", "image", "video", "question", "answers", "kind", "label", "group", "subgroup"),
        *("width", "height", "brightness", "contrast", "sharpness", "faces", "regions"),
    ]
    row = split[count - 2]
    image = row.pop("image")
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (8, 8), (10, 20, 30))
    assert row == {
        "id": f"joy/{count - 2}.png",
        "video": None,
        "question": "Who is it?",
        "answers": ["Ann", "a girl"],
        "kind": "name",
        "label": "joy",
        "group": "g",
        "subgroup": "child",
        "width": 9,
        "height": 7,
        "brightness": 0.5,
        "contrast": 0.25,
        "sharpness": 1.5,
        "faces": 1,
        "regions": [{"name": "mouth", "box": [0.25, 0.5, 0.75, 1.0]}],
    }
    assert split[0]["regions"] == []


def test_datasets_reads_the_file_without_this_code(tmp_path: Path) -> None:
    write(tmp_path / "test.parquet", 3)
    split = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "test.parquet"), cache_dir=tmp_path / "cache"
    )["train"]
    assert split[0]["image"].size == (8, 8)
    assert split[1]["regions"][0]["name"] == "mouth"


def test_a_split_is_written_in_row_groups_and_the_same_twice(tmp_path: Path) -> None:
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    write(one, 2 * ROW_GROUP + 3)
    write(two, 2 * ROW_GROUP + 3)
    assert one.read_bytes() == two.read_bytes()
    assert pq.ParquetFile(one).num_row_groups == 3


def test_a_picture_that_is_asked_about_often_is_stored_once(tmp_path: Path) -> None:
    pixels = random.Random(1).randbytes(3 * 256 * 256)
    Image.frombytes("RGB", (256, 256), pixels).save(tmp_path / "one.png")
    png = (tmp_path / "one.png").read_bytes()
    sizes = []
    for count in (1, 20):
        path = tmp_path / f"{count}.parquet"
        with SplitWriter(path) as writer:
            for i in range(count):
                # Pictures of another kind between them, so that many are in one dictionary.
                for image in (png, png[:-1] + bytes([count])):
                    writer.write(Record(f"1.png#{i}", (image,), "g", 256, 256, 0, 0, 0, 0))
        sizes.append(path.stat().st_size)
    assert len(png) > 100_000
    assert sizes[1] < 1.1 * sizes[0]
    assert len(read_split(path)) == 40
    # Mapped, a picture is there once for each question, so that it is left out where it can be.
    split = read_split(path, media=False)
    assert (len(split), set(MEDIA) & set(split.column_names)) == (40, set())
    assert split[39]["id"] == "1.png#19"
    assert Path(split.cache_files[0]["filename"]).stat().st_size < len(png)


def test_an_empty_split_can_be_written_and_read(tmp_path: Path) -> None:
    write(tmp_path / "empty.parquet", 0)
    assert len(read_split(tmp_path / "empty.parquet")) == 0


def test_a_new_version_of_a_split_is_read_and_the_old_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    path, temporary = tmp_path / "train.parquet", tmp_path / "temporary"
    temporary.mkdir()
    write(path, 3)
    code = f"from pathlib import Path; from src.records import read_split as r; p = Path('{path}')"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}; print(len(r(p)), len(r(p)[0]['label']))"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary), "HF_HOME": str(temporary)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "3 3\n"
    assert [p for p in temporary.rglob("*") if p.is_file()] == []
    first = read_split(path)
    write(path, 5)
    assert (len(first), len(read_split(path))) == (3, 5)


def test_records_stay_on_the_disk_until_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    write(path, 10)
    split = read_split(path)
    gc.collect()
    assert [Path(file["filename"]).suffix for file in split.cache_files] == [".arrow"]


def test_a_data_set_of_questions_has_no_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, labels in (("faces", ["joy"]), ("products", None)):
        write_json(Path("data/prepared", name, "summary.json"), {"labels": labels})
        assert read_labels(name) == labels


@pytest.mark.parametrize(
    "module",
    [
        *("records", "media", "prepare", "readers.labelled_images", "readers.abo"),
        "readers.vqa_csv",
    ],
)
def test_reading_records_imports_no_torch(module: str) -> None:
    code = f"import sys, src.{module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
