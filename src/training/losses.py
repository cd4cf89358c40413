"""Mixed into a Trainer: the loss of the answers alone, of one head or two, and its evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_utils import EvalLoopOutput

from src.training.collator import IGNORED, Collator, Foretold, foretell, log_likelihood
from src.training.sampler import ByLength
from src.training.shared import EvenShares


class AnswerLoss(EvenShares):
    """Mix into a Trainer: cross-entropy of the answer's tokens, and logits for no others.

    An evaluation's loss is the mean over all its tokens, whatever batches they came in. It also
    measures `eval_accuracy`: the share of examples whose answer greedy decoding would write, which
    is those whose every token is the most likely one after the right ones.
    """

    eval_collator: Collator | None = None  # of evaluations, where it is not that of training
    lengths: Sequence[int] | None = None  # of the examples, where like ones come together
    _seen: list[torch.Tensor] | None = None  # of each batch of an evaluation: see `_note`

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean over the answer tokens of the batch, or of all batches of an optimizer step."""
        said = foretell(model, inputs)
        if self._seen is not None:
            wrong = torch.zeros_like(said.answered)
            wrong[said.answered] = said.logits.argmax(-1) != said.targets
            self._note(said, ~wrong.any(1))
        loss = self._text_loss(said, num_items_in_batch)
        return (loss, {}) if return_outputs else loss

    def _note(self, said: Foretold, right: torch.Tensor, *others: torch.Tensor) -> None:
        """Keep of each example whether it was right, its loss, its tokens, and others: (batch,).

        They are those of all processes.
        """
        numbers = (right, -log_likelihood(said), said.answered.sum(1), *others)
        rows = torch.stack([number.float() for number in numbers], 1)
        self._seen.append(self.accelerator.gather_for_metrics(rows))

    def _mean_loss(self, seen: torch.Tensor) -> torch.Tensor:
        """Of what was noted of all examples: (examples, numbers)."""
        return seen[:, 1].sum() / seen[:, 2].sum().clamp(min=1)

    def _text_loss(self, said: Foretold, tokens: torch.Tensor | int | None) -> torch.Tensor:
        if self._seen is not None or tokens is None:
            return answer_loss(said, None)
        # Tokens are those of all processes, over which the gradients are then averaged.
        return answer_loss(said, tokens) * self.accelerator.num_processes

    def _get_train_sampler(self, *args: Any) -> Sampler | None:
        """By length where the lengths are known, else the trainer's own.

        The trainer's way to do so groups evaluations too, and draws from the global generator,
        which a resumed run has elsewhere.
        """
        if self.lengths is None:
            return super()._get_train_sampler(*args)
        # In batches of a whole step, however many processes share it.
        shares = self.args.gradient_accumulation_steps * self.accelerator.num_processes
        size = self.args.train_batch_size * shares
        return ByLength(self.args.data_seed, size, lengths=self.lengths)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """The trainer's own, with the collator of evaluations."""
        training, self.data_collator = self.data_collator, self.eval_collator or self.data_collator
        try:
            return super().get_eval_dataloader(*args, **kwargs)
        finally:
            self.data_collator = training

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """The trainer's own, with the accuracy and the loss of all examples."""
        # The one of sequence-to-sequence counts what fills up the last batches too.
        self.gather_function = self.accelerator.gather_for_metrics
        self._seen = []
        output = super().evaluation_loop(*args, **kwargs)
        seen, self._seen = torch.cat(self._seen).double(), None
        prefix = kwargs.get("metric_key_prefix", "eval")
        output.metrics[f"{prefix}_accuracy"] = seen[:, 0].mean().item()
        output.metrics[f"{prefix}_loss"] = self._mean_loss(seen).item()
        return output

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As the trainer's own, but without a trace in the random state.

        Its loader draws from the global generator, so that a run with an evaluation more would
        train other weights.
        """
        with torch.random.fork_rng():
            return super().evaluate(*args, **kwargs)


class JointLoss(AnswerLoss):
    """The same with a second head: both losses of one pass, weighted.

    `class_weight` is the share of the classifier's cross-entropy. `eval_accuracy` is that of the
    classes.
    """

    class_weight = 0.5

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean over answer tokens and mean over examples, of the batch or of a whole step."""
        said = foretell(model, inputs, classify=True)
        classes = inputs["class_labels"]
        if self._seen is not None:
            each = functional.cross_entropy(said.class_logits, classes, reduction="none")
            self._note(said, said.class_logits.argmax(1) == classes, each)
        real = (classes != IGNORED).sum().clamp(min=1)
        count = real if self._seen is not None or num_items_in_batch is None else self.own
        class_loss = functional.cross_entropy(
            said.class_logits, classes, ignore_index=IGNORED, reduction="sum"
        )
        text_loss = self._text_loss(said, num_items_in_batch)
        loss = self.class_weight * class_loss / count + (1 - self.class_weight) * text_loss
        return (loss, {}) if return_outputs else loss

    def _mean_loss(self, seen: torch.Tensor) -> torch.Tensor:
        text_loss = super()._mean_loss(seen)
        return self.class_weight * seen[:, 3].mean() + (1 - self.class_weight) * text_loss


def answer_loss(said: Foretold, tokens: torch.Tensor | int | None) -> torch.Tensor:
    """Cross-entropy, summed and divided by `tokens`, or by those of the batch."""
    total = functional.cross_entropy(said.logits, said.targets, reduction="sum")
    return total / (max(1, len(said.targets)) if tokens is None else tokens)
