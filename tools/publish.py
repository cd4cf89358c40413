"""Publish a trained recipe: `python -m tools.publish RECIPE --to hub --repo owner/name`.

What goes out: the adapter with its second head and processor, or the merged model; its numbers,
every parameter, the revisions of data and base, and a model card. No picture and no prediction.
Without --yes it only says what it would send.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

import typer
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from src import config
from src.errors import UserError, one_line
from src.files import whole
from src.publishing import bundle, hub, kaggle, merge
from src.publishing.bundle import Place, Target
from src.publishing.trained import Trained, gather


@one_line
def main(
    recipe: Annotated[str, typer.Argument(help="Its name in params.yaml.")],
    to: Annotated[Place, typer.Option(help="The Hugging Face Hub, Kaggle Models or a folder.")],
    repo: Annotated[str | None, typer.Option(help="owner/name on the Hub or Kaggle.")] = None,
    output: Annotated[Path | None, typer.Option(help="The folder to write.")] = None,
    merged: Annotated[
        bool, typer.Option(help="The whole model, unquantized, instead of the adapter.")
    ] = False,
    private: Annotated[
        bool, typer.Option("--private/--public", help="Who sees it on the Hub or Kaggle.")
    ] = True,
    licence: Annotated[
        str | None, typer.Option(help="As the Hub (apache-2.0) or Kaggle (Apache 2.0) spells it.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(help="Although something changed since it was trained; the card says so."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Send it; without, only say what.")] = False,
) -> None:
    target = Target(to, _address(to, repo, output), private, licence, merged)
    if to is Place.kaggle:
        kaggle.check(target)
    trained = gather(config.load(), recipe)
    if trained.changes and not force:
        raise UserError(
            f"{recipe} was trained or measured before {_listed(trained.changes)} changed: run "
            f"`dvc repro evaluate@{recipe}`, or publish it as it was with --force"
        )
    bundle.check(trained, target)
    with bundle.staged(trained, target, weights=yes) as folder:
        _announce(trained, target, output, folder, merge_later=merged and not yes)
        if not yes:
            typer.echo("dry run: nothing was sent; --yes sends it")
            return
        where = _send(folder, trained, target, output)
    typer.echo(where or "unchanged: it holds just that already")


def _address(to: Place, repo: str | None, output: Path | None) -> str:
    """What the card calls it; a folder by its name alone, whoever's disk it lies on."""
    if to is Place.folder:
        if output is None or repo:
            raise UserError("--to folder goes with --output FOLDER")
        _check_output(output)
        return f"path/to/{output.resolve().name}"
    if repo is None or output:
        raise UserError(f"--to {to.value} goes with --repo owner/name")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--repo {repo}: {' '.join(str(error).split())}") from None
    if "/" not in repo:
        raise UserError(f"--repo {repo}: must be owner/name")
    return repo


def _check_output(output: Path) -> None:
    """Only what this command wrote, or nothing, may be written over; and there must be a way to."""
    above = next(path for path in output.absolute().parents if path.exists())
    try:
        with TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written: {error.strerror}") from None
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"--output {output}: is a file; name a folder that is not there")
    if odd := bundle.strangers(output):
        raise UserError(
            f"--output {output}: holds {odd[0]}, which this command is not known to have "
            "written; name a folder that is not there"
        )


def _announce(
    trained: Trained, target: Target, output: Path | None, folder: Path, merge_later: bool
) -> None:
    files = bundle.contents(folder)
    if merge_later:
        files[f"{bundle.MERGED_WEIGHTS} (about, not merged yet)"] = merge.size(trained.recipe)
    seen = "" if output else f", {'private' if target.private else 'public'}"
    place = output or target.address
    typer.echo(f"{trained.recipe.name} ({trained.params.scale}) to {target.place} {place}{seen}")
    for name, size in files.items():
        typer.echo(f"{size:>16,}  {name}")
    typer.echo(f"{sum(files.values()):>16,}  bytes in {len(files)} files")


def _send(folder: Path, trained: Trained, target: Target, output: Path | None) -> str | None:
    if output:
        with whole(output) as beside:
            shutil.move(folder, beside)
        return str(output)
    if target.place is Place.hub:
        message = f"{trained.recipe.name} of vlm-recipes, scale {trained.params.scale}"
        return hub.push(folder, target.address, target.private, message)
    return kaggle.push(folder, trained, target)


def _listed(changes: list[str], shown: int = 3) -> str:
    more = f" and {len(changes) - shown} more" if len(changes) > shown else ""
    return ", ".join(changes[:shown]) + more


if __name__ == "__main__":
    typer.run(main)
