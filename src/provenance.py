"""What was fetched or built: the record that stands in Git, and what moved since under its name.

A record is a flat part of `metrics/`: the commit of the Hub that a branch led to, the version and
the checksum of a data set of Kaggle, the ETag and the checksum of a file of a bucket.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from src.files import read_json

Record = Mapping[str, Any]
ARCHIVES = ("listings", "images")  # of a bucket
CONTENT = {
    "revision": "commit",
    "version": "version",
    "archive_bytes": "bytes",
    "archive_md5": "MD5",
    "bytes": "bytes",
    "etag": "ETag",
    "sha256": "SHA-256",
}


def path(section: str, name: str) -> Path:
    """Where the record of a data set (section data) or a base (section base) lies."""
    return Path("metrics", section, f"{name}.json")


def read(section: str, name: str, root: Path = Path()) -> Record | None:
    """The record that lies in the workspace; None: it was not fetched or built yet."""
    file = root / path(section, name)
    return read_json(file) if file.is_file() else None


def committed(section: str, name: str) -> Record | None:
    """The record of the commit that is checked out; None where there is none, or no Git."""
    # DVC removes a stage's outputs before it runs, so that only Git still has the last record.
    command = ["git", "show", f"HEAD:./{path(section, name)}"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True)
        return json.loads(shown.stdout) if shown.returncode == 0 else None
    except (OSError, ValueError):
        return None


def ref(asked: object) -> str | None:
    """The name under which a block of parameters asks for content that may change; None: none."""
    if hasattr(asked, "revision"):
        return asked.revision or "main"
    if hasattr(asked, "version"):
        return f"version {asked.version}" if asked.version else "the newest version"
    return None


def of(asked: object, found: Record) -> dict[str, Any]:
    """The record of what was found for a block of parameters, with the name that it asked for."""
    known = found.get("revision") or found.get("version")
    return {**found, "ref": ref(asked)} if known else dict(found)


def moved(before: Record | None, now: Record) -> Iterator[str]:
    """What changed under the same name between two records: a line each, and none says what to do.

    That is, a branch or tag that leads to another commit, a version or a file of other bytes.
    """
    earlier = dict(_named(before or {}))
    for name, content in _named(now):
        had = earlier.get(name, {})
        for key, what in CONTENT.items():
            was, is_ = had.get(key), content.get(key)
            if was is not None and is_ is not None and was != is_:
                yield f"{name} has changed: {what} {was}, now {is_}"
                break


def notes(section: str, name: str, now: Record) -> Iterator[str]:
    """What changed since the last commit of Git, and how to have the former again."""
    again = (
        "set revision to the former to have it again"
        if "ref" in now
        else "what came before is where dvc.lock of the last commit was pushed to, if anywhere"
    )
    for line in moved(committed(section, name), now):
        yield f"{line}; {again}"


def _named(record: Record) -> Iterator[tuple[str, Record]]:
    """The parts of a record under the names by which they were asked for."""
    repo = record.get("dataset") or record.get("id")
    if repo and record.get("ref"):
        yield f"{repo} at {record['ref']}", record
    for key in ARCHIVES:
        if key in record:
            yield f"{record['url']}/{record[key]['path']}", record[key]
