"""A public S3 bucket on the loopback: objects by path, with faults to order."""

import base64
import hashlib
import threading
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

FAULTS = (
    "403",
    "429",  # with the seconds to wait, RETRY_AFTER
    "503",
    "drop at once",  # the connection closes before the first byte of the body
    "drop",  # half of what was asked for, then the connection closes
    "stall",  # half of what was asked for, then silence
    "slow",  # in ten parts with pauses between them
    "damage",  # one byte is wrong, its ETag is right
    "no If-Range",  # Range is heeded whatever has become of the object
    "416",
    "elsewhere",  # a redirect to another path of the bucket, where the object lies, too
    "file",  # a redirect to a file of the client's machine
)


RETRY_AFTER = 7


@dataclass(frozen=True)
class Asked:
    path: str
    range: str | None
    if_range: str | None
    status: int
    length: int  # of the body that was announced
    method: str = "GET"


class BucketServer:
    """Serves `objects`; a fault strikes at the next `times` requests for `path` after its order."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.etags: dict[str, str | None] = {}  # of objects whose ETag is not their MD5
        self.types: dict[str, str] = {}  # of objects that are no archive
        self.checksums: dict[str, bytes] = {}  # SHA-256 of objects that were uploaded with one
        self.faults: dict[tuple[str, str], int] = {}
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        server = self

        class Handler(_Handler):
            bucket = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def order(self, fault: str, path: str, times: int = 1) -> None:
        assert fault in FAULTS, fault
        self.faults[fault, path] = times

    def strikes(self, fault: str, path: str) -> bool:
        left = self.faults.get((fault, path), 0)
        self.faults[fault, path] = max(left - 1, 0)
        return left > 0

    def ranges(self, path: str) -> list[str | None]:
        """The Range header of each request for that path, in order."""
        return [a.range for a in self.asked if a.path == path]

    def __enter__(self) -> "BucketServer":
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
    bucket: BucketServer

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.removeprefix("/elsewhere").removeprefix("/")
        strikes = partial(self.bucket.strikes, path=path)
        if strikes("429"):
            self._error(429, "TooManyRequests", {"Retry-After": str(RETRY_AFTER)})
        elif strikes("503"):
            self._error(503, "SlowDown")
        elif strikes("403"):
            self._error(403, "AccessDenied")
        elif path not in self.bucket.objects:
            self._error(404, "NoSuchKey")
        elif strikes("elsewhere"):
            self._send(307, b"", {"Location": f"/elsewhere/{path}"})
        elif strikes("file"):
            self._send(307, b"", {"Location": "file:///etc/hostname"})
        else:
            self._object(path, self.bucket.objects[path])

    def do_HEAD(self) -> None:
        self.do_GET()

    def _object(self, path: str, data: bytes) -> None:
        strikes = partial(self.bucket.strikes, path=path)
        etag = self.bucket.etags.get(path, f'"{hashlib.md5(data).hexdigest()}"')
        kind = self.bucket.types.get(path, "application/x-tar")
        headers = {"Content-Type": kind, "Accept-Ranges": "bytes"}
        headers |= {"ETag": etag} if etag else {}
        if path in self.bucket.checksums and self.headers.get("x-amz-checksum-mode") == "ENABLED":
            checksum = base64.b64encode(self.bucket.checksums[path]).decode()
            headers |= {"x-amz-checksum-sha256": checksum, "x-amz-checksum-type": "FULL_OBJECT"}
        if strikes("damage"):
            data = data[:700] + bytes([data[700] ^ 1]) + data[701:]
        status, start = 200, 0
        if "Range" in self.headers and (
            strikes("no If-Range") or self.headers.get("If-Range", etag) == etag
        ):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(data) or strikes("416"):
                return self._error(416, "InvalidRange", {"Content-Range": f"bytes */{len(data)}"})
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        rest = data[start:]
        stalls, pause = strikes("stall"), 0.02 if strikes("slow") else 0
        if strikes("drop"):
            only = len(rest) // 2
        elif strikes("drop at once"):
            only = 0
        else:
            only = len(rest) // 2 if stalls else None
        self._send(status, rest, headers, only, pause)
        if stalls:
            self.bucket.closing.wait(30)
        return None

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code></Error>'
        kind = {"Content-Type": "application/xml"}
        self._send(status, body.encode(), kind | (headers or {}))

    def _send(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str],
        only: int | None = None,
        pause: float = 0,
    ) -> None:
        path = self.path.removeprefix("/")
        asked = self.headers.get("Range"), self.headers.get("If-Range")
        self.bucket.asked.append(Asked(path, *asked, status, len(data), self.command))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            step = max(len(data) // 10, 1) if pause else max(len(data), 1)
            for start in range(0, len(data[:only]), step):
                self.wfile.write(data[:only][start : start + step])
                self.wfile.flush()
                self.bucket.closing.wait(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass
