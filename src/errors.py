"""Errors that are the user's to mend: a stage prints them as one line, without a traceback."""

import atexit
import errno
import gc
import os
import sys
from collections.abc import Callable
from functools import wraps

# What is the machine's and not the code's fault, and what to do.
REFUSALS = {
    errno.ENOSPC: "free some room on that disk and start again",
    errno.EDQUOT: "free some of your quota on that disk and start again",
    errno.EACCES: "give yourself the rights to it and start again",
    errno.EROFS: "that disk is only read from; work on another",
}
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


def refusal(error: Exception) -> UserError | None:
    """What a full disk, or a file that the user has no rights to, is in one line; else None."""
    if not isinstance(error, OSError) or error.errno not in REFUSALS:
        return None
    # Where a write fails, Python names no file.
    file, why = error.filename or "a file to be written", os.strerror(error.errno)
    return UserError(f"{file}: {why}; {REFUSALS[error.errno]}")


def one_line(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command's `main`: a UserError becomes one line on stderr and exit status 1.

    So does a full disk, or a file that the user has no rights to.
    """

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
        except OSError as error:
            if (told := refusal(error)) is None:
                raise
            sys.exit(f"error: {told}")
        finally:
            gc.unfreeze()  # or Triton calls all that it has leaked
        _ended_well = stage

    return run
