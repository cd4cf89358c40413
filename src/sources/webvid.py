"""WebVid: tables of captions and addresses, from the Hub or from here, and the videos behind them.

Links die: those that lead nowhere are listed in `dead_links.csv` beside the tables.
"""

import csv
import hashlib
import heapq
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from huggingface_hub import hf_hub_download

from src.csv_rows import SURPLUS, Row, rows
from src.errors import UserError
from src.files import repository
from src.repositories import commit, in_one_line, is_commit
from src.schema import WebVid
from src.sources import download
from src.sources.clips import bring_all

COLUMNS = ("videoid", "name", "page_dir", "duration", "contentUrl")
REQUIRED = ("videoid", "name", "contentUrl")
DEAD_LINKS = "dead_links.csv"  # src/readers/webvid.py passes it by

Drawn = dict[str, list[tuple[str, Row]]]  # the rows of each video, with their tables


def fetch(source: WebVid, folder: Path, seed: int) -> dict[str, object]:
    """Draw clips from the tables and download them into the empty `folder`.

    `folder` then holds a table of the drawn rows for each of the source's, under a name that still
    tells its split, and the videos at `videos/<page_dir>/<videoid>.mp4`. What has arrived when a
    download breaks off stays in .downloads of the repository, and the next call goes on from there.

    Returns:
        Where the tables come from, how many rows hold anything and how many of those can be no
        clip, how many clips were drawn, came and are dead.

    Raises:
        UserError: a table that cannot be had or read, no connection, a full disk, or not one video.
    """
    with download.place("webvid") as place:
        revision, tables = _tables(source)
        drawn, read, unusable = _draw(tables, source.clips, seed)
        links = {video: found[0][1]["contentUrl"] for video, found in drawn.items()}
        brought = bring_all(links, place)
        dead = {video: why for video, why in brought.items() if isinstance(why, str)}
        if len(dead) == len(drawn):
            raise _nothing_came(dead)
        try:
            size = _move(drawn, brought, folder)
            _write(drawn, dead, folder)
        except OSError as error:
            raise UserError(f"{error.filename or folder}: {error.strerror}") from None
    return {
        "dataset": source.dataset,
        "revision": revision,
        "tables": source.tables,
        "rows": read,
        "unusable": unusable,
        "clips": len(drawn),
        "downloaded": len(drawn) - len(dead),
        "dead": len(dead),
        "bytes": size,
    }


def _nothing_came(dead: Mapping[str, str]) -> UserError:
    reasons = Counter(why for why in dead.values()).most_common(3)
    told = ", ".join(f"{why} ({n})" for why, n in reasons)
    return UserError(
        f"none of {len(dead)} videos can be had: {told}; draw more clips, or put videos of your own"
        " beside such a table and name their folder in the key folder"
    )


def _tables(source: WebVid) -> tuple[str | None, dict[str, Path]]:
    """The commit of the tables, where they have one, and their files by their names."""
    if not source.dataset:
        return None, {table: repository() / Path(table).expanduser() for table in source.tables}
    advice = "check dataset, revision, tables and the network, then start again"
    with in_one_line("the tables", source.dataset, source.revision, advice):
        # One that is a commit already may be had from the Hub's cache alone.
        pinned = is_commit(source.revision)
        revision = source.revision if pinned else commit(source.dataset, source.revision)
        return revision, {
            table: Path(
                hf_hub_download(source.dataset, table, repo_type="dataset", revision=revision)
            )
            for table in source.tables
        }


def _draw(tables: Mapping[str, Path], clips: int, seed: int) -> tuple[Drawn, int, int]:
    """At most so many videos with all their rows, the number of all rows and of unusable ones.

    Drawn are those of the least digest, so that memory holds no more than them, and a greater
    number holds the smaller one's.
    """
    drawn: Drawn = {}
    ranks: list[tuple[int, str]] = []  # negative: the heap gives the greatest digest first
    read = unusable = surplus = 0
    for table, path in tables.items():
        for _, cells in rows(path, REQUIRED):
            read += 1
            if isinstance(cells, str):
                surplus += 1
                continue
            row = {name: cells.get(name.lower(), "") for name in COLUMNS}
            if not _usable(row):
                unusable += 1
                continue
            video = row["videoid"]
            if video in drawn:
                drawn[video].append((table, row))
                continue
            rank = int(hashlib.sha256(f"{seed} {video}".encode()).hexdigest(), 16)
            full = len(ranks) == clips
            if full and rank >= -ranks[0][0]:
                continue
            if full:
                del drawn[heapq.heappop(ranks)[1]]
            heapq.heappush(ranks, (-rank, video))
            drawn[video] = [(table, row)]
    if not drawn:
        faults = {
            SURPLUS: surplus,
            "no videoid, name or contentUrl, or a path out of the folder of videos": unusable,
        }
        told = ["none of their rows is a clip's"]
        told += [f"{count} with {fault}" for fault, count in faults.items() if count]
        raise UserError(f"{', '.join(map(str, tables.values()))}: {'; '.join(told)}")
    return drawn, read, unusable + surplus


def _usable(row: Row) -> bool:
    """Whether a row names all that it takes, and a file inside the folder."""
    path = _path(row)
    inside = not path.is_absolute() and ".." not in path.parts and "\0" not in str(path)
    return inside and all(row[name] for name in REQUIRED)


def _path(row: Row) -> PurePosixPath:
    return PurePosixPath("videos", row["page_dir"].replace("\\", "/"), f"{row['videoid']}.mp4")


def _move(drawn: Drawn, brought: Mapping[str, Path | str], folder: Path) -> int:
    """Put the videos where the reader looks for them; returns their bytes."""
    size = 0
    for video, file in brought.items():
        if isinstance(file, Path):
            target = folder / _path(drawn[video][0][1])
            target.parent.mkdir(parents=True, exist_ok=True)
            size += file.stat().st_size
            shutil.move(file, target)
    return size


def _write(drawn: Drawn, dead: Mapping[str, str], folder: Path) -> None:
    """Write the drawn rows by table, and the dead links."""
    tables: dict[str, list[Row]] = {}
    for found in drawn.values():
        for table, row in found:
            tables.setdefault(_flat(table), []).append(row)
    for name, listed in tables.items():
        _write_csv(folder / name, COLUMNS, [tuple(row.values()) for row in listed])
    links = [(video, drawn[video][0][1]["contentUrl"], why) for video, why in dead.items()]
    _write_csv(folder / DEAD_LINKS, ("videoid", "contentUrl", "reason"), links)


def _write_csv(path: Path, heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([heading, *rows])


def _flat(table: str) -> str:
    """One name for a path, in which the names of folders still tell the split."""
    parts = PurePosixPath(table).with_suffix(".csv").parts
    return "_".join(part for part in parts if part not in ("/", "..", ".", "~"))
