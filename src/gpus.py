"""GPUs of this machine for one run alone, so that runs beside it take others."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from src.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER = 580  # the oldest of NVIDIA that CUDA 13 works with, which the pinned torch brings
PAUSE = 0.5  # seconds between two looks for a GPU that has become free


def fault() -> str | None:
    """Why torch cannot use the GPUs that this process sees; None where it can or sees none.

    What counts them asks the driver, even one that is too old for CUDA.
    """
    count = torch.cuda.device_count()
    if not count or torch.cuda.is_available():
        return None
    why = "CUDA does not start"
    try:
        torch.cuda.init()
    except RuntimeError as error:
        why = str(error).partition("\n")[0].partition(". ")[0]
    return (
        f"torch cannot use this machine's {count} NVIDIA GPU{'s' * (count > 1)}: {why}; "
        f"CUDA {torch.version.cuda} needs driver {DRIVER} or newer, and `nvidia-smi` says which "
        "is there"
    )


def check() -> None:
    """Raises UserError where GPUs are there that torch cannot use, so that no CPU takes over."""
    if found := fault():
        raise UserError(f"{found}; update it, or put {VISIBLE}= before the command for the CPU")


def names(visible: int) -> list[str]:
    """What CUDA calls the GPUs that this process sees."""
    chosen = os.environ.get(VISIBLE)
    return chosen.split(",")[:visible] if chosen else [str(number) for number in range(visible)]


@contextmanager
def held(count: int, gpus: Sequence[str]) -> Iterator[list[str]]:
    """Hold `count` of these GPUs against every other run on this machine; waits for free ones.

    A lock ends with the process that holds it, however that ends.
    """
    with ExitStack() as stack:
        chosen: list[str] = []
        turn, tried = False, 0
        with ExitStack() as choosing:
            while len(chosen) < count:
                # One run at a time collects: two could each wait for what the other holds.
                turn = turn or _taken(choosing, "choice")
                for gpu in gpus if turn else ():
                    if len(chosen) < count and gpu not in chosen and _taken(stack, gpu):
                        chosen.append(gpu)
                if len(chosen) < count:
                    tried += 1
                    if tried == 2:  # the first may have met another that was choosing
                        _tell(count, gpus)
                    time.sleep(PAUSE)
        print(f"on GPU {', '.join(chosen)}", file=sys.stderr)
        yield chosen


def _tell(count: int, gpus: Sequence[str]) -> None:
    free = f"{count} free GPU{'s' * (count > 1)}"
    print(f"waits for {free} of {', '.join(gpus)}: other runs hold them", file=sys.stderr)


def _taken(stack: ExitStack, name: str) -> bool:
    try:
        stack.enter_context(_lock(name).acquire(timeout=0))
    except Timeout:
        return False
    return True


def _lock(name: str) -> FileLock:
    # Any user of the machine may take it.
    return FileLock(Path(tempfile.gettempdir()) / f"vlm-recipes-gpu-{name}.lock", mode=0o666)
