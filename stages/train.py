"""Fine-tune a recipe's adapter: `python -m stages.train RECIPE`."""

from functools import partial

import typer

from src import config, recorded
from src.errors import one_line
from src.processes import spread
from src.training.run import run


@one_line
def main(recipe: str) -> None:
    before = config.text()
    params = config.load()
    chosen = config.pick(params.recipes, recipe, "recipes")
    check = partial(recorded.check, before, f"train@{recipe}")
    work = partial(run, chosen, params.data[chosen.data], params.evaluate, params.seed, check)
    spread(chosen.train.processes, work)


if __name__ == "__main__":
    typer.run(main)
