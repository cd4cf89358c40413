"""What differs by task, one module a task.

A module of this package defines a class `Task(prompt, labels)` with
- `PLACEHOLDERS`: what it fills in the prompt's question;
- `system`: the system message, or None;
- `choices`: the only answers there are, each of which is scored, or None;
- `question(record)` and `answer(record)`: what is asked of a record and the text to be learnt;
- `parse(text)`: what a generated text answers, or None where it answers nothing;
- `doubts(record)`: why no answer to what a record asks is to be relied on;
- `predictions(records, texts, scores)`: a frame with one row an example, from the generated texts
  and the log-likelihoods of the choices, or of the texts where there are none.
"""

from importlib import import_module
from string import Formatter
from typing import Any

from src.errors import UserError
from src.schema import Recipe


def load(recipe: Recipe, labels: list[str] | None) -> Any:
    """The task of a recipe on data with these labels.

    Raises:
        UserError: the prompt has a placeholder that the task does not fill.
    """
    kind = import_module(f"src.tasks.{recipe.task}").Task
    for _, name, _, _ in Formatter().parse(recipe.prompt.question):
        if name is not None and name not in kind.PLACEHOLDERS:
            raise UserError(
                f"params.yaml: recipes.{recipe.name}.prompt.question: the task {recipe.task} does "
                f"not fill {{{name}}}, but {', '.join(f'{{{n}}}' for n in kind.PLACEHOLDERS)}"
            )
    return kind(recipe.prompt, labels)
