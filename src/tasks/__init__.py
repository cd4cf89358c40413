"""What differs by task, one module a task.

A module of this package defines a class `Task(prompt, labels)` with
- `PLACEHOLDERS`: what it fills in the prompt's question;
- `NEEDS`: which of `question`, `label` and `answers` every record must have to be learnt from;
- `system`: the system message, or None;
- `choices`: the only answers or classes there are, each of which is scored, or None;
- `classifies`: whether a second head names the class of a record, where a model has one;
- `question(record)` and `answer(record)`: what is asked of a record and the text to be learnt;
- `parse(text)`: what a generated text answers, or None where it answers nothing;
- `doubts(record)`: why no answer to what a record asks is to be relied on;
- `predictions(records, said, scores)`: a frame with one row an example, from the generated texts
  and scores of the choices (records, choices), or None where there are none.
"""

from importlib import import_module
from string import Formatter
from typing import Any

from src.errors import UserError
from src.schema import Recipe


def load(recipe: Recipe, labels: list[str] | None) -> Any:
    """The task of a recipe on data with these labels.

    Raises:
        UserError: the prompt has a placeholder that the task does not fill, or the task needs
            labels and there are none.
    """
    return _load(recipe, recipe.prompt.question, "question", labels)


def load_pool(recipe: Recipe, labels: list[str] | None) -> list[Any]:
    """The task with each prompt of the recipe's pool. Raises UserError as `load` does."""
    prompts = enumerate(recipe.prompt.pool or [])
    return [_load(recipe, prompt, f"pool.{i}", labels) for i, prompt in prompts]


def _load(recipe: Recipe, question: str, key: str, labels: list[str] | None) -> Any:
    kind = import_module(f"src.tasks.{recipe.task}").Task
    for _, name, _, _ in Formatter().parse(question):
        if name is not None and name not in kind.PLACEHOLDERS:
            known = ", ".join(f"{{{n}}}" for n in kind.PLACEHOLDERS) or "none"
            raise UserError(
                f"params.yaml: recipes.{recipe.name}.prompt.{key}: the task {recipe.task} does "
                f"not fill {{{name}}}, but {known}"
            )
    if "label" in kind.NEEDS and not labels:
        raise UserError(
            f"params.yaml: recipes.{recipe.name}.task: {recipe.task} chooses among labels, and "
            f"the data {recipe.data} have none; set another task, other data, or "
            f"data.{recipe.data}.labels"
        )
    return kind(recipe.prompt.model_copy(update={"question": question}), labels)
