"""`python -m tools.plan`, where nothing has been built and nothing can be downloaded."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from src.files import read_json, write_json
from tests.conftest import ROOT


@pytest.fixture
def fresh(tmp_path):
    """A folder with params.yaml alone, and a Hub's cache that is empty."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def plan(folder, *arguments):
    # A Hub that refuses every connection: to ask it for anything is to fail.
    away = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, "-m", "tools.plan", *arguments],
        cwd=folder,
        env=os.environ | away | {"PYTHONPATH": str(ROOT), "HF_HOME": str(folder / "hub")},
        capture_output=True,
        text=True,
    )


def change(folder, **values):
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    for key, value in values.items():
        *above, last = key.split("__")
        (params.mlget(above) if above else params)[last] = value
    yaml.dump(params, folder / "params.yaml")


def test_a_fresh_clone_learns_everything_without_a_download(fresh):
    done = plan(fresh, "emotion_qwen2vl", "--gpu-memory", "16")
    assert done.returncode == 0, done.stderr
    lines = dict(
        re.findall(r"^  (\S.*?)  +(.+)$", done.stdout.replace("GPU, ", "GPU "), re.MULTILINE)
    )
    assert lines["parameters"] == "2,523,136 trained of 8,293,898,752"
    assert lines["download"].startswith("weights 16.6 GB (2 bytes a weight, as published), data un")
    assert re.match(r"1[01]\.\d GiB: weights 6\.4", lines["GPU training"])
    assert lines["steps"].startswith("1,710;")
    assert "not measured" in lines["time"]
    assert "yes: a GPU of 16 GiB is enough" in done.stdout
    assert sorted(p.name for p in fresh.iterdir()) == ["params.yaml"]


def test_a_small_gpu_is_told_what_to_change(fresh):
    done = plan(fresh, "emotion_llava", "--gpu-memory", "8")
    assert "NO: a GPU of 8 GiB is too small" in done.stdout
    assert re.search(r"evaluate\.batch_size\.full: \d  ->  \d+\.\d GiB", done.stdout)
    assert re.search(r"recipes\.emotion_llava\.full\.batch_size: \d+  ->", done.stdout)
    fits = re.findall(r"->  (\d+\.\d) GiB", done.stdout)
    assert float(fits[-1]) <= 8.0


def test_an_example_that_is_refused_later_is_seen_now(fresh):
    change(fresh, train__full__max_length=512, recipes__emotion_llava__full={"epochs": 1})
    done = plan(fresh, "emotion_llava", "--gpu-memory", "80")
    assert "576 of them visual, and max_length is 512: set recipes.emotion_llava.full" in (
        done.stdout
    )


def test_what_nobody_knows_is_said_to_be_unknown(fresh):
    change(fresh, data__autism_faces__full__folder="somewhere")
    done = plan(fresh, "emotion_qwen2vl")
    assert "  time           unknown until the data are here" in done.stdout


def test_prepared_data_of_this_scale_are_counted(fresh):
    counts = {name: {"n": 8} for name in ("train", "validation", "test")}
    write_json(fresh / "data/prepared/autism_faces/summary.json", {"splits": counts})
    assert "(as prepared)" not in plan(fresh, "emotion_qwen2vl").stdout
    change(fresh, scale="full")
    assert "train 8, validation 8, test 8 (as prepared)" in plan(fresh, "emotion_qwen2vl").stdout


def test_a_name_that_is_not_there_is_one_line(fresh):
    stopped = plan(fresh, "emotion")
    assert stopped.returncode == 1
    assert stopped.stderr.startswith("error: params.yaml: recipes.emotion: not there; there are")
    assert stopped.stderr.count("\n") == 1


def test_the_small_models_are_planned_as_they_were_built(fresh):
    done = plan(fresh, "vqa_blip2", "--scale", "tiny")
    assert done.returncode == 0, done.stderr
    of = int(re.search(r"trained of ([\d,]+)", done.stdout)[1].replace(",", ""))
    trained = int(re.search(r"([\d,]+) trained of", done.stdout)[1].replace(",", ""))
    assert of - trained == read_json(ROOT / "metrics/base/blip2_opt.json")["parameters"]
