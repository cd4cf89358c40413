"""Heatmaps of a recipe's tuned model, and their tests: `python -m stages.explain RECIPE`."""

import typer

from src import config
from src.errors import one_line
from src.explain.run import run


@one_line
def main(recipe: str) -> None:
    params = config.load()
    run(config.pick(params.recipes, recipe, "recipes"), params)


if __name__ == "__main__":
    typer.run(main)
