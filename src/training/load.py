"""What a recipe puts before its model."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from src import families, tasks
from src.errors import UserError
from src.features import Features
from src.models import load_config, load_processor
from src.records import SPLITS, read_labels
from src.schema import Recipe
from src.training.collator import Collator, PromptPool


def check_records(recipe: Recipe) -> None:
    """Refuse data that lack what the recipe's task asks or learns, before a model is loaded.

    Raises:
        UserError: names the task, the data and the first record that lacks it.
    """
    needed = tasks.load(recipe, read_labels(recipe.data)).NEEDS
    for split in SPLITS:
        path = Path("data/prepared") / recipe.data / f"{split}.parquet"
        for record in pq.read_table(path, columns=["id", *needed]).to_pylist():
            if missing := [name for name in needed if not record[name]]:
                raise UserError(
                    f"params.yaml: recipes.{recipe.name}.task: {recipe.task} needs the "
                    f"{missing[0]} of every record, and {record['id']} of the data {recipe.data} "
                    "has none; set another task or other data"
                )


def load_collator(
    recipe: Recipe,
    answers: bool,
    pool_seed: int | None = None,
    features: Features | None = None,
) -> Collator:
    """The collator of a recipe: its base's processor, its family and its task on its data.

    With a seed it draws from the recipe's pool of prompts, if it has one. With features its records
    are those of `shown`.
    """
    base, labels = Path("models/base") / recipe.base, read_labels(recipe.data)
    pool = None
    if recipe.prompt.pool and pool_seed is not None:
        pool = PromptPool(tasks.load_pool(recipe, labels), pool_seed)
    return collator_of(base, recipe, tasks.load(recipe, labels), answers, pool, features)


def collator_of(
    base: Path,
    recipe: Recipe,
    task: Any,
    answers: bool,
    pool: PromptPool | None = None,
    features: Features | None = None,
) -> Collator:
    """The same for a base in any folder and a task that is there already."""
    encoder_decoder = load_config(base).is_encoder_decoder
    family = families.load(recipe.family)
    processor = load_processor(base, recipe)
    return Collator(processor, family, task, answers, encoder_decoder, pool, features)
