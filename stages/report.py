"""Write the page of every recipe that was run with these values: `python -m stages.report`."""

from pathlib import Path

import typer

from src import config, recorded
from src.errors import one_line
from src.files import whole
from src.report.page import render

PAGE = Path("reports/index.html")


@one_line
def main() -> None:
    before = config.text()
    page = render(config.load())
    with whole(PAGE) as beside:
        # A name in a JSON file may hold half of a surrogate pair, which UTF-8 cannot write.
        beside.write_bytes(page.encode("utf-8", "replace"))
    typer.echo(f"{PAGE}: {PAGE.stat().st_size / 1e6:.1f} MB")
    recorded.check(before, "report")


if __name__ == "__main__":
    typer.run(main)
