"""GPUs of this machine for one run alone, so that runs beside it take others."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

VISIBLE = "CUDA_VISIBLE_DEVICES"
PAUSE = 0.5  # seconds between two looks for a GPU that has become free


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
        # One run at a time collects: two could each wait for what the other holds.
        with _lock("choice"):
            while len(chosen) < count:
                for gpu in gpus:
                    if len(chosen) < count and gpu not in chosen and _taken(stack, gpu):
                        chosen.append(gpu)
                if len(chosen) < count:
                    time.sleep(PAUSE)
        print(f"on GPU {', '.join(chosen)}", file=sys.stderr)
        yield chosen


def _taken(stack: ExitStack, gpu: str) -> bool:
    try:
        stack.enter_context(_lock(gpu).acquire(timeout=0))
    except Timeout:
        return False
    return True


def _lock(name: str) -> FileLock:
    # Any user of the machine may take it.
    return FileLock(Path(tempfile.gettempdir()) / f"vlm-recipes-gpu-{name}.lock", mode=0o666)
