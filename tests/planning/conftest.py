"""GPUs that are not here."""

from types import SimpleNamespace

import pytest
import torch

from src import cpu, packing
from src.packing import Packing
from src.planning.machine import GIB


@pytest.fixture
def gpu(monkeypatch):
    """Lets torch see one GPU of a compute capability, which holds tensors in bf16 as any does."""

    def see(name, capability, memory=16):
        major, minor = capability
        found = SimpleNamespace(name=name, total_memory=memory * GIB, major=major, minor=minor)
        architectures = ["sm_75", "sm_80", "sm_90", "sm_120"]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
        monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)

    return see


@pytest.fixture
def unspared(monkeypatch):
    """Has training do all that the plan counts: what it is spared differs from batch to batch.

    Padding is read, so is what begins all rows, and all tokens by the last feed-forward; and on a
    CPU a gated one keeps for its gradients what it keeps on a GPU.
    """
    monkeypatch.setattr(Packing, "of", lambda *_: None)
    monkeypatch.setattr(packing, "_wanted_alone", lambda *_: None)
    monkeypatch.setattr(packing, "_among_all", lambda *_: None)
    monkeypatch.setattr(cpu, "SiLUActivation", ())
