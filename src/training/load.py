"""What a recipe puts before its model."""

from pathlib import Path

from src import families, tasks
from src.models import load_processor
from src.records import read_labels
from src.schema import Recipe
from src.training.collator import Collator


def load_collator(recipe: Recipe, answers: bool) -> Collator:
    """The collator of a recipe: its base's processor, its family and its task on its data."""
    processor = load_processor(Path("models/base") / recipe.base)
    task = tasks.load(recipe, read_labels(recipe.data))
    return Collator(processor, families.load(recipe.family), task, answers)
