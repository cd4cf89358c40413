"""A data set of kaggle.com, at one version."""

import base64
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from src.errors import UserError
from src.schema import KaggleDataset
from src.sources import download
from src.sources.unpack import unpack

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

TRIES = 5
TOKEN = (
    "make a token at https://www.kaggle.com/settings/api and put it into KAGGLE_API_TOKEN or"
    " ~/.kaggle/access_token"
)


def fetch(source: KaggleDataset, folder: Path, seed: int) -> dict[str, object]:
    """Download that version and unpack it into the empty `folder`; returns its provenance.

    A download that breaks off stays in .downloads of the repository, and the next call goes on
    from there.

    Raises:
        UserError: no token, a refused token, an unknown data set or version, no connection, a
            damaged archive, a full disk.
    """
    name = f"kaggle_{source.dataset.replace('/', '_')}_{source.version}"
    with download.place(name) as downloads:
        archive, md5 = _download(source, downloads)
        _check_md5(source, archive, md5)
        try:
            files = unpack(archive, folder)
        except UserError:
            # With no checksum to vouch for it, the download itself may be at fault.
            if md5 is None:
                shutil.rmtree(downloads)
            raise
        return {
            "dataset": source.dataset,
            "version": source.version,
            "archive_bytes": archive.stat().st_size,
            "archive_sha256": download.digest(archive, "sha256"),
            "files": files,
        }


def _download(source: KaggleDataset, folder: Path) -> tuple[Path, bytes | None]:
    """The archive, of the announced length, and the MD5 that the server announced, if any."""
    name = _name(source)
    archive = folder / f"{source.dataset.split('/')[1]}.zip"
    try:
        headers = _run_client(source, archive)
    except requests.JSONDecodeError:
        raise UserError(f"{name}: {_web_page(source)}") from None
    except requests.RequestException as error:
        if error.response is not None:
            raise UserError(f"{name}: {_refusal(source, status(error.response))}") from None
        raise UserError(
            f"{name}: the connection to Kaggle failed ({type(error).__name__}); run it again when"
            " there is one: what has arrived is kept"
        ) from None
    except ValueError:
        # The client wrote an answer that is not the archive's rest, such as an error page.
        shutil.rmtree(folder)
        raise UserError(f"{name}: Kaggle broke the download off; run it again") from None
    except OSError as error:
        raise UserError(f"{name}: {folder}: {error.strerror}") from None
    for part in headers.get("x-goog-hash", "").split(","):
        kind, _, value = part.strip().partition("=")
        if kind == "md5":
            return archive, base64.b64decode(value)
    return archive, None


def _run_client(source: KaggleDataset, archive: Path) -> requests.structures.CaseInsensitiveDict:
    """Download with Kaggle's own client; returns the headers that came with the archive."""
    api = client()
    answers: list[requests.Response] = []

    def look(answer: requests.Response) -> None:
        answers.append(answer)
        if answer.headers.get("Content-Type", "").startswith(("text/html", "application/json")):
            raise UserError(f"{_name(source)}: {_web_page(source)}")
        here = archive.stat().st_size if archive.exists() else 0
        rest = int(answer.headers.get("Content-Length", 0)) - here
        download.check_room(_name(source), archive.parent, rest)

    _sign_in(api, source)
    api.get_response_processor = lambda: look
    version = f"{source.dataset}/{source.version}"
    _try(api, lambda: api.dataset_download_files(version, str(archive.parent), quiet=False))
    return answers[-1].headers


def _sign_in(api: "KaggleApi", source: KaggleDataset) -> None:
    try:
        with redirect_stdout(StringIO()):
            _try(api, api.authenticate)
    except requests.RequestException:
        raise
    except (SystemExit, ValueError):  # ValueError: of a token that fits in no header
        raise UserError(f"{_name(source)}: {token_fault()}; {TOKEN}") from None


def _try(api: "KaggleApi", call: Callable[[], None]) -> None:
    def attempt() -> None:
        try:
            call()
        except requests.HTTPError as error:
            # The client tries again after a lost connection, but not after 502 or 503.
            if status(error.response) >= 500:
                raise requests.ConnectionError(error, response=error.response) from error
            raise

    api.with_retry(attempt, max_retries=TRIES)()


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


def _check_md5(source: KaggleDataset, archive: Path, md5: bytes | None) -> None:
    if md5 and bytes.fromhex(download.digest(archive, "md5")) != md5:
        shutil.rmtree(archive.parent)
        raise UserError(
            f"{_name(source)}: the archive arrived damaged (its MD5 is not the one that Kaggle"
            " announced) and is removed; run it again"
        )


def _name(source: KaggleDataset) -> str:
    return f"Kaggle data set {source.dataset}, version {source.version}"


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


def _web_page(source: KaggleDataset) -> str:
    return (
        "Kaggle sends a web page instead of the archive, perhaps a login page: see whether"
        f" {_page(source)} exists and has that version, or {TOKEN}"
    )
