"""What is timed runs in a process of its own, whose memory and time are its alone."""

import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

Result = TypeVar("Result")


def alone(function: Callable[..., Result], *given: Any, **named: Any) -> Result:
    """What it returns; it and what it is given must be picklable."""
    with process() as pool:
        return pool.submit(function, *given, **named).result()


def process() -> ProcessPoolExecutor:
    """A process, one for all calls. What it prints goes to stderr."""
    # Started anew: a forked one would count this process's memory as its own.
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_print_beside_tables)


def _print_beside_tables() -> None:
    sys.stdout = sys.stderr


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """How many times as long theirs took, as a median of pairs with the least and the greatest."""
    pairs = [slow / fast for fast, slow in zip(ours, theirs, strict=True)]
    return f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"
