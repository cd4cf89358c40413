"""Files decoded on all cores, in order, whatever becomes of a worker."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import joblib

from src import media, video
from src.media import BadMediaError, Stored

BLOCK = 512  # files decoded before the next are begun: results wait in memory no longer

Decode = Callable[[Path], Stored]


def decoder(side: int, frames: int | None) -> Decode:
    """What makes a file a picture of `side` by `side` pixels, or so many frames of a video."""
    if frames is None:
        return partial(media.stored, side=side)
    return partial(video.stored, side=side, frames=frames)


def decoded(files: Sequence[Path], decode: Decode) -> Iterator[Stored | str]:
    """What `decode` makes of each file, or the reason why it cannot.

    A file that kills its worker costs that file alone.
    """
    for start in range(0, len(files), BLOCK):
        block = files[start : start + BLOCK]
        try:
            results = _on_all_cores(block, decode)
        except BrokenProcessPool:
            results = [_alone(file, decode) for file in block]
        yield from results


def _on_all_cores(files: Sequence[Path], decode: Decode) -> list[Stored | str]:
    # At least two: joblib would decode in this process, and a crash would end the run.
    parallel = joblib.Parallel(max(2, joblib.cpu_count()), backend="loky", batch_size=4)
    return parallel(joblib.delayed(_decoded)(file, decode) for file in files)


def _alone(file: Path, decode: Decode) -> Stored | str:
    try:
        return _on_all_cores([file], decode)[0]
    except BrokenProcessPool:
        return "cannot be decoded: it crashes the decoder"


def _decoded(file: Path, decode: Decode) -> Stored | str:
    try:
        with _silence():
            return decode(file)
    except BadMediaError as error:
        return str(error)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what C libraries print of a damaged file off the terminal."""
    before, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nothing)
