"""What this machine has, as torch says it."""

from src.planning.machine import GIB, machine


def test_a_gpu_that_torch_cannot_use_is_none_with_its_reason(old_driver):
    here = machine()
    assert (here.gpu, here.gpu_memory) == (None, None)
    assert "driver on your system is too old" in here.fault
    assert machine(16).fault is None
    assert machine(16).gpu_memory == 16 * GIB
