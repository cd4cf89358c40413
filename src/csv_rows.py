"""Rows of CSV files that people wrote."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from src.errors import UserError, refusal

SURPLUS = "more cells than columns: put quotes around a text with a comma"

Row = Mapping[str, str]


def rows(
    table: Path, required: Sequence[str], either: Sequence[str] = ()
) -> Iterator[tuple[int, Row | str]]:
    """The rows of a CSV file that hold anything, numbered from 1 without the heading.

    Columns are named in lower case, and what is missing in a row is empty. Of a row with a text
    beyond the last column, whose cells may be shifted, only that is told.

    Raises:
        UserError: a required column is missing, or all of which it must have `either`, or the file
            is no CSV in UTF-8 or cannot be read.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True, restval="")
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
            missing = [name for name in required if name.lower() not in reader.fieldnames]
            if either and not set(either) & set(reader.fieldnames):
                missing.append(" or ".join(either))
            if missing:
                raise UserError(
                    f"{table}: has no column {missing[0]}; its columns are "
                    f"{', '.join(reader.fieldnames) or 'none'}"
                )
            for number, row in enumerate(reader, start=1):
                surplus = row.pop(None, [])
                texts = {k: v.strip() for k, v in row.items()}
                if any(cell.strip() for cell in surplus):
                    yield number, SURPLUS
                elif any(texts.values()):
                    yield number, texts
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: is no CSV in UTF-8: {error}; save it anew") from None
    except OSError as error:
        why = f"cannot be read: {error.strerror}; correct its name"
        raise refusal(error) or UserError(f"{table}: {why}") from None
