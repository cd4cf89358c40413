"""Fine-tune a recipe's adapter: `python -m stages.train RECIPE`."""

from functools import partial

import typer

from src import config
from src.errors import one_line
from src.processes import spread
from src.training.run import run


@one_line
def main(recipe: str) -> None:
    params = config.load()
    chosen = config.pick(params.recipes, recipe, "recipes")
    work = partial(run, chosen, params.data[chosen.data], params.evaluate, params.seed)
    spread(chosen.train.processes, work)


if __name__ == "__main__":
    typer.run(main)
