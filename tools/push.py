"""Push to the remote storage, runs of the past too: `python -m tools.push [--remote NAME]`.

`dvc push --run-cache` pushes what the workspace holds, and of every other run only the note that it
was made. Here the outputs of those runs go along, so that nobody has to run them again:
`dvc pull --run-cache` brings the notes, and `dvc repro --pull` the outputs as they are needed.
"""

from typing import Annotated

import typer
from dvc.cli import main as dvc
from dvc.exceptions import DvcException
from dvc.repo import Repo

from src.errors import UserError, one_line


@one_line
def main(
    remote: Annotated[str | None, typer.Option(help="Else the default one.")] = None,
) -> None:
    if status := dvc(["push", "--run-cache", *(["--remote", remote] if remote else [])]):
        raise typer.Exit(status)
    try:
        pushed, failed = _push_runs(remote)
    except DvcException as error:
        raise UserError(f"outputs of earlier runs cannot be pushed: {error}") from None
    typer.echo(f"{pushed} files of earlier runs pushed")
    if failed:
        raise UserError(f"{failed} files of earlier runs were not pushed; start it again")


def _push_runs(remote: str | None) -> tuple[int, int]:
    """Push the outputs of all runs that this cache knows; returns how many went and failed."""
    pushed = failed = 0
    with Repo() as repo, repo.lock:
        runs = repo.stage_cache.push(remote)
        for odb, outputs in repo.stage_cache.get_used_objs(runs).items():
            done = repo.cloud.push(outputs, remote=remote, odb=odb)
            pushed, failed = pushed + len(done.transferred), failed + len(done.failed)
    return pushed, failed


if __name__ == "__main__":
    typer.run(main)
