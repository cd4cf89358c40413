"""LLaMA-Factory's ShareGPT form: lists of messages, with the pictures or videos that they show.

`dataset_info.json` names the lists, their columns and tags. Without it, every JSON list of
`conversations` or `messages` below the folder is read. A row becomes one example, its first
exchange; the system message is the recipe's, not the data's.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.readers.common import find, one_label, split_in
from src.records import Raw, Rejected
from src.schema import Data

INFO = "dataset_info.json"
SUFFIXES = {".json", ".jsonl"}
FORMS = ("sharegpt", "openai")  # two names of it; the third and default, alpaca, has no messages
PLACEHOLDERS = {"image": "<image>", "video": "<video>"}
TAGS = {
    "conversations": {"role": "from", "content": "value", "user": "human", "assistant": "gpt"},
    "messages": {"role": "role", "content": "content", "user": "user", "assistant": "assistant"},
}
LAYOUT = (
    f"expected is {INFO} beside the lists that it names, or lists of conversations or messages "
    "with images or videos"
)


@dataclass(frozen=True)
class _Columns:
    """Where a list keeps what; the defaults are LLaMA-Factory's."""

    messages: str = "conversations"
    image: str | None = None
    video: str | None = None
    role: str = "from"
    content: str = "value"
    user: str = "human"
    assistant: str = "gpt"
    system: str = "system"


@dataclass(frozen=True)
class _Exchange:
    question: str
    answer: str


class _BadRowError(Exception):
    """Why a row gives no example."""


def read(folder: Path, data: Data) -> Iterator[Raw | Rejected]:
    """The first exchange of each row, its picture or video unopened, and what gives none.

    A medium is looked for beside its list and in `folder`.

    Raises:
        UserError: there is no list with pictures or videos, or a file is no JSON.
    """
    lists, told = {}, ""
    for entry in [*_named(folder)] if any(folder.rglob(INFO)) else [*_unnamed(folder)]:
        if isinstance(entry, Rejected):
            yield entry
            told = told or f"; {entry.file}: {entry.reason}"
        else:
            lists[entry[0]] = entry[1]
    if not lists:
        raise UserError(
            f"{folder}: holds no list of messages with pictures or videos; {LAYOUT}{told}"
        )
    for file, columns in lists.items():
        name = file.relative_to(folder).as_posix()
        for number, row in enumerate(_rows(file), start=1):
            yield from _examples(row, f"{name} row {number}", file, columns, folder, data)


def _named(folder: Path) -> Iterator[tuple[Path, _Columns] | Rejected]:
    """The files that every dataset_info.json names for messages with pictures or videos."""
    for info in sorted(folder.rglob(INFO)):
        known = _parsed(info)
        for name, entry in known.items() if isinstance(known, dict) else ():
            columns = _columns(entry) if isinstance(entry, dict) else None
            if columns is None or "file_name" not in entry:
                continue
            place = f"{info.relative_to(folder).as_posix()} {name}"
            if isinstance(columns, str):
                yield Rejected(place, columns)
                continue
            file = find(str(entry["file_name"]), [info.parent], folder)
            yield Rejected(place, file) if isinstance(file, str) else (file, columns)


def _columns(entry: Mapping[str, Any]) -> _Columns | str | None:
    """Where a list keeps what, or why it cannot be read; None where it has no media."""
    columns, tags = entry.get("columns") or {}, entry.get("tags") or {}
    media = {kind: columns.get(f"{kind}s") for kind in PLACEHOLDERS}
    if not any(media.values()):
        return None
    form = entry.get("formatting") or "alpaca"
    if form not in FORMS:
        return f"no messages in its formatting: {form}; {' or '.join(FORMS)} is read"
    names = {name: tags.get(f"{name}_tag") for name in ("role", "content", "user", "assistant")}
    names |= {"messages": columns.get("messages"), "system": tags.get("system_tag")}
    return _Columns(**media, **{key: name for key, name in names.items() if name})


def _unnamed(folder: Path) -> Iterator[tuple[Path, _Columns]]:
    """The files that look like such lists."""
    for file in sorted(folder.rglob("*")):
        hidden = file.name.startswith((".", "_"))
        if file.suffix.lower() not in SUFFIXES or hidden or not file.is_file():
            continue
        keys = {key for row in _rows(file) if isinstance(row, dict) for key in row}
        messages = next((key for key in TAGS if key in keys), None)
        media = {
            kind: next((key for key in (f"{kind}s", kind) if key in keys), None)
            for kind in PLACEHOLDERS
        }
        if messages and any(media.values()):
            yield file, _Columns(messages, **media, **TAGS[messages])


def _rows(file: Path) -> list[Any]:
    """The rows of a JSON list or of JSON lines."""
    rows = _parsed(file)
    return rows if isinstance(rows, list) else []


def _parsed(file: Path) -> Any:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".jsonl":
            # Not splitlines: it also parts at characters that may stand in a JSON text.
            text = "[" + ",\n".join(line for line in text.split("\n") if line.strip()) + "]"
        return json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{file}: is no JSON: {error}; mend or remove it") from None


def _examples(
    row: Any, place: str, file: Path, columns: _Columns, folder: Path, data: Data
) -> Iterator[Raw | Rejected]:
    try:
        first, *later = _exchanges(row, columns)
        shown = _media(row, columns)
        _check_placeholders(first, later, shown)
        kind, name = _only(first, shown, data)
        path = find(name, [file.parent, folder], folder)
        if isinstance(path, str):
            raise _BadRowError(path)
        label, fault = one_label([first.answer], data.labels) if data.labels else (None, "")
        if fault:
            raise _BadRowError(fault)
    except _BadRowError as error:
        yield Rejected(place, str(error))
        return
    identity = path.relative_to(folder).as_posix()
    question = first.question.replace(PLACEHOLDERS[kind], "").strip()
    yield Raw(
        f"{identity}#{place.replace(' row ', ':')}",
        path,
        label,
        question=question or None,
        answers=(first.answer,),
        split=split_in(file.relative_to(folder)),
        group=identity,
    )
    for number, turn in enumerate(later, start=2):
        yield Rejected(f"{place} turn {number}", f"a later turn: {turn.question or turn.answer}")


def _exchanges(row: Any, columns: _Columns) -> list[_Exchange]:
    """What the user and the assistant said in turn; an unanswered end has an empty answer."""
    messages = row.get(columns.messages) if isinstance(row, dict) else None
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise _BadRowError(f"no messages: nothing in {columns.messages}")
    said = [(m.get(columns.role), m.get(columns.content)) for m in messages]
    if said and said[0][0] == columns.system:
        said = said[1:]
    for i, (role, text) in enumerate(said):
        expected = columns.assistant if i % 2 else columns.user
        if role != expected:
            raise _BadRowError(f"out of turn: {role} where {expected} was to speak")
        if not isinstance(text, str):
            raise _BadRowError(f"no text: what {role} says is {type(text).__name__}")
    texts = [text.strip() for _, text in said]
    if len(texts) < 2 or not texts[1]:
        raise _BadRowError("no answer")
    texts += [""] * (len(texts) % 2)
    return [_Exchange(*pair) for pair in zip(texts[::2], texts[1::2], strict=True)]


def _media(row: Mapping[str, Any], columns: _Columns) -> dict[str, list[Any]]:
    """What a row lists, by kind."""
    listed = {"image": columns.image, "video": columns.video}
    found = {kind: row.get(column) or [] for kind, column in listed.items() if column}
    return {kind: v if isinstance(v, list) else [v] for kind, v in found.items()}


def _check_placeholders(
    first: _Exchange, later: list[_Exchange], shown: Mapping[str, list[Any]]
) -> None:
    texts = [text for turn in (first, *later) for text in (turn.question, turn.answer)]
    if any("<audio>" in text for text in texts):
        raise _BadRowError("sound: nothing here hears it")
    for kind, placeholder in PLACEHOLDERS.items():
        named, listed = sum(text.count(placeholder) for text in texts), len(shown.get(kind, []))
        if named != listed:
            raise _BadRowError(
                f"placeholders do not match: {named} {placeholder} in the text, {listed} listed"
            )
    if any(placeholder in first.answer for placeholder in PLACEHOLDERS.values()):
        raise _BadRowError("a picture or video as answer")


def _only(first: _Exchange, shown: Mapping[str, list[Any]], data: Data) -> tuple[str, str]:
    """The one medium of the first exchange, with its kind. Media are shown in their order."""
    counts = {kind: first.question.count(p) for kind, p in PLACEHOLDERS.items()}
    kinds = [kind for kind, count in counts.items() if count]
    if not kinds:
        raise _BadRowError("no picture or video in the first turn")
    if sum(counts.values()) > 1:
        told = ", ".join(f"{count} {PLACEHOLDERS[kind]}" for kind, count in counts.items() if count)
        raise _BadRowError(f"several pictures: {told} in one turn")
    if kinds == ["video"] and not data.frames:
        raise _BadRowError(f"a video where pictures are expected: set data.{data.name}.frames")
    if kinds == ["image"] and data.frames:
        raise _BadRowError(f"a picture where videos are expected: empty data.{data.name}.frames")
    name = shown[kinds[0]][0]
    if not isinstance(name, str) or not name:
        raise _BadRowError(f"no path of a file: the {kinds[0]} is {type(name).__name__}")
    return kinds[0], name
