"""What a recipe puts before its model."""

from pathlib import Path
from typing import Any

from src import families, tasks
from src.models import load_config, load_processor
from src.records import read_labels
from src.schema import Recipe
from src.training.collator import Collator


def load_collator(recipe: Recipe, answers: bool) -> Collator:
    """The collator of a recipe: its base's processor, its family and its task on its data."""
    base = Path("models/base") / recipe.base
    task = tasks.load(recipe, read_labels(recipe.data))
    return collator_of(base, recipe, task, answers)


def collator_of(base: Path, recipe: Recipe, task: Any, answers: bool) -> Collator:
    """The same for a base in any folder and a task that is there already."""
    encoder_decoder = load_config(base).is_encoder_decoder
    family = families.load(recipe.family)
    return Collator(load_processor(base, recipe), family, task, answers, encoder_decoder)
