"""What a plan says of this machine's GPU."""

import pytest

from src import config
from src.planning.machine import machine
from src.planning.page import block
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
