"""Check, group and split the raw files of one data set: `python -m stages.prepare DATA`."""

import os
from pathlib import Path

import typer

from src import config, recorded
from src.errors import UserError, one_line
from src.files import whole
from src.prepare import prepare


@one_line
def main(data: str) -> None:
    before = config.text()
    params = config.load()
    chosen = config.pick(params.data, data, "data")
    out = Path("data/prepared") / data
    try:
        with whole(out) as folder:
            folder.mkdir()
            prepare(chosen, params.seed, Path("data/raw") / data, folder)
    except OSError as error:
        # Where a write fails, most libraries name no file, and pyarrow has words of its own.
        why = os.strerror(error.errno) if error.errno else error
        raise UserError(f"data.{data}: {error.filename or out}: {why}") from None
    recorded.check(before, f"prepare@{data}")


if __name__ == "__main__":
    typer.run(main)
