"""What a model answers after each epoch of its training, measured and printed."""

from importlib import import_module
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from src import metrics
from src.features import Features
from src.processes import is_first
from src.records import MEDIA
from src.schema import Evaluate, Recipe
from src.training.collator import Collator
from src.training.load import load_collator


class AnswerEachEpoch(TrainerCallback):
    """Generates in small batches, prints a table and logs each metric as `answered_<metric>`.

    Only the texts are kept from batch to batch, so that memory does not grow with the examples.
    Nothing that the training writes hangs on it, and no random state is left changed.
    """

    def __init__(
        self,
        recipe: Recipe,
        collator: Collator,
        examples: Dataset,
        labels: list[str] | None,
        evaluate: Evaluate,
        seed: int,
    ) -> None:
        self.recipe = recipe
        self.collator = collator
        self.examples = examples
        self.labels = labels
        self.evaluate = evaluate
        self.seed = seed
        self.rows: list[dict[str, float]] = []

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module,
        **kwargs: Any,
    ) -> None:
        """Answer, measure, print, log."""
        # By its name: DVC need not train again where a metric changes.
        predict = import_module("src.inference.predict")
        rows = list(self.examples.select_columns(_others(self.examples)))
        was_training = model.training
        with torch.random.fork_rng():
            model.eval()
            frame = predict.answers(
                model,
                self.collator,
                self.recipe,
                self.examples,
                rows,
                min(args.per_device_eval_batch_size, self.evaluate.batch_size),
                self.seed,
            )
            model.train(was_training)
            if not is_first():
                return
            # In here too: what scores texts may draw the weights that its checkpoint lacks.
            measure = metrics.load(self.recipe.task)
            numbers = measure.summarise(frame, self.labels, self.evaluate, self.seed)
        shown = {k: v for k, v in numbers.items() if isinstance(v, int | float)}
        self.rows.append({"epoch": round(state.epoch, 2)} | shown)
        table = pd.DataFrame(self.rows).set_index("epoch").T
        tqdm.write(f"\nvalidation, {len(frame)} examples\n{table.to_string()}\n")
        entry = {f"answered_{name}": value for name, value in shown.items()}
        state.log_history.append({"step": state.global_step, "epoch": state.epoch} | entry)


def answered_each_epoch(
    recipe: Recipe,
    validation_set: Dataset,
    labels: list[str] | None,
    evaluate: Evaluate,
    seed: int,
    features: Features | None = None,
) -> list[TrainerCallback]:
    """The callback of a recipe that asks for it, over the first of its validation examples."""
    count = min(recipe.train.answered_each_epoch, len(validation_set))
    if not count:
        return []
    collator = load_collator(recipe, answers=False, features=features)
    examples = validation_set.select(range(count))
    return [AnswerEachEpoch(recipe, collator, examples, labels, evaluate, seed)]


def _others(examples: Dataset) -> list[str]:
    return [name for name in examples.column_names if name not in MEDIA]
