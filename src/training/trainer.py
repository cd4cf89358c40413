"""Fine-tuning with the field's trainers: an answer-only loss, curves, checkpoints, resuming."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.nn import functional
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTConfig, SFTTrainer

from src.errors import UserError
from src.models import language_model
from src.schema import Training
from src.training.collator import Collator, answer_logits

# The trainer's own `constant` leaves a warm-up out without a word.
SCHEDULES = {"constant": "constant_with_warmup"}


class AnswerLoss:
    """Mix into a Trainer: cross-entropy of the answer's tokens, and logits for no others.

    An evaluation also measures `eval_accuracy`: the share of examples whose answer greedy decoding
    would write, which is those whose every token is the most likely one after the right ones.
    """

    _whole: list[torch.Tensor] | None = None  # of each batch of an evaluation: right to the end?

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean over the answer tokens of the batch, or of all batches of an optimizer step."""
        logits, targets, answered = answer_logits(model, inputs)
        if self._whole is not None:
            wrong = torch.zeros_like(answered)
            wrong[answered] = logits.argmax(-1) != targets
            self._whole.append(~wrong.any(1))
        total = functional.cross_entropy(logits, targets, reduction="sum")
        loss = total / (len(targets) if num_items_in_batch is None else num_items_in_batch)
        return (loss, {}) if return_outputs else loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """The trainer's own, with the accuracy."""
        self._whole = []
        output = super().evaluation_loop(*args, **kwargs)
        accuracy = torch.cat(self._whole).float().mean().item()
        self._whole = None
        output.metrics[f"{kwargs.get('metric_key_prefix', 'eval')}_accuracy"] = accuracy
        return output

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As the trainer's own, but without a trace in the random state.

        Its loader draws from the global generator, so that a run with an evaluation more would
        train other weights.
        """
        with torch.random.fork_rng():
            return super().evaluate(*args, **kwargs)


class AnswerSFTTrainer(AnswerLoss, SFTTrainer):
    """TRL's trainer with the answer-only loss."""


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


def train(
    model: PeftModel,
    collator: Collator,
    train_set: Dataset,
    validation_set: Dataset,
    training: Training,
    checkpoints: Path,
    seed: int,
) -> list[dict[str, float]]:
    """Train the adapter in place and leave it at the checkpoint of the best validation.

    Best is the lowest loss or the highest accuracy, by `training.select_by`. By accuracy, what is
    left in `checkpoints` is one checkpoint for each evaluation that improved on those before.

    A run that was killed goes on from the last whole checkpoint in `checkpoints`, and ends with
    the same weights.

    Returns:
        The log: entries with `step` and `loss` (training) or `eval_loss` (validation).
    """
    check_lengths(collator, train_set, training.max_length, "train")
    check_lengths(collator, validation_set, training.max_length, "validation")
    if training.gradient_checkpointing:
        # Not by the trainer: that hooks the vision tower too, and differentiates it for nothing.
        language_model(model).activation_checkpointing_enable({"use_reentrant": False})
    settings = arguments(training, checkpoints, model.dtype, seed)
    return fit(model, collator, train_set, validation_set, settings)


def fit(
    model: PeftModel,
    collator: Collator,
    train_set: Dataset,
    validation_set: Dataset,
    arguments: SFTConfig,
) -> list[dict[str, float]]:
    """Run the trainer, from the last whole checkpoint in its folder if there is one."""
    trainer = AnswerSFTTrainer(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=collator.processor,
        callbacks=[StopOnBadLoss()],
    )
    # TRL makes a quantized model's adapter bf16, in which steps as small as 2e-5 are lost.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    last = last_whole_checkpoint(Path(arguments.output_dir))
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    return trainer.state.log_history


def arguments(training: Training, folder: Path, dtype: torch.dtype, seed: int) -> SFTConfig:
    """A recipe's hyperparameters in the trainer's words."""
    # The trainer takes 1.0 for every step; the last one is evaluated in any case.
    share = min(1 / training.evaluations, 0.999999)
    by_accuracy = training.select_by == "accuracy"
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation,
        learning_rate=training.learning_rate,
        lr_scheduler_type=SCHEDULES.get(training.schedule, training.schedule),
        warmup_steps=training.warmup_steps or training.warmup_ratio,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim=training.optimizer,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        activation_checkpointing=False,
        max_length=None,
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
    )


def check_lengths(collator: Collator, records: Dataset, longest: int, split: str) -> None:
    """Refuse an example that does not fit, before any training.

    Cutting a prompt would cut picture tokens, whose count must equal that of the features.

    Raises:
        UserError: names the record and the length that it needs.
    """
    first = records[0]
    tokenizer, family, task = collator.tokenizer, collator.family, collator.task

    def prompt_tokens(record: Mapping[str, Any]) -> int:
        prompt = family.render(collator.processor, task.system, task.question(record))
        return len(tokenizer(prompt)["input_ids"])

    # prepare makes every picture of a data set the same size, so that all have as many tokens.
    picture = collator.prompts([first])["input_ids"].shape[1] - prompt_tokens(first)
    for record in records.remove_columns("image"):
        answer = collator.answer_ids(task.answer(record))
        needed = picture + prompt_tokens(record) + len(answer)
        if needed > longest:
            raise UserError(
                f"{split} record {record['id']}: prompt, picture and answer are {needed} tokens "
                f"and train.max_length is {longest}; raise it to {needed} or shorten the prompt"
            )


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
