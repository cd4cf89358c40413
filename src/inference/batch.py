"""Many pictures or videos from files to a file of answers, row by row."""

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import typer
from tqdm import tqdm

from src import csv_rows
from src.errors import UserError
from src.files import PICTURE_SUFFIXES, VIDEO_SUFFIXES, is_file, whole
from src.readers.webvid import Videos, places, videos_below, with_suffix
from src.schema import composed
from src.sources.folder import files_below

FILES = ("image_name", "video_name", "videoid")  # columns of which one names the files
MEDIA_SUFFIXES = PICTURE_SUFFIXES | VIDEO_SUFFIXES
BLOCK = 128  # rows decoded, answered and written before the next
WRITERS = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    ".parquet": lambda frame, path: frame.to_parquet(path, index=False),
}
Row = dict[str, Any]


def read_inputs(
    files: str, images: Path | None, question: str | None, limit: int | None = None
) -> list[Row]:
    """Rows of `image` (a path), `question` (or None) and, where a CSV has it, `reference`.

    Args:
        files: a picture or video, a folder, a glob, a CSV of image_name or video_name, question
            and answer, or a table of WebVid.
        images: the folder that the paths of a CSV are relative to; None: the CSV's own.
        question: what is asked where a row asks nothing.
        limit: the first so many; None: all.

    Raises:
        UserError: nothing is there, a file's name is that of no picture, video or CSV, or the CSV
            has no column that names files or a row with more cells than columns.
    """
    path = Path(files)
    if path.suffix.lower() == ".csv" and path.is_file():
        rows = _from_csv(path, images or path.parent, limit)
    elif path.is_dir():
        rows = [{"image": str(file)} for file in _media_below(path)]
    elif path.is_file():
        if path.suffix.lower() not in MEDIA_SUFFIXES:
            raise UserError(
                f"{files}: its name is that of no picture, video or CSV; name a .csv, a folder, a "
                f"glob, or a file that ends in one of {', '.join(sorted(MEDIA_SUFFIXES))}"
            )
        rows = [{"image": files}]
    else:
        found = sorted(glob.glob(files, recursive=True))  # noqa: PTH207, it takes absolute ones
        rows = [{"image": file} for file in found if not Path(file).is_dir()]
    if not rows:
        raise UserError(
            f"{files}: no pictures or videos are there; name a file, folder, glob or CSV"
        )
    asked = [row | {"question": row.get("question") or question} for row in rows[:limit]]
    # As the texts of its training were; the name of a file stays as it is.
    return [{k: v if k == "image" else v and composed(v) for k, v in row.items()} for row in asked]


def _media_below(folder: Path) -> list[Path]:
    """The pictures and videos below a folder, by their names; what else is there is told."""
    try:
        files = sorted(files_below(folder))
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None
    media = [file for file in files if file.suffix.lower() in MEDIA_SUFFIXES]
    if others := sorted(set(files) - set(media)):
        typer.echo(
            f"note: {len(others)} files are not asked about, as their names are those of no picture"
            f" or video, {others[0]} first",
            err=True,
        )
    return media


def _from_csv(path: Path, images: Path, limit: int | None) -> list[Row]:
    rows = []
    for number, row in islice(csv_rows.rows(path, (), FILES), limit):
        if isinstance(row, str):
            raise UserError(f"{path}: row {number}: {row}")
        rows.append(row)
    if not rows:
        return []
    column = next(name for name in FILES if name in rows[0])
    reference = "name" if column == "videoid" else "answer"
    names = {"question": "question", reference: "reference"}
    if column == "videoid":
        videos = videos_below(images)
        files = [_video(row, images, videos) for row in rows]
    else:
        files = [_file(row[column], images) for row in rows]
    return [
        {"image": file} | {ours: row[theirs] for theirs, ours in names.items() if theirs in row}
        for file, row in zip(files, rows, strict=True)
    ]


def _file(name: str, images: Path) -> str:
    """The file of that name, or where it was first looked for."""
    if not name:
        return ""  # an error of that row, not the folder's
    name = name.replace("\\", "/")
    paths = [images / name, images / "images" / name, images / "videos" / name]
    return str(next((path for path in paths if is_file(path)), paths[0]))


def _video(row: Row, folder: Path, videos: Videos) -> str:
    """The file of a row of WebVid, or where it was first looked for."""
    if not row["videoid"]:
        return ""
    names = places(row) or [row["videoid"]]
    return str(next((videos[n] for n in names if n in videos), folder / with_suffix(names[0])))


def run(
    inputs: Sequence[Row],
    output: Path,
    recipe: str,
    adapter: str | None,
    base: str | None,
    batch_size: int,
    generation: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, int]:
    """Answer every row and write the table; returns how many are answered, doubtful and errors.

    `generation` holds what is to be other than in the recipe's block of that name.

    Rows are kept in a file beside the output as they come, so that a run that was stopped goes on.

    Raises:
        UserError: the output is there already, has no known ending or cannot be written, or the
            kept rows are of other files, another model or other settings.
    """
    if output.suffix.lower() not in WRITERS:
        raise UserError(f"{output}: must end in {', '.join(WRITERS)}")
    if output.exists():
        raise UserError(f"{output}: is there already; remove it or name another")
    # Only here: reading the inputs should fail before a model is loaded.
    from src.inference.tuned import load

    # Not the name of what `whole` writes, which begins by removing it.
    kept = output.with_name(f".{output.name}.answers")
    with _to_be_written(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    model = load(recipe, adapter, base, generation)
    model.check([row["question"] for row in inputs])
    asked = hashlib.sha256(json.dumps([*inputs, base, model.digest()]).encode()).hexdigest()
    with _to_be_written(output):
        done = _resume(kept, json.dumps({"run": asked}) + "\n")
    if done < len(inputs):
        block = max(batch_size, BLOCK // batch_size * batch_size)
        with (
            kept.open("a", encoding="utf-8") as file,
            tqdm(total=len(inputs), initial=done, desc="predict", unit="file") as bar,
        ):
            for start in range(done, len(inputs), block):
                part = inputs[start : start + block]
                answers = model.ask(
                    [row["image"] for row in part], [row["question"] for row in part], batch_size
                )
                for row, answer in zip(part, answers.to_dict("records"), strict=True):
                    line = answer | {k: v for k, v in row.items() if k == "reference"}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
                bar.update(len(part))
    rows = [json.loads(line) for line in _lines(kept)[1:]]
    frame = pd.DataFrame(rows)
    with _to_be_written(output), whole(output) as beside:
        WRITERS[output.suffix.lower()](frame, beside)
    kept.unlink(missing_ok=True)
    return {
        "answered": int((frame["error"] == "").sum()),
        "doubtful": int((frame["doubt"] != "").sum()),
        "errors": int((frame["error"] != "").sum()),
    }


@contextmanager
def _to_be_written(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}") from None


def _lines(path: Path) -> list[str]:
    # Not splitlines, which also ends a line within a text that holds some other separator. What
    # follows the last line end may be half a character.
    return [line.decode() for line in path.read_bytes().split(b"\n")[:-1]]


def _resume(kept: Path, fingerprint: str) -> int:
    """How many rows an earlier run has answered; begins the file where there is none of any row.

    A killed run may have left half of its last line, which is cut off.
    """
    lines = [f"{line}\n" for line in _lines(kept)] if kept.is_file() else []
    if len(lines) < 2:
        lines = [fingerprint]
    if lines[0] != fingerprint:
        raise UserError(
            f"{kept}: holds {len(lines) - 1} answers to other files or questions, or of another "
            "model or settings; finish that run or remove the file"
        )
    with whole(kept) as beside:
        beside.write_text("".join(lines), encoding="utf-8")
    return len(lines) - 1
