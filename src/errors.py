"""Errors that are the user's to mend: a stage prints them as one line, without a traceback."""

import atexit
import gc
import os
import sys
from collections.abc import Callable
from functools import wraps

_ended_well = False


class UserError(Exception):
    """Names the file, row or key, what is wrong with it and what to do."""


@atexit.register  # what is registered first is called last: the model libraries' own come before
def _leave_at_once() -> None:
    """Let go of the process as it is, where a stage has done its work.

    Taking the model libraries apart, object by object, takes more than a second.
    """
    if _ended_well:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def one_line(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command's `main`: a UserError becomes one line on stderr and exit status 1."""

    @wraps(main)
    def run(*args: object, **kwargs: object) -> None:
        global _ended_well
        stage = not gc.isenabled()  # see stages/__init__.py
        if stage:
            gc.freeze()
            gc.enable()
        try:
            main(*args, **kwargs)
        except UserError as error:
            sys.exit(f"error: {error}")
        finally:
            gc.unfreeze()  # or Triton calls all that it has leaked
        _ended_well = stage

    return run
