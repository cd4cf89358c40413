"""Many pictures or videos from files to a file of answers, row by row."""

import glob
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
from tqdm import tqdm

from src.errors import UserError
from src.files import PICTURE_SUFFIXES, VIDEO_SUFFIXES, whole

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
        UserError: nothing is there, or the CSV has no column that names files.
    """
    path = Path(files)
    if path.suffix.lower() == ".csv" and path.is_file():
        rows = _from_csv(path, images or path.parent)
    elif path.is_dir():
        rows = [{"image": str(file)} for file in sorted(path.rglob("*")) if _is_medium(file)]
    elif path.is_file():
        rows = [{"image": files}]
    else:
        found = sorted(glob.glob(files, recursive=True))  # noqa: PTH207, it takes absolute ones
        rows = [{"image": file} for file in found if not Path(file).is_dir()]
    if not rows:
        raise UserError(
            f"{files}: no pictures or videos are there; name a file, folder, glob or CSV"
        )
    return [{**row, "question": row.get("question") or question} for row in rows[:limit]]


def _is_medium(file: Path) -> bool:
    return file.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES and file.is_file()


def _from_csv(path: Path, images: Path) -> list[Row]:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no CSV in UTF-8: {error}") from None
    names = {"question": "question", "answer": "reference"}
    if {"videoid", "page_dir"} <= set(table.columns):
        table["video_name"] = table["page_dir"] + "/" + table["videoid"] + ".mp4"
        names = {"question": "question", "name": "reference"}
    column = next((c for c in ("image_name", "video_name") if c in table), None)
    if column is None:
        raise UserError(
            f"{path}: has no column image_name or video_name, but {', '.join(table.columns)}; "
            "it needs one, and may have question and answer"
        )
    named = table[column].str.replace("\\", "/", regex=False)
    # A row that names no file is an error of that row, not the folder's.
    rows = pd.DataFrame({"image": [str(images / name) if name else "" for name in named]})
    for column, name in names.items():
        if column in table:
            rows[name] = table[column]
    return rows.to_dict("records")


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
        UserError: the output is there already or has no known ending, or the kept rows are of
            other pictures or another model.
    """
    if output.suffix.lower() not in WRITERS:
        raise UserError(f"{output}: must end in {', '.join(WRITERS)}")
    if output.exists():
        raise UserError(f"{output}: is there already; remove it or name another")
    # Only here: reading the inputs should fail before a model is loaded.
    from src.inference.tuned import load

    kept = output.with_name(f".{output.name}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        done = _resume(kept, _fingerprint(inputs, recipe, adapter, base, generation))
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}") from None
    if done < len(inputs):
        model = load(recipe, adapter, base, generation)
        model.check([row["question"] for row in inputs])
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
    with whole(output) as beside:
        WRITERS[output.suffix.lower()](frame, beside)
    kept.unlink(missing_ok=True)
    return {
        "answered": int((frame["error"] == "").sum()),
        "doubtful": int((frame["doubt"] != "").sum()),
        "errors": int((frame["error"] != "").sum()),
    }


def _fingerprint(
    inputs: Sequence[Row],
    recipe: str,
    adapter: str | None,
    base: str | None,
    generation: Mapping[str, Any],
) -> str:
    """What the answers of a run hang on, in one line."""
    digest = hashlib.sha256(json.dumps([inputs, recipe, adapter, base, {**generation}]).encode())
    for file in sorted(Path(adapter or f"models/adapters/{recipe}").glob("adapter_model.*")):
        digest.update(file.read_bytes())
    return json.dumps({"run": digest.hexdigest()}) + "\n"


def _lines(path: Path) -> list[str]:
    # Not splitlines, which also ends a line within a text that holds some other separator.
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def _resume(kept: Path, fingerprint: str) -> int:
    """How many rows an earlier run has answered; begins the file where there is none.

    A killed run may have left half of its last line, which is cut off.
    """
    if not kept.is_file():
        kept.write_text(fingerprint, encoding="utf-8")
        return 0
    lines = [f"{line}\n" for line in _lines(kept)]
    if lines[:1] != [fingerprint]:
        raise UserError(f"{kept}: holds answers of another run; finish that one or remove the file")
    with whole(kept) as beside:
        beside.write_text("".join(lines), encoding="utf-8")
    return len(lines) - 1
