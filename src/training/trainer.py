"""Fine-tuning with the field's trainers: hyperparameters, checkpoints, resuming."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from src.errors import UserError
from src.models import language_model
from src.processes import is_first, number
from src.schema import Training
from src.training.callbacks import LogBeforeCheckpoint, StopOnBadLoss, TellEpoch
from src.training.collator import Collator, without_media
from src.training.losses import AnswerLoss, JointLoss
from src.training.shared import accumulation, sharded, sharding

# The trainer's own `constant` leaves a warm-up out without a word.
SCHEDULES = {"constant": "constant_with_warmup"}


class AnswerSFTTrainer(AnswerLoss, SFTTrainer):
    """TRL's trainer with the answer-only loss."""


class JointSeq2SeqTrainer(JointLoss, Seq2SeqTrainer):
    """The sequence-to-sequence trainer of transformers with two heads."""


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
        The log: entries with `step` and `loss` (training), or `eval_loss` and `eval_accuracy`
        (validation).
    """
    lengths = check_lengths(collator, train_set, training.max_length, "train")
    check_lengths(eval_collator or collator, validation_set, training.max_length, "validation")
    if training.gradient_checkpointing:
        # Not by the trainer: that hooks the vision tower too, and differentiates it for nothing.
        language_model(model).activation_checkpointing_enable({"use_reentrant": False})
    settings = arguments(training, checkpoints, model, seed, class_weight is not None)
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
    trainer = (AnswerSFTTrainer if class_weight is None else JointSeq2SeqTrainer)(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=collator.processor,
        callbacks=[StopOnBadLoss(), LogBeforeCheckpoint(), TellEpoch(collator.pool), *callbacks],
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
            f"{arguments.per_device_train_batch_size}; set gradient_checkpointing, which goes on "
            "from what is trained, or lower batch_size and raise gradient_accumulation by as much, "
            "which begins anew; `python -m tools.plan` says what a recipe takes"
        ) from None
    best = trainer.state.best_model_checkpoint
    # The trainer only logs it, and would leave the last weights as if they were the best.
    if arguments.load_best_model_at_end and is_first() and not (best and Path(best).is_dir()):
        raise UserError(
            f"{arguments.output_dir}: the checkpoint of the best validation is gone; delete the "
            "folder to start anew"
        )
    return trainer.state.log_history


def arguments(
    training: Training, folder: Path, model: PeftModel, seed: int, joint: bool = False
) -> TrainingArguments:
    """A recipe's hyperparameters in the words of TRL's trainer, or of the one with two heads."""
    # The model's own dtype is that of its first weight, and BLIP-2's stays in fp32.
    dtype = language_model(model).dtype
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
        **sharding(training, model),
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
                f"and max_length is {longest}; raise it to {needed} in recipes.RECIPE.SCALE of "
                "params.yaml, or shorten the prompt"
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
