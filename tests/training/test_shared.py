"""Two processes on the CPU train and answer what one does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils.dataclasses import get_module_class_from_name
from safetensors.torch import load_file

from src.errors import UserError
from src.files import read_json
from src.models import language_model, load_base
from src.training.shared import accumulation, layer_classes
from tests.conftest import ROOT, small_base

# Sums of fp32 in another order: a difference of 1e-6 of a loss near 6 was seen.
BOUND = 1e-5
RECIPES = ["emotion_qwen2vl", "esnlive_qwen2vl"]


def run(
    folder: Path,
    processes: int,
    name: str,
    *more: str,
    launcher: tuple[str, ...] = ("-m",),
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, "tests.training.together"]
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    return subprocess.run(
        [*command, str(folder), str(processes), name, *more],
        cwd=ROOT,
        env=env | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


def seen(folder: Path, processes: int, name: str, **how: Any) -> dict:
    done = run(folder, processes, name, **how)
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.rmtree(folder / "checkpoints")
    return read_json(folder / "seen.json") | {"printed": done.stdout.count("{'loss'")}


def curve(found: dict, *keys: str) -> list[tuple[int, str, float]]:
    keys = keys or ("loss", "eval_loss", "eval_accuracy")
    return [(e["step"], key, e[key]) for e in found["log"] for key in keys if key in e]


def same(found: dict, expected: dict) -> None:
    (places, losses), (others, expectations) = (
        ([point[:2] for point in points], [point[2] for point in points])
        for points in (curve(found), curve(expected))
    )
    assert places == others
    assert losses == pytest.approx(expectations, abs=BOUND)


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("together")
    return shutil.copytree(base, made, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def alone(folder) -> dict[str, dict]:
    """By recipe, what one process sees."""
    return {name: seen(folder, 1, name) for name in RECIPES}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_have_the_losses_and_the_answers_of_one(folder, alone, name):
    found, expected = seen(folder, 2, name), alone[name]
    assert (expected["processes"], found["processes"]) == (1, 2)
    assert len(curve(found, "loss")) == 6, "three epochs of two steps"
    same(found, expected)
    assert found["answers"] == expected["answers"]
    answered = curve(found, "answered_accuracy")
    assert answered == curve(expected, "answered_accuracy")
    assert len(answered) == (3 if name == "esnlive_qwen2vl" else 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "killed", "then"),
    [("esnlive_qwen2vl", 2, 1), ("esnlive_qwen2vl", 1, 2), ("emotion_qwen2vl", 2, 2)],
)
def test_what_was_killed_goes_on_in_any_number_of_processes(folder, alone, name, killed, then):
    stopped = run(folder, killed, name, "3")  # in the middle of the second of three epochs
    assert stopped.returncode != 0
    if killed == 2:
        assert "process 1 ended: Signal 9 (SIGKILL)" in stopped.stderr.splitlines()[-1]
    found = seen(folder, then, name)
    assert found["printed"] == 3, "steps before the kill were trained again"
    same(found, alone[name])


@pytest.mark.slow
def test_shards_of_a_quantized_base_with_two_heads_have_the_losses_of_a_whole_one(folder):
    name, weights = "esnlive_qwen2vl", []
    expected = seen(folder, 1, name, SHARDING="fsdp")
    weights.append(load_file(folder / "adapter/adapter_model.safetensors"))
    stopped = run(folder, 2, name, "4", SHARDING="fsdp")
    assert "process 1 ended: Signal 9 (SIGKILL)" in stopped.stderr.splitlines()[-1]
    kept = next((folder / "checkpoints").glob("*/pytorch_model_fsdp.bin")).parent
    refused = run(folder, 1, name)
    assert "written with sharding" in refused.stderr.splitlines()[-1], kept
    found = seen(folder, 2, name, SHARDING="fsdp")
    weights.append(load_file(folder / "adapter/adapter_model.safetensors"))
    assert found["printed"] == 2, "steps before the kill were trained again"
    same(found, expected)
    for key, weight in weights[0].items():
        torch.testing.assert_close(weights[1][key], weight, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_shards_of_a_model_that_names_layers_it_has_none_of(params, tmp_path):
    small_base(params, "llava", tmp_path)
    expected = seen(tmp_path, 1, "emotion_llava", SHARDING="fsdp")
    same(seen(tmp_path, 2, "emotion_llava", SHARDING="fsdp"), expected)


@pytest.mark.slow
def test_shards_in_bf16_with_two_heads_have_about_the_losses_of_a_whole_one(folder):
    half = {"SHARDING": "fsdp", "PRECISION": "bf16"}
    one, two = (seen(folder, n, "esnlive_qwen2vl", **half) for n in (1, 2))
    expected = [loss for _, _, loss in curve(one, "loss")]
    assert [loss for _, _, loss in curve(two, "loss")] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("vision", [True, False])
def test_the_layers_that_stay_whole_are_there(architecture, vision):
    if not vision and architecture.recipe.family == "llava":
        pytest.skip("it keeps no features")
    model = load_base(architecture.base, architecture.recipe, vision=vision)
    found = {get_module_class_from_name(model, name) for name in layer_classes(model)}
    assert None not in found
    for name, module in language_model(model).named_modules():
        if name.endswith(("layers", "block")):
            assert {type(layer) for layer in module} <= found


@pytest.mark.slow
def test_what_one_process_stumbles_over_ends_all_with_its_one_line(base, tmp_path):
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    stopped = run(tmp_path, 2, "emotion_qwen2vl", "-1")
    assert stopped.returncode == 1
    assert stopped.stderr.splitlines()[-1] == "error: the last process stumbles"
    assert "Traceback" not in stopped.stderr
    assert stopped.stderr.count("stumbles") == 1
    assert not (tmp_path / "seen.json").exists()


@pytest.mark.slow
def test_what_torchrun_starts_takes_part_whatever_the_recipe_says(base, tmp_path):
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
    assert seen(tmp_path, 1, "emotion_qwen2vl", launcher=torchrun)["processes"] == 2


def test_processes_that_cannot_share_a_step_are_refused(recipe):
    four = recipe.train.model_copy(update={"gradient_accumulation": 4})
    assert [accumulation(four, n) for n in (1, 2, 4)] == [4, 2, 1]
    with pytest.raises(UserError, match="gradient_accumulation is 4 and 3 processes"):
        accumulation(four, 3)
