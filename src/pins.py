"""What of the full scale is fixed in params.yaml, and what the rest can be pinned to.

A pin is a commit of the Hub, a version of a data set of Kaggle, or the ETag and SHA-256 of a file
of a bucket. What was fetched or built comes before what a server says now.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, reduce
from typing import Any

from src import provenance
from src.errors import UserError
from src.provenance import Record
from src.repositories import commit, in_one_line, is_commit
from src.schema import Abo, Esnlive, HubBase, KaggleDataset, Params, WebVid
from src.sources import abo, kaggle

Asked = HubBase | Esnlive | WebVid | KaggleDataset | Abo
# What a block of parameters fixes, and what the same is called in a record.
HUB = {"revision": "revision"}
FIXES: dict[type, Mapping[str, str]] = {
    HubBase: HUB,
    Esnlive: HUB,
    WebVid: HUB,
    KaggleDataset: {"version": "version"},
    Abo: {
        f"{key}.{ours}": f"{key}.{theirs}"
        for key in abo.KEYS
        for ours, theirs in (("size", "bytes"), ("etag", "etag"), ("sha256", "sha256"))
    },
}


@dataclass(frozen=True)
class Place:
    """A block of params.yaml that names what is to be downloaded; `key` is its dotted key."""

    key: str
    section: str
    name: str
    asked: Asked

    def pin(self, field: str, value: object) -> tuple[str, object]:
        """The dotted key under which a value is fixed, and how it stands there."""
        if self.section == "evaluate":
            return self.key, f"roberta-large@{value}"
        return f"{self.key}.{field}", value


@dataclass
class Survey:
    """Values to be pinned, by their dotted keys, with where they come from, and what is to be told.

    `faults` are what could not be asked for or is not what params.yaml says.
    """

    pins: dict[str, tuple[Any, str]] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def places(params: Params) -> Iterator[Place]:
    """What the parameters download, at their scale."""
    for name, data in params.data.items():
        asked = getattr(data.source, data.source.kind)
        local = isinstance(asked, WebVid) and not asked.dataset
        if type(asked) in FIXES and not local:
            yield Place(f"data.{name}.{params.scale}.{data.source.kind}", "data", name, asked)
    for name, base in params.base.items():
        if isinstance(base.model, HubBase):
            yield Place(f"base.{name}.{params.scale}", "base", name, base.model)
    model, _, revision = params.evaluate.bertscore.partition("@")
    if model == "roberta-large":
        asked = HubBase(id="FacebookAI/roberta-large", revision=revision or None)
        yield Place(f"evaluate.bertscore.{params.scale}", "evaluate", "bertscore", asked)


def survey(params: Params) -> Survey:
    """Ask the servers about everything that the parameters download at their scale."""
    found = Survey()
    for place in places(params):
        _look(place, found)
    return found


def _look(place: Place, found: Survey) -> None:
    record, now, asked = _record(place), None, place.asked
    try:
        now = provenance.of(asked, _announced(asked))
    except UserError as error:
        found.faults.append(f"{place.key}: {error}")
    moved = list(provenance.moved(record, now)) if now else []
    found.moved += [f"{place.key}: {line}; {_advice(place)}" for line in moved]
    for ours, theirs in FIXES[type(asked)].items():
        given = _at(asked.model_dump(), ours)
        fetched, says = _at(record, theirs), _at(now, theirs)
        if given is None or (theirs == "revision" and not is_commit(given)):
            if fetched is not None or says is not None:
                was = "as fetched" if fetched is not None else "as it is now"
                key, value = place.pin(ours, says if fetched is None else fetched)
                found.pins[key] = value, was
        elif not moved and says not in (None, given):
            found.faults.append(
                f"{place.key}.{ours}: {given} is now {says}: its publisher changed it; look"
                " at what is new, then correct size, etag and sha256"
            )


def _record(place: Place) -> Record | None:
    """What was fetched or built, if it was for these parameters."""
    record, asked = provenance.read(place.section, place.name), place.asked
    if isinstance(asked, Abo):
        return record if record and record.get("url") == asked.url else None
    repo = asked.id if isinstance(asked, HubBase) else asked.dataset
    if not record or repo not in (record.get("id"), record.get("dataset")):
        return None
    # Pinned since to what was found under another name, it is the same.
    (ours,) = FIXES[type(asked)]
    same = record["ref"] == provenance.ref(asked) or record[ours] == getattr(asked, ours)
    return {**record, "ref": provenance.ref(asked)} if same else None


def _announced(asked: Asked) -> Record:
    if isinstance(asked, KaggleDataset):
        return kaggle.announced(asked)
    if isinstance(asked, Abo):
        return abo.announced(asked)
    if isinstance(asked, HubBase):
        return {"id": asked.id, "revision": _commit(asked.id, asked.revision, "model")}
    return {"dataset": asked.dataset, "revision": _commit(asked.dataset, asked.revision, "dataset")}


@cache
def _commit(repo: str, revision: str | None, kind: str) -> str:
    advice = "check its name, its revision and the network, then start again"
    with in_one_line("the commit", repo, revision, advice):
        return commit(repo, revision, kind)


def _advice(place: Place) -> str:
    stage = f"{'build' if place.section == 'base' else 'fetch'}@{place.name}"
    if provenance.ref(place.asked) and not _fixed(place.asked):
        return (
            "it is pinned to the former, which is what was fetched; for the latter put that into"
            f" params.yaml and run `dvc repro {stage}`"
        )
    return (
        "what was fetched is the former: keep it with `dvc push`, or fetch the latter with"
        f" `dvc repro --force {stage}`"
    )


def _fixed(asked: Asked) -> bool:
    if isinstance(asked, KaggleDataset):
        return asked.version is not None
    return is_commit(getattr(asked, "revision", None))


def _at(block: Record | None, key: str) -> Any:
    """The value under a dotted key, as far as there is one."""
    return reduce(lambda b, part: (b or {}).get(part), key.split("."), block)
