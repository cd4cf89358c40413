"""A loopback server that speaks as much of the Hub's protocol as loading takes."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Served:
    """A repository at one commit."""

    folder: Path
    repo: str
    commit: str
    private: bool = False


class Hub(ThreadingHTTPServer):
    """One repository whose files at `commit` lie in `folder`; `refuse` is an error to order.

    It is the answer to requests for paths that hold `refused`. `kind` is "models" or "datasets".
    So many answers with a part of a file as `cuts` says break off in the middle.
    """

    def __init__(self, folder: Path, repo: str, commit: str, kind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.repo, self.commit, self.kind = folder, repo, commit, kind
        self.refuse: tuple[int, str] | None = None
        self.refused = ""
        self.cuts = 0
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def serving(self, path: str) -> tuple[Served, str]:
        """The repository that a path means, and the path with its commit in it."""
        return Served(self.folder, self.repo, self.commit), path


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        hub, (_, _, path, query, _) = self.server, urlsplit(self.path)
        hub.requests.append(f"{self.command} {path}")
        if hub.refuse and hub.refused in path:
            return self._error(*hub.refuse)
        own, path = hub.serving(path)
        info = f"/api/{hub.kind}/{own.repo}"
        sizes = {
            p.relative_to(own.folder).as_posix(): p.stat().st_size
            for p in sorted(own.folder.rglob("*"))
            if p.is_file()
        }
        if path in (info, f"{info}/revision/{own.commit}"):
            siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            known = {"id": own.repo, "sha": own.commit, "private": own.private}
            return self._json(known | {"siblings": siblings})
        if f"{path}/".startswith(f"{info}/tree/{own.commit}/"):
            below = path.removeprefix(f"{info}/tree/{own.commit}").removeprefix("/")
            entries = _tree(sizes, below, "recursive=true" in query.lower())
            return self._json(entries) if entries else self._error(404, "EntryNotFound")
        root = f"/{own.repo}" if hub.kind == "models" else f"/{hub.kind}/{own.repo}"
        prefix = f"{root}/resolve/{own.commit}/"
        if path.startswith(prefix):
            file = own.folder / path.removeprefix(prefix)
            if file.is_file():
                body = file.read_bytes()
                etag = f'"{hashlib.sha1(body).hexdigest()}"'
                headers = {"ETag": etag, "X-Repo-Commit": own.commit}
                return self._send(body, headers, with_body)
            return self._error(404, "EntryNotFound")
        known = path.startswith((f"{root}/", f"{info}/"))
        return self._error(404, "RevisionNotFound" if known else "RepoNotFound")

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, value: object, status: int = 200) -> None:
        kind = {"Content-Type": "application/json"}
        self._send(json.dumps(value).encode(), kind, True, status)

    def _send(
        self, body: bytes, headers: dict[str, str], with_body: bool, status: int = 200
    ) -> None:
        asked, size = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")), len(body)
        if asked and with_body:
            first, last = int(asked[1]), min(int(asked[2]), size - 1)
            body = body[first : last + 1]
            headers = headers | {"Content-Range": f"bytes {first}-{last}/{size}"}
        self.send_response(206 if asked and with_body else status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body and asked and self.server.cuts:
            self.server.cuts -= 1
            body = body[: len(body) // 2]
        if with_body:
            self.wfile.write(body)


def _tree(sizes: dict[str, int], folder: str, recursive: bool) -> list[dict[str, object]]:
    """The files and folders of a folder, or all files below it."""
    top = Path(folder)
    found = {Path(name): size for name, size in sizes.items() if Path(name).is_relative_to(top)}
    entry = {"type": "file", "oid": "0" * 40}
    files = [entry | {"path": p.as_posix(), "size": size} for p, size in found.items()]
    if recursive:
        return files
    depth = len(top.parts) + 1
    folders = {Path(*p.parts[:depth]).as_posix() for p in found if len(p.parts) > depth}
    below = [file for file in files if len(Path(file["path"]).parts) == depth]
    return below + [entry | {"type": "directory", "path": name} for name in sorted(folders)]


@contextmanager
def serve(folder: Path, repo: str, commit: str, kind: str = "models") -> Iterator[Hub]:
    """Run the server for as long as the block lasts."""
    with Hub(folder, repo, commit, kind) as hub:
        thread = Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
