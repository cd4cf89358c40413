"""What one trained and pushed, another pulls into a fresh clone, and nobody trains it again."""

import shutil
import sys
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from ruamel.yaml import YAML

from src.overrides import override
from tests.workspace import clone_to, commit, experiment, ran, run

pytestmark = pytest.mark.slow

RECIPE, BASE, DATA = "vqa_blip2", "blip2_opt_6b", "abo"
STAGES = ("fetch", "prepare", "build", "encode", "train")
TRAIN, RANK = f"train@{RECIPE}", f"recipes.{RECIPE}.lora.r"
SHORT = {
    f"data.{DATA}.tiny.drawn.train": 50,
    f"data.{DATA}.tiny.drawn.test": 10,
    f"base.{BASE}.tiny.pretrain.pictures": 64,
    f"base.{BASE}.tiny.pretrain.steps": 2,
    f"recipes.{RECIPE}.base": BASE,
    "train.tiny.max_steps": 2,
    "train.tiny.evaluations": 1,
}
ADAPTER = Path("models/adapters", RECIPE, "adapter_model.safetensors")
KEYS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret"}


def cut(folder: Path) -> None:
    """Leave one recipe up to its training, shortened."""
    override(folder / "params.yaml", SHORT)
    yaml = YAML()
    params, pipeline = (yaml.load(folder / name) for name in ("params.yaml", "dvc.yaml"))
    for section, kept in (("data", DATA), ("base", BASE), ("recipes", RECIPE)):
        params[section] = {kept: params[section][kept]}
    del params["ablations"]
    pipeline["stages"] = {name: pipeline["stages"][name] for name in STAGES}
    yaml.dump(params, folder / "params.yaml")
    yaml.dump(pipeline, folder / "dvc.yaml")
    (folder / "dvc.lock").unlink()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict[int, bytes]]:
    """A repository in which two ranks were trained and committed, and the adapter of each."""
    folder = clone_to(tmp_path_factory.mktemp("trained"))
    cut(folder)
    commit(folder)
    adapters = {}
    for rank in (4, 8):
        assert experiment(folder, f"{RANK}={rank}")[-1] == TRAIN
        adapters[rank] = (folder / ADAPTER).read_bytes()
        commit(folder)
    assert adapters[4] != adapters[8]
    return folder, adapters


@pytest.fixture(scope="module")
def bucket():
    """An S3 server on loopback with one bucket."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {name.lower(): value for name, value in KEYS.items()}
    client = boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", **keys
    )
    client.create_bucket(Bucket="recipes")
    yield client
    server.stop()


@pytest.fixture(scope="module", params=["folder", "s3"])
def pulled(request, trained, tmp_path_factory) -> Path:
    """A fresh clone of that repository by a colleague, after `dvc pull --run-cache`."""
    place = tmp_path_factory.mktemp(request.param)
    mine = Path(shutil.copytree(trained[0], place / "mine", symlinks=True))
    if request.param == "s3":
        client = request.getfixturevalue("bucket")
        run(["dvc", "remote", "add", "--default", "shared", "s3://recipes/dvc"], mine)
        endpoint = ["endpointurl", client.meta.endpoint_url]
        run(["dvc", "remote", "modify", "shared", *endpoint], mine)
    else:
        run(["dvc", "remote", "add", "--default", "shared", str(place / "remote")], mine)
    commit(mine)
    run([sys.executable, "-m", "tools.push"], mine, **KEYS)
    shutil.rmtree(mine / ".dvc/cache")
    run(["git", "clone", "-q", str(mine), "yours"], place)
    run(["dvc", "pull", "--run-cache"], place / "yours", **KEYS)
    return place / "yours"


def test_a_fresh_clone_has_what_was_trained_and_nothing_runs(pulled, trained):
    assert (pulled / ADAPTER).read_bytes() == trained[1][8]
    assert ran(run(["dvc", "repro"], pulled)) == []
    assert "up to date" in run(["dvc", "status"], pulled).stdout


def test_a_value_that_a_colleague_trained_is_taken_from_the_run_cache(pulled, trained):
    done = run(["dvc", "exp", "run", "--pull", "-S", f"{RANK}=4"], pulled, **KEYS)
    assert f"Stage '{TRAIN}' is cached - skipping run, checking out outputs" in done.stdout
    assert ran(done) == []
    assert (pulled / ADAPTER).read_bytes() == trained[1][4]
