"""Errors that are the user's to mend: a stage prints them as one line, without a traceback."""

import atexit
import gc
import sys
from collections.abc import Callable
from functools import wraps


class UserError(Exception):
    """Names the file, row or key, what is wrong with it and what to do."""


def one_line(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command's `main`: a UserError becomes one line on stderr and exit status 1."""

    @wraps(main)
    def run(*args: object, **kwargs: object) -> None:
        if not gc.isenabled():  # see stages/__init__.py
            gc.freeze()
            gc.enable()
            atexit.register(gc.unfreeze)  # or Triton calls all that it has leaked
        try:
            main(*args, **kwargs)
        except UserError as error:
            sys.exit(f"error: {error}")

    return run
