"""Features of a recipe's pictures or videos, once each: `python -m stages.encode RECIPE`.

Where it reads pixels instead, what it leaves says so and holds nothing.
"""

from pathlib import Path

import typer

from src import config, recorded
from src.errors import one_line
from src.files import write_json


@one_line
def main(recipe: str) -> None:
    before = config.text()
    params = config.load()
    chosen = config.pick(params.recipes, recipe, "recipes")
    place = Path("data/features") / recipe
    if chosen.vision_features == "live":
        write_json(place / "features.json", {})
        return
    # Only here: a recipe that keeps nothing need not wait for the model libraries.
    from src.inference.encode import run
    from src.processes import spread

    def encode() -> None:
        run(chosen, place)
        recorded.check(before, f"encode@{recipe}")

    spread(1, encode)


if __name__ == "__main__":
    typer.run(main)
