"""A function in a process of its own, whose memory and time are its alone."""

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from functools import partial
from multiprocessing import get_context
from typing import Any, TypeVar

Result = TypeVar("Result")


def alone(function: Callable[..., Result], *given: Any, **named: Any) -> Result:
    """What it returns; it and what it is given must be picklable. What it prints goes to stderr."""
    # Started anew: a forked one would count this process's memory as its own.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_beside_tables, partial(function, *given, **named)).result()


def _beside_tables(function: Callable[[], Result]) -> Result:
    with redirect_stdout(sys.stderr):
        return function()
