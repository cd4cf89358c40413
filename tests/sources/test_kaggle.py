import hashlib
import io
import os
import random
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock
from kagglesdk import kaggle_env
from ruamel.yaml import YAML

from src.errors import UserError
from src.schema import KaggleDataset
from src.sources import kaggle
from tests.servers import kaggle_server
from tests.servers.kaggle_server import DATASET, TOKEN, VERSION, KaggleServer

REPOSITORY = Path(__file__).parents[2]
MEBIBYTE = 2**20  # what the client writes at once
OURS = KaggleDataset(dataset=DATASET, version=VERSION)
FILES = {
    "Faces/Train/anger/1.png": random.Random(1).randbytes(2 * MEBIBYTE),
    "Faces/Train/joy/2.png": random.Random(2).randbytes(MEBIBYTE),
    "Faces/Test/joy/3.png": b"three",
}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return buffer.getvalue()


ARCHIVE = zipped(FILES)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def kept(root: Path) -> list[Path]:
    """What lies in .downloads, but for the lock files."""
    return [p for p in (root / ".downloads").rglob("*") if p.is_file() and p.suffix != ".lock"]


@pytest.fixture
def server():
    with KaggleServer(ARCHIVE) as server:
        yield server


@pytest.fixture(autouse=True)
def signed_in(tmp_path, monkeypatch):
    """A home, a repository and a token of one's own; no waiting between tries."""
    for name in [name for name in os.environ if name.startswith(("KAGGLE_", "DVC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fetch(tmp_path, server, monkeypatch):
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, server.url)
    folder = tmp_path / "raw"
    folder.mkdir()

    def fetch(source: KaggleDataset = OURS) -> dict[str, object]:
        return kaggle.fetch(source, folder, seed=0)

    return fetch


def test_the_version_asked_for_is_downloaded_and_unpacked(fetch, server, tmp_path):
    provenance = fetch()
    assert contents(tmp_path / "raw") == FILES
    assert provenance == {
        "dataset": DATASET,
        "version": VERSION,
        "archive_bytes": len(ARCHIVE),
        "archive_md5": hashlib.md5(ARCHIVE).hexdigest(),
        "archive_sha256": hashlib.sha256(ARCHIVE).hexdigest(),
        "files": 3,
    }
    asked = [a.body for a in server.asked if a.path.endswith("DownloadDataset")]
    assert asked == [{"ownerSlug": "someone", "datasetSlug": "faces", "datasetVersionNumber": 3}]


def test_nothing_is_left_behind_by_a_success(fetch, tmp_path):
    fetch()
    assert [p.name for p in (tmp_path / ".downloads").iterdir() if p.is_dir()] == []
    assert kept(tmp_path) == []


def test_downloads_lie_in_the_repository_that_dvc_was_called_in(
    fetch, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "original"))
    (tmp_path / "original").mkdir()
    server.order("drop", times=99)
    with pytest.raises(UserError):
        fetch()
    assert kept(tmp_path / "original")
    assert not (tmp_path / ".downloads").exists()


@pytest.mark.parametrize("fault", ["429", "503", "drop", "no ranges", "no checksum"])
def test_a_passing_fault_is_overcome(fetch, server, tmp_path, fault):
    server.order(fault, times=2)
    fetch()
    assert contents(tmp_path / "raw") == FILES


def test_after_a_dropped_connection_only_the_rest_is_asked_for(fetch, server, tmp_path):
    server.order("drop")
    fetch()
    assert server.ranges() == [f"bytes={MEBIBYTE}-"]
    assert server.asked[-1].status == 206


def test_a_dropped_connection_without_ranges_starts_over(fetch, server, tmp_path):
    server.order("no ranges", times=2)
    server.order("drop")
    fetch()
    assert contents(tmp_path / "raw") == FILES


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("401", "does not accept the token (401)"),
        ("403", "refuses it (403)"),
        ("404 json", "no such data set or version (404)"),
        ("404 html", "web page instead of the archive"),
        ("429", "status 429"),
        ("503", "status 503"),
        ("code in body", "does not accept the token (401)"),
        ("login page", "web page instead of the archive"),
        ("login page as zip", "login page; check your Kaggle token"),
        ("drop", "what has arrived is kept"),
        ("drop, then error page", "broke the download off"),
        ("damage", "MD5"),
    ],
)
def test_a_lasting_fault_ends_in_one_line_and_leaves_nothing_that_looks_whole(
    fetch, server, tmp_path, fault, says
):
    server.order(fault, times=99)
    with pytest.raises(UserError) as caught:
        fetch()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "someone" in str(caught.value)
    assert contents(tmp_path / "raw") == {}
    server.order(fault, times=0)
    fetch()
    assert contents(tmp_path / "raw") == FILES


@pytest.mark.parametrize("source", [("someone/face", VERSION), (DATASET, VERSION + 1)])
def test_an_unknown_data_set_or_version_is_named(fetch, source):
    dataset, version = source
    with pytest.raises(UserError) as caught:
        fetch(KaggleDataset(dataset=dataset, version=version))
    assert f"{dataset}, version {version}: Kaggle has no such" in str(caught.value)


@pytest.mark.parametrize("token", ["an-old-token", "pasted…", "two\nlines"])
def test_a_refused_token_is_told_with_its_place_and_the_way_to_a_new_one(fetch, monkeypatch, token):
    monkeypatch.setenv("KAGGLE_API_TOKEN", token)
    with pytest.raises(UserError) as caught:
        fetch()
    assert "does not accept the token of KAGGLE_API_TOKEN" in str(caught.value)
    assert "https://www.kaggle.com/settings/api" in str(caught.value)


def test_a_legacy_key_that_kaggle_refuses_is_one_line(fetch, monkeypatch):
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", "a-wrong-key")
    with pytest.raises(UserError, match=r"does not accept the token \(401\)"):
        fetch()


def test_a_damaged_archive_without_a_checksum_is_not_kept(fetch, server, tmp_path):
    server.archive = ARCHIVE[: len(ARCHIVE) // 2]
    server.order("no checksum")
    with pytest.raises(UserError, match="damaged"):
        fetch()
    assert kept(tmp_path) == []


def test_an_archive_that_fits_on_no_disk_is_not_begun(fetch, tmp_path, monkeypatch):
    usage = kaggle.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(kaggle.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="free some"):
        fetch()
    assert kept(tmp_path) == []


def test_a_whole_download_that_the_disk_cannot_hold_unpacked_is_kept(
    fetch, server, tmp_path, monkeypatch
):
    usage = kaggle.shutil.disk_usage(tmp_path)
    free = iter([usage.free, 1000])
    with monkeypatch.context() as patch:
        patch.setattr(kaggle.shutil, "disk_usage", lambda path: usage._replace(free=next(free)))
        with pytest.raises(UserError, match="free some"):
            fetch()
    server.order("drop", times=99)  # would show if it were fetched again
    assert fetch()["files"] == 3
    assert server.ranges() == []


def test_no_connection_is_one_line(fetch, monkeypatch):
    nobody = "http://127.0.0.1:9"
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, nobody)
    with pytest.raises(UserError, match="connection to Kaggle failed"):
        fetch()


def test_verbose_in_the_environment_does_not_print_the_token(server, tmp_path, stage):
    done = stage(VERBOSE="1")
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr


# From here on in processes of their own, since the client signs in when it is imported.


@pytest.fixture
def stage(tmp_path, server):
    """Runs `python -m stages.fetch` on the repository's params with this server's data set."""
    yaml = YAML()
    params = yaml.load(REPOSITORY / "params.yaml")
    params["scale"] = "full"
    data = next(iter(params["data"]))
    params["data"][data]["full"] = {"kaggle": {"dataset": DATASET, "version": VERSION}}
    yaml.dump(params, tmp_path / "params.yaml")
    command = [sys.executable, "-m", "stages.fetch", data]

    def run(wait: bool = True, **environment: str):
        env = os.environ | {
            "PYTHONPATH": f"{Path(kaggle_server.__file__).parent / 'site'}:{REPOSITORY}",
            "KAGGLE_TEST_SERVER": server.url,
            **environment,
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        child = subprocess.Popen(command, cwd=tmp_path, env=env, text=True, **pipes)
        if not wait:
            return child
        out, err = child.communicate(timeout=60)
        return subprocess.CompletedProcess(command, child.returncode, out, err)

    return run


def test_the_stage_writes_the_files_and_their_provenance(stage, tmp_path):
    done = stage()
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "data/raw").iterdir()
    assert FILES.items() <= contents(folder).items()
    assert f'"dataset": "{DATASET}"' in (folder / "_source.json").read_text()


@pytest.mark.parametrize(
    ("token", "says"),
    [("", "it needs a Kaggle token; make a token at"), ("an-old-token", "does not accept")],
)
def test_without_a_good_token_the_stage_prints_one_line_and_fails(stage, tmp_path, token, says):
    done = stage(KAGGLE_API_TOKEN=token)
    assert done.returncode == 1
    assert re.match(r"error: params\.yaml: data\.\w+\.\w+\.kaggle: ", done.stderr)
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert done.stdout == ""
    assert not any((tmp_path / "data/raw").iterdir())


def test_a_home_that_cannot_be_written_to_is_one_line(stage, tmp_path):
    (tmp_path / "file").touch()
    done = stage(HOME=str(tmp_path / "file"), XDG_CONFIG_HOME="")
    assert done.returncode == 1
    assert "set KAGGLE_CONFIG_DIR" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_killed_run_goes_on_where_it_was(stage, server, tmp_path, monkeypatch):
    monkeypatch.undo()
    server.order("stall")
    child = stage(wait=False, KAGGLE_API_TOKEN=TOKEN, HOME=str(tmp_path), NO_PROXY="*")
    deadline = time.monotonic() + 30
    while sum(p.stat().st_size for p in kept(tmp_path) if p.suffix == ".zip") < MEBIBYTE:
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not any(p.is_dir() and p.name[0] != "." for p in (tmp_path / "data/raw").iterdir())

    done = stage(KAGGLE_API_TOKEN=TOKEN, HOME=str(tmp_path), NO_PROXY="*")
    assert done.returncode == 0, done.stderr
    assert server.ranges() == [f"bytes={MEBIBYTE}-"]
    assert server.asked[-1].status == 206
    [folder] = [p for p in (tmp_path / "data/raw").iterdir() if p.name[0] != "."]
    assert FILES.items() <= contents(folder).items()
    assert kept(tmp_path) == []


def test_two_runs_do_not_write_into_the_same_download(stage, server, tmp_path):
    (tmp_path / ".downloads").mkdir()
    with FileLock(tmp_path / f".downloads/kaggle_someone_faces_{VERSION}.lock"):
        child = stage(wait=False)
        assert not server.closing.wait(1.5)
        assert child.poll() is None
        assert [a for a in server.asked if a.path.endswith("DownloadDataset")] == []
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 0, errors


def test_the_client_is_imported_by_a_download_only():
    code = "import sys, src.sources.kaggle as k; print({'kaggle', 'torch'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_no_version_is_the_newest_which_is_recorded(fetch, server, tmp_path):
    server.version = 7
    assert fetch(KaggleDataset(dataset=DATASET, version=None))["version"] == 7
    asked = [a.body for a in server.asked if a.path.endswith("DownloadDataset")]
    assert [body["datasetVersionNumber"] for body in asked] == [7]
    assert contents(tmp_path / "raw") == FILES


@pytest.mark.parametrize("version", [None, VERSION])
@pytest.mark.parametrize("fault", [None, "503", "429"])
def test_what_kaggle_announces_is_what_is_fetched(fetch, server, version, fault):
    if fault:
        server.order(fault)
    announced = kaggle.announced(KaggleDataset(dataset=DATASET, version=version))
    fetched = fetch()
    assert announced == {key: fetched[key] for key in announced}
    assert announced.keys() == {"dataset", "version", "archive_bytes", "archive_md5"}


def test_asking_downloads_no_archive(fetch, server, tmp_path):
    kaggle.announced(OURS)
    assert not (tmp_path / ".downloads").exists()


def test_no_announced_checksum_is_none(fetch, server):
    server.order("no checksum")
    assert kaggle.announced(OURS)["archive_md5"] is None


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("401", "does not accept the token (401)"),
        ("403", "refuses it (403)"),
        ("404 json", "no such data set or version (404)"),
        ("404 html", "web page instead of the archive"),
        ("login page", "web page instead of the archive"),
        ("503", "status 503"),
    ],
)
def test_a_refusal_to_announce_is_one_line(fetch, server, fault, says):
    server.order(fault, times=99)
    with pytest.raises(UserError, match=re.escape(says)):
        kaggle.announced(OURS)
