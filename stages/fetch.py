"""Bring the raw files of one data set, in its publisher's layout: `python -m stages.fetch DATA`."""

from importlib import import_module
from pathlib import Path

import typer

from src import config
from src.errors import UserError, one_line
from src.files import whole, write_json


@one_line
def main(data: str) -> None:
    params = config.load()
    source = config.pick(params.data, data, "data").source
    with whole(Path("data/raw") / data) as folder:
        folder.mkdir()
        fetch = import_module(f"src.sources.{source.kind}").fetch
        try:
            provenance = fetch(getattr(source, source.kind), folder, params.seed)
        except UserError as error:
            key = f"data.{data}.{params.scale}.{source.kind}"
            raise UserError(f"{config.PARAMS}: {key}: {error}") from None
        write_json(folder / "_source.json", {"source": source.kind} | provenance)


if __name__ == "__main__":
    typer.run(main)
