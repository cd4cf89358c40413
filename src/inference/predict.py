"""The predictions of a base or a tuned model on a recipe's test split."""

from pathlib import Path

import pandas as pd
from transformers import PreTrainedModel

from src import families, tasks
from src.files import read_json, whole
from src.inference.generate import generate, score
from src.models import load_processor
from src.records import read_split
from src.schema import Recipe
from src.training.collator import Collator


def predict(model: PreTrainedModel, recipe: Recipe, batch_size: int) -> pd.DataFrame:
    """One row an example of the test split; the columns are the task's.

    The batch size changes no prediction.
    """
    data = Path("data/prepared") / recipe.data
    records = read_split(data / "test.parquet")
    task = tasks.load(recipe, read_json(data / "summary.json")["labels"])
    processor = load_processor(Path("models/base") / recipe.base)
    collator = Collator(processor, families.load(recipe.family), task, answers=False)
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
