"""Check, group and split the raw files of one data set: `python -m stages.prepare DATA`."""

from pathlib import Path

import typer

from src import config
from src.errors import one_line
from src.files import whole
from src.prepare import prepare


@one_line
def main(data: str) -> None:
    params = config.load()
    chosen = config.pick(params.data, data, "data")
    with whole(Path("data/prepared") / data) as folder:
        folder.mkdir()
        prepare(chosen, params.seed, Path("data/raw") / data, folder)


if __name__ == "__main__":
    typer.run(main)
