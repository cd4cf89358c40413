"""The part of Kaggle that takes models, on the loopback, as kaggle 2.2.4 speaks to it.

Field names are those of the installed kagglesdk; files go to a storage of its own, as data sets
come from one.
"""

import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any

TOKEN, USER = "a-good-token", "someone"


@dataclass
class Variation:
    """Of a model; each version holds files by name."""

    values: dict[str, Any]
    versions: list[dict[str, bytes]] = field(default_factory=list)


class KaggleModels(ThreadingHTTPServer):
    """`models` and `variations` by their reference. `refuse` is a status for paths with `refused`.

    The first `broken` uploads to the storage end with its status 400.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: dict[str, dict[str, Any]] = {}
        self.variations: dict[str, Variation] = {}
        self.blobs: dict[str, tuple[str, bytes]] = {}  # name and content by token
        self.asked: list[str] = []
        self.refuse: int | None = None
        self.refused = ""
        self.broken = 0
        self._thread = Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "KaggleModels":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: KaggleModels

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        route = self.path.rpartition("/")[2]
        self.server.asked.append(route)
        if self.server.refuse and self.server.refused in self.path:
            return self._error(self.server.refuse)
        if route == "IntrospectToken":
            known = body["token"] == TOKEN
            answer = {"active": True, "username": USER}
            return self._json(answer) if known else self._error(404)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._error(401)
        return getattr(self, f"_{route}", lambda body: self._error(404))(body)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kaggle, token = self.server, self.path.rpartition("/")[2]
        kaggle.asked.append("PUT")
        if self.headers.get("Content-Range", "").startswith("bytes */"):
            # How much has arrived? All of it, or nothing.
            return self._json({}, 200 if kaggle.blobs[token][1] else 308)
        if kaggle.broken:
            kaggle.broken -= 1
            return self._error(400)
        kaggle.blobs[token] = (kaggle.blobs[token][0], content)
        return self._json({})

    def _GetModel(self, body: dict[str, Any]) -> None:  # noqa: N802
        model = self.server.models.get(f"{body['ownerSlug']}/{body['modelSlug']}")
        return self._json(model) if model else self._error(404)

    def _CreateModel(self, body: dict[str, Any]) -> None:  # noqa: N802
        ref = f"{body['ownerSlug']}/{body['slug']}"
        if body["ownerSlug"] != USER:
            return self._error(403)
        if any(model["title"] == body["title"] for model in self.server.models.values()):
            return self._json({"error": "The requested title is already in use"})
        self.server.models[ref] = {"id": 1, "ref": ref, **body}
        return self._json({"id": 1, "ref": ref, "url": f"/models/{ref}"})

    def _GetModelInstance(self, body: dict[str, Any]) -> None:  # noqa: N802
        found = self.server.variations.get(_ref(body))
        return self._json(found.values) if found else self._error(404)

    def _CreateModelInstance(self, body: dict[str, Any]) -> None:  # noqa: N802
        values = body["body"]
        ref = _ref(body | values)
        self.server.variations[ref] = Variation(_described(values), [self._files(values)])
        return self._json({"id": 2, "ref": ref, "url": f"/models/{ref}"})

    def _CreateModelInstanceVersion(self, body: dict[str, Any]) -> None:  # noqa: N802
        variation = self.server.variations[_ref(body)]
        variation.versions.append(self._files(body["body"]))
        return self._json({"id": 3, "url": f"/models/{_ref(body)}"})

    def _UpdateModelInstance(self, body: dict[str, Any]) -> None:  # noqa: N802
        self.server.variations[_ref(body)].values |= _described(body)
        return self._json({"id": 2, "url": f"/models/{_ref(body)}"})

    def _StartBlobUpload(self, body: dict[str, Any]) -> None:  # noqa: N802
        assert body["type"] == "MODEL"
        token = str(len(self.server.blobs))
        self.server.blobs[token] = (body["name"], b"")
        url = f"{self.server.url}/storage/{token}"
        return self._json({"token": token, "createUrl": url})

    def _files(self, body: dict[str, Any]) -> dict[str, bytes]:
        return dict(self.server.blobs[file["token"]] for file in body["files"])

    def _error(self, status: int) -> None:
        self._json({"code": status, "message": f"refused with {status}"}, status)

    def _json(self, values: object, status: int = 200) -> None:
        data = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _ref(body: dict[str, Any]) -> str:
    framework = body["framework"].removeprefix("MODEL_FRAMEWORK_").lower()
    return f"{body['ownerSlug']}/{body['modelSlug']}/{framework}/{body['instanceSlug']}"


def _described(body: dict[str, Any]) -> dict[str, Any]:
    names = ("overview", "usage", "licenseName", "framework", "externalBaseModelUrl")
    return {"id": 2} | {name: body[name] for name in names if name in body}
