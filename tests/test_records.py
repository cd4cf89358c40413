import gc
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from PIL import Image

from src.media import stored
from src.records import ROW_GROUP, Record, Region, SplitWriter, read_split

ROOT = Path(__file__).parents[1]


def write(path: Path, count: int) -> list[Record]:
    picture = path.with_suffix(".png")
    Image.new("RGB", (9, 7), (10, 20, 30)).save(picture)
    png = stored(picture, 8).png
    regions = (Region("mouth", (0.25, 0.5, 0.75, 1.0)),)
    records = [
        Record(f"joy/{i}.png", png, "g", 9, 7, label="joy", regions=regions if i % 2 else ())
        for i in range(count)
    ]
    with SplitWriter(path) as writer:
        for record in records:
            writer.write(record)
    return records


def test_a_split_comes_back_as_it_was_written(tmp_path: Path) -> None:
    count = 2 * ROW_GROUP + 3
    write(tmp_path / "train.parquet", count)
    split = read_split(tmp_path / "train.parquet")
    assert len(split) == count
    assert list(split.features) == [
        *("id", "image", "question", "answer", "label", "group", "width", "height", "regions")
    ]
    row = split[count - 2]
    image = row.pop("image")
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (8, 8), (10, 20, 30))
    assert row == {
        "id": f"joy/{count - 2}.png",
        "question": None,
        "answer": None,
        "label": "joy",
        "group": "g",
        "width": 9,
        "height": 7,
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


@pytest.mark.parametrize("module", ["records", "media", "prepare", "readers.labelled_images"])
def test_reading_records_imports_no_torch(module: str) -> None:
    code = f"import sys, src.{module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
