"""A data set of kaggle.com, at one version."""

import base64
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from src.errors import UserError
from src.schema import KaggleDataset
from src.sources import download
from src.sources.kaggle_client import in_one_line, name, patiently, signed_in, web_page
from src.sources.unpack import unpack

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi


def fetch(source: KaggleDataset, folder: Path, seed: int) -> dict[str, object]:
    """Download that version and unpack it into the empty `folder`; returns its provenance.

    A download that breaks off stays in .downloads of the repository, and the next call goes on
    from there.

    Raises:
        UserError: no token, a refused token, an unknown data set or version, no connection, a
            damaged archive, a full disk.
    """
    if source.version is None:
        with in_one_line(source):
            source = _at_newest(signed_in(source), source)
    place = f"kaggle_{source.dataset.replace('/', '_')}_{source.version}"
    with download.place(place) as downloads:
        archive, announced = _download(source, downloads)
        md5 = download.digest(archive, "md5")
        if announced not in (None, md5):
            shutil.rmtree(downloads)
            raise UserError(
                f"{name(source)}: the archive arrived damaged (its MD5 is not the one that Kaggle"
                " announced) and is removed; run it again"
            )
        try:
            files = unpack(archive, folder)
        except UserError:
            # With no checksum to vouch for it, the download itself may be at fault.
            if announced is None:
                shutil.rmtree(downloads)
            raise
        return {
            "dataset": source.dataset,
            "version": source.version,
            "archive_bytes": archive.stat().st_size,
            "archive_md5": md5,
            "archive_sha256": download.digest(archive, "sha256"),
            "files": files,
        }


def announced(source: KaggleDataset) -> dict[str, object]:
    """What Kaggle says of that version now, under the keys of `fetch`; downloads nothing.

    Raises UserError as `fetch` does.
    """
    from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

    with in_one_line(source):
        api = signed_in(source)
        source = source if source.version else _at_newest(api, source)
        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = source.dataset.split("/")
        request.dataset_version_number = source.version

        def ask() -> requests.structures.CaseInsensitiveDict:
            with (
                api.build_kaggle_client() as kaggle,
                kaggle.datasets.dataset_api_client.download_dataset(request) as answer,
            ):
                _no_web_page(source, answer)
                return answer.headers

        headers = patiently(api, ask)
    said = {"dataset": source.dataset, "version": source.version, "archive_md5": _md5(headers)}
    return said | {"archive_bytes": int(headers["Content-Length"])}


def _at_newest(api: "KaggleApi", source: KaggleDataset) -> KaggleDataset:
    field = "current_version_number"
    said = patiently(api, lambda: api.dataset_status(source.dataset, format=f"json({field})"))
    return source.model_copy(update={"version": json.loads(said)[field]})


def _download(source: KaggleDataset, folder: Path) -> tuple[Path, str | None]:
    """The archive, of the announced length, and the MD5 that the server announced, if any."""
    archive = folder / f"{source.dataset.split('/')[1]}.zip"
    try:
        with in_one_line(source):
            return archive, _md5(_run_client(source, archive))
    except ValueError:
        # The client wrote an answer that is not the archive's rest, such as an error page.
        shutil.rmtree(folder)
        raise UserError(f"{name(source)}: Kaggle broke the download off; run it again") from None
    except OSError as error:
        raise UserError(f"{name(source)}: {folder}: {error.strerror}") from None


def _run_client(source: KaggleDataset, archive: Path) -> requests.structures.CaseInsensitiveDict:
    """Download with Kaggle's own client; returns the headers that came with the archive."""
    answers: list[requests.Response] = []

    def look(answer: requests.Response) -> None:
        answers.append(answer)
        _no_web_page(source, answer)
        here = archive.stat().st_size if archive.exists() else 0
        rest = int(answer.headers.get("Content-Length", 0)) - here
        download.check_room(name(source), archive.parent, rest)

    api = signed_in(source)
    api.get_response_processor = lambda: look
    version = f"{source.dataset}/{source.version}"
    patiently(api, lambda: api.dataset_download_files(version, str(archive.parent), quiet=False))
    return answers[-1].headers


def _no_web_page(source: KaggleDataset, answer: requests.Response) -> None:
    if answer.headers.get("Content-Type", "").startswith(("text/html", "application/json")):
        raise UserError(f"{name(source)}: {web_page(source)}")


def _md5(headers: requests.structures.CaseInsensitiveDict) -> str | None:
    """The announced MD5 in hexadecimal digits, as far as there is one."""
    for part in headers.get("x-goog-hash", "").split(","):
        kind, _, value = part.strip().partition("=")
        if kind == "md5":
            return base64.b64decode(value).hex()
    return None
