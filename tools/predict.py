"""Ask a tuned model about pictures: `python -m tools.predict PICTURES --recipe NAME --output FILE`.

PICTURES is a picture, a folder, a glob in quotes, or a CSV of `image_name`, `question` and
optionally `answer`. A run that was stopped goes on where it was when it is started again.
"""

from pathlib import Path
from typing import Annotated

import typer

from src.errors import one_line
from src.inference.batch import read_inputs, run


@one_line
def main(
    pictures: Annotated[str, typer.Argument(help="A picture, a folder, a glob or a CSV.")],
    recipe: Annotated[str, typer.Option(help="Its name in params.yaml.")],
    output: Annotated[Path, typer.Option(help="A .csv, .jsonl or .parquet file to write.")],
    images: Annotated[
        Path | None, typer.Option(help="Where the pictures of a CSV lie; else beside it.")
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Ask this where the CSV asks nothing.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="A folder or a Hub id; else what dvc repro trained.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="A base of params.yaml, a folder or a Hub id.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures in one forward pass.")] = 8,
) -> None:
    inputs = read_inputs(pictures, images, question)
    counts = run(inputs, output, recipe, adapter, base, batch_size)
    typer.echo(f"{output}: {', '.join(f'{n} {what}' for what, n in counts.items())}")


if __name__ == "__main__":
    typer.run(main)
