"""One training in several processes, with the losses that it would have in one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.constants import FSDP_MODEL_NAME
from torch.distributed.tensor import DTensor

from src.errors import UserError
from src.processes import number
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


def sharding(training: Training, model: torch.nn.Module) -> dict[str, Any]:
    """The trainer's arguments by which each process holds a part of the base, where it should.

    FSDP2 as in FSDP-QLoRA (https://huggingface.co/docs/bitsandbytes/fsdp_qlora): layer by layer.
    """
    if training.sharding is None or number() == 1:
        return {}
    layers = {"transformer_layer_cls_to_wrap": layer_classes(model)}
    kind = {"version": 2, "state_dict_type": "FULL_STATE_DICT"}
    return {"fsdp": True, "fsdp_config": kind | layers}


def layer_classes(model: torch.nn.Module) -> list[str]:
    """The classes of the layers that stay whole, of which the model has one.

    It also names some that it has none of: those of a vision tower that was left out, or of the
    half of CLIP that reads texts. Accelerate refuses such.
    """
    named: set[str] = set()
    for module in model.modules():
        named.update(getattr(module, "_no_split_modules", None) or ())
    return sorted(named & {type(module).__name__ for module in model.modules()})


def sharded(checkpoint: Path) -> bool:
    """Whether a checkpoint is of a sharded training, which no other can read."""
    return (checkpoint / f"{FSDP_MODEL_NAME}.bin").is_file()


def whole_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trained weights by name, brought together from all processes, which must all ask."""
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in trained.items()}


class EvenShares:
    """Mix into a Trainer: an example counts once, whatever number of processes there is.

    Every process gets as many batches of one size, so that the last ones of an epoch are filled up
    with examples from its beginning. Those lose their labels here, so that no loss hangs on them.
    """

    own = 0.0  # examples a process in this step, on the average, without what fills batches up

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """The trainer's own."""
        examples = len(self.train_dataset)
        batches = (self.unrepeated(batch, examples) for batch in epoch_iterator)
        samples, items = super().get_batch_samples(batches, num_batches, device)
        own = sum(int((batch["labels"] != IGNORED).any(1).sum()) for batch in samples)
        self.own = self.accelerator.reduce(torch.tensor(float(own), device=device), "mean")
        return samples, items

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> int:
        """None are counted: the trainer walks all modules to do so, and nobody reads their sum."""
        return 0

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """The trainer's own, after which no state passes for paged.

        What bitsandbytes paged when it was written keeps that mark in the file. Read back, it lies
        in other memory, which bitsandbytes would neither move nor be able to page.
        """
        super()._load_optimizer_and_scheduler(checkpoint)
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    vars(value).pop("is_paged", None)

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
