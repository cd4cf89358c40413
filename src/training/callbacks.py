"""What a training is told and asked from step to step."""

from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from src.errors import UserError
from src.training.collator import PromptPool


class StopOnBadLoss(TrainerCallback):
    """End the run with one line where the loss is no number."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at each loss that is logged."""
        for key, split in (("loss", "training"), ("eval_loss", "validation")):
            loss = (logs or {}).get(key, 0.0)
            if not torch.isfinite(torch.tensor(loss)):
                raise UserError(
                    f"the {split} loss is {loss} at step {state.global_step}; lower "
                    "learning_rate, or set precision to bf16 or fp32"
                )


class LogBeforeCheckpoint(TrainerCallback):
    """Log wherever a checkpoint may be written.

    A logged loss is the mean since the last one, and what a resumed run adds to begins at nothing:
    a mean that spanned a checkpoint would be of its later part alone.
    """

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Before the trainer logs, evaluates and saves, in this order."""
        control.should_log |= control.should_evaluate or control.should_save


class TellEpoch(TrainerCallback):
    """Tell the sampler, and a pool of prompts if there is one, which epoch it is.

    Where a run goes on in the middle of an epoch, batches are skipped and dealt to processes by a
    wrapper each, and neither the trainer nor accelerate reaches the sampler behind both.
    """

    def __init__(self, pool: PromptPool | None = None) -> None:
        self.pool = pool

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: DataLoader,
        **kwargs: Any,
    ) -> None:
        """The number of whole epochs before this one."""
        epoch = int(state.epoch or 0)
        if self.pool:
            self.pool.epoch = epoch
        batches = train_dataloader.batch_sampler
        while not hasattr(batches, "sampler"):
            batches = batches.batch_sampler
        if hasattr(batches.sampler, "set_epoch"):
            batches.sampler.set_epoch(epoch)
