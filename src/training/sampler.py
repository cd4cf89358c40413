"""The order of the examples where like lengths come together."""

from typing import Any

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler


class ByLength(LengthGroupedSampler):
    """Batches of much the same length, in an order of each epoch's own."""

    def __init__(self, seed: int, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options, generator=torch.Generator().manual_seed(seed))
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch."""
        self.generator.manual_seed(self.seed + epoch)
