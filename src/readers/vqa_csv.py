"""Tables of questions about pictures: image_name, question and answer, beside their pictures.

The answers may be several in a column `answers`, each as often as people gave it: a list in JSON or
Python, of texts, numbers or VQA v2's objects, or texts with `|` between them. A split is named in a
column `split` or by a word of the table's own name; what a column `group` names, a product of
several pictures say, lies on one side of the split.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from src.csv_rows import Row, rows
from src.errors import UserError
from src.readers.common import SPLITS, find, split_in
from src.records import Raw, Rejected
from src.schema import Data

REQUIRED, ANSWERS = ("image_name", "question"), ("answer", "answers")
NUMBERS = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}


def read(folder: Path, data: Data) -> Iterator[Raw | Rejected]:
    """The questions of every CSV file below `folder`, their pictures unopened.

    A picture is looked for beside its table, in the folder `images` there, and in `folder`.

    Raises:
        UserError: there is no table, or one lacks a column or is no CSV in UTF-8.
    """
    tables = sorted(
        path for path in folder.rglob("*.csv") if not path.name.startswith(".") and path.is_file()
    )
    if not tables:
        raise UserError(
            f"{folder}: holds no CSV file; one with the columns image_name, question and answer "
            "is expected beside its pictures"
        )
    for table in tables:
        name = table.relative_to(folder).as_posix()
        for number, row in rows(table, REQUIRED, ANSWERS):
            yield _example(row, f"{name} row {number}", table, folder)


def _example(row: Row | str, place: str, table: Path, folder: Path) -> Raw | Rejected:
    if isinstance(row, str):
        return Rejected(place, row)
    path = _picture(row["image_name"], table, folder)
    if isinstance(path, str):
        return Rejected(place, path)
    if not row["question"]:
        return Rejected(place, "no question")
    named = row.get("split", "").lower()
    if named and named not in SPLITS:
        return Rejected(place, f"no split: {named}")
    split, answers = SPLITS[named] if named else split_in(Path(table.name)), _answers(row)
    if isinstance(answers, str):
        return Rejected(place, answers)
    if not answers:
        return Rejected(place, "no answer")
    identity = path.relative_to(folder).as_posix()
    return Raw(
        f"{identity}#{place.replace(' row ', ':')}",
        path,
        question=row["question"],
        answers=answers,
        kind=_kind(answers[0]),
        split=split,
        group=row.get("group") or identity,
    )


def _picture(name: str, table: Path, folder: Path) -> Path | str:
    """The picture's path, or why there is none."""
    if not name:
        return "no image named"
    tops = (table.parent, table.parent / "images", folder, folder / "images")
    return find(name, tops, folder)


def _answers(row: Row) -> tuple[str, ...] | str:
    """The references, or why they cannot be read.

    They are `answer`, then what `answers` has beside it, each as often as it has it.
    """
    answer, votes = row.get("answer", ""), _votes(row.get("answers", ""))
    if isinstance(votes, str):
        return votes
    same = [vote for vote in votes if vote.casefold() == answer.casefold()]
    if same:
        votes.remove(same[0])
    return tuple(filter(None, [answer, *votes]))


def _votes(cell: str) -> list[str] | str:
    """The texts that a cell `answers` lists, or why it has none."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return [text.strip() for text in cell.split("|")]
    try:
        listed = json.loads(cell)
    except (ValueError, RecursionError):
        # Python joins texts with no comma between them, as NumPy writes a list.
        if re.search(r"""['"]\s+['"]""", cell):
            return f"answers without a comma between them: {cell}"
        try:
            listed = ast.literal_eval(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return f"answers are no list in JSON or Python: {cell}"
    texts = [item.get("answer") if isinstance(item, dict) else item for item in listed]
    for item, text in zip(listed, texts, strict=True):
        if isinstance(text, bool) or not isinstance(text, str | int | float):
            return f"no text or number among the answers: {item}"
    return [str(text).strip() for text in texts]


def _kind(answer: str) -> str:
    word = answer.lower().rstrip(".")
    if word in ("yes", "no"):
        return "yes_no"
    return "number" if word.isdecimal() or word in NUMBERS else "other"
