import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src import cpu
from src.explain import maps, scores
from src.explain import run as explain
from src.explain.gallery import ACROSS, FRAMES, GAP, SMALL_SIDE, shown
from src.explain.run import pick
from src.explain.targets import Explained, WordLikelihoods
from src.files import read_json, write_json
from src.inference.predict import predictions_file
from src.records import Record, SplitWriter
from tests.conftest import png
from tests.explain.conftest import CLASSES, small

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def test_a_sample_is_seeded_and_never_larger_than_the_split(params):
    frame = pd.DataFrame({"id": range(100)})
    explain = params.explain.model_copy(update={"pictures": 10})
    assert pick(frame, explain, 1).equals(pick(frame, explain, 1))
    assert not pick(frame, explain, 1).equals(pick(frame, explain, 2))
    assert len(pick(frame.head(3), explain, 1)) == 3


@pytest.fixture
def explained(tmp_path, monkeypatch, base, params):
    """Runs the stage of a recipe on records with the texts that its model is said to have written.

    Returns what it wrote: the scores, the gallery and its folder.
    """

    def explained(name, records, texts, classes=0):
        recipe = params.recipes[name]
        monkeypatch.chdir(tmp_path)
        (tmp_path / "models/base").mkdir(parents=True)
        (tmp_path / "models/base" / recipe.base).symlink_to(base)
        small(base, recipe, classes)[0].save_pretrained(f"models/adapters/{name}")
        data = tmp_path / "data/prepared" / recipe.data
        data.mkdir(parents=True)
        write_json(data / "summary.json", {"labels": CLASSES})
        with SplitWriter(data / "test.parquet") as split:
            for record in records:
                frames = record["video"] or [record["image"]]
                split.write(
                    Record(
                        id=record["id"], frames=tuple(map(png, frames)), group=record["id"],
                        width=56, height=56, brightness=0.5, contrast=0.5, sharpness=0.5, faces=1,
                        question=record.get("question"), label=record["label"],
                        answers=tuple(record["answers"]),
                    )
                )  # fmt: skip
        rows = {
            "id": [record["id"] for record in records],
            "question": ["What?"] * len(records),
            "label": [record["label"] for record in records],
            "predicted": [CLASSES[i % 2] for i in range(len(records))] if classes else texts,
            "probability": np.linspace(0.5, 0.9, len(records)),
            "answer": [record["answers"][0] for record in records],
            "generated": texts,
            "ended": [True] * len(records),
            "correct": [i % 2 == 0 for i in range(len(records))],
        }
        path = predictions_file(recipe, "tuned")
        path.parent.mkdir(parents=True)
        pd.DataFrame(rows).to_parquet(path)
        few = {"pictures": 4, "gallery": 4, "cells": 4}
        settings = params.model_copy(
            update={"explain": params.explain.model_copy(update=few)}
            | {"evaluate": params.evaluate.model_copy(update={"batch_size": 3, "bootstrap": 20})}
        )
        explain.run(recipe, settings)
        folder = tmp_path / "reports/gradcam" / name
        scores = read_json(tmp_path / "metrics" / name / "gradcam.json")
        return scores, read_json(folder / "gallery.json"), folder

    return explained


def test_videos_have_maps_of_their_captions_and_of_each_word(explained, videos):
    # In batches of three the empty text is alone.
    texts = ["a red circle", "it grows.", LONG, ""]
    scores, entries, folder = explained("video_qwen2vl", videos, texts)
    assert scores["n"] == 4
    assert all(math.isfinite(value) for value in scores["deletion"].values())
    assert len(set(scores["deletion"].values())) == 5
    by_text = {entry["generated"]: entry for entry in entries}
    assert {t: len(e["words"]) for t, e in by_text.items()} == dict(
        zip(texts, (3, 2, 12, 0), strict=True)
    )
    assert by_text[LONG]["more_words"] == 2
    pitch = SMALL_SIDE + GAP
    for entry in entries:
        record = next(r for r in videos if r["id"] == entry["id"])
        assert entry["reference"] == record["answers"][0]
        assert entry["of_class"] is False
        assert entry["frames"] == FRAMES
        for name in ("picture", "gradcam", "occlusion"):
            with Image.open(folder / entry[name]) as sheet:
                assert sheet.size == (ACROSS * pitch - GAP, 2 * pitch - GAP)
        for word in entry["words"]:
            with Image.open(folder / word["occlusion"]) as sheet:
                assert sheet.size == (ACROSS * pitch - GAP, SMALL_SIDE)
    assert [word["word"] for word in by_text["it grows."]["words"]] == ["it", "grows."]


def test_a_batch_that_the_memory_is_too_small_for_is_halved(explained, videos, monkeypatch):
    sizes, foretold = [], Explained.foretold

    def small(number, pixels, *more):
        sizes.append(len(pixels))
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return foretold(number, pixels, *more)

    monkeypatch.setattr(Explained, "foretold", small)
    scores, entries, _ = explained("video_qwen2vl", videos, ["a red circle", "it grows.", LONG, ""])
    assert set(sizes) == {3, 1}
    assert scores["n"] == len(entries) == 4
    assert sorted(len(entry["words"]) for entry in entries) == [0, 2, 3, 12]


@pytest.mark.skipif(torch.cuda.is_available(), reason="its weights are not unpacked")
def test_weights_lie_as_gradients_need_them(explained, videos, monkeypatch):
    read, weight_of = [], cpu._quantized_weight
    monkeypatch.setattr(cpu, "_quantized_weight", lambda m: read.append(weight_of(m)) or read[-1])
    explained("video_qwen2vl", videos, ["a red circle", "it grows.", LONG, ""])
    assert read
    assert not any(weight.is_mkldnn for weight in read)


def test_the_tower_is_drawn_anew_once_for_all_batches(explained, videos, monkeypatch):
    drawn, redrawn = [], scores.redrawn
    monkeypatch.setattr(scores, "redrawn", lambda *of: drawn.append(of) or redrawn(*of))
    assert explained("video_qwen2vl", videos, ["", "", "", ""])[0]["n"] == 4
    assert len(drawn) == 1


def test_explained_classes_have_maps_of_the_head_and_of_each_word(explained, statements, two_heads):
    texts = ["it shows joy.", "", "no", "it is so"]
    scores, entries, folder = explained("esnlive_qwen2vl", statements, texts, classes=2)
    assert scores["n"] == 4
    # The log-probabilities of two classes lie near each other, before any training.
    assert 0 < max(map(abs, scores["deletion"].values())) < 5
    assert sorted(entry["generated"] for entry in entries) == sorted(texts)
    for entry in entries:
        assert entry["of_class"] is True
        assert entry["predicted"] in CLASSES
        assert len(entry["words"]) == len(entry["generated"].split())
        with Image.open(folder / entry["gradcam"]) as picture:
            assert picture.size == (224, 224)
        for word in entry["words"]:
            for name in ("gradcam", "occlusion"):
                with Image.open(folder / word[name]) as picture:
                    assert picture.size == (SMALL_SIDE, SMALL_SIDE)
    (entry,) = (entry for entry in entries if entry["generated"] == "no")
    alone = WordLikelihoods(*two_heads, statements[2:3], ["no"], most=12)
    expected = shown(statements[2]["image"], maps.gradcams(alone, (4, 4))[0, 0], small=True)
    with Image.open(folder / entry["words"][0]["gradcam"]) as picture:
        # Other examples of a batch change no more than the last digits.
        assert np.abs(np.asarray(picture, int) - np.asarray(expected, int)).max() <= 3
