"""A loopback server that speaks as much of the Hub's protocol as loading takes."""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote, urlsplit

LARGE = (".safetensors", ".parquet")  # what the Hub keeps elsewhere and sends on to


@dataclass
class Repository:
    """Files at one commit. `kind` is "models" or "datasets"."""

    folder: Path
    name: str
    commit: str
    kind: str
    private: bool = False

    @property
    def info(self) -> str:
        return f"/api/{self.kind}/{self.name}"

    @property
    def root(self) -> str:
        return f"/{self.name}" if self.kind == "models" else f"/{self.kind}/{self.name}"

    def holds(self, path: str) -> bool:
        return f"{path}/".startswith((f"{self.root}/", f"{self.info}/"))

    def entries(self) -> dict[str, dict[str, object]]:
        """What the Hub lists of each file, by its path."""
        files = (p for p in sorted(self.folder.rglob("*")) if p.is_file())
        return {e["path"]: e for e in (self._entry(p) for p in files)}

    def _entry(self, file: Path) -> dict[str, object]:
        path, size = file.relative_to(self.folder).as_posix(), file.stat().st_size
        blob = hashlib.sha1(f"blob {size}\0".encode() + file.read_bytes()).hexdigest()
        entry = {"type": "file", "path": path, "size": size, "oid": blob}
        if file.suffix in LARGE:
            sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": size, "pointerSize": 134}
        return entry


class Hub(ThreadingHTTPServer):
    """Serves `repositories`; `refuse` is an error to order.

    The commit of a repository is also what its branches and tags lead to, of which `names` are
    those beside main. Of `others` ("models/owner/name") nothing but their commit is there.
    `refuse` is the answer to so many requests for paths that hold `refused` as `refusals` says. So
    many answers with a file or a part of one as `cuts` says break off in the middle, and as
    `damages` says hold one byte that is wrong.
    """

    daemon_threads = True

    def __init__(self, *repositories: Repository) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = list(repositories)
        self.names: list[str] = []
        self.others: dict[str, str] = {}
        self.refuse: tuple[int, str] | None = None
        self.refused = ""
        self.refusals = sys.maxsize
        self.cuts = 0
        self.damages = 0
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def storage(self) -> str:
        """Where large files lie: another host."""
        return f"http://localhost:{self.server_address[1]}/storage"


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
        if hub.refuse and hub.refused in path and hub.refusals:
            hub.refusals -= 1
            return self._error(*hub.refuse)
        for repo, commit in hub.others.items():
            if path in _infos(f"/api/{repo}", ["main", commit]):
                return self._json({"id": repo.partition("/")[2], "sha": commit, "siblings": []})
        stored = path.removeprefix("/storage")
        repository = next((r for r in hub.repositories if r.holds(stored)), None)
        if repository is None:
            others = any(path.startswith(f"/api/{repo}/") for repo in hub.others)
            return self._error(404, "RevisionNotFound" if others else "RepoNotFound")
        info, commit, files = repository.info, repository.commit, repository.entries()
        if path in _infos(info, [commit, "main", *hub.names]):
            siblings = [{"rfilename": name, "size": e["size"]} for name, e in files.items()]
            known = {"id": repository.name, "sha": commit, "private": repository.private}
            return self._json(known | {"siblings": siblings})
        path, stored = (p.replace("/resolve/main/", f"/resolve/{commit}/") for p in (path, stored))
        path = path.replace("/tree/main", f"/tree/{commit}")
        if f"{path}/".startswith(f"{info}/tree/{commit}/"):
            below = path.removeprefix(f"{info}/tree/{commit}").removeprefix("/")
            entries = _tree(files, below, "recursive=true" in query.lower())
            return self._json(entries) if entries else self._error(404, "EntryNotFound")
        prefix = f"{repository.root}/resolve/{commit}/"
        if stored.startswith(prefix):
            file = repository.folder / stored.removeprefix(prefix)
            if file.is_file():
                return self._file(repository, file, path != stored, with_body)
            return self._error(404, "EntryNotFound")
        return self._error(404, "RevisionNotFound")

    def _file(self, repository: Repository, file: Path, stored: bool, with_body: bool) -> None:
        body = file.read_bytes()
        commit = {"X-Repo-Commit": repository.commit}
        if stored:
            # The Hub's token is none of the storage's business.
            if "Authorization" in self.headers:
                return self._error(400, "")
            return self._send(body, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, with_body)
        if file.suffix not in LARGE:
            headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
            return self._send(body, headers | commit, with_body)
        linked = {
            "X-Linked-ETag": f'"{hashlib.sha256(body).hexdigest()}"',
            "X-Linked-Size": str(len(body)),
            "Location": f"{self.server.storage}{urlsplit(self.path).path}",
        }
        return self._empty(302, commit | linked)

    def _error(self, status: int, code: str) -> None:
        self._empty(status, {"X-Error-Code": code})

    def _empty(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": "0"} | headers).items():
            self.send_header(name, value)
        self.end_headers()

    def _json(self, value: object, status: int = 200) -> None:
        kind = {"Content-Type": "application/json"}
        self._send(json.dumps(value).encode(), kind, True, status)

    def _send(
        self, body: bytes, headers: dict[str, str], with_body: bool, status: int = 200
    ) -> None:
        asked, size = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")), len(body)
        if asked and with_body:
            first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
            body = body[first : last + 1]
            headers = headers | {"Content-Range": f"bytes {first}-{last}/{size}"}
        self.send_response(206 if asked and with_body else status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        whole = headers.get("Content-Type") != "application/json" and with_body
        if whole and self.server.cuts:
            self.server.cuts -= 1
            body = body[: len(body) // 2]
        elif whole and self.server.damages:
            self.server.damages -= 1
            body = bytes([body[0] ^ 1]) + body[1:]
        if with_body:
            self.wfile.write(body)


def _infos(path: str, revisions: list[str]) -> list[str]:
    return [path, *(f"{path}/revision/{quote(name, safe='')}" for name in revisions)]


def _tree(
    files: dict[str, dict[str, object]], folder: str, recursive: bool
) -> list[dict[str, object]]:
    """The files and folders of a folder, or all files below it."""
    found = {Path(name): entry for name, entry in files.items() if _lies_in(name, folder)}
    if recursive:
        return list(found.values())
    depth = len(Path(folder).parts) + 1
    folders = {Path(*p.parts[:depth]).as_posix() for p in found if len(p.parts) > depth}
    below = [entry for path, entry in found.items() if len(path.parts) == depth]
    directory = {"type": "directory", "oid": "0" * 40}
    return below + [directory | {"path": name} for name in sorted(folders)]


def _lies_in(name: str, folder: str) -> bool:
    return Path(name).is_relative_to(Path(folder))


@contextmanager
def serve(folder: Path, repo: str, commit: str, kind: str = "models") -> Iterator[Hub]:
    """Run a server of one repository for as long as the block lasts."""
    with running(Hub(Repository(folder, repo, commit, kind))) as hub:
        yield hub


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Run a server for as long as the block lasts."""
    with hub:
        thread = Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
