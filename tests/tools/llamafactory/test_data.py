import json
from pathlib import Path

import pytest

from src import config
from tests.conftest import ROOT
from tools.llamafactory.data import data
from tools.llamafactory.settings import Settings

FILE = Path("mine.yaml")
LEAST = {"dataset": "demo"}
SIZED = {"image_max_pixels": 262144}


@pytest.fixture(scope="module")
def full():
    return config.at_scale(ROOT / "params.yaml", "full")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def noted(settings: Settings) -> set[str]:
    return {note.partition(":")[0] for note in settings.notes}


@pytest.mark.parametrize(
    ("keys", "name", "expected", "others"),
    [
        ({"video_maxlen": 17}, "frames", 16, {"video_maxlen", "video_max_pixels"}),
        ({"video_maxlen": 256}, "frames", 128, {"video_maxlen", "video_max_pixels"}),
        (
            {"dataset": "a_video_set", "image_max_pixels": 9},
            "frames",
            8,
            {"image_max_pixels", "video_max_pixels", "video_maxlen"},
        ),
        ({"image_max_pixels": 262144}, "image_size.full", 504, set()),
        (
            {"image_max_pixels": 9, "video_max_pixels": 16384},
            "image_size.full",
            28,
            {"video_max_pixels"},
        ),
        ({}, "image_size.full", 224, {"image_max_pixels"}),
        (SIZED | {"val_size": 100}, "validation", 0.1, {"val_size"}),
        (SIZED | {"val_size": 0.3}, "validation", 0.3, set()),
        (SIZED | {"media_dir": "data/media"}, "full.folder", "data", {"media_dir"}),
        (SIZED | {"dataset_dir": "a/b", "media_dir": "a"}, "full.folder", "a", set()),
    ],
)
def test_keys_of_the_data(full, keys, name, expected, others):
    settings = Settings(FILE, LEAST | keys)
    _, found = data(settings, full)
    for part in name.split("."):
        found = found[part]
    assert found == expected
    assert noted(settings) == {"dataset", *others}


def test_sizes_that_the_file_does_not_set_are_told(full):
    settings = Settings(FILE, {"dataset": "a_video_set"})
    data(settings, full)
    assert settings.notes[1:] == [
        "video_maxlen: not set: 8 frames are taken, not LLaMA-Factory's default",
        "video_max_pixels: not set: 224 pixels a side are taken, not LLaMA-Factory's default",
    ]


def test_dataset_info_tells_what_is_read(full, tmp_path):
    entries = {"pictures": "images", "more": "images", "films": "videos", "text": "system"}
    info = {name: {"columns": {"messages": "m", column: "c"}} for name, column in entries.items()}
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset_info.json").write_text(json.dumps(info))
    settings = Settings(FILE, SIZED | {"dataset": "pictures,text,more"})
    name, block = data(settings, full)
    assert (name, block["frames"]) == ("pictures", None)
    assert settings.notes == [
        "dataset: pictures,text,more: no pictures or videos in text, which is not read",
        "dataset: pictures,text,more: films of data/dataset_info.json is read too where it is"
        " there",
    ]
    assert data(Settings(FILE, {"dataset": "films"}), full)[1]["frames"] == 8
    both = Settings(FILE, {"dataset": "films,more,pictures"})
    assert data(both, full)[1]["frames"] == 8
    assert "pictures and videos do not mix" in both.notes[0]
