import csv
import errno
import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as Picture
from ruamel.yaml import YAML

from src import repositories
from src.errors import UserError
from src.files import read_json
from src.readers import esnlive as reader
from src.records import Raw
from src.schema import Esnlive
from src.sources import esnlive
from tests.servers.hub_server import serve

ROOT = Path(__file__).parents[2]
REPO, COMMIT = "J1mb0o/e-SNLI-VE", "0123456789abcdef0123456789abcdef01234567"
GOLD = ["entailment", "neutral", "contradiction"]
FEATURES = Features(
    {
        "image": Image(),
        "hypothesis": Value("string"),
        "gold_label": ClassLabel(names=GOLD),
        "explanation": Value("string"),
        "Flickr30kID": Value("string"),
        "pairID": Value("string"),
    }
)
Rows = list[dict[str, Any]]


def picture(number: int, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Picture.new("RGB", (16, 16), (number, 9, 9)).save(buffer, form)
    return buffer.getvalue()


def pairs(*pictures: int) -> Rows:
    """Three rows of each picture."""
    return [
        {
            "image": {"bytes": picture(n), "path": None},
            "hypothesis": f"Hypothesis {n}, {i}",
            "gold_label": i,
            "explanation": f"Explanation {n}, {i}",
            "Flickr30kID": f"{n}.jpg",
            "pairID": f"{n}.jpg#{i}r1",
        }
        for n in pictures
        for i in range(3)
    ]


def publish(repo: Path, features: Features = FEATURES, **splits: Rows) -> None:
    """Write a Parquet file of each split, in row groups of two, as the Hub has them."""
    for split, rows in splits.items():
        file = repo / f"data/{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(rows, features=features).to_parquet(file, batch_size=2)


def renamed(rows: Rows, names: dict[str, str | None]) -> tuple[Features, Rows]:
    """The rows and their features with other names of columns; None: without the column."""
    kept = {old: names.get(old, old) for old in FEATURES if names.get(old, old)}
    features = Features({new: FEATURES[old] for old, new in kept.items()})
    return features, [{new: row[old] for old, new in kept.items()} for row in rows]


def table(folder: Path, name: str) -> Rows:
    with (folder / f"esnlive_{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "flickr30k_images").iterdir()}


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def fetch(tmp_path, raw, monkeypatch):
    """Fetch splits from their files, without a Hub."""

    class Api:
        def repo_info(self, repo: str, repo_type: str, revision: str | None) -> Any:
            return type("Info", (), {"sha": COMMIT})

    def load(dataset: str, revision: str, streaming: bool) -> Any:
        assert (dataset, revision, streaming) == (REPO, COMMIT, True)
        files = {p.name.partition("-")[0]: str(p) for p in (tmp_path / "repo/data").iterdir()}
        return datasets.load_dataset("parquet", data_files=files, streaming=True)

    monkeypatch.setattr(repositories, "HfApi", Api)
    monkeypatch.setattr(esnlive, "load_dataset", load)

    def fetch(features: Features = FEATURES, rows: int = 99, **splits: Rows) -> dict[str, Any]:
        publish(tmp_path / "repo", features, **splits)
        return esnlive.fetch(Esnlive(dataset=REPO, revision=None, rows=rows), raw, seed=0)

    return fetch


def test_rows_and_pictures_arrive_in_the_official_layout(fetch, raw):
    provenance = fetch(train=pairs(1, 2), validation=pairs(3), test=pairs(4))
    assert pictures(raw) == {f"{n}.jpg": picture(n) for n in (1, 2, 3, 4)}
    assert provenance == {
        "dataset": REPO,
        "revision": COMMIT,
        "columns": {name: name for name in FEATURES},
        "rows": {"train": 6, "dev": 3, "test": 3},
        "pictures": 4,
        "pictures_renamed": 0,
        "bytes": sum(len(picture(n)) for n in (1, 2, 3, 4)),
    }
    lines = (raw / "esnlive_dev.csv").read_text().splitlines()
    assert lines[:2] == [
        ",pairID,Flickr30kID,hypothesis,gold_label,explanation",
        '0,3.jpg#0r1,3.jpg,"Hypothesis 3, 0",entailment,"Explanation 3, 0"',
    ]
    assert [row["gold_label"] for row in table(raw, "train")] == GOLD * 2


def test_the_reader_takes_all_of_it(fetch, raw, params):
    fetch(train=pairs(1, 2), validation=pairs(3), test=pairs(4))
    found = list(reader.read(raw, params.data["esnlive"]))
    assert all(isinstance(entry, Raw) for entry in found)
    assert [entry.split for entry in found] == ["test"] * 3 + ["validation"] * 3 + ["train"] * 6
    assert {entry.path.read_bytes() for entry in found} == set(pictures(raw).values())


def test_a_picture_is_written_once(fetch, raw, monkeypatch):
    write, written = Path.write_bytes, []
    monkeypatch.setattr(Path, "write_bytes", lambda p, b: (written.append(p.name), write(p, b)))
    fetch(train=pairs(1))
    assert written == ["1.jpg"]


def test_an_id_of_several_pictures_pairs_no_text_with_anothers(fetch, raw):
    rows = pairs(1) + pairs(1)
    for row in rows[2:5]:
        row["image"] = {"bytes": picture(200), "path": None}
    other = f"1-{hashlib.sha256(picture(200)).hexdigest()[:8]}.jpg"
    provenance = fetch(train=rows, test=rows[2:3])
    assert pictures(raw) == {"1.jpg": picture(1), other: picture(200)}
    assert (provenance["pictures"], provenance["pictures_renamed"]) == (2, 1)
    names = ["1.jpg"] * 2 + [other] * 3 + ["1.jpg"]
    assert [row["Flickr30kID"] for row in table(raw, "train")] == names
    assert [row["Flickr30kID"] for row in table(raw, "test")] == [other]


def test_no_more_rows_of_a_split_than_asked_for(fetch, raw):
    assert fetch(rows=4, train=pairs(1, 2, 3), test=pairs(4))["rows"] == {"train": 4, "test": 3}
    assert sorted(pictures(raw)) == ["1.jpg", "2.jpg", "4.jpg"]


@pytest.mark.parametrize("name", ["validation", "val", "dev"])
def test_the_validation_has_several_names(fetch, raw, name):
    fetch(train=pairs(1), **{name: pairs(2)})
    assert [row["Flickr30kID"] for row in table(raw, "dev")] == ["2.jpg"] * 3


@pytest.mark.parametrize(
    "names",
    [
        {"hypothesis": "sentence2", "gold_label": "label", "Flickr30kID": "image_id"},
        {"hypothesis": "text", "explanation": "explanation_1", "Flickr30kID": "Flickr30K_ID"},
        {"pairID": "pair_id", "Flickr30kID": "flickr_id", "explanation": "explanations"},
    ],
)
def test_columns_have_several_names(fetch, raw, names):
    features, rows = renamed(pairs(1), names)
    provenance = fetch(features, train=rows)
    assert provenance["columns"] == {ours: names.get(ours, ours) for ours in FEATURES}
    (first, *_) = table(raw, "train")
    assert first == {
        "": "0",
        "pairID": "1.jpg#0r1",
        "Flickr30kID": "1.jpg",
        "hypothesis": "Hypothesis 1, 0",
        "gold_label": "entailment",
        "explanation": "Explanation 1, 0",
    }


def test_a_picture_without_an_id_is_named_by_its_bytes(fetch, raw):
    features, rows = renamed(pairs(1, 2), {"Flickr30kID": None, "pairID": None})
    rows[5]["image"] = {"bytes": picture(2, "PNG"), "path": None}
    fetch(features, train=rows, test=rows[:1])
    digests = {n: f"{hashlib.sha256(picture(n)).hexdigest()}.jpg" for n in (1, 2)}
    png = picture(2, "PNG")
    named = {digests[1]: picture(1), digests[2]: picture(2)}
    assert pictures(raw) == named | {f"{hashlib.sha256(png).hexdigest()}.png": png}
    pairs_of = [row["pairID"] for name in ("train", "test") for row in table(raw, name)]
    assert pairs_of[:2] == [f"{digests[1]}#train1", f"{digests[1]}#train2"]
    assert len(set(pairs_of)) == 7


@pytest.mark.parametrize(
    ("given", "name"), [("7", "7.jpg"), ("../a/7.jpg", "7.jpg"), ("..", "...jpg")]
)
def test_a_picture_stays_in_its_folder(fetch, raw, given, name):
    rows = [row | {"Flickr30kID": given} for row in pairs(7)]
    fetch(train=rows)
    assert pictures(raw) == {name: picture(7)}
    assert {row["Flickr30kID"] for row in table(raw, "train")} == {name}


@pytest.mark.parametrize(
    ("feature", "given"),
    [
        (ClassLabel(names=GOLD[::-1]), [2, 1, 0]),
        (Value("string"), GOLD),
        (Value("int64"), [0, 1, 2]),
    ],
)
def test_labels_keep_their_meaning(fetch, raw, params, feature, given):
    rows = [row | {"gold_label": g} for row, g in zip(pairs(1), given, strict=True)]
    fetch(Features(FEATURES | {"gold_label": feature}), train=rows)
    assert [entry.kind for entry in reader.read(raw, params.data["esnlive"])] == GOLD


def test_what_is_missing_in_a_row_is_the_readers_to_reject(fetch, raw, params):
    rows = pairs(1, 2)
    rows[0]["gold_label"], rows[1]["explanation"], rows[2]["hypothesis"] = -1, None, None
    for row in rows[3:5]:
        row["image"] = None
    rows[4]["Flickr30kID"] = None
    found = list(reader.read(raw, params.data["esnlive"])) if fetch(train=rows) else []
    assert [getattr(entry, "reason", "") for entry in found] == [
        *("no gold label: -1", "no explanation: 1.jpg#1r1", "no hypothesis: 1.jpg#2r1"),
        *("", "no Flickr30kID: 2.jpg#1r1", ""),
    ]


@pytest.mark.parametrize("form", ["a list", "columns"])
def test_further_explanations_come_too(fetch, raw, params, form):
    rows, features = pairs(1), FEATURES.copy()
    if form == "a list":
        features["explanation"] = List(Value("string"))
        for row in rows:
            row["explanation"] = ["A.", "B.", "C."]
    else:
        del features["explanation"]
        for row in rows:
            del row["explanation"]
            row |= {"explanation_1": "A.", "Explanation_2": "B.", "Explanation_3": "C."}
        features |= {name: Value("string") for name in rows[0] if name not in features}
    fetch(Features(features), train=rows)
    found = list(reader.read(raw, params.data["esnlive"]))
    assert [entry.answers for entry in found] == [("A.", "B.", "C.")] * 3


@pytest.mark.parametrize("missing", ["image", "hypothesis", "gold_label", "explanation"])
def test_a_missing_column_is_one_line_that_names_those_that_are_there(fetch, missing):
    features, rows = renamed(pairs(1), {missing: None})
    with pytest.raises(UserError) as caught:
        fetch(features, train=rows)
    assert str(caught.value).startswith(f"{REPO} has no column {missing}")
    assert str(caught.value).endswith(f"; its columns are {', '.join(features)}")


def test_a_data_set_without_a_training_split_is_one_line(fetch):
    with pytest.raises(UserError, match=r"has no split train; its splits are test$"):
        fetch(test=pairs(1))


def test_a_data_set_without_pictures_is_one_line(fetch):
    rows = [row | {"image": None} for row in pairs(1)]
    with pytest.raises(UserError, match=f"^{REPO} holds no pictures in its column image$"):
        fetch(train=rows)


def test_a_full_disk_is_one_line(fetch, raw, monkeypatch):
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # a write names no file

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=f"^{raw}: No space left on device$"):
        fetch(train=pairs(1))


@pytest.fixture
def hub(tmp_path):
    publish(tmp_path / "repo", train=pairs(1, 2), validation=pairs(3), test=pairs(4))
    with serve(tmp_path / "repo", REPO, COMMIT, kind="datasets") as hub:
        yield hub


def stage(url: str, tmp_path: Path, **changed: object) -> subprocess.CompletedProcess[str]:
    """The fetch stage, in a process whose Hub is at `url`."""
    yaml = YAML()
    values = yaml.load(ROOT / "params.yaml")
    values["scale"] = "full"
    values["data"]["esnlive"]["full"]["esnlive"] = {
        "dataset": REPO,
        "revision": None,
        "rows": 5,
        **changed,
    }
    yaml.dump(values, tmp_path / "params.yaml")
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": url}
    env |= {"NO_PROXY": "*"}
    command = [sys.executable, "-m", "stages.fetch", "esnlive"]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_the_stage_streams_from_the_hub_at_a_commit_that_is_recorded(hub, tmp_path, revision):
    done = stage(hub.url, tmp_path, revision=revision)
    assert done.returncode == 0, done.stderr
    raw = tmp_path / "data/raw/esnlive"
    provenance = read_json(raw / "_source.json")
    assert (provenance["dataset"], provenance["revision"]) == (REPO, COMMIT)
    assert (provenance["source"], provenance["pictures"]) == ("esnlive", 4)
    assert provenance["rows"] == {"train": 5, "dev": 3, "test": 3}
    assert pictures(raw) == {f"{n}.jpg": picture(n) for n in (1, 2, 3, 4)}
    files = [path for path in hub.requests if path.endswith(".parquet")]
    assert files and all(f"/resolve/{COMMIT}/" in path for path in files)


def test_a_connection_that_breaks_off_is_taken_up_again(hub, tmp_path):
    hub.cuts = 2
    done = stage(hub.url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert hub.cuts == 0
    raw = tmp_path / "data/raw/esnlive"
    assert read_json(raw / "_source.json")["rows"] == {"train": 5, "dev": 3, "test": 3}
    assert pictures(raw) == {f"{n}.jpg": picture(n) for n in (1, 2, 3, 4)}


def one_error(done: subprocess.CompletedProcess[str], tmp_path: Path) -> str:
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data/raw/esnlive").exists()
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    key = "error: params.yaml: data.esnlive.full.esnlive: "
    assert line.startswith(key)
    return line.removeprefix(key)


@pytest.mark.parametrize(
    ("refuse", "refused", "changed", "says"),
    [
        ((403, "GatedRepo"), "", {}, f"{REPO} is gated; accept its terms on its page"),
        ((403, "GatedRepo"), "/resolve/", {}, f"{REPO} is gated; accept its terms on its page"),
        ((404, "RepoNotFound"), "", {}, f"cannot download the rows of {REPO} at main: "),
        ((401, "RepoNotFound"), "", {}, f"cannot download the rows of {REPO} at main: 401 "),
        ((403, "GatedRepo"), ".parquet", {}, f"{REPO} is gated; accept its terms on its page"),
        ((404, "EntryNotFound"), ".parquet", {}, f"cannot download the rows of {REPO} at main: "),
        (None, "", {"revision": "f" * 40}, f"cannot download the rows of {REPO} at {'f' * 40}: "),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(hub, tmp_path, refuse, refused, changed, says):
    hub.refuse, hub.refused = refuse, refused
    assert one_error(stage(hub.url, tmp_path, **changed), tmp_path).startswith(says)


def test_no_connection_is_one_line(tmp_path):
    error = one_error(stage("http://127.0.0.1:9", tmp_path), tmp_path)
    assert error.startswith(f"cannot download the rows of {REPO} at main: ")
    assert error.endswith("; check dataset, revision and the network, then start again")


@pytest.mark.parametrize(
    ("file", "content"),
    [("e-SNLI-VE.py", b""), ("data/train-00000-of-00001.parquet", b"PAR1 and no more")],
)
def test_what_cannot_be_streamed_is_one_line(hub, tmp_path, file, content):
    (tmp_path / "repo" / file).write_bytes(content)
    error = one_error(stage(hub.url, tmp_path), tmp_path)
    assert error.startswith(f"{REPO} cannot be streamed: ")
    assert error.endswith("; correct dataset")
