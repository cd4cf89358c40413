"""Work on many records, a batch at a time, in batches that the memory has room for."""

import sys
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from tqdm import tqdm

from src.errors import UserError
from src.processes import gathered, is_first, share

Result = TypeVar("Result")


def in_batches(
    work: Callable[[list[Any]], Sequence[Result]],
    records: Sequence[Any],
    lengths: Sequence[int],
    size: int,
    what: str,
) -> list[Result]:
    """What `work` makes of each record, a batch at a time, in the order of the records.

    The longest come first, `size` of them in a batch, and of shorter ones as many as have no more
    tokens together. A batch for which the memory is too small is halved, and so are those after it.
    Several processes deal the batches among them, and each gets everything. A progress bar shows
    where there are several.

    Raises:
        UserError: the memory is too small for a single record.
    """
    longest = max(lengths, default=0)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches = list(share(by_tokens(order, lengths, size * longest)))
    made: dict[int, Result] = {}
    hidden = len(batches) < 2 or not is_first()
    count = sum(map(len, batches))
    with tqdm(total=count, desc=what, unit="example", disable=hidden, leave=None) as bar:
        while batches:
            numbers = batches[0]
            result = _attempt(work, [records[i] for i in numbers])
            if result is not None:
                made.update(zip(numbers, result, strict=True))
                bar.update(len(batches.pop(0)))
                continue
            # Only here, where no traceback holds what filled the memory.
            clear_device_cache(garbage_collection=True)
            size = len(numbers) // 2
            if not size:
                raise UserError(f"{what}: the memory is too small for a single example")
            tqdm.write(
                f"{what}: out of memory with {len(numbers)}; going on with half as many at a time",
                sys.stderr,
            )
            batches = by_tokens(list(chain(*batches)), lengths, size * lengths[numbers[0]])
    everything = dict(chain.from_iterable(part.items() for part in gathered(made)))
    return [everything[i] for i in range(len(lengths))]


def by_tokens(order: Sequence[int], lengths: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of records in batches, in their order, each with as many as its padding lets in.

    Args:
        order: the numbers, of the longest record first.
        lengths: tokens of every record.
        most: tokens in a batch, with those that fill it up; one record may have more by itself.
    """
    batches: list[list[int]] = []
    for number in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= most:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def _attempt(
    work: Callable[[list[Any]], Sequence[Result]], batch: list[Any]
) -> Sequence[Result] | None:
    """None where the memory is too small."""
    try:
        return work(batch)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        return None
