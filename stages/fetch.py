"""Bring the raw files of one data set, in its publisher's layout: `python -m stages.fetch DATA`.

What fixes them, such as a commit of the Hub, is recorded in `metrics/data/DATA.json`.
"""

from importlib import import_module
from pathlib import Path

import typer

from src import config, provenance, recorded
from src.errors import UserError, one_line
from src.files import whole, write_json


@one_line
def main(data: str) -> None:
    before = config.text()
    params = config.load()
    source = config.pick(params.data, data, "data").source
    asked = getattr(source, source.kind)
    key = f"data.{data}.{params.scale}.{source.kind}"
    with whole(Path("data/raw") / data) as folder:
        folder.mkdir()
        fetch = import_module(f"src.sources.{source.kind}").fetch
        try:
            found = fetch(asked, folder, params.seed)
        except UserError as error:
            raise UserError(f"{config.PARAMS}: {key}: {error}") from None
        found = {"source": source.kind} | found
        write_json(folder / "_source.json", found)
    record = provenance.of(asked, found)
    for note in provenance.notes("data", data, record):
        typer.echo(f"note: {config.PARAMS}: {key}: {note}", err=True)
    write_json(provenance.path("data", data), record)
    recorded.check(before, f"fetch@{data}")


if __name__ == "__main__":
    typer.run(main)
