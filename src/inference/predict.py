"""The predictions of a base or a tuned model on a recipe's test split."""

from pathlib import Path

import pandas as pd
from transformers import PreTrainedModel

from src.files import whole
from src.inference.generate import generate, score
from src.records import read_split
from src.schema import Recipe
from src.training.load import load_collator


def predict(model: PreTrainedModel, recipe: Recipe, batch_size: int) -> pd.DataFrame:
    """One row an example of the test split; the columns are the task's.

    The batch size changes no prediction.
    """
    records = read_split(Path("data/prepared") / recipe.data / "test.parquet")
    collator = load_collator(recipe, answers=False)
    task = collator.task
    texts = generate(model, collator, records, recipe.max_new_tokens, batch_size)
    scores = score(model, collator, records, task.choices, batch_size)
    return task.predictions(list(records.remove_columns("image")), texts, scores)


def predictions_file(recipe: Recipe, model: str) -> Path:
    """Where the predictions of the `base` or the `tuned` model lie."""
    return Path("metrics") / recipe.name / "predictions" / f"{model}.parquet"


def save(frame: pd.DataFrame, path: Path) -> None:
    """Write predictions whole."""
    with whole(path) as beside:
        frame.to_parquet(beside, index=False)
