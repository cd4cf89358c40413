"""Heatmaps of a recipe's tuned model, and their tests: `python -m stages.explain RECIPE`."""

from functools import partial

import typer

from src import config
from src.errors import one_line
from src.explain.run import run
from src.processes import spread


@one_line
def main(recipe: str) -> None:
    params = config.load()
    chosen = config.pick(params.recipes, recipe, "recipes")
    spread(1, partial(run, chosen, params))


if __name__ == "__main__":
    typer.run(main)
