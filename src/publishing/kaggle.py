"""Publishing to Kaggle Models: a model, of it a variation for each recipe, of that versions."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import requests
from huggingface_hub import ModelCard

from src.errors import UserError
from src.files import digest, write_json
from src.publishing.bundle import CARD, Target
from src.publishing.trained import Trained
from src.sources.kaggle_client import TOKEN, client, status, token_fault

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

FRAMEWORK = "transformers"
PAGE = "https://www.kaggle.com/models"
SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
Answer = TypeVar("Answer")


def check(target: Target) -> None:
    """Raises UserError where Kaggle could not take such a name, or nobody said which licence."""
    name = target.address.partition("/")[2]
    if not SLUG.fullmatch(name):
        raise UserError(
            f"--repo {target.address}: {name} is no name for Kaggle; it takes small letters, "
            "digits and single hyphens"
        )
    if not target.licence:
        raise UserError(
            "Kaggle wants a licence: name one that data and base allow, as its list of licences "
            "for models spells it: --licence 'Apache 2.0'"
        )


def variation(trained: Trained, target: Target) -> str:
    """`owner/model/framework/variation` of a recipe."""
    slug = trained.recipe.name.replace("_", "-") + ("-merged" if target.merged else "")
    return f"{target.address}/{FRAMEWORK}/{slug}"


def push(folder: Path, trained: Trained, target: Target) -> str | None:
    """Send the folder as a version of the recipe's variation; make model and variation if needed.

    A digest of the files stands in the variation's overview, written last: what was broken off is
    sent again, what is there already is not.

    Returns:
        The variation's address; None where its newest version holds just that already.

    Raises:
        UserError: no token or one that may not write there, another visibility than asked for, no
            network, a file that Kaggle does not take.
    """
    place = variation(trained, target)
    with _in_one_line(target.address), TemporaryDirectory() as meta:
        api = client()
        _sign_in(api, target)
        _only_whole_files(api)
        model = _if_there(lambda: api.model_get(target.address))
        if model and model.is_private != target.private:
            is_now, option = ("public", "--public") if target.private else ("private", "--private")
            raise UserError(
                f"{target.address} is {is_now} on Kaggle: change that there, or add {option}"
            )
        there = _if_there(lambda: api.model_instance_get(place)) if model else None
        overview = f"{trained.recipe.name} of vlm-recipes; files {digest(folder)}"
        if there and there.overview == overview:
            return None
        about = Path(meta)
        card = ModelCard.load(folder / CARD).text.strip()
        if not model:
            write_json(about / api.MODEL_METADATA_FILE, _model(target, card))
            _done(api.model_create_new(meta))
        described = folder / api.MODEL_INSTANCE_METADATA_FILE
        described_values = _variation(place, trained, target, card)
        # Kaggle's client reads it from the folder, and does not send it along.
        write_json(described, described_values | {"overview": ""})
        if there:
            _done(api.model_instance_version_create(place, str(folder), quiet=True, dir_mode="zip"))
        else:
            _done(api.model_instance_create(str(folder), quiet=True, dir_mode="zip"))
        write_json(described, described_values | {"overview": overview})
        _done(api.model_instance_update(str(folder)))
    return f"{PAGE}/{place}"


def _model(target: Target, card: str) -> dict[str, Any]:
    owner, name = target.address.split("/")
    return {
        "ownerSlug": owner,
        "slug": name,
        "title": name.replace("-", " "),
        "isPrivate": target.private,
        "description": card,
    }


def _variation(place: str, trained: Trained, target: Target, card: str) -> dict[str, Any]:
    owner, model, framework, slug = place.split("/")
    base = {} if trained.built else {"modelInstanceType": "externalVariant"}
    if base:
        base["externalBaseModelUrl"] = f"https://huggingface.co/{trained.manifest['id']}"
    return {
        "ownerSlug": owner,
        "modelSlug": model,
        "instanceSlug": slug,
        "framework": framework,
        "usage": card,
        "licenseName": target.licence,
        "fineTunable": True,
        "trainingData": [],
        **base,
    }


def _sign_in(api: "KaggleApi", target: Target) -> None:
    try:
        with redirect_stdout(StringIO()):
            api.authenticate()
    except requests.RequestException:
        raise
    except (SystemExit, ValueError):  # ValueError: of a token that fits in no header
        raise UserError(f"{target.address}: {token_fault()}; {TOKEN}") from None


def _only_whole_files(api: "KaggleApi") -> None:
    """Stop at a file that fails to arrive: the client would publish a version without it."""
    send = api._upload_file

    def send_or_stop(name: str, *rest: Any) -> Any:
        with redirect_stdout(StringIO()) as said:
            sent = send(name, *rest)
        if sent is None:
            why = said.getvalue().strip().rpartition("\n")[2]
            raise UserError(
                f"{name}: Kaggle's storage does not take it{f' ({why})' if why else ''}; no "
                "version was made: run it again"
            )
        return sent

    api._upload_file = send_or_stop


def _if_there(ask: Callable[[], Answer]) -> Answer | None:
    try:
        return ask()
    except requests.HTTPError as error:
        if status(error.response) == 404:
            return None
        raise


def _done(answer: Any) -> None:
    """Kaggle answers some refusals with status 200 and words."""
    if answer.error:
        raise UserError(f"Kaggle does not take it: {' '.join(answer.error.split())}")


@contextmanager
def _in_one_line(address: str) -> Iterator[None]:
    try:
        yield
    except requests.RequestException as error:
        if error.response is not None:
            raise UserError(f"{address}: {_refusal(status(error.response), error)}") from None
        raise UserError(
            f"{address}: the connection to Kaggle failed ({type(error).__name__}); run it again "
            "when there is one"
        ) from None
    except ValueError as error:
        raise UserError(f"{address}: Kaggle's client does not take it: {error}") from None


def _refusal(code: int, error: requests.RequestException) -> str:
    if code == 401:
        return f"Kaggle does not accept the token (401), it may have expired; {TOKEN}"
    if code == 403:
        return (
            "your token may not write there (403): the name may be somebody else's; choose one "
            f"of your own, or {TOKEN}"
        )
    if code == 413:
        return "a file is too big for Kaggle (413); leave --merged out"
    return f"Kaggle answers with status {code}: {' '.join(str(error).split())}"
