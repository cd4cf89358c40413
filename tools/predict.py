"""Ask a tuned model: `python -m tools.predict FILES --recipe NAME --output FILE`.

FILES is a picture or video, a folder, a glob in quotes, a CSV of `image_name` or `video_name` with
or without `question` and `answer`, or a table of WebVid. A run that was stopped goes on where it
was when it is started again.
"""

from pathlib import Path
from typing import Annotated

import typer

from src.errors import one_line
from src.inference.batch import read_inputs, run

OF_RECIPE = "Else what stands in the recipe's generation."


@one_line
def main(
    files: Annotated[str, typer.Argument(help="A picture or video, a folder, a glob or a CSV.")],
    recipe: Annotated[str, typer.Option(help="Its name in params.yaml.")],
    output: Annotated[Path, typer.Option(help="A .csv, .jsonl or .parquet file to write.")],
    images: Annotated[
        Path | None, typer.Option(help="Where the files of a CSV lie; else beside it.")
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
    batch_size: Annotated[int, typer.Option(min=1, help="Files in one forward pass.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many files.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help=OF_RECIPE)] = None,
    num_beams: Annotated[int | None, typer.Option(help=OF_RECIPE)] = None,
    temperature: Annotated[float | None, typer.Option(help=OF_RECIPE)] = None,
    top_p: Annotated[float | None, typer.Option(help=OF_RECIPE)] = None,
) -> None:
    inputs = read_inputs(files, images, question, limit)
    asked = {
        "max_new_tokens": max_new_tokens,
        "num_beams": num_beams,
        "temperature": temperature,
        "top_p": top_p,
    }
    generation = {key: value for key, value in asked.items() if value is not None}
    counts = run(inputs, output, recipe, adapter, base, batch_size, generation)
    typer.echo(f"{output}: {', '.join(f'{n} {what}' for what, n in counts.items())}")


if __name__ == "__main__":
    typer.run(main)
