"""What a prediction is worth. A task is measured by the module of its own name.

Such a module defines, over frames of predictions,
- `ready(evaluate)`: brings what it measures with, so that what lacks is told before any answer;
- `correct(frame)`: whether each answer is right, as bool (n,);
- `summarise(frame, labels, evaluate, seed)`: the numbers of one model, with intervals;
- `gains(base, tuned, labels, evaluate, seed)`: the paired differences of two;
- `plots(base, tuned, labels, evaluate)`: the tables behind the plots, by name: `confusion`,
  `classes`, `reliability`, `coverage` and `audit`, the last four with a column `model`.
"""

from importlib import import_module
from types import ModuleType


def load(task: str) -> ModuleType:
    """The module that measures a task."""
    return import_module(f"src.metrics.{task}")
