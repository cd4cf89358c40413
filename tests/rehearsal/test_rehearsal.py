"""`scale: full` from fetch to report, with the real clients, against servers on the loopback."""

import pytest

from src import config
from src.files import read_json
from tests.conftest import ROOT
from tests.rehearsal.world import NEWEST, running_world
from tests.servers.kaggle_server import TOKEN
from tests.workspace import clone_to, experiment, ran, run

FULL = config.at_scale(ROOT / "params.yaml", "full")
SHORT = ["train.full.max_steps=4", "explain.pictures.full=6", "explain.gallery.full=2"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with running_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture(scope="module")
def env(world, tmp_path_factory):
    """The variables of a user with a token, and a home in which nothing lies yet."""
    home = str(tmp_path_factory.mktemp("home"))
    user = {"HOME": home, "HF_HOME": f"{home}/huggingface", "KAGGLE_API_TOKEN": TOKEN}
    return world.env | user | {"HF_HUB_OFFLINE": "0"}


@pytest.fixture(scope="module")
def rehearsed(world, env, tmp_path_factory):
    """A clone after the whole pipeline at full, its training shortened."""
    clone = clone_to(tmp_path_factory.mktemp("clone"))
    stages = experiment(clone, "scale=full", *SHORT, *world.overrides, **env)
    kinds = [stage.partition("@")[0] for stage in stages]
    assert {kind: kinds.count(kind) for kind in kinds} == (
        dict.fromkeys(("fetch", "prepare"), len(FULL.data))
        | {"build": len(FULL.base)}
        | dict.fromkeys(("encode", "train", "baseline", "evaluate", "explain"), len(FULL.recipes))
        | {"report": 1}
    )
    return clone


@pytest.mark.slow
@pytest.mark.parametrize("recipe", FULL.recipes)
def test_every_recipe_comes_to_metrics_of_both_models_and_a_report(rehearsed, recipe):
    base, tuned = (read_json(rehearsed / f"metrics/{recipe}/{m}.json") for m in ("base", "tuned"))
    assert base["n"] == tuned["n"] > 0
    assert all(gain.keys() == {"value", "low", "high"} for gain in tuned["gain"].values())
    assert f"<code>{recipe}</code>" in (rehearsed / "reports/index.html").read_text()
    trained = read_json(rehearsed / f"models/adapters/{recipe}/recipe.json")
    assert trained["image_size"] == 224
    assert trained["recipe"]["precision"] == "bf16"


@pytest.mark.slow
def test_every_source_is_recorded_with_its_revision(rehearsed):
    def source(data):
        return read_json(rehearsed / f"data/raw/{data}/_source.json")

    for data in ("autism_faces", "fer"):
        kaggle = FULL.data[data].source.kaggle
        assert (source(data)["dataset"], source(data)["version"]) == (kaggle.dataset, 1)
        assert len(source(data)["archive_sha256"]) == 64
    assert source("esnlive")["revision"] == NEWEST
    assert source("webvid")["revision"] == NEWEST
    assert source("webvid")["dead"] == 8
    assert {len(source("abo")[key]["sha256"]) for key in ("listings", "images")} == {64}
    for name, base in FULL.base.items():
        manifest = read_json(rehearsed / f"models/base/{name}/manifest.json")
        assert (manifest["id"], manifest["revision"]) == (base.model.id, base.model.revision)


@pytest.mark.slow
def test_no_other_host_is_asked(world, rehearsed):
    assert world.elsewhere.asked == []
    assert world.hub.requests
    assert world.kaggle.asked
    assert world.bucket.asked


@pytest.mark.slow
def test_weights_come_once_and_of_the_bases_that_recipes_use(world, rehearsed):
    brought = [r for r in world.hub.requests if r.startswith("GET") and "safetensors" in r]
    brought = [r for r in brought if not r.endswith(".json") and "/storage/" in r]
    assert len(brought) == len(set(brought))
    used = {FULL.base[recipe.base].model.id for recipe in FULL.recipes.values()}
    others = {base.model.id for base in FULL.base.values()} - used
    assert others
    for name in used:
        assert [r for r in brought if f"/{name}/" in r], name
    for name in others:
        assert not [r for r in brought if f"/{name}/" in r], name


@pytest.mark.slow
def test_a_second_run_does_nothing_and_needs_no_server(rehearsed):
    assert ran(run(["dvc", "repro"], rehearsed, HF_HUB_OFFLINE="1")) == []
