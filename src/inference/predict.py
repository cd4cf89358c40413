"""The predictions of a base or a tuned model on a recipe's test split."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from src import metrics
from src.features import Features, shown
from src.files import whole
from src.inference.generate import base_of, classify, generate
from src.models import CLASSIFIER
from src.quality import Quality, doubts
from src.records import Generated
from src.schema import Doubt, Recipe
from src.training.collator import Collator, without_media
from src.training.load import load_collator

# What a record says of itself beside the task's own columns: what results are audited by, and
# what is right or wrong together.
PROPERTIES = (
    *("group", "kind", "subgroup", "width", "height"),
    *("brightness", "contrast", "sharpness", "faces"),
)


def predict(
    model: PreTrainedModel,
    recipe: Recipe,
    batch_size: int,
    seed: int,
    features: Features | None = None,
) -> pd.DataFrame:
    """One row an example of the test split; the columns are those of `answers`.

    The batch size changes predictions by rounding alone: see `generate`.
    """
    test = Path("data/prepared") / recipe.data / "test.parquet"
    records = shown(test, features)
    rows = without_media(records).to_list()
    collator = load_collator(recipe, answers=False, features=features)
    return answers(model, collator, recipe, records, rows, batch_size, seed)


def answers(
    model: PreTrainedModel,
    collator: Collator,
    recipe: Recipe,
    records: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    batch_size: int,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a record: the columns of the recipe's task, PROPERTIES, `correct` and `doubt`.

    `doubt` says why an answer is not to be relied on, and is empty where nothing speaks against it.

    Args:
        model: a base or a tuned model.
        collator: of the recipe, without answers.
        recipe: says how long an answer may be and what is doubtful.
        records: with their pictures, which are decoded where they are needed.
        rows: the same, where no picture is needed.
        batch_size: of the longest records in one forward pass.
        seed: of answers that are sampled.
    """
    task = collator.task
    said, scores = _ask(model, collator, recipe, records, batch_size, seed)
    frame = task.predictions(rows, said, scores)
    for name in PROPERTIES:
        frame[name] = [row[name] for row in rows]
    frame["correct"] = metrics.load(recipe.task).correct(frame)
    reasons = [[*_of_picture(row, recipe.doubt), *task.doubts(row)] for row in rows]
    return frame.assign(doubt=["; ".join(found) for found in reasons])


def _ask(
    model: PreTrainedModel,
    collator: Collator,
    recipe: Recipe,
    records: Sequence[Mapping[str, Any]],
    batch_size: int,
    seed: int,
) -> tuple[Generated, np.ndarray | None]:
    task = collator.task
    two_heads = task.classifies and hasattr(base_of(model), CLASSIFIER)
    choices, generation = None if two_heads else task.choices, recipe.generation
    if choices and not task.classifies:
        # What is cut off names no class.
        longest = max(len(collator.answer_ids(choice)) for choice in choices)
        most = max(generation.max_new_tokens, longest)
        generation = generation.model_copy(update={"max_new_tokens": most})
    said = generate(model, collator, records, generation, batch_size, seed, choices)
    if two_heads:
        return said, classify(model, collator, records, batch_size)
    return said, said.scores


def _of_picture(row: Mapping[str, Any], limits: Doubt | None) -> list[str]:
    if limits is None:
        return []
    quality = Quality(*(row[field.name] for field in fields(Quality)))
    return doubts(quality, row["width"], row["height"], limits)


def predictions_file(recipe: Recipe, model: str) -> Path:
    """Where the predictions of the `base` or the `tuned` model lie."""
    return Path("metrics") / recipe.name / "predictions" / f"{model}.parquet"


def save(frame: pd.DataFrame, path: Path) -> None:
    """Write predictions whole."""
    with whole(path) as beside:
        frame.to_parquet(beside, index=False)
