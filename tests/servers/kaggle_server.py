"""A Kaggle on the loopback, as kaggle 2.2.4 speaks to it, with faults to order.

The API answers at 127.0.0.1 and sends downloads on to a storage at localhost, so that they are
two hosts, as in the real world: there the storage refuses a request with the API's token.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

TOKEN = "a-good-token"
DATASET = "someone/faces"
VERSION = 3
LOGIN_PAGE = b"<!DOCTYPE html>\n<html><head><title>Kaggle: Log in</title></head></html>\n"
FAULTS = (
    "401",  # of the token, when signing in
    "403",  # of the data set
    "404 json",
    "404 html",  # a page labelled as JSON, as Kaggle does
    "429",
    "503",
    "code in body",  # status 200, the error in the JSON
    "login page",  # status 200, labelled as HTML
    "login page as zip",  # status 200, labelled as an archive
    "drop",  # half of the archive, then the connection closes
    "stall",  # half of the archive, then silence
    "damage",  # one byte of the archive is wrong, its announced checksum is right
    "no checksum",
    "no ranges",  # Range is neither offered nor heeded
    "drop, then error page",  # half of the archive, then "error page"
    "error page",  # 503 for the archive
)


@dataclass(frozen=True)
class Asked:
    path: str
    headers: Mapping[str, str]
    body: dict[str, object]
    status: int


class KaggleServer:
    """Serves `archive` as `DATASET` in its newest `version`, and other data sets by theirs.

    A fault strikes at the next `times` occasions after its order.
    """

    def __init__(self, archive: bytes) -> None:
        self.archive, self.version = archive, VERSION
        self.others: dict[tuple[str, int], bytes] = {}
        self.faults = dict.fromkeys(FAULTS, 0)
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        server = self

        class Handler(_Handler):
            kaggle = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def archives(self) -> dict[tuple[str, int], bytes]:
        return self.others | {(DATASET, self.version): self.archive}

    def storage(self, dataset: str, version: int) -> str:
        host = f"http://localhost:{self._http.server_port}"
        return f"{host}/bucket/{dataset}/{version}/archive.zip?X-Goog-Signature=x"

    def order(self, fault: str, times: int = 1) -> None:
        assert fault in FAULTS, fault
        self.faults[fault] = times

    def strikes(self, fault: str) -> bool:
        left = self.faults[fault]
        self.faults[fault] = max(left - 1, 0)
        return left > 0

    def ranges(self) -> list[str]:
        """The Range headers that the storage was asked for, in order."""
        return [a.headers["Range"] for a in self.asked if "Range" in a.headers]

    def __enter__(self) -> "KaggleServer":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    kaggle: KaggleServer

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.body = json.loads(self.rfile.read(length) or b"{}")
        match self.path:
            case "/v1/security.OAuthService/IntrospectToken":
                self._introspect()
            case "/v1/datasets.DatasetApiService/DownloadDataset":
                self._download_dataset()
            case "/v1/datasets.DatasetApiService/GetDataset":
                self._json(200, {"title": "Faces", "currentVersionNumber": self.kaggle.version})
            case _:
                self._json(404, {"code": 404, "message": f"no route {self.path}"})

    def do_GET(self) -> None:
        self.body = {}
        if "Authorization" in self.headers:
            self._json(400, {"code": 400, "message": "only one auth mechanism allowed"})
        elif self.headers["Host"].startswith("localhost:"):
            self._storage()
        else:
            self._json(404, {"code": 404, "message": f"no route {self.path}"})

    def _introspect(self) -> None:
        if self.kaggle.strikes("401"):
            self._json(401, {"code": 401, "message": "Unauthenticated"})
        elif self.body["token"] == TOKEN:
            self._json(200, {"active": True, "username": "someone"})
        else:
            self._json(404, {"code": 404, "message": "Not found"})

    def _download_dataset(self) -> None:
        strikes = self.kaggle.strikes
        dataset = f"{self.body['ownerSlug']}/{self.body['datasetSlug']}"
        version = self.body.get("datasetVersionNumber", self.kaggle.version)
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._json(401, {"code": 401, "message": "Unauthenticated"})
        elif strikes("403"):
            self._json(403, {"code": 403, "message": "Permission 'datasets.get' was denied"})
        elif strikes("429"):
            self._json(429, {"code": 429, "message": "Too many requests"}, {"Retry-After": "0"})
        elif strikes("503"):
            self._send(503, b"<html>unavailable</html>", {"Content-Type": "text/html"})
        elif strikes("code in body"):
            self._json(200, {"code": 401, "message": "Unauthenticated"})
        elif strikes("404 html"):
            self._send(404, LOGIN_PAGE, {"Content-Type": "application/json"})
        elif strikes("login page"):
            self._send(200, LOGIN_PAGE, {"Content-Type": "text/html; charset=utf-8"})
        elif strikes("404 json") or (dataset, version) not in self.kaggle.archives:
            self._json(404, {"code": 404, "message": "Not found"})
        else:
            self._send(302, b"", {"Location": self.kaggle.storage(dataset, version)})

    def _storage(self) -> None:
        strikes = self.kaggle.strikes
        owner, name, version = self.path.removeprefix("/bucket/").split("/")[:3]
        data = self.kaggle.archives[f"{owner}/{name}", int(version)]
        if strikes("login page as zip"):
            data = LOGIN_PAGE
        md5 = hashlib.md5(data).digest()
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        headers = {
            "Content-Type": "application/zip",
            "ETag": etag,
            "Last-Modified": "Wed, 01 May 2024 12:00:00 GMT",
        }
        if strikes("damage"):
            data = data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
        if not strikes("no checksum"):
            headers["x-goog-hash"] = f"crc32c=n03x6A==, md5={base64.b64encode(md5).decode()}"
        start = 0
        if not strikes("no ranges"):
            headers["Accept-Ranges"] = "bytes"
            if "Range" in self.headers and self.headers.get("If-Range", etag) == etag:
                start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if strikes("error page"):
            self._send(503, b"unavailable", {"Content-Type": "text/plain"})
        elif strikes("drop, then error page"):
            self.kaggle.order("error page", times=2)
            self._send(200, data, headers, only=len(data) // 2)
        elif strikes("stall"):
            self._send(200, data, headers, only=len(data) // 2)
            self.kaggle.closing.wait(30)
        else:
            status = 200
            if start:
                status = 206
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            rest = data[start:]
            self._send(status, rest, headers, only=len(rest) // 2 if strikes("drop") else None)

    def _json(
        self, status: int, values: dict[str, object], headers: Mapping[str, str] = {}
    ) -> None:
        kind = {"Content-Type": "application/json; charset=utf-8"}
        self._send(status, json.dumps(values).encode(), kind | dict(headers))

    def _send(
        self, status: int, data: bytes, headers: Mapping[str, str], only: int | None = None
    ) -> None:
        self.kaggle.asked.append(Asked(self.path, dict(self.headers), self.body, status))
        self.send_response(status)
        for name, value in (*headers.items(), ("Content-Length", str(len(data)))):
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(data[:only])
            self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            pass
