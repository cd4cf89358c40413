"""Kaggle's own client: signed in, patient, and its refusals in one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, TypeVar

import requests

from src.errors import UserError
from src.schema import KaggleDataset

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

T = TypeVar("T")

TRIES = 5
TOKEN = (
    "make a token at https://www.kaggle.com/settings/api and put it into KAGGLE_API_TOKEN or"
    " ~/.kaggle/access_token"
)


def signed_in(source: KaggleDataset) -> "KaggleApi":
    """The client, with a token that Kaggle accepts.

    Raises:
        UserError: no token, or a refused one.
    """
    api = client()
    try:
        with redirect_stdout(StringIO()):
            patiently(api, api.authenticate)
    except requests.RequestException:
        raise
    except (SystemExit, ValueError):  # ValueError: of a token that fits in no header
        raise UserError(f"{name(source)}: {token_fault()}; {TOKEN}") from None
    return api


def patiently(api: "KaggleApi", call: Callable[[], T]) -> T:
    """Call again, a little later, after what may pass."""

    def attempt() -> T:
        try:
            return call()
        except requests.HTTPError as error:
            # The client tries again after a lost connection, but not after 502 or 503.
            if status(error.response) >= 500:
                raise requests.ConnectionError(error, response=error.response) from error
            raise

    return api.with_retry(attempt, max_retries=TRIES)()


@contextmanager
def in_one_line(source: KaggleDataset) -> Iterator[None]:
    """Make a refusal or a lost connection inside a UserError."""
    try:
        yield
    except requests.JSONDecodeError:
        raise UserError(f"{name(source)}: {web_page(source)}") from None
    except requests.RequestException as error:
        if error.response is not None:
            raise UserError(f"{name(source)}: {_refusal(source, status(error.response))}") from None
        raise UserError(
            f"{name(source)}: the connection to Kaggle failed ({type(error).__name__}); run it"
            " again when there is one: what has arrived is kept"
        ) from None


def name(source: KaggleDataset) -> str:
    """The data set and its version, for people."""
    return f"Kaggle data set {source.dataset}, version {source.version or 'newest'}"


def web_page(source: KaggleDataset) -> str:
    """What to do about a web page that came instead of the archive."""
    return (
        "Kaggle sends a web page instead of the archive, perhaps a login page: see whether"
        f" {_page(source)} exists and has that version, or {TOKEN}"
    )


def client() -> "KaggleApi":
    """Kaggle's own client, not signed in yet. Raises UserError where it has no place to write."""
    # The package signs in when it is imported, prints advice on a failure and hides its reason.
    try:
        with redirect_stdout(StringIO()):
            from kaggle.api.kaggle_api_extended import KaggleApi
    except OSError as error:
        raise UserError(
            f"the Kaggle client cannot make its folder {error.filename} ({error.strerror}); set"
            " KAGGLE_CONFIG_DIR to one that you may write to"
        ) from None
    api = KaggleApi()
    # It takes VERBOSE in the environment for an order to print the token and the whole archive.
    api.args = [argument for argument in api.args if argument != "--verbose"]
    return api


def _page(source: KaggleDataset) -> str:
    return f"https://www.kaggle.com/datasets/{source.dataset}"


def token_fault() -> str:
    """Why signing in failed, as far as the token tells."""
    from kagglesdk import get_access_token_from_env

    token, place = get_access_token_from_env()
    return f"Kaggle does not accept the token of {place}" if token else "it needs a Kaggle token"


def status(answer: requests.Response) -> int:
    """The client also raises when an answer with status 200 holds the code of an error."""
    return answer.status_code if answer.status_code >= 400 else answer.json()["code"]


def _refusal(source: KaggleDataset, status: int) -> str:
    if status == 401:
        return f"Kaggle does not accept the token (401); {TOKEN}"
    if status == 403:
        return (
            f"Kaggle refuses it (403): open {_page(source)} to see whether it exists and whether"
            f" your account must accept its terms, or {TOKEN}"
        )
    if status == 404:
        return f"Kaggle has no such data set or version (404); compare with {_page(source)}"
    return f"Kaggle answers with status {status}; run it again later"
