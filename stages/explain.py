"""Heatmaps of a recipe's tuned model, and their tests: `python -m stages.explain RECIPE`."""

from functools import partial

import typer

from src import config, recorded
from src.errors import one_line
from src.explain.run import run
from src.processes import spread
from src.schema import Params, Recipe


def explain(params: Params, chosen: Recipe, before: str) -> None:
    run(chosen, params)
    recorded.check(before, f"explain@{chosen.name}")


@one_line
def main(recipe: str) -> None:
    before = config.text()
    params = config.load()
    chosen = config.pick(params.recipes, recipe, "recipes")
    spread(1, partial(explain, params, chosen, before))


if __name__ == "__main__":
    typer.run(main)
