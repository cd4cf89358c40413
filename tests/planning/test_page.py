"""What a plan says of this machine's GPU."""

import re
from dataclasses import replace

import pytest

from src import config
from src.planning.machine import machine
from src.planning.page import block, together
from src.planning.plan import plan
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def full():
    return config.at_scale(ROOT / "params.yaml", "full")


@pytest.fixture
def verdict(full, tmp_path, monkeypatch):
    """The lines on this machine of a recipe's plan."""
    monkeypatch.chdir(tmp_path)

    def say(recipe):
        text = block(plan(full, recipe), full, machine())
        return text.partition("  here ")[2]

    return say


def test_a_gpu_that_torch_cannot_use_is_not_called_none(verdict, old_driver):
    said = verdict("emotion_qwen2vl")
    assert "NO: torch cannot use this machine's 1 NVIDIA GPU: The NVIDIA driver" in said
    assert "no GPU" not in said


def test_a_gpu_without_bf16_is_told_which_precision_to_set(verdict, gpu):
    gpu("Tesla T4", (7, 5), 15)
    said = verdict("emotion_qwen2vl")
    assert "NO: Tesla T4 of 15 GiB does not compute in bf16; change" in said
    assert re.search(r" recipes.emotion_qwen2vl.precision.full: fp16  ->  \d+\.\d GiB\n", said)
    assert "yes: Tesla" not in said


def test_blip2_which_overflows_in_fp16_is_told_fp32_and_what_else_that_takes(verdict, gpu):
    gpu("Tesla T4", (7, 5), 8)
    said = verdict("vqa_blip2")
    first, *others = re.findall(r" (\S+): \S+  ->  (\d+\.\d) GiB\n", said)
    assert first[0] == "recipes.vqa_blip2.precision.full"
    assert "precision.full: fp32" in said
    assert float(first[1]) > 8 >= float(others[-1][1])


def test_two_recipes_on_the_same_data_each_keep_features_and_checkpoints(full, tmp_path):
    one = plan(full, "emotion_qwen2vl")
    assert one.data_bytes > 0 < one.own_bytes
    here = replace(machine(24), disk=10**15, one_disk=False)
    twice = one.data_bytes + 2 * one.own_bytes
    assert f"yes: needs {twice / 1e9:.0f} GB on the disk" in together([one, one], here)
    assert f"{twice / 1e9:.0f}" != f"{one.repository_bytes / 1e9:.0f}"


def test_a_container_with_little_shared_memory_is_told_before_its_workers_die(full):
    here = replace(machine(80), shared=64 * 2**20)
    said = block(plan(full, "emotion_llava"), full, here)
    # 16 pictures of 336 x 336 in fp32 a batch, 2 of each of 4 workers, of training and validation.
    line = r"NO: needs 34[78] MB of shared memory and /dev/shm has 67: give .+ set (\S+): 0$"
    assert re.search(line, said, re.MULTILINE)[1] == "recipes.emotion_llava.full.workers"
    features = block(plan(full, "emotion_qwen2vl"), full, here)
    more = block(plan(full, "emotion_llava"), full, replace(here, shared=2**30))
    none = block(plan(full, "emotion_llava"), full, replace(here, shared=None))
    assert not any("shared memory" in text for text in (features, more, none))


def test_every_recipe_fits_a_card_of_16_gb(full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {name: plan(full, name).needs.peak for name in full.recipes}
    assert max(sizes.values()) < 16e9, sizes


def test_a_gpu_that_is_too_old_is_refused_whatever_its_memory(verdict, gpu):
    gpu("Tesla V100", (7, 0), 32)
    assert "NO: Tesla V100 has compute capability 7.0, and this torch" in verdict("emotion_llava")


def test_a_gpu_with_room_is_told_to_leave_checkpointing_out(verdict, gpu):
    gpu("NVIDIA A100", (8, 0), 80)
    said = verdict("emotion_llava")
    key = r"recipes\.emotion_llava\.full\.gradient_checkpointing: false"
    size, less = re.search(rf"faster: {key}  ->  (\d+\.\d) GiB, (\d+)% less", said).groups()
    assert 24 < float(size) < 80
    assert 20 <= int(less) <= 35
    gpu("NVIDIA L4", (8, 9), 24)
    said = verdict("emotion_llava")
    assert "yes: NVIDIA L4" in said
    assert "faster" not in said
