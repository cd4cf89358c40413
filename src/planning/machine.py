"""What this machine has."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HUB_CACHE

from src import gpus
from src.schema import Training

GIB = 2**30
PROCESS = 4 * GIB  # of the host's memory: Python, CUDA's libraries, one file of weights; a guess
WORKER = GIB  # of each process that prepares batches; a guess
SHARED = Path("/dev/shm")  # 64 MB in a container of Docker's, unless it is told otherwise
PREFETCHED = 2  # batches that wait for each worker, as torch has it


@dataclass(frozen=True)
class Machine:
    """Bytes, and None where there is none."""

    gpu: str | None  # its name
    gpu_memory: int | None
    bf16: bool
    fault: str | None  # why its GPU cannot be used
    ram: int
    disk: int  # free where the repository lies
    cache: int  # free where the Hub's cache lies
    one_disk: bool  # both are the same
    shared: int | None  # free where processes hand each other batches


def machine(gpu_memory: float | None = None) -> Machine:
    """This machine, or one like it with a GPU of so many GiB that computes in bf16."""
    here, cache = Path.cwd(), _existing(Path(HF_HUB_CACHE))
    name, size, bf16, fault = None, None, False, None
    if gpu_memory is not None:
        name, size, bf16 = "a GPU", round(gpu_memory * GIB), True
    elif torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        fault = _too_old(found.name, found.major, found.minor)
        if not fault:
            name, size = found.name, found.total_memory
            # Any GPU holds tensors in bf16; not every one computes in it.
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fault = gpus.fault()
    return Machine(
        name,
        size,
        bf16,
        fault,
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        shutil.disk_usage(here).free,
        shutil.disk_usage(cache).free,
        here.stat().st_dev == cache.stat().st_dev,
        shutil.disk_usage(SHARED).free if SHARED.is_dir() else None,
    )


def _too_old(name: str, major: int, minor: int) -> str | None:
    """That torch holds no code for a GPU of such a compute capability; None where it does."""
    oldest = min(map(int, re.findall(r"sm_(\d+)", " ".join(torch.cuda.get_arch_list()))), default=0)
    if 10 * major + minor >= oldest:
        return None
    needed = f"{oldest // 10}.{oldest % 10}"
    return f"{name} has compute capability {major}.{minor}, and this torch needs {needed} or newer"


def host_bytes(workers: int) -> int:
    """The host's memory that training takes."""
    return PROCESS + workers * WORKER


def shared_bytes(training: Training, example: int) -> int:
    """What waiting batches take of the shared memory, `example` bytes an example.

    Those of training go on waiting while the validation's are read.
    """
    batches = 2 * PREFETCHED * training.workers * training.processes
    return batches * training.batch_size * example


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())
