from pathlib import Path
from typing import Any

import pytest

from src import config
from tests.conftest import ROOT
from tools.llamafactory.recipe import base, recipe
from tools.llamafactory.settings import Settings

FILE = Path("mine.yaml")
COMMIT = "a" * 40


@pytest.fixture(scope="module")
def full():
    return config.at_scale(ROOT / "params.yaml", "full")


def said(settings: Settings, path: str, family: str = "qwen2_vl") -> Any:
    """The value of a dotted key of the recipe."""
    found = recipe(settings, "data", "base", family, True)
    for name in path.split("."):
        found = found[name]
    return found


@pytest.mark.parametrize(
    ("key", "value", "path", "expected"),
    [
        ("quantization_type", "fp4", "quantization.type", "fp4"),
        ("double_quantization", False, "quantization.double", False),
        ("lora_rank", 32, "lora.alpha", 64),
        ("lora_target", "all", "lora.targets", ["all-linear"]),
        ("lora_target", ["q_proj", "k_proj"], "lora.targets", ["q_proj", "k_proj"]),
        ("fp16", True, "precision.full", "fp16"),
        ("bf16", "yes", "precision.full", "bf16"),
        ("max_steps", 500, "full.max_steps", 500),
        ("max_steps", -1, "full.max_steps", None),
        ("warmup_steps", 50, "full.warmup_steps", 50),
        ("warmup_steps", 0.1, "full.warmup_ratio", 0.1),
        ("weight_decay", 0.01, "full.weight_decay", 0.01),
        ("max_grad_norm", 0.3, "full.max_grad_norm", 0.3),
        ("optim", "paged_adamw_8bit", "full.optimizer", "paged_adamw_8bit"),
        ("optim", "adamw_8bit", "full.optimizer", "adamw_bnb_8bit"),
        ("disable_gradient_checkpointing", True, "full.gradient_checkpointing", False),
        ("eval_strategy", "epoch", "full.evaluations", 3),
        ("seed", 7, "full.seed", 7),
        ("learning_rate", "1e-4", "full.learning_rate", 1e-4),
        ("temperature", 0.7, "generation.temperature", 0.7),
        ("max_new_tokens", 128, "generation.max_new_tokens", 128),
        ("repetition_penalty", 1.1, "generation.repetition_penalty", 1.1),
        ("eval_num_beams", 4, "generation.num_beams", 4),
        ("default_system", "Be brief.", "prompt.system", "Be brief."),
    ],
)
def test_a_key_is_said(key, value, path, expected):
    settings = Settings(FILE, {key: value})
    assert said(settings, path) == expected
    assert settings.notes == []


@pytest.mark.parametrize(
    ("keys", "key", "path", "expected"),
    [
        ({"quantization_bit": 8}, "quantization_bit", "quantization.bits", 4),
        ({"quantization_method": "hqq"}, "quantization_method", "quantization.bits", 16),
        ({"pure_bf16": True}, "pure_bf16", "precision.full", "bf16"),
        ({"optim": "lion"}, "optim", "full.optimizer", "adamw_torch"),
        ({"lr_scheduler_type": "polynomial"}, "lr_scheduler_type", "full.schedule", "linear"),
        ({"max_grad_norm": 0}, "max_grad_norm", "full.max_grad_norm", 1),
        ({"warmup_ratio": 0.1, "warmup_steps": 9}, "warmup_ratio", "full.warmup_ratio", 0),
        ({"template": "default"}, "template", "family", "qwen2_vl"),
        ({"temperature": 0.9, "num_beams": 2}, "temperature", "generation.temperature", 0),
        ({"top_p": 0.9}, "top_p", "generation.top_p", 1),
    ],
)
def test_what_comes_out_otherwise_is_noted(keys, key, path, expected):
    settings = Settings(FILE, keys)
    assert said(settings, path) == expected
    (note,) = settings.notes
    assert note.startswith(f"{key}: {keys[key]}: ")


def test_a_share_of_what_is_sampled_is_said():
    settings = Settings(FILE, {"temperature": 0.7, "top_p": 0.9})
    assert said(settings, "generation.top_p") == 0.9
    assert settings.notes == []


def test_fp16_is_not_for_blip2():
    settings = Settings(FILE, {"fp16": True})
    assert said(settings, "precision.full", family="blip2") == "bf16"
    assert settings.notes == ["fp16: True: it overflows in BLIP-2; bf16 is taken"]


@pytest.mark.parametrize(
    ("model", "name", "family"),
    [
        ("/models/Qwen2-VL-7B-Instruct", "qwen2_vl_clips", "qwen2_vl"),
        ("llava-hf/llava-1.5-7b-hf", "llava", "llava"),
        ("Qwen/Qwen2-VL-2B-Instruct", "qwen2_vl_2b_instruct", "qwen2_vl"),
        ("someone/Qwen2-VL-7B-Instruct", "qwen2_vl_7b_instruct", "qwen2_vl"),
        ("llava-hf/llava-1.5-13b-hf", "llava_1_5_13b_hf", "llava"),
    ],
)
def test_the_base_is_one_that_is_there_or_comes_with_the_recipe(full, model, name, family):
    settings = Settings(FILE, {"model_name_or_path": model})
    found, of, block = base(settings, full)
    assert (found, of) == (name, family)
    assert block == (None if name in full.base else {"id": model, "revision": None})
    assert bool(settings.notes) == model.startswith("/")


@pytest.mark.parametrize(
    ("model", "revision", "pinned", "noted"),
    [
        ("Qwen/Qwen2-VL-2B-Instruct", COMMIT, COMMIT, False),
        ("Qwen/Qwen2-VL-2B-Instruct", "main", None, False),
        ("Qwen/Qwen2-VL-2B-Instruct", "v2", None, True),
        ("Qwen/Qwen2-VL-7B-Instruct", "main", None, False),
        ("Qwen/Qwen2-VL-7B-Instruct", COMMIT, None, True),
    ],
)
def test_a_revision_is_a_commit(full, model, revision, pinned, noted):
    settings = Settings(FILE, {"model_name_or_path": model, "model_revision": revision})
    _, _, block = base(settings, full)
    assert (block or {}).get("revision") == pinned
    assert [note.partition(":")[0] for note in settings.notes] == ["model_revision"] * noted
