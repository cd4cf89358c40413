"""Fine-tuning with the field's trainers: an answer-only loss, curves, checkpoints, resuming."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTConfig, SFTTrainer

from src.errors import UserError
from src.models import language_model
from src.processes import number
from src.schema import Training
from src.training.collator import (
    IGNORED,
    Collator,
    Foretold,
    PromptPool,
    foretell,
    without_media,
)
from src.training.shared import EvenShares, TellEpoch, accumulation, sharded, sharding

# The trainer's own `constant` leaves a warm-up out without a word.
SCHEDULES = {"constant": "constant_with_warmup"}


class ByLength(LengthGroupedSampler):
    """Batches of much the same length, in an order of each epoch's own."""

    def __init__(self, seed: int, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options, generator=torch.Generator().manual_seed(seed))
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch; the data loader says which it is."""
        self.generator.manual_seed(self.seed + epoch)


class AnswerLoss(EvenShares):
    """Mix into a Trainer: cross-entropy of the answer's tokens, and logits for no others.

    An evaluation also measures `eval_accuracy`: the share of examples whose answer greedy decoding
    would write, which is those whose every token is the most likely one after the right ones.
    """

    eval_collator: Collator | None = None  # of evaluations, where it is not that of training
    lengths: Sequence[int] | None = None  # of the examples, where like ones come together
    _right: list[torch.Tensor] | None = None  # of each batch of an evaluation

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean over the answer tokens of the batch, or of all batches of an optimizer step."""
        said = foretell(model, inputs)
        if self._right is not None:
            wrong = torch.zeros_like(said.answered)
            wrong[said.answered] = said.logits.argmax(-1) != said.targets
            self._note(~wrong.any(1))
        loss = self._text_loss(said, num_items_in_batch)
        return (loss, {}) if return_outputs else loss

    def _note(self, right: torch.Tensor) -> None:
        """Keep which examples of an evaluation were right, those of all processes: (batch,)."""
        self._right.append(self.accelerator.gather_for_metrics(right))

    def _text_loss(self, said: Foretold, tokens: torch.Tensor | int | None) -> torch.Tensor:
        if self._right is not None or tokens is None:
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
        """The trainer's own, with the accuracy."""
        # The one of sequence-to-sequence counts what fills up the last batches too.
        self.gather_function = self.accelerator.gather_for_metrics
        self._right = []
        output = super().evaluation_loop(*args, **kwargs)
        accuracy = torch.cat(self._right).float().mean().item()
        self._right = None
        output.metrics[f"{kwargs.get('metric_key_prefix', 'eval')}_accuracy"] = accuracy
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
        if self._right is not None:
            self._note(said.class_logits.argmax(1) == classes)
        class_loss = self._class_loss(said.class_logits, classes)
        if self._right is None and num_items_in_batch is not None:
            class_loss = class_loss / self.filled
        text_loss = self._text_loss(said, num_items_in_batch)
        loss = self.class_weight * class_loss + (1 - self.class_weight) * text_loss
        return (loss, {}) if return_outputs else loss

    @staticmethod
    def _class_loss(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        if (classes == IGNORED).all():
            return 0 * logits.sum()  # the mean over none is no number
        return functional.cross_entropy(logits, classes, ignore_index=IGNORED)


def answer_loss(said: Foretold, tokens: torch.Tensor | int | None) -> torch.Tensor:
    """Cross-entropy, summed and divided by `tokens`, or by those of the batch."""
    total = functional.cross_entropy(said.logits, said.targets, reduction="sum")
    return total / (max(1, len(said.targets)) if tokens is None else tokens)


class AnswerSFTTrainer(AnswerLoss, SFTTrainer):
    """TRL's trainer with the answer-only loss."""


class JointSeq2SeqTrainer(JointLoss, Seq2SeqTrainer):
    """The sequence-to-sequence trainer of transformers with two heads."""


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
        loss = (logs or {}).get("loss", 0.0)
        if not torch.isfinite(torch.tensor(loss)):
            raise UserError(
                f"the training loss is {loss} at step {state.global_step}; lower learning_rate, "
                "or set precision to bf16 or fp32"
            )


class DrawPrompts(TrainerCallback):
    """Tell a pool of prompts which epoch it is."""

    def __init__(self, pool: PromptPool) -> None:
        self.pool = pool

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The number of whole epochs before this one."""
        self.pool.epoch = int(state.epoch or 0)


def train(
    model: PeftModel,
    collator: Collator,
    train_set: Dataset,
    validation_set: Dataset,
    training: Training,
    checkpoints: Path,
    seed: int,
    eval_collator: Collator | None = None,
    class_weight: float | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> list[dict[str, float]]:
    """Train the adapter in place and leave it at the checkpoint of the best validation.

    Best is the lowest loss or the highest accuracy, by `training.select_by`. By accuracy, what is
    left in `checkpoints` is one checkpoint for each evaluation that improved on those before.

    A run that was killed goes on from the last whole checkpoint in `checkpoints`, and ends with
    the same weights.

    Args:
        model: with a new adapter, and with a second head where there is a `class_weight`.
        collator: of training, with answers.
        train_set: examples as `read_split` reads them.
        validation_set: the same.
        training: the hyperparameters.
        checkpoints: where they are kept.
        seed: of the order of the examples and of dropout.
        eval_collator: of the validation, where it is another.
        class_weight: share of the second head's loss; None: there is no second head.
        callbacks: more of them.

    Returns:
        The log: entries with `step` and `loss` (training) or `eval_loss` (validation).
    """
    lengths = check_lengths(collator, train_set, training.max_length, "train")
    check_lengths(eval_collator or collator, validation_set, training.max_length, "validation")
    if training.gradient_checkpointing:
        # Not by the trainer: that hooks the vision tower too, and differentiates it for nothing.
        language_model(model).activation_checkpointing_enable({"use_reentrant": False})
    settings = arguments(training, checkpoints, model.dtype, seed, class_weight is not None)
    return fit(
        model,
        collator,
        train_set,
        validation_set,
        settings,
        eval_collator=eval_collator,
        class_weight=class_weight,
        callbacks=callbacks,
        lengths=lengths if training.group_by_length else None,
    )


def fit(
    model: PeftModel,
    collator: Collator,
    train_set: Dataset,
    validation_set: Dataset,
    arguments: TrainingArguments,
    eval_collator: Collator | None = None,
    class_weight: float | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    lengths: Sequence[int] | None = None,
) -> list[dict[str, float]]:
    """Run the trainer, from the last whole checkpoint in its folder if there is one."""
    draw = [DrawPrompts(collator.pool)] if collator.pool else []
    trainer = (AnswerSFTTrainer if class_weight is None else JointSeq2SeqTrainer)(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=collator.processor,
        callbacks=[StopOnBadLoss(), TellEpoch(), *draw, *callbacks],
    )
    trainer.eval_collator, trainer.lengths = eval_collator, lengths
    if class_weight is not None:
        trainer.class_weight = class_weight
    # TRL makes a quantized model's adapter bf16, in which steps as small as 2e-5 are lost.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    last = last_whole_checkpoint(Path(arguments.output_dir))
    if last and sharded(last) != bool(arguments.fsdp):
        raise UserError(
            f"{last}: written {'with' if sharded(last) else 'without'} sharding; go on as it was "
            f"started, or delete {last.parent} to start anew"
        )
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except torch.OutOfMemoryError:
        raise UserError(
            "the GPU's memory is too small for a batch_size of "
            f"{arguments.per_device_train_batch_size}; lower it and raise gradient_accumulation by "
            "as much, or set gradient_checkpointing; "
            "`python -m tools.plan` says what a recipe takes. What is trained is kept"
        ) from None
    return trainer.state.log_history


def arguments(
    training: Training, folder: Path, dtype: torch.dtype, seed: int, joint: bool = False
) -> TrainingArguments:
    """A recipe's hyperparameters in the words of TRL's trainer, or of the one with two heads."""
    # The trainer takes 1.0 for every step; the last one is evaluated in any case.
    share = min(1 / training.evaluations, 0.999999)
    by_accuracy = training.select_by == "accuracy"
    # Its own checkpointing, cutting texts, and looking for a column of texts are off.
    own = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    kind = (
        Seq2SeqTrainingArguments
        if joint
        else partial(SFTConfig, activation_checkpointing=False, **own)
    )
    return kind(
        output_dir=str(folder),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        gradient_accumulation_steps=accumulation(training, number()),
        learning_rate=training.learning_rate,
        lr_scheduler_type=SCHEDULES.get(training.schedule, training.schedule),
        warmup_steps=training.warmup_steps or training.warmup_ratio,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim=training.optimizer,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        eval_strategy="steps",
        eval_steps=share,
        save_strategy="best" if by_accuracy else "steps",
        save_steps=share,
        save_total_limit=None if by_accuracy else 2,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{training.select_by}",
        greater_is_better=by_accuracy,
        logging_steps=min(0.02, share),
        logging_nan_inf_filter=False,
        dataloader_num_workers=training.workers,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        seed=seed,
        data_seed=seed,
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,  # every weight of an adapter has a part in every pass
        **sharding(training),
    )


def check_lengths(collator: Collator, records: Dataset, longest: int, split: str) -> list[int]:
    """Refuse an example that does not fit, before any training.

    Cutting a prompt would cut picture tokens, whose count must equal that of the features.

    Returns:
        The tokens of each example: prompt, picture or video, and answer.

    Raises:
        UserError: names the record and the length that it needs.
    """
    shown = "video" if collator.medium(records[0]) == "video" else "picture"
    found = []
    for record, prompt in zip(without_media(records), collator.lengths(records), strict=True):
        needed = prompt + len(collator.answer_ids(collator.task.answer(record)))
        if needed > longest:
            raise UserError(
                f"{split} record {record['id']}: prompt, {shown} and answer are {needed} tokens "
                f"and train.max_length is {longest}; raise it to {needed} or shorten the prompt"
            )
        found.append(needed)
    return found


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end: the trainer writes its state last."""
    found = [state.parent for state in folder.glob("checkpoint-*/trainer_state.json")]
    whole = [c for c in found if _parses(c / "trainer_state.json")]
    return max(whole, key=lambda c: int(c.name.partition("-")[2]), default=None)


def _parses(state: Path) -> bool:
    try:
        TrainerState.load_from_json(str(state))
    except (ValueError, TypeError):
        return False
    return True
