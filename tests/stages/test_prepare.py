import csv
import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from src import media, schema
from src.decoding import decoded
from src.drawing.faces import draw, random_face
from src.drawing.products import write as write_products
from src.errors import UserError
from src.files import read_json, write_json
from src.prepare import prepare, sample
from src.readers import abo
from src.records import SPLITS, Raw, read_split
from src.splits import assign
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
    write_json(tmp_path / "raw/_source.json", {"source": "folder"})
    splits = rows(run(data, tmp_path / "raw", tmp_path / "out"))
    sides = [{int(number(r["id"])) // 6 for r in splits[s]} for s in SPLITS]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 25


def test_a_publishers_split_that_is_not_trusted_is_made_anew(
    tmp_path: Path, data: schema.Data, drawn: list
) -> None:
    raw = publish(tmp_path / "raw", drawn[:90], 40)
    for i in range(0, 40, 4):
        shutil.copy(raw / f"Test/{drawn[i][0]}/{i}.jpg", raw / f"Train/{drawn[i][0]}/{i}-same.jpg")
    anew = data.model_copy(update={"publisher_splits": False})
    out = run(anew, raw, tmp_path / "out")
    splits, summary = rows(out), read_json(out / "summary.json")
    # 9 copies, 6 mirrored, 5 of another label and the 10 identical ones are all used.
    assert rejected(out) == {}
    assert sum(len(splits[s]) for s in SPLITS) == 90 + 9 + 6 + 5 + 10
    assert summary["publisher_test"] is False
    assert summary["near_duplicates"]["dropped_from_train"] == 0
    assert summary["near_duplicates"]["pictures"] > 30
    sides = [{number(r["id"]) for r in splits[s]} for s in SPLITS]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 90
    folders = {r["id"].partition("/")[0] for r in splits["test"]}
    assert folders == {"Train", "Test"}


@pytest.mark.parametrize(
    ("source", "own", "licence"),
    [
        ("kaggle", "CC BY 4.0", "unknown (see the Kaggle page)"),
        ("folder", None, "their owner names no licence"),
        ("folder", "CC BY 4.0", "CC BY 4.0"),
        ("drawn", None, "drawn here, free of others' rights"),
    ],
)
def test_the_licence_is_that_of_what_was_fetched(
    tmp_path: Path, data: schema.Data, drawn: list, source: str, own: str | None, licence: str
) -> None:
    raw = publish(tmp_path / "raw", drawn, 40)
    write_json(raw / "_source.json", {"source": source})
    out = run(data.model_copy(update={"own_licence": own}), raw, tmp_path / "out")
    assert read_json(out / "summary.json")["licence"] == licence


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
    write_json(tmp_path / "raw/_source.json", {"source": "folder"})
    out = run(data, tmp_path / "raw", tmp_path / "out")
    assert rejected(out) == {"0.png": "listed twice: as Natural, Fear"}


def test_the_quality_of_each_picture_is_in_its_record(
    tmp_path: Path, data: schema.Data, drawn: list
) -> None:
    raw = publish(tmp_path / "raw", drawn[:90], 0)
    for split, records in rows(run(data, raw, tmp_path / "out")).items():
        for row in records[:5]:
            expected = media.stored(raw / row["id"], 56).quality
            assert {k: row[k] for k in vars(expected)} == pytest.approx(vars(expected)), split


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn products, of which the first two bear one picture and the third none."""
    folder = tmp_path_factory.mktemp("products") / "raw"
    source = schema.Drawn(drawing="products", train=100, test=20, size=64)
    write_products(source, folder, seed=4)
    pictures = sorted(folder.rglob("*.jpg"))
    shutil.copy(pictures[0], pictures[1])
    pictures[2].write_bytes(b"no picture")
    write_json(folder / "_source.json", {"source": "drawn"})
    return folder


@pytest.fixture
def asked(data: schema.Data) -> schema.Data:
    update = {"name": "abo", "reader": "abo", "labels": None, "near_duplicate_distance": 0}
    return data.model_copy(update=update)


def test_no_product_lies_on_two_sides(tmp_path: Path, asked: schema.Data, products: Path) -> None:
    out = run(asked, products, tmp_path / "out")
    splits = rows(out)
    same, other = ([p.stem for p in sorted(products.rglob("*.jpg"))][i] for i in (0, 1))
    sides = {}
    for split in SPLITS:
        for row in splits[split]:
            stem = number(row["id"].partition("#")[0])
            sides.setdefault(other if stem == same else stem, set()).add(split)
    assert {len(side) for side in sides.values()} == {1}
    assert len(sides) == 118
    summary = read_json(out / "summary.json")
    assert summary["near_duplicates"] == {"groups": 1, "pictures": 2, "dropped_from_train": 0}
    groups = {s: len({r["group"] for r in splits[s]}) for s in SPLITS}
    assert {s: summary["splits"][s]["groups"] for s in SPLITS} == groups
    assert sum(groups.values()) == 118
    # Every kind keeps its share on every side.
    shares = [
        {k: n / summary["splits"][s]["n"] for k, n in summary["splits"][s]["kinds"].items()}
        for s in SPLITS
    ]
    assert shares[1] == pytest.approx(shares[0], abs=0.05)
    assert shares[2] == pytest.approx(shares[0], abs=0.05)


def test_a_rare_kind_of_question_is_spread_over_the_splits(asked: schema.Data) -> None:
    kinds = ["color"] * 180 + ["count"] * 20
    raws = [Raw(f"{i}#{kind}", Path(f"{i}"), kind=kind) for i, kind in enumerate(kinds)]
    for seed in range(5):
        splits, leaks = assign(asked, seed, raws, np.arange(200))
        rare = Counter(s for raw, s in zip(raws, splits, strict=True) if raw.kind == "count")
        assert (rare["test"], leaks) == (4, {})
        assert 3 <= rare["validation"] <= 4


def test_a_picture_with_many_questions_is_decoded_and_rejected_once(
    tmp_path: Path, asked: schema.Data, products: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []

    def listening(paths: list[Path], decode: object) -> Iterator[media.Stored | str]:
        files.extend(paths)
        return decoded(paths, decode)

    monkeypatch.setattr("src.prepare.decoded", listening)
    out = run(asked, products, tmp_path / "out")
    assert len(files) == len(set(files)) == 120
    pictures = sorted(products.rglob("*.jpg"))
    broken = pictures[2].relative_to(products).as_posix()
    assert rejected(out) == {broken: "not a picture"}
    records = [row for split in rows(out).values() for row in split]
    expected = {}
    for row in records:
        path = row["id"].partition("#")[0]
        png = expected.setdefault(path, media.stored(products / path, 56).frames[0])
        assert row["image"]["bytes"] == png
    assert len(expected) == 119
    assert len(records) > 550


def test_questions_and_answers_reach_the_records(
    tmp_path: Path, asked: schema.Data, products: Path
) -> None:
    out = run(asked, products, tmp_path / "out")
    read = {raw.id: raw for raw in abo.read(products, asked)}
    counts: dict[str, Counter] = {}
    for records in rows(out).values():
        for row in records:
            raw = read[row["id"]]
            for key in ("question", "kind", "label", "subgroup"):
                assert row[key] == getattr(raw, key)
            assert tuple(row["answers"]) == raw.answers
            counts.setdefault(raw.kind, Counter())[raw.answers[0]] += 1
    summary = read_json(out / "summary.json")
    assert summary["labels"] is None
    assert not any("labels" in summary["splits"][s] for s in SPLITS)
    assert summary["label_conflicts"] == 0
    for kind, found in counts.items():
        balance = summary["answers"][kind]
        assert balance["most_frequent"] == found
        assert list(balance["most_frequent"].values()) == sorted(found.values(), reverse=True)
        assert balance["distinct"] == len(found)
        assert balance["majority"] == pytest.approx(max(found.values()) / found.total(), abs=1e-4)
        assert found.total() == sum(summary["splits"][s]["kinds"].get(kind, 0) for s in SPLITS)
    assert set(summary["answers"]) == set(counts)


def test_a_data_set_of_labels_has_no_answers(
    tmp_path: Path, data: schema.Data, drawn: list
) -> None:
    out = run(data, publish(tmp_path / "raw", drawn[:90], 0), tmp_path / "out")
    summary = read_json(out / "summary.json")
    assert summary["answers"] is None
    assert set(summary["splits"]["train"]) == {"n", "groups", "labels"}


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


def test_one_class_alone_is_an_error(tmp_path: Path, data: schema.Data, drawn: list) -> None:
    raw = tmp_path / "raw"
    for i, (_, face) in enumerate(drawn[:40]):
        save(face, raw / f"cat/{i}.png")
    (raw / "dog").mkdir()
    (raw / "dog/broken.jpg").write_bytes(b"no picture")
    write_json(raw / "_source.json", {"source": "folder"})
    own = data.model_copy(update={"labels": None})
    with pytest.raises(UserError, match=r"every usable picture is a cat, .*; add pictures"):
        run(own, raw, tmp_path / "out")


def test_nothing_usable_is_an_error_that_says_why(tmp_path: Path, data: schema.Data) -> None:
    (tmp_path / "raw/joy").mkdir(parents=True)
    (tmp_path / "raw/joy/1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no usable picture: empty file \(1\)"):
        run(data, tmp_path / "raw", tmp_path / "out")


def test_where_nothing_is_usable_the_first_of_it_is_named(
    tmp_path: Path, data: schema.Data
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/all.csv").write_text("image_name,question,answer\n1.jpg,What?,cup\n2.jpg,,\n")
    says = r"no usable picture: no such file \(2\); first all\.csv row 1: no such file: 1\.jpg$"
    with pytest.raises(UserError, match=says):
        run(data.model_copy(update={"reader": "vqa_csv"}), tmp_path / "raw", tmp_path / "out")


@pytest.fixture
def odd(tmp_path: Path, data: schema.Data) -> tuple[schema.Data, Path]:
    """Forty pictures that are asked about, as a user may, and data to read them."""
    rng = np.random.default_rng(0)
    for i in range(40):
        noise = rng.integers(0, 256, (6, 6, 3), np.uint8)
        save(Image.fromarray(noise).resize((64, 64)), tmp_path / f"raw/{i}.png")
    write_json(tmp_path / "raw/_source.json", {"source": "folder"})
    return data.model_copy(update={"labels": None}), tmp_path / "raw"


def test_a_text_that_no_file_can_hold_costs_its_row(
    tmp_path: Path, odd: tuple[schema.Data, Path]
) -> None:
    asked, raw = odd
    texts = dict.fromkeys(range(40), ("<image>What is it?", "A cat"))
    texts |= {1: ("<image>What is it?", "A cat \ud83d"), 2: ("<image>\udcfc?", "A cat")}
    talks = [
        [{"from": "human", "value": q}, {"from": "gpt", "value": a}] for q, a in texts.values()
    ]
    talks[4] += [{"from": "human", "value": "Why \ude00?"}, {"from": "gpt", "value": "So"}]
    talk = [{"conversations": said, "image": f"{i}.png"} for i, said in enumerate(talks)]
    talk[3]["image"] = "\ud83d.png"
    (raw / "all.json").write_text(json.dumps(talk))
    out = run(asked.model_copy(update={"reader": "sharegpt"}), raw, tmp_path / "out")
    assert rejected(out) == {
        "1.png#all.json:2": "no UTF-8: the answer: A cat \ufffd",
        "2.png#all.json:3": "no UTF-8: the question: \ufffd?",
        "all.json row 4": "no such file: \ufffd.png",
        "all.json row 5 turn 2": "a later turn: Why \ufffd?",
    }
    assert sum(len(records) for records in rows(out).values()) == 37


def test_a_label_or_subgroup_that_no_file_can_hold_costs_its_row(
    tmp_path: Path, odd: tuple[schema.Data, Path]
) -> None:
    own, raw = odd
    listed = [{"image": f"{i}.png", "label": "ab"[i % 2], "subgroup": "x"} for i in range(40)]
    listed[1]["label"], listed[2]["subgroup"] = "a\ud83d", "\ud83d"
    (raw / "list.json").write_text(json.dumps(listed))
    out = run(own, raw, tmp_path / "out")
    assert rejected(out) == {
        "1.png": "no UTF-8: the label: a\ufffd",
        "2.png": "no UTF-8: the subgroup: \ufffd",
    }
    assert read_json(out / "summary.json")["labels"] == ["a", "b"]


def test_texts_are_kept_composed_as_a_model_is_made_to_write_them(
    tmp_path: Path, odd: tuple[schema.Data, Path]
) -> None:
    own, raw = odd
    lines = ["image_name,question,answer", *(f"{i}.png,Cafe\u0301?,u\u0308ber" for i in range(40))]
    (raw / "all.csv").write_text("\n".join(lines), encoding="utf-8")
    out = run(own.model_copy(update={"reader": "vqa_csv"}), raw, tmp_path / "asked")
    found = [(r["question"], *r["answers"]) for split in rows(out).values() for r in split]
    assert found == [("Caf\u00e9?", "\u00fcber")] * 40
    labels = ["e\u0301", "\u00e9", "a"]
    listed = [
        {"image": f"{i}.png", "label": labels[i % 3], "subgroup": "e\u0301"} for i in range(40)
    ]
    (raw / "list.json").write_text(json.dumps(listed))
    out = run(own, raw, tmp_path / "labelled")
    assert read_json(out / "summary.json")["labels"] == ["a", "\u00e9"]
    assert {r["subgroup"] for split in rows(out).values() for r in split} == {"\u00e9"}


def test_the_rows_of_a_table_whose_name_is_no_utf8_are_rejected(
    tmp_path: Path, odd: tuple[schema.Data, Path]
) -> None:
    asked, raw = odd
    lines = ["image_name,question,answer", *(f"{i}.png,Which?,{i}" for i in range(40))]
    (raw / "all.csv").write_text("\n".join(lines))
    (raw / "fragen_\udcfc.csv").write_text("\n".join([*lines[:2], "1.png,,1"]))
    out = run(asked.model_copy(update={"reader": "vqa_csv"}), raw, tmp_path / "out")
    name = "the name of its file or table: 0.png#fragen_\ufffd.csv:1"
    assert rejected(out) == {
        "0.png#fragen_\ufffd.csv:1": f"no UTF-8: {name}",
        "fragen_\ufffd.csv row 2": "no question",
    }


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


def test_a_full_disk_is_one_line(
    tmp_path: Path, drawn: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    publish(Path("data/raw/autism_faces"), drawn, 40)
    full = partial(pq.ParquetWriter, "/dev/full")
    monkeypatch.setattr(pq, "ParquetWriter", lambda path, *given, **named: full(*given, **named))
    says = "^error: data.autism_faces: data/prepared/autism_faces: No space left on device$"
    with pytest.raises(SystemExit, match=says):
        main("autism_faces")
    assert list(Path("data/prepared").iterdir()) == []


def test_a_limit_draws_pictures_by_the_seed_and_keeps_all_their_questions(tmp_path: Path) -> None:
    paths = [Path(f"{i}.jpg") for i in range(50)]
    raws = [Raw(f"{p}#{k}", p, question="Which?", answers=("one",)) for p in paths for k in "ab"]
    kept = sample(raws, 10, 1)
    assert len(kept) == 20
    assert len({raw.path for raw in kept}) == 10
    assert kept == sample(raws, 10, 1) != sample(raws, 10, 2)
    assert [r for r in raws if r in kept] == kept
    assert sample(raws, None, 1) == sample(raws, 50, 1) == raws
