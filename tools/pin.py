"""Pin what the full scale downloads: `python -m tools.pin [--dry-run | --check]`.

Commits of the Hub, versions of Kaggle, ETags and checksums of a bucket go into params.yaml, each
where it stands unpinned: what was fetched or built, else what the server says now. What has moved
since it was fetched is told on stderr.
"""

from typing import Annotated

import typer

from src import config
from src.errors import one_line
from src.overrides import override
from src.pins import survey


@one_line
def main(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; say what would be pinned.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail where something is to be said.")
    ] = False,
) -> None:
    config.load()
    found = survey(config.at_scale(config.PARAMS, "full"))
    for key, (value, why) in found.pins.items():
        typer.echo(f"{key}: {value}, {why}")
    for line in found.moved:
        typer.echo(f"note: {config.PARAMS}: {line}", err=True)
    for line in found.faults:
        typer.echo(f"error: {config.PARAMS}: {line}", err=True)
    if found.pins and not (dry_run or check):
        override(config.PARAMS, {key: value for key, (value, _) in found.pins.items()})
    done = "pinned" if not (dry_run or check) else "to be pinned"
    typer.echo(f"{config.PARAMS}: {len(found.pins)} {done}")
    if found.faults or (check and (found.pins or found.moved)):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
