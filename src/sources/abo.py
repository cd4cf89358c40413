"""Amazon Berkeley Objects: the listings and the small pictures, from the public bucket."""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from funcy import retry
from tqdm import tqdm

from src.errors import UserError
from src.schema import Abo, Archive
from src.sources import download
from src.sources.unpack import CHUNK, unpack

KEYS = ("listings", "images")  # in params.yaml; also the folder that each archive holds
MD5 = re.compile(r'"([0-9a-f]{32})"')  # the ETag of an upload in several parts is none


def fetch(source: Abo, folder: Path, seed: int) -> dict[str, object]:
    """Download the two archives and unpack them into the empty `folder`; returns their provenance.

    `folder` then holds listings/ and images/ as published, and below about/ what else each archive
    holds, such as its licence. A download that breaks off stays in .downloads of the repository,
    and the next call goes on from there.

    Raises:
        UserError: no connection, no such file, one that is not as the parameters say, a damaged
            archive, a full disk.
    """
    with download.place("abo") as place:
        files = {key: place / re.sub(r"[^\w.-]", "_", _url(source, key)) for key in KEYS}
        _check_room(source, place, files)
        sums = {key: _download(source, key, file) for key, file in files.items()}
        unpacked = {key: _unpack(source, key, file, folder) for key, file in files.items()}
    return {"url": source.url} | {key: sums[key] | unpacked[key] for key in KEYS}


def _check_room(source: Abo, place: Path, files: dict[str, Path]) -> None:
    sizes = {key: _archive(source, key).size for key in KEYS}
    rest = sum(max(sizes[key] - download.length(file), 0) for key, file in files.items())
    # The archives are not compressed: what is unpacked takes as much again.
    download.check_room(source.url, place, rest + sum(sizes.values()))


def announced(source: Abo) -> dict[str, object]:
    """What the bucket says of the two archives now, under the keys of `fetch`; downloads nothing.

    Raises UserError as `fetch` does.
    """
    return {"url": source.url} | {key: _announced(source, key) for key in KEYS}


def _announced(source: Abo, key: str) -> dict[str, object]:
    with _in_one_line(source, key):
        headers = _ask(_url(source, key))
    sha256 = headers.get("x-amz-checksum-sha256", "-")
    return {
        "path": _archive(source, key).path,
        "bytes": int(headers["Content-Length"]),
        "etag": _bare(headers.get("ETag", "")),
        # That of an upload in several parts is made of those of the parts, and says how many.
        "sha256": None if "-" in sha256 else base64.b64decode(sha256).hex(),
    }


@retry(
    download.TRIES,
    errors=requests.RequestException,
    timeout=lambda tried: 2**tried,
    filter_errors=download.may_pass,
)
def _ask(url: str) -> requests.structures.CaseInsensitiveDict:
    headers = {"Accept-Encoding": "identity", "x-amz-checksum-mode": "ENABLED"}
    with requests.head(
        url, headers=headers, allow_redirects=True, timeout=download.TIMEOUT
    ) as answer:
        answer.raise_for_status()
        return answer.headers


def _bare(etag: str) -> str | None:
    """A strong ETag without its quotes; of a weak one, two objects need not be the same."""
    return None if etag.startswith("W/") else etag.strip('"') or None


def _download(source: Abo, key: str, file: Path) -> dict[str, object]:
    """Bring `file` to its full length and check it; returns what is known of it."""
    archive = _archive(source, key)
    try:
        with _in_one_line(source, key):
            _bring_rest(_url(source, key), key, archive, file)
    except OSError as error:
        raise UserError(f"{key}: {file}: {error.strerror}") from None
    sha256 = _check(_url(source, key), key, archive, file)
    etag = _bare(download.etag(file))
    return {"path": archive.path, "bytes": archive.size, "etag": etag, "sha256": sha256}


@contextmanager
def _in_one_line(source: Abo, key: str) -> Iterator[None]:
    url = _url(source, key)
    try:
        yield
    except ValueError:  # the client refuses any address, also one it is sent on to, but of HTTP
        raise UserError(
            f"{key}: {url} is no address of HTTP or leads to one that is none; correct url or path"
        ) from None
    except requests.HTTPError as error:
        raise UserError(f"{key}: {_refusal(url, error.response.status_code)}") from None
    except requests.RequestException as error:
        raise UserError(
            f"{key}: the connection to {source.url} failed ({type(error).__name__}); run it again"
            " when there is one: what has arrived is kept"
        ) from None


# The retries of requests end where an answer begins; most of a long download comes after that.
@retry(
    download.TRIES,
    errors=requests.RequestException,
    timeout=lambda tried: 2**tried,
    filter_errors=download.may_pass,
)
def _bring_rest(url: str, key: str, archive: Archive, file: Path) -> None:
    size = archive.size
    here, etag = download.length(file), download.etag(file)
    if here == size:
        return
    headers = {"Accept-Encoding": "identity"}
    if here and etag:
        headers |= {"Range": f"bytes={here}-", "If-Range": etag}
    with requests.get(url, headers=headers, stream=True, timeout=download.TIMEOUT) as answer:
        described = answer.headers.get("Content-Range"), answer.headers.get("ETag")
        expected = f"bytes {here}-{size - 1}/{size}", etag
        if answer.status_code in (206, 416) and described != expected:
            download.remove(file)
            raise requests.ConnectionError("not the rest of what is here", response=answer)
        answer.raise_for_status()
        if answer.status_code != 206:
            _begin(url, key, archive, file, answer)
        _append(key, size, file, answer)


def _begin(url: str, key: str, archive: Archive, file: Path, answer: requests.Response) -> None:
    download.remove(file)
    changed = "its publisher changed it; look at what is new, then correct size, etag and sha256"
    length = answer.headers.get("Content-Length", "an unknown number of")
    if length != str(archive.size):
        raise UserError(f"{key}.size: {url} has {length} bytes, not {archive.size}: {changed}")
    etag = answer.headers.get("ETag", "")
    if archive.etag not in (None, _bare(etag)):
        raise UserError(f"{key}.etag: {url} has {_bare(etag)}, not {archive.etag}: {changed}")
    download.note_etag(file, etag)


def _append(key: str, size: int, file: Path, answer: requests.Response) -> None:
    with (
        file.open("ab") as target,
        tqdm(
            desc=key, total=size, initial=target.tell(), unit="B", unit_scale=True, disable=None
        ) as progress,
    ):
        for chunk in answer.iter_content(CHUNK):
            target.write(chunk)
            progress.update(len(chunk))


def _check(url: str, key: str, archive: Archive, file: Path) -> str:
    md5 = MD5.fullmatch(download.etag(file))
    if md5 and download.digest(file, "md5") != md5[1]:
        download.remove(file)
        raise UserError(
            f"{key}: {url} arrived damaged (its MD5 is not the one that was announced) and is"
            " removed; run it again"
        )
    sha256 = download.digest(file, "sha256")
    if archive.sha256 not in (None, sha256):
        download.remove(file)
        raise UserError(
            f"{key}.sha256: {url} has {sha256}, not {archive.sha256}, and is removed; run it again,"
            " or correct sha256 if the publisher changed the file"
        )
    return sha256


def _unpack(source: Abo, key: str, file: Path, folder: Path) -> dict[str, object]:
    # Both archives hold a README.md and a licence beside their folder.
    about = folder / "about" / key
    about.mkdir(parents=True)
    try:
        files = unpack(file, about)
    except UserError as error:
        # With no checksum to vouch for it, the download itself may be at fault. Not so where some
        # of it was unpacked: that is done with sound archives only.
        vouched = MD5.fullmatch(download.etag(file)) or _archive(source, key).sha256
        if not vouched and not any(about.iterdir()):
            download.remove(file)
        raise UserError(f"{key}: {error}") from None
    if not (about / key).is_dir():
        raise UserError(
            f"{key}.path: {_archive(source, key).path} holds no folder {key!r}; name the archive"
            " that does"
        )
    texts = _first_lines(about)
    (about / key).rename(folder / key)
    return {"files": files, "texts": texts}


def _first_lines(folder: Path) -> dict[str, str]:
    """The first line of the licence and of the README, which states it, too."""
    lines = {}
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        if re.match(r"licen[cs]e|readme", path.name, re.IGNORECASE) and path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                name = path.relative_to(folder).as_posix()
                lines[name] = next((line.strip() for line in file if line.strip()), "")
    return lines


def _archive(source: Abo, key: str) -> Archive:
    return getattr(source, key)


def _url(source: Abo, key: str) -> str:
    return f"{source.url}/{_archive(source, key).path}"


def _refusal(url: str, status: int) -> str:
    if status in (403, 404):
        return (
            f"{url} is not there or not public ({status}); compare url and path with the"
            " publisher's page"
        )
    return f"{url} answers with status {status}; run it again later"
