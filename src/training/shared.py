"""One training in several processes, with the losses that it would have in one."""

from collections.abc import Iterator
from typing import Any

import torch

from src.errors import UserError
from src.schema import Training
from src.training.collator import IGNORED


def accumulation(training: Training, processes: int) -> int:
    """Forward passes of each process per optimizer step, so that all together make the recipe's.

    Raises:
        UserError: the processes cannot share them evenly.
    """
    passes, odd = divmod(training.gradient_accumulation, processes)
    if odd:
        raise UserError(
            f"gradient_accumulation is {training.gradient_accumulation} and {processes} processes "
            "share it; make it a multiple of them, and batch_size smaller: their product is what "
            "a step learns from"
        )
    return passes


class EvenShares:
    """Mix into a Trainer: an example counts once, whatever number of processes there is.

    Every process gets as many batches of one size, so that the last ones of an epoch are filled up
    with examples from its beginning. Those lose their labels here, so that no loss hangs on them.
    """

    filled = 0.0  # batches a process with an example of their own, in this step, on the average

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """The trainer's own."""
        examples = len(self.train_dataset)
        batches = (self.unrepeated(batch, examples) for batch in epoch_iterator)
        samples, items = super().get_batch_samples(batches, num_batches, device)
        own = sum(bool((batch["labels"] != IGNORED).any()) for batch in samples)
        self.filled = self.accelerator.reduce(torch.tensor(float(own), device=device), "mean")
        return samples, items

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any
    ) -> Any:
        """The trainer's own."""
        inputs = self.unrepeated(inputs, len(self.eval_dataset))
        return super().prediction_step(model, inputs, *args, **kwargs)

    def unrepeated(self, batch: dict[str, torch.Tensor], examples: int) -> dict[str, torch.Tensor]:
        """A batch as accelerate's BatchSamplerShard deals them, without labels of what fills it up.

        It deals whole batches in turn, so that the last round holds the remainder in the order of
        the processes.
        """
        world, size = self.accelerator.num_processes, len(batch["labels"])
        remainder = examples % (world * size)
        if world == 1 or not remainder or not self.accelerator.gradient_state.end_of_dataloader:
            return batch
        own = max(0, remainder - size * self.accelerator.process_index)
        for name in ("labels", "class_labels"):
            if name in batch:
                batch[name][own:] = IGNORED
        return batch
