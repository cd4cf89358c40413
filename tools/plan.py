"""What recipes will take, before anything is spent: `python -m tools.plan [RECIPE...]`.

Nothing is downloaded and no GPU is used. For each recipe, or all of them: the download, the disk,
the memory, the optimizer steps and the time, whether this machine has enough, and which value of
params.yaml to change where it has not. The formulas stand in src/planning/.
"""

import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer

from src import config
from src.errors import one_line

Scale = Literal["tiny", "full"]


@one_line
def main(
    recipes: Annotated[list[str] | None, typer.Argument(help="Their names; none: all.")] = None,
    scale: Annotated[Scale, typer.Option(help="Whose values to take.")] = "full",
    gpu_memory: Annotated[
        float | None, typer.Option(min=1, help="GiB of the GPU to plan for; none: this machine's.")
    ] = None,
) -> None:
    params = config.at_scale(Path(config.PARAMS), scale)
    for name in recipes or []:
        config.pick(params.recipes, name, "recipes")
    # Only here, as it takes seconds: a misspelt name should fail before.
    from src.planning.machine import machine
    from src.planning.page import block, together
    from src.planning.plan import plan

    # Of transformers, about what PEFT does.
    warnings.filterwarnings("ignore", category=FutureWarning)
    here, made = machine(gpu_memory), []
    for name in recipes or params.recipes:
        made.append(plan(params, name))
        typer.echo(block(made[-1], params, here) + "\n")
    typer.echo(together(made, here))


if __name__ == "__main__":
    typer.run(main)
