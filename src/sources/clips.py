"""Videos from addresses of which some are dead: each comes whole, or it is told why not."""

import hashlib
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from funcy import retry
from requests.adapters import HTTPAdapter, Retry
from tqdm import tqdm

from src.errors import UserError
from src.sources import download

TRIES = 3
TIMEOUT = (10, 30)  # seconds to connect, and without a byte
PATIENCE = 600  # seconds for a video that comes slowly
CHUNK = 2**16
LEAST, MOST = 1000, 2**30  # bytes of a video
AT_ONCE = 16
LOST = 64  # so many in a row that cannot be reached are the network's fault, not theirs
FEW = 5  # so many that cannot be reached are passed over, and of more than 500 links 1 in 100
# One more request where a busy server says when, after a minute at most.
WAITING = Retry(1, connect=0, read=False, raise_on_status=False, retry_after_max=60)
NO_VIDEO = ("text/", "image/", "application/json", "application/xml", "application/xhtml")


@dataclass(frozen=True)
class _Dead:
    reason: str
    unreached: bool = False  # for a reason that may pass
    answered: bool = True  # by its host, if only that it is busy


class _DeadLinkError(Exception):
    """What came is no video."""


def bring_all(links: Mapping[str, str], place: Path) -> dict[str, Path | str]:
    """Download videos side by side into `place`; what lies there already is not asked for again.

    What cannot be reached for a reason that may pass (no connection, no answer in time, a status
    such as 429 or 503) is asked for once more when all others are through. What then remains
    is a dead link, too, where it is few: at most 5, or 1 in 100 of the links if that is more; and
    so is what a host does not give of which nothing came while others answered.

    Args:
        links: the address of each video by its name.
        place: a folder that a later call goes on from.

    Returns:
        The file of each video, or why there is none, by name in the order of `links`.

    Raises:
        UserError: no connection, more than a few that did not answer, or a full disk.
    """
    files = {name: place / f"{_digest(name, url)}.mp4" for name, url in links.items()}
    few = max(FEW, len(links) // 100)
    found = _bring_each(links, files, LOST)
    if again := _unreached(links, found):
        found |= _bring_each(again, files, len(again) + 1)
    if len(left := _still_there(links, found)) > few:
        ((reason, _),) = Counter(found[name].reason for name in left).most_common(1)
        raise UserError(
            f"{len(left)} of {len(links)} addresses did not answer ({reason}); run it again: what"
            " has come is kept"
        )
    return {name: dead.reason if (dead := found[name]) else files[name] for name in links}


def _unreached(links: Mapping[str, str], found: Mapping[str, _Dead | None]) -> dict[str, str]:
    return {name: url for name, url in links.items() if (dead := found[name]) and dead.unreached}


def _still_there(links: Mapping[str, str], found: Mapping[str, _Dead | None]) -> dict[str, str]:
    """The unreached addresses whose host has answered, if only that it is busy."""
    left = _unreached(links, found)
    answered = (name for name, dead in found.items() if not dead or dead.answered)
    answering = {urlsplit(links[name]).netloc for name in answered}
    return {name: url for name, url in left.items() if urlsplit(url).netloc in answering}


def _bring_each(
    links: Mapping[str, str], files: Mapping[str, Path], lost_at: int
) -> dict[str, _Dead | None]:
    """Why each video did not come, or None; ends at so many in a row that cannot be reached."""
    found: dict[str, _Dead | None] = {}
    lost = 0
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        calls = {pool.submit(_bring, url, files[name]): name for name, url in links.items()}
        for done in tqdm(
            as_completed(calls), desc="videos", total=len(calls), unit="video", disable=None
        ):
            dead = found[calls[done]] = done.result()
            lost = lost + 1 if dead and dead.unreached else 0
            if lost == lost_at:
                raise UserError(
                    f"the last {lost} videos could not be reached ({dead.reason}); run it again"
                    " when there is a connection: what has arrived is kept"
                )
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _bring(url: str, file: Path) -> _Dead | None:
    if file.exists():
        return None
    part = file.with_suffix(".part")
    try:
        _bring_rest(url, part)
        _check(part)
        part.rename(file)
    except _DeadLinkError as error:
        download.remove(part)
        return _Dead(str(error))
    except ValueError:  # of the client, for any address that it is given or sent on to
        return _Dead("no address of HTTP", answered=False)
    except requests.HTTPError as error:
        return _Dead(f"status {error.response.status_code}", unreached=download.may_pass(error))
    except requests.TooManyRedirects:
        return _Dead("sent on without end")
    except requests.RequestException as error:
        return _Dead(f"no connection: {type(error).__name__}", unreached=True, answered=False)
    except OSError as error:
        raise UserError(f"{part}: {error.strerror}") from None
    return None


# As for an archive, the retries of requests would end where an answer begins.
@retry(
    TRIES,
    errors=requests.RequestException,
    timeout=lambda tried: 2**tried,
    filter_errors=download.may_pass,
)
def _bring_rest(url: str, part: Path) -> None:
    here, etag = download.length(part), download.etag(part)
    headers = {"Accept-Encoding": "identity"}
    if here and etag:
        headers |= {"Range": f"bytes={here}-", "If-Range": etag}
    with requests.Session() as session, _get(session, url, headers) as answer:
        described = answer.headers.get("Content-Range", ""), answer.headers.get("ETag")
        rest = described[0].startswith(f"bytes {here}-") and described[1] == etag
        if answer.status_code == 416 or (answer.status_code == 206 and not rest):
            download.remove(part)
            raise requests.ConnectionError("not the rest of what is here", response=answer)
        answer.raise_for_status()
        kind = answer.headers.get("Content-Type", "").lower()
        if kind.startswith(NO_VIDEO):
            raise _DeadLinkError(f"no video: {kind}")
        if answer.status_code != 206:
            download.remove(part)
            download.note_etag(part, answer.headers.get("ETag", ""))
        _append(part, answer)


def _get(session: requests.Session, url: str, headers: Mapping[str, str]) -> requests.Response:
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=WAITING))
    return session.get(url, headers=headers, stream=True, timeout=TIMEOUT)


def _append(part: Path, answer: requests.Response) -> None:
    deadline = time.monotonic() + PATIENCE
    with part.open("ab") as target:
        for chunk in answer.iter_content(CHUNK):
            target.write(chunk)
            if target.tell() > MOST:
                raise _DeadLinkError(f"too large: over {MOST:,} bytes")
            if time.monotonic() > deadline:
                raise requests.Timeout(f"not here after {PATIENCE} seconds")


def _check(part: Path) -> None:
    size = download.length(part)
    if size < LEAST:
        raise _DeadLinkError(f"too small: {size} bytes")
    with part.open("rb") as file:
        # Some servers call an error page a video.
        if file.read(512).lstrip().startswith((b"<", b"{")):
            raise _DeadLinkError("no video: a web page")


def _digest(name: str, url: str) -> str:
    return hashlib.sha256(f"{name} {url}".encode()).hexdigest()[:32]
