"""`python -m tools.pin` with the real clients against servers on loopback."""

import difflib
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from src.files import write_json
from src.overrides import override
from tests.conftest import ROOT
from tests.servers import kaggle_server
from tests.servers.bucket_server import BucketServer
from tests.servers.hub_server import serve
from tests.servers.kaggle_server import DATASET, TOKEN, VERSION, KaggleServer

ESNLIVE, WEBVID = "data.esnlive.full.esnlive", "data.webvid.full.webvid"
FER, ABO, LLAVA = "data.fer.full.kaggle", "data.abo.full.abo", "base.llava.full"
NEW, OLD = "a" * 40, "b" * 40
OBJECTS = {"listings.tar": b"listings" * 99, "images.tar": b"images" * 99}
MD5 = {name: hashlib.md5(data).hexdigest() for name, data in OBJECTS.items()}
SHA256 = {name: hashlib.sha256(data).hexdigest() for name, data in OBJECTS.items()}


def zipped(text: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("train/happy/1.png", text)
    return buffer.getvalue()


Done = subprocess.CompletedProcess[str]
ARCHIVE = zipped(b"a face")


@pytest.fixture
def hub(tmp_path, params):
    """The Hub of every model and data set of params.yaml, each at the commit that stands there."""
    from src import config

    (tmp_path / "repo").mkdir()
    with serve(tmp_path / "repo", "J1mb0o/e-SNLI-VE", NEW, "datasets") as server:
        bases = config.at_scale(ROOT / "params.yaml", "full").base.values()
        server.others = {f"models/{b.model.id}": b.model.revision for b in bases}
        server.others["datasets/TempoFunk/webvid-10M"] = NEW
        server.others["models/FacebookAI/roberta-large"] = OLD
        yield server


@pytest.fixture
def kaggle():
    with KaggleServer(ARCHIVE) as server:
        yield server


@pytest.fixture
def bucket():
    with BucketServer(dict(OBJECTS)) as server:
        yield server


@pytest.fixture
def pin(hub, kaggle, bucket, tmp_path):
    """Runs the command in a workspace whose params.yaml names what the servers have."""
    place = tmp_path / "workspace"
    place.mkdir()
    (place / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    files = {
        f"{ABO}.{key}.{what}": value
        for key in ("listings", "images")
        for what, value in (("path", f"{key}.tar"), ("size", len(OBJECTS[f"{key}.tar"])))
    }
    change(
        place,
        {f"{ABO}.url": bucket.url, f"{FER}.dataset": DATASET, f"{FER}.version": VERSION}
        | {"data.autism_faces.full.folder": "my/pictures"}
        | {"evaluate.bertscore.full": f"roberta-large@{OLD}"}
        | files,
    )

    def pin(*arguments: str, module: str = "tools.pin", **env: str) -> Done:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "KAGGLE_"))}
        clean |= {
            "PYTHONPATH": f"{Path(kaggle_server.__file__).parent / 'site'}:{ROOT}",
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "KAGGLE_TEST_SERVER": kaggle.url,
            "KAGGLE_API_TOKEN": TOKEN,
            "HOME": str(tmp_path),
            "NO_PROXY": "*",
        }
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(
            command, cwd=place, env=clean | env, capture_output=True, text=True, timeout=120
        )
        assert "Traceback" not in done.stderr
        return done

    pin.place = place
    return pin


def change(place: Path, values: dict[str, object]) -> None:
    override(place / "params.yaml", values)


def at(place: Path, key: str) -> object:
    block = YAML(typ="safe", pure=True).load(place / "params.yaml")
    for part in key.split("."):
        block = block[part]
    return block


def everything_pinned(place: Path) -> None:
    etags = {f"{ABO}.{key}.etag": MD5[f"{key}.tar"] for key in ("listings", "images")}
    sums = {f"{ABO}.{key}.sha256": SHA256[f"{key}.tar"] for key in ("listings", "images")}
    change(place, {f"{ESNLIVE}.revision": NEW, f"{WEBVID}.revision": NEW} | etags | sums)


def errors(done: Done, kind: str = "error") -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith(f"{kind}: ")]


def test_what_was_never_fetched_is_pinned_to_what_the_servers_say(pin, bucket):
    bucket.checksums["images.tar"] = bytes.fromhex(SHA256["images.tar"])
    before = (pin.place / "params.yaml").read_text()
    change(pin.place, {f"{LLAVA}.revision": "main", "evaluate.bertscore.full": "roberta-large"})
    done = pin()
    assert (done.returncode, done.stderr) == (0, "")
    pins = {
        f"{ESNLIVE}.revision": NEW,
        f"{WEBVID}.revision": NEW,
        f"{LLAVA}.revision": "b234b804b114d9e37bb655e11cbbb5f5e971b7a9",
        "evaluate.bertscore.full": f"roberta-large@{OLD}",
        f"{ABO}.listings.etag": MD5["listings.tar"],
        f"{ABO}.images.etag": MD5["images.tar"],
        f"{ABO}.images.sha256": SHA256["images.tar"],
    }
    *said, last = done.stdout.splitlines()
    assert sorted(said) == sorted(f"{key}: {value}, as it is now" for key, value in pins.items())
    assert last == "params.yaml: 7 pinned"
    assert {key: at(pin.place, key) for key in pins} == pins
    # Nothing but these lines; that of the model is what it was.
    after = (pin.place / "params.yaml").read_text()
    lines = [d for d in difflib.ndiff(before.splitlines(), after.splitlines()) if d[0] == "+"]
    assert len(lines) == 4
    assert "# a commit, branch or tag" in lines[2]
    again = pin("--check")
    assert (again.returncode, again.stdout) == (0, "params.yaml: 0 to be pinned\n")


@pytest.mark.parametrize(("flag", "status"), [("--dry-run", 0), ("--check", 1)])
def test_a_dry_run_says_what_it_would_pin_and_a_check_fails_for_it(pin, flag, status):
    before = (pin.place / "params.yaml").read_bytes()
    done = pin(flag)
    assert done.returncode == status
    assert f"{ESNLIVE}.revision: {NEW}, as it is now" in done.stdout
    assert done.stdout.endswith("params.yaml: 4 to be pinned\n")
    assert (pin.place / "params.yaml").read_bytes() == before


def test_what_was_fetched_comes_before_what_is_there_now_and_the_difference_is_told(pin):
    everything_pinned(pin.place)
    change(pin.place, {f"{ESNLIVE}.revision": None})
    record = {"dataset": "J1mb0o/e-SNLI-VE", "ref": "main", "revision": OLD}
    write_json(pin.place / "metrics/data/esnlive.json", {"source": "esnlive"} | record)
    told = (
        f"note: params.yaml: {ESNLIVE}: J1mb0o/e-SNLI-VE at main has changed: commit {OLD}, now "
        f"{NEW}; it is pinned to the former, which is what was fetched; for the latter put that "
        "into params.yaml and run `dvc repro fetch@esnlive`"
    )
    checked = pin("--check")
    assert (checked.returncode, errors(checked, "note")) == (1, [told])
    done = pin()
    assert (done.returncode, errors(done, "note")) == (0, [told])
    assert at(pin.place, f"{ESNLIVE}.revision") == OLD


def test_a_record_of_other_parameters_pins_nothing(pin):
    change(pin.place, {f"{WEBVID}.revision": None})
    records = {
        "esnlive": {"dataset": "J1mb0o/e-SNLI-VE", "ref": "v1", "revision": OLD},
        "webvid": {"dataset": "somebody/else", "ref": "main", "revision": OLD},
        "abo": {"url": "http://127.0.0.1:9", "listings": {"etag": "old"}},
        "fer": {"source": "drawn", "drawing": "fer", "files": 2200},
    }
    for name, record in records.items():
        write_json(pin.place / f"metrics/data/{name}.json", record)
    done = pin()
    assert (done.returncode, errors(done, "note")) == (0, [])
    assert at(pin.place, f"{ESNLIVE}.revision") == at(pin.place, f"{WEBVID}.revision") == NEW
    assert at(pin.place, f"{ABO}.listings.etag") == MD5["listings.tar"]


def test_what_was_fetched_is_pinned_without_a_network(pin):
    everything_pinned(pin.place)
    change(pin.place, {f"{LLAVA}.revision": None})
    record = {"id": "llava-hf/llava-1.5-7b-hf", "ref": "main", "revision": OLD}
    write_json(pin.place / "metrics/base/llava.json", {"parameters": 1} | record)
    done = pin(HF_ENDPOINT="http://127.0.0.1:9")
    assert at(pin.place, f"{LLAVA}.revision") == OLD
    # What could not be compared is told, and is a failure.
    assert done.returncode == 1
    assert any(f"{LLAVA}: cannot download the commit" in line for line in errors(done))


def test_a_commit_that_is_there_no_more_is_named(pin, hub):
    everything_pinned(pin.place)
    gone = hub.others["models/llava-hf/llava-1.5-7b-hf"]
    hub.others["models/llava-hf/llava-1.5-7b-hf"] = NEW
    done = pin("--check")
    assert done.returncode == 1
    (line,) = errors(done)
    assert line.startswith(f"error: params.yaml: {LLAVA}: ")
    assert f"llava-hf/llava-1.5-7b-hf at {gone}: there is no such commit, branch or tag" in line
    assert pin().returncode == 1
    assert at(pin.place, f"{LLAVA}.revision") == gone


@pytest.mark.parametrize(
    ("text", "what"), [(b"another face", "bytes"), (b"A face", "MD5")], ids=["longer", "as long"]
)
def test_a_version_of_kaggle_whose_files_changed_is_named(pin, kaggle, text, what):
    everything_pinned(pin.place)
    change(pin.place, {"scale": "full"})
    assert pin("fer", module="stages.fetch").returncode == 0
    assert pin("--check").returncode == 0
    kaggle.archive = zipped(text)
    done = pin("--check")
    assert done.returncode == 1
    (line,) = errors(done, "note")
    assert line.startswith(f"note: params.yaml: {FER}: {DATASET} at version {VERSION} has changed")
    assert f" has changed: {what} " in line
    assert "keep it with `dvc push`, or fetch the latter with `dvc repro --force fetch@fer`" in line


def test_the_newest_version_of_kaggle_is_pinned_to_the_one_that_was_fetched(pin, kaggle):
    everything_pinned(pin.place)
    change(pin.place, {"scale": "full", f"{FER}.version": None})
    assert pin("fer", module="stages.fetch").returncode == 0
    kaggle.version = VERSION + 2
    done = pin()
    assert at(pin.place, f"{FER}.version") == VERSION
    (line,) = errors(done, "note")
    changed = f"version {VERSION}, now {VERSION + 2}"
    assert f"{DATASET} at the newest version has changed: {changed}; it is pinned to the" in line


def test_a_file_of_the_bucket_that_changed_is_named(pin, bucket):
    everything_pinned(pin.place)
    bucket.objects["images.tar"] = OBJECTS["images.tar"].replace(b"images", b"IMAGES")
    done = pin("--check")
    assert done.returncode == 1
    (line,) = errors(done)
    now = hashlib.md5(bucket.objects["images.tar"]).hexdigest()
    was = MD5["images.tar"]
    assert line.startswith(f"error: params.yaml: {ABO}.images.etag: {was} is now {now}: its publ")


def test_a_fault_of_params_yaml_is_one_line(pin):
    change(pin.place, {f"{FER}.version": 0})
    done = pin()
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: params.yaml: {FER}.version: ")
