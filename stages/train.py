"""Fine-tune a recipe's adapter: `python -m stages.train RECIPE`."""

import typer

from src import config
from src.errors import one_line
from src.training.run import run


@one_line
def main(recipe: str) -> None:
    params = config.load()
    chosen = config.pick(params.recipes, recipe, "recipes")
    run(chosen, params.data[chosen.data], params.evaluate, params.seed)


if __name__ == "__main__":
    typer.run(main)
