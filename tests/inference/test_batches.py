from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.inference.batches import in_batches


def test_what_memory_cannot_hold_alone_is_one_line():
    def fill(batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(UserError, match="score: the memory is too small for a single example"):
        in_batches(fill, range(12), [9] * 12, 4, "score")


def test_another_error_is_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        work = lambda batch: torch.ones(2, 3) @ torch.ones(2, 3)  # noqa: E731
        in_batches(work, range(12), [9] * 12, 4, "score")


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 8))
def test_a_batch_has_as_many_as_its_longest_lets_in_and_answers_keep_their_order(lengths, size):
    batches = []

    def work(batch):
        batches.append(batch)
        return [number * 10 for number in batch]

    made = in_batches(work, range(len(lengths)), lengths, size, "score")
    assert made == [number * 10 for number in range(len(lengths))]
    most = size * max(lengths, default=0)
    for batch, after in pairwise([*batches, []]):
        longest = lengths[batch[0]]
        assert max(lengths[i] for i in batch) == longest
        assert longest * len(batch) <= most
        assert not after or longest * (len(batch) + 1) > most, "another one had found room"


def test_after_too_little_memory_no_batch_is_as_large_again():
    lengths, tried = [40, 30, 20, 10, 10, 10, 10, 10], []

    def work(batch):
        tried.append(sum([lengths[batch[0]]] * len(batch)))
        if tried[-1] > 50:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return batch

    assert in_batches(work, range(8), lengths, 2, "score") == list(range(8))
    assert max(tried[1:]) <= tried[0] / 2
