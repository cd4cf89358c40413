"""Features of a recipe's pictures or videos, once each: `python -m stages.encode RECIPE`."""

from functools import partial
from pathlib import Path

import typer

from src import config
from src.errors import one_line
from src.inference.encode import run
from src.processes import spread


@one_line
def main(recipe: str) -> None:
    params = config.load()
    chosen = config.pick(params.recipes, recipe, "recipes")
    spread(1, partial(run, chosen, Path("data/features") / recipe))


if __name__ == "__main__":
    typer.run(main)
