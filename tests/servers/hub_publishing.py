"""A loopback Hub that is also written to, as huggingface_hub 2.4.0 does without Xet.

Routes and answers as recorded in a real exchange: repos/create, preupload, commit; the batch and
the upload of large files as the client's own code reads them.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

from tests.servers.hub_server import Hub, Repository, _Handler

TOKEN, USER = "hf_good", "someone"


class PublishingHub(Hub):
    """What is published lies in `published` below the repository's name; `base` is there already.

    `heads` holds the commit of each repository.
    """

    def __init__(self, base: Path, repo: str, commit: str, published: Path) -> None:
        super().__init__(Repository(base, repo, commit, "models"))
        self.RequestHandlerClass = _Writer
        self.published = published
        self.heads: dict[str, str] = {}
        self.commits: list[dict[str, object]] = []  # the header of each
        self.large: dict[str, bytes] = {}  # by SHA-256, as uploaded

    def create(self, repo: str, private: bool) -> None:
        (self.published / repo).mkdir(parents=True)
        (self.published / repo / ".gitattributes").write_bytes(b"*.safetensors filter=lfs")
        self.repositories.append(Repository(self.published / repo, repo, "", "models", private))
        self.advance(repo, {"summary": "initial commit"})

    def advance(self, repo: str, header: dict[str, object]) -> str:
        self.commits.append({"repo": repo, **header})
        self.heads[repo] = hashlib.sha1(f"{repo} {len(self.commits)}".encode()).hexdigest()
        self.of(repo).commit = self.heads[repo]
        return self.heads[repo]

    def of(self, repo: str) -> Repository:
        return next(r for r in self.repositories if r.name == repo)

    def files(self, repo: str) -> dict[str, bytes]:
        root = self.published / repo
        found = sorted(path for path in root.rglob("[!.]*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


class _Writer(_Handler):
    server: PublishingHub

    def do_GET(self) -> None:  # noqa: N802
        if self._refused():
            return
        if urlsplit(self.path).path != "/api/whoami-v2":
            super().do_GET()
        elif self._known():
            self._json({"name": USER})
        else:
            self._error(401, "")

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return None
        path = urlsplit(self.path).path
        self.server.requests.append(f"POST {path}")
        if path == "/api/validate-yaml":
            bad = "nonsense" in json.loads(body)["content"]
            errors = [{"message": '"license" must be one of many'}] if bad else []
            return self._json({"errors": errors, "warnings": []}, 400 if bad else 200)
        if not self._known():
            return self._error(401, "")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        repo = path.removeprefix("/api/models/")
        for verb in ("preupload", "commit"):
            if f"/{verb}/main" in repo:
                repo = repo.partition(f"/{verb}/")[0]
                allowed = repo.startswith(f"{USER}/")
                answer = self._preupload if verb == "preupload" else self._commit
                return answer(repo, body) if allowed else self._error(403, "")
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        return self._error(404, "")

    def do_PUT(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return
        self.server.requests.append(f"PUT {self.path}")
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.large[oid] = body
        self._send(b"", {}, True)

    def _refused(self) -> bool:
        hub = self.server
        if hub.refuse and hub.refused in self.path:
            self._error(*hub.refuse)
            return True
        return False

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _create(self, asked: dict[str, object]) -> None:
        hub, repo = self.server, f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{hub.url}/{repo}", "name": repo, "id": "1"}
        if repo in hub.heads and asked["organization"] == USER:
            return self._json(url | {"error": "You already created this model repo"}, 409)
        if asked["organization"] != USER:
            return self._error(403, "")
        hub.create(repo, asked.get("visibility") == "private")
        return self._json(url)

    def _preupload(self, repo: str, body: bytes) -> None:
        there = self.server.files(repo)

        def one(path: str) -> dict[str, object]:
            large = path.endswith(".safetensors")
            told = {"path": path, "uploadMode": "lfs" if large else "regular"}
            if path in there:
                told["oid"] = _sha256(there[path]) if large else _git_hash(there[path])
            return told | {"shouldIgnore": False}

        files = [one(file["path"]) for file in json.loads(body)["files"]]
        self._json({"files": files, "commitOid": self.server.heads[repo]})

    def _batch(self, asked: dict[str, object]) -> None:
        def one(wanted: dict[str, object]) -> dict[str, object]:
            href = f"{self.server.url}/storage/{wanted['oid']}"
            there = wanted["oid"] in self.server.large
            return wanted | ({} if there else {"actions": {"upload": {"href": href}}})

        self._json({"transfer": "basic", "objects": [one(wanted) for wanted in asked["objects"]]})

    def _commit(self, repo: str, body: bytes) -> None:
        hub, root = self.server, self.server.published / repo
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines[1:]:
            value = line["value"]
            file = root / value["path"]
            match line["key"]:
                case "file":
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(base64.b64decode(value["content"]))
                case "lfsFile":
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(hub.large[value["oid"]])
                case "deletedFile":
                    file.unlink()
        head = hub.advance(repo, lines[0]["value"])
        answer = {"success": True, "commitOid": head, "hookOutput": ""}
        self._json(answer | {"commitUrl": f"{hub.url}/{repo}/commit/{head}"})


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve_publishing(
    base: Path, repo: str, commit: str, published: Path
) -> Iterator[PublishingHub]:
    """A Hub as long as the context lasts."""
    with PublishingHub(base, repo, commit, published) as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
