"""What differs by task, one module a task.

A module of this package defines a class `Task(prompt, labels)` with
- `system`: the system message, or None;
- `question(record)` and `answer(record)`: what is asked of a record and the text to be learnt;
- `parse(text)`: what a generated text answers, or None where it answers nothing.
"""

from importlib import import_module
from typing import Any

from src.schema import Recipe


def load(recipe: Recipe, labels: list[str]) -> Any:
    """The task of a recipe on data with these labels."""
    return import_module(f"src.tasks.{recipe.task}").Task(recipe.prompt, labels)
