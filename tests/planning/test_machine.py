"""What this machine has, as torch says it."""

import pytest

from src.planning.machine import GIB, machine


def test_a_gpu_that_torch_cannot_use_is_none_with_its_reason(old_driver):
    here = machine()
    assert (here.gpu, here.gpu_memory) == (None, None)
    assert "driver on your system is too old" in here.fault
    assert machine(16).fault is None
    assert machine(16).gpu_memory == 16 * GIB


@pytest.mark.parametrize(
    ("name", "capability", "bf16"),
    [("Tesla T4", (7, 5), False), ("NVIDIA A100", (8, 0), True), ("NVIDIA L4", (8, 9), True)],
)
def test_a_gpu_that_only_emulates_bf16_does_not_compute_in_it(gpu, name, capability, bf16):
    gpu(name, capability)
    here = machine()
    assert (here.gpu, here.bf16, here.fault) == (name, bf16, None)


@pytest.mark.parametrize(("name", "capability"), [("Tesla V100", (7, 0)), ("Tesla P100", (6, 0))])
def test_a_gpu_for_which_torch_holds_no_code_is_none_with_its_reason(gpu, name, capability):
    gpu(name, capability)
    here = machine()
    assert here.gpu_memory is None
    has = ".".join(map(str, capability))
    assert here.fault == f"{name} has compute capability {has}, and this torch needs 7.5 or newer"
