"""WebVid's tables of videos and their captions, beside a folder of the videos.

A table names its split: train is for training and val is the test, as those who use WebVid have
it, unless another table is called test. A video that is listed again with another caption has
several references.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from src.csv_rows import Row, rows
from src.errors import UserError
from src.files import VIDEO_SUFFIXES
from src.readers.common import one_label, split_in
from src.records import Raw, Rejected
from src.schema import Data

REQUIRED = ("videoid", "name")
DEAD_LINKS = "dead_links.csv"  # written by src/sources/webvid.py beside the tables
RANK = {"test": 0, "validation": 1, "train": 2, None: 3}  # who keeps a video of several tables

Videos = dict[str, Path]  # by the path below the data's folder, without suffix


@dataclass(frozen=True)
class _Clip:
    """A video with the row that named it first."""

    video: str
    table: Path
    place: str
    path: Path
    split: str | None
    captions: list[str]


def read(folder: Path, data: Data) -> Iterator[Raw | Rejected]:
    """The videos that the tables below `folder` name, unopened, and the rows that give none.

    A video lies at `videos/<page_dir>/<videoid>`, `<page_dir>/<videoid>` or `videos/<videoid>`
    beside its table or in `folder`, with any suffix of a video, which `videoid` may have too.

    Raises:
        UserError: there is no table, or one lacks a column or is no CSV in UTF-8.
    """
    clips: dict[str, _Clip] = {}
    videos = videos_below(folder)
    for table, split in _tables(folder):
        name = table.relative_to(folder).as_posix()
        for number, row in rows(table, REQUIRED):
            clip = _clip(row, f"{name} row {number}", table, split, folder, videos)
            if isinstance(clip, Rejected):
                yield clip
                continue
            first = clips.setdefault(clip.video, clip)
            if first.table != table or first.path != clip.path:
                yield Rejected(clip.place, f"videoid twice: {clip.video} is that of {first.place}")
            elif clip.captions[0] not in first.captions:
                first.captions.extend(clip.captions)
    for clip in clips.values():
        yield _example(clip, folder, data)


def _tables(folder: Path) -> list[tuple[Path, str | None]]:
    """The tables and their splits; those held out come first and keep what they list."""
    found = [
        path
        for path in sorted(folder.rglob("*.csv"))
        if not path.name.startswith(".") and path.name != DEAD_LINKS and path.is_file()
    ]
    if not found:
        raise UserError(
            f"{folder}: holds no CSV file; one with the columns videoid, name and page_dir is "
            "expected beside the folder of videos"
        )
    splits = {path: split_in(path.relative_to(folder)) for path in found}
    if "test" not in splits.values():
        splits = {p: "test" if s == "validation" else s for p, s in splits.items()}
    return sorted(splits.items(), key=lambda table: RANK[table[1]])


def videos_below(folder: Path) -> Videos:
    """All videos, to be looked up: tables of millions of rows may stand beside some thousand."""
    files = (p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
    return {
        p.relative_to(folder).with_suffix("").as_posix(): p for p in sorted(files, reverse=True)
    }


def _clip(
    row: Row | str, place: str, table: Path, split: str | None, folder: Path, videos: Videos
) -> _Clip | Rejected:
    if isinstance(row, str):
        return Rejected(place, row)
    video, pages = row["videoid"], row.get("page_dir", "").replace("\\", "/")
    if not video:
        return Rejected(place, "no videoid")
    if not row["name"]:
        return Rejected(place, f"no caption: {video}")
    names = places(row, (table.parent.relative_to(folder), Path()))
    if not names:
        return Rejected(place, f"outside the data's folder: {PurePosixPath(pages, video)}")
    path = next((videos[name] for name in names if name in videos), None)
    if path is None:
        missing = with_suffix(str(PurePosixPath("videos", pages, video)))
        return Rejected(place, f"no such file: {missing}")
    return _Clip(video, table, place, path, split, [row["name"]])


def places(row: Row, tops: Iterable[Path] = (Path(),)) -> list[str]:
    """Where the video of a row may lie, as `videos_below` names it; none: outside of the folder.

    `tops` are the folders, below that one, beside which it is looked for.
    """
    video, pages = row["videoid"], row.get("page_dir", "").replace("\\", "/")
    paths = [PurePosixPath("videos", pages, video), PurePosixPath(pages, video)]
    names = [
        # Lexical, not resolved: DVC may have checked the files out as links to its cache.
        os.path.normpath((top / path).as_posix())
        for top in tops
        for path in [*paths, PurePosixPath("videos", video)]
    ]
    if with_suffix(video) == video:
        names += [str(PurePosixPath(name).with_suffix("")) for name in names]
    inside = [name for name in names if not name.startswith(("/", "../"))]
    return [] if paths[1].is_absolute() else inside


def with_suffix(name: str) -> str:
    """The name of a video, ending in .mp4 where it has no suffix of one."""
    return name if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES else f"{name}.mp4"


def _example(clip: _Clip, folder: Path, data: Data) -> Raw | Rejected:
    label, fault = one_label(clip.captions, data.labels) if data.labels else (None, "")
    if fault:
        return Rejected(clip.place, fault)
    identity = clip.path.relative_to(folder).as_posix()
    answers = tuple(clip.captions)
    return Raw(identity, clip.path, label, None, answers, split=clip.split, group=clip.video)
