import csv
import json
import os
import random
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from src import media, schema
from src.decoding import decoded
from src.drawing.faces import draw, random_face
from src.errors import UserError
from src.files import read_json, write_json
from src.prepare import prepare
from src.records import SPLITS, read_split
from stages.prepare import main

ROOT = Path(__file__).parents[2]
BAD = ROOT / "../shared/real/bad/images"
LABELS = ["Natural", "Anger", "Fear", "Joy", "Sadness", "Surprise"]
DISTANCE = 12


@pytest.fixture
def data(params) -> schema.Data:
    update = {"image_size": 56, "near_duplicate_distance": DISTANCE, "validation": 0.2, "test": 0.2}
    return params.data["autism_faces"].model_copy(update=update | {"labels": LABELS})


@pytest.fixture(scope="session")
def drawn() -> list[tuple[str, Image.Image]]:
    rng = random.Random(5)
    labels = [LABELS[i % 6] for i in range(150)]
    return [(label, draw(rng, random_face(rng, label), 96)[0]) for label in labels]


def save(picture: Image.Image, path: Path, **how: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **how)


def publish(folder: Path, drawn: list[tuple[str, Image.Image]], test: int) -> Path:
    """Faces in class folders, with a test split where `test` is above 0, and copies of faces.

    Of every tenth face there is a smaller copy, of every fifteenth a mirrored one, of every
    twentieth one under another label.
    """
    for i, (label, face) in enumerate(drawn):
        split = "" if not test else "Test" if i < test else "Train"
        save(face, folder / split / label / f"{i}.jpg", quality=90)
        other = LABELS[(LABELS.index(label) + 1) % 6]
        train = folder / ("Train" if test else "")
        if i % 10 == 0:
            save(face.resize((70, 70)), train / label / f"{i}-copy.png")
        if i % 15 == 0:
            save(ImageOps.mirror(face), train / label / f"{i}-mirror.jpg", quality=80)
        if i % 20 == 0:
            save(face, train / other / f"{i}-conflict.jpg", quality=60)
    write_json(folder / "_source.json", {"source": "folder", "files": 1})
    return folder


def run(data: schema.Data, raw: Path, out: Path, seed: int = 17) -> Path:
    out.mkdir()
    prepare(data, seed, raw, out)
    return out


def rows(out: Path) -> dict[str, list[dict]]:
    return {s: pq.read_table(out / f"{s}.parquet").to_pylist() for s in SPLITS}


def rejected(out: Path) -> dict[str, str]:
    with (out / "rejected.csv").open(newline="", encoding="utf-8") as file:
        return {row["file"]: row["reason"] for row in csv.DictReader(file)}


def hashes(table: list[dict], tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for row in table:
        (tmp_path / "one.png").write_bytes(row["image"]["bytes"])
        found.append(media.stored(tmp_path / "one.png", 56))
    plain, mirror = ([getattr(f, k) for f in found] for k in ("fingerprint", "mirrored"))
    return tuple(np.frombuffer(b"".join(h), np.uint8).reshape(-1, 32) for h in (plain, mirror))


def number(identity: str) -> str:
    return Path(identity).stem.partition("-")[0]


@pytest.mark.parametrize("test", [0, 40])
def test_no_group_near_duplicate_or_picture_lies_on_two_sides(
    tmp_path: Path, data: schema.Data, drawn: list, test: int
) -> None:
    out = run(data, publish(tmp_path / "raw", drawn, test), tmp_path / "out")
    splits = rows(out)
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        for key in ("id", "group"):
            assert not {r[key] for r in splits[a]} & {r[key] for r in splits[b]}
        pictures = [{r["image"]["bytes"] for r in splits[s]} for s in (a, b)]
        assert not pictures[0] & pictures[1]
        # The same face, whatever was made of it: what no hash decides.
        assert not {number(r["id"]) for r in splits[a]} & {number(r["id"]) for r in splits[b]}
        (plain, _), (other, mirror) = (hashes(splits[s], tmp_path) for s in (a, b))
        for there in (other, mirror):
            assert np.bitwise_count(plain[:, None] ^ there).sum(axis=2).min() > DISTANCE


def test_the_publishers_test_stays_whole_and_training_gives_way(
    tmp_path: Path, data: schema.Data, drawn: list
) -> None:
    out = run(data, publish(tmp_path / "raw", drawn, 40), tmp_path / "out")
    assert {r["id"] for r in rows(out)["test"]} == {
        f"Test/{label}/{i}.jpg" for i, (label, _) in enumerate(drawn[:40])
    }
    why, summary = rejected(out), read_json(out / "summary.json")
    copies = {f"Train/{drawn[i][0]}/{i}-copy.png": i for i in range(0, 40, 10)}
    for file, i in copies.items():
        assert why[file] == f"near-duplicate of a test picture: Test/{drawn[i][0]}/{i}.jpg"
    # Below 40: 4 copies, 3 mirrored, 2 of another label. Below 150: 15, 10 and 8.
    assert summary["near_duplicates"] == {"groups": 20, "pictures": 53, "dropped_from_train": 9}
    assert summary["label_conflicts"] == 8
    assert summary["publisher_test"] is True


def test_a_publishers_validation_stays_whole_too(
    tmp_path: Path, data: schema.Data, drawn: list
) -> None:
    raw = publish(tmp_path / "raw", drawn, 40)
    for label in LABELS:
        (raw / "valid" / label).mkdir(parents=True)
        face = next((raw / "Train" / label).glob("[0-9]*[0-9].jpg"))
        shutil.copy(face, raw / "valid" / label / "copy.jpg")
    leak = next((raw / "Test/Joy").iterdir())
    shutil.copy(leak, raw / "valid/Joy/leak.jpg")
    out = run(data, raw, tmp_path / "out")
    assert {r["id"] for r in rows(out)["validation"]} == {f"valid/{x}/copy.jpg" for x in LABELS}
    why = rejected(out)
    assert why["valid/Joy/leak.jpg"] == f"near-duplicate of a test picture: Test/Joy/{leak.name}"
    assert sum("of a validation picture" in reason for reason in why.values()) >= 6


def test_a_split_of_ones_own_keeps_its_shares_and_labels(
    tmp_path: Path, data: schema.Data, drawn: list
) -> None:
    out = run(data, publish(tmp_path / "raw", drawn, 0), tmp_path / "out")
    splits, summary = rows(out), read_json(out / "summary.json")
    n = {s: len(splits[s]) for s in SPLITS}
    total = sum(n.values())
    assert total == 150 + 15 + 10 + 8
    assert rejected(out) == {}
    assert n["test"] == pytest.approx(0.2 * total, abs=6)
    assert n["validation"] == pytest.approx(0.2 * (total - n["test"]), abs=6)
    assert summary["publisher_test"] is False
    for s in SPLITS:
        counts = summary["splits"][s]["labels"]
        assert list(counts) == LABELS
        assert sum(counts.values()) == summary["splits"][s]["n"] == n[s]
        assert max(counts.values()) - min(counts.values()) <= 5
    other = run(data, tmp_path / "raw", tmp_path / "other", seed=18)
    assert {r["id"] for r in rows(other)["test"]} != {r["id"] for r in splits["test"]}


def test_a_named_group_stays_together(tmp_path: Path, data: schema.Data, drawn: list) -> None:
    for i, (_, face) in enumerate(drawn):
        save(face, tmp_path / f"raw/{i}.png")
    people = [
        {"image": f"{i}.png", "label": label, "group": f"child {i // 6}"}
        for i, (label, _) in enumerate(drawn)
    ]
    write_json(tmp_path / "raw/list.json", people)
    write_json(tmp_path / "raw/_source.json", {})
    splits = rows(run(data, tmp_path / "raw", tmp_path / "out"))
    sides = [{int(number(r["id"])) // 6 for r in splits[s]} for s in SPLITS]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 25


def test_two_runs_write_the_same_bytes_whatever_the_cores(
    tmp_path: Path, data: schema.Data, drawn: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = publish(tmp_path / "raw", drawn[:80], 20)
    (raw / "Train/Joy/broken.jpg").write_bytes(b"no picture")
    runs = []
    for cores in ("1", "4"):
        monkeypatch.setenv("LOKY_MAX_CPU_COUNT", cores)
        out = run(data, raw, tmp_path / cores)
        runs.append({p.name: p.read_bytes() for p in out.iterdir()})
    assert sorted(runs[0]) == [
        *("rejected.csv", "summary.json", "test.parquet", "train.parquet", "validation.parquet")
    ]
    assert runs[0] == runs[1]


@pytest.mark.skipif(not BAD.is_dir(), reason="../shared/real is not there")
def test_every_odd_file_is_used_or_rejected_for_what_it_is(
    tmp_path: Path, data: schema.Data, drawn: list
) -> None:
    raw = publish(tmp_path / "raw", drawn[:90], 0)
    names = sorted(path.name for path in BAD.iterdir())
    for name in names:
        shutil.copyfile(BAD / name, raw / "Joy" / name)
    out = run(data, raw, tmp_path / "out")
    splits, why = rows(out), rejected(out)
    used = {Path(r["id"]).name for s in SPLITS for r in splits[s]} & set(names)
    lost = {Path(file).name: reason for file, reason in why.items()}
    assert used | set(lost) == set(names)
    assert not used & set(lost)
    expected = {
        "avif_no-av1C.avif": "damaged header: AVIF",
        "avif_invalid-transformation-order.avif": "cannot be decoded",
        "pillow_badwidth.bmp": "more pixels than allowed",
        "pillow_decompression_bomb.gif": "more pixels than allowed",
        "pillow_reallybig.bmp": "more pixels than allowed",
        "pillow_broken.png": "damaged header: PNG: broken PNG file",
        "pillow_broken_data_stream.png": "cannot be decoded: unrecognized data stream",
        "pillow_hopper_unknown_pixel_mode.tif": "damaged header: TIFF: unknown pixel mode",
        "pillow_truncated_image.png": "cut short",
        "pillow_truncated_end_chunk.png": "cut short",
        "pillow_ultrahdr.jpg": "cut short",
        "pillow_zero_width.gif": "damaged header: GIF: no size",
        "pillow_zero_height.j2k": "damaged header: JPEG2000: no size",
        "torchcodec_sigsegv.png": "cut short",
        "torchcodec_heapbof.png": "not a picture",
    }
    assert {k: lost[k][: len(reason)] for k, reason in expected.items()} == expected
    fine = {"pillow_hopper.psd", "pillow_16bit.cropped.tif", "pillow_tiff_strip_cmyk_jpeg.tif"}
    assert fine | {"pillow_pil123p.png", "avif_valid.avif", "pillow_iss634.apng"} <= used


@pytest.mark.parametrize("cores", ["1", "2"])
def test_a_file_that_kills_its_worker_costs_that_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: str
) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", cores)
    here = os.getpid()

    def fatal(path: Path) -> media.Stored:
        assert os.getpid() != here, "decoded in the process of the stage"
        if path.name in ("3.png", "7.png"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return media.stored(path, 28)

    for i in range(12):
        save(Image.new("RGB", (20, 20), (20 * i, 0, 0)), tmp_path / f"{i}.png")
    files = [tmp_path / f"{i}.png" for i in range(12)]
    results = list(decoded(files, fatal))
    expected = list(decoded(files, partial(media.stored, side=28)))
    for i in (3, 7):
        expected[i] = "cannot be decoded: it crashes the decoder"
    assert results == expected


def test_a_listed_twice_picture_is_used_once(
    tmp_path: Path, data: schema.Data, drawn: list
) -> None:
    for i, (_, face) in enumerate(drawn):
        save(face, tmp_path / f"raw/{i}.png")
    listed = [{"image": f"{i}.png", "label": label} for i, (label, _) in enumerate(drawn)]
    text = json.dumps([*listed, {"image": "0.png", "label": "Fear"}])
    (tmp_path / "raw/list.json").write_text(text)
    write_json(tmp_path / "raw/_source.json", {})
    out = run(data, tmp_path / "raw", tmp_path / "out")
    assert rejected(out) == {"0.png": "listed twice: as Natural, Fear"}


def test_too_few_pictures_are_one_clear_error(
    tmp_path: Path, data: schema.Data, drawn: list
) -> None:
    raw = publish(tmp_path / "raw", drawn[1:4], 0)
    with pytest.raises(UserError, match=r"too few to hold out .* data\.autism_faces\.test"):
        run(data, raw, tmp_path / "out")


def test_a_class_without_a_training_picture_is_named(
    tmp_path: Path, data: schema.Data, drawn: list
) -> None:
    faces = [(label, face) for label, face in drawn if label != "Fear"]
    with pytest.raises(UserError, match="no training picture is a Fear"):
        run(data, publish(tmp_path / "raw", faces, 30), tmp_path / "out")


def test_nothing_usable_is_an_error_that_says_why(tmp_path: Path, data: schema.Data) -> None:
    (tmp_path / "raw/joy").mkdir(parents=True)
    (tmp_path / "raw/joy/1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no usable picture: empty file \(1\)"):
        run(data, tmp_path / "raw", tmp_path / "out")


def test_the_stage_writes_all_or_nothing(
    tmp_path: Path, drawn: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    with pytest.raises(SystemExit, match="dvc repro fetch@autism_faces"):
        main("autism_faces")
    raw, out = Path("data/raw/autism_faces"), Path("data/prepared/autism_faces")
    publish(raw / "Autistic Children Emotions - Dr. Fatma M. Talaat", drawn, 40)
    write_json(raw / "_source.json", {"source": "drawn"})
    main("autism_faces")
    assert read_json(out / "summary.json")["source"] == {"source": "drawn"}
    assert {len(read_split(out / f"{s}.parquet")) > 0 for s in SPLITS} == {True}
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    for face in raw.rglob("Train/Joy/*"):
        face.write_bytes(b"no picture")
    with pytest.raises(SystemExit, match="no training picture is a Joy"):
        main("autism_faces")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert [p.name for p in out.parent.iterdir()] == ["autism_faces"]
