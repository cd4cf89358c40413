"""e-SNLI-VE's tables of hypotheses, beside the folder of the Flickr30k pictures.

A hypothesis is the question about its picture, and its explanations are the answers.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from src.csv_rows import Row, rows
from src.errors import UserError
from src.files import PICTURE_SUFFIXES
from src.records import Raw, Rejected
from src.schema import Data

# Those held out come first and keep a pair that another table lists, too.
TABLES = {
    "esnlive_test.csv": "test",
    "esnlive_dev.csv": "validation",
    "esnlive_train.csv": "train",
}
FOLDERS = ("flickr30k_images", "flickr30k-images", "images")
REQUIRED = ("pairid", "flickr30kid", "hypothesis", "gold_label", "explanation")
GOLD = ("entailment", "neutral", "contradiction")  # a number in a table counts in this order

Labels = Mapping[str, str]
Pictures = Mapping[str, Path]


def read(folder: Path, data: Data) -> Iterator[Raw | Rejected]:
    """The hypotheses of the tables below `folder`, pictures unopened, and the rows of no use.

    The tables are `esnlive_train.csv`, `esnlive_dev.csv` and `esnlive_test.csv`; the pictures lie
    in a folder `flickr30k_images`, `flickr30k-images` or `images`. Either may be at any depth.
    `data.labels` names entailment, neutral and contradiction, in this order, or entailment and the
    two others together; `kind` is the one of the three in any case.

    Raises:
        UserError: neither two nor three labels, no table, no folder of pictures, or a table that
            lacks a column or is no CSV in UTF-8.
    """
    labels = _labels(data)
    tables = [p for name in TABLES for p in sorted(folder.rglob(name)) if p.is_file()]
    if not tables:
        raise UserError(
            f"{folder}: holds none of {', '.join(TABLES)}; put e-SNLI-VE's tables there, beside "
            "the folder of the Flickr30k pictures"
        )
    pictures = _pictures(folder)
    for table in tables:
        name, split = table.relative_to(folder).as_posix(), TABLES[table.name]
        seen: dict[str, int] = {}
        for number, row in rows(table, REQUIRED):
            place = f"{name} row {number}"
            if isinstance(row, str):
                yield Rejected(place, row)
                continue
            first = seen.setdefault(row["pairid"], number)
            if fault := _fault(row, first, number, pictures):
                yield Rejected(place, fault)
            else:
                yield _example(row, split, folder, pictures, labels)


def _labels(data: Data) -> Labels:
    """What each of the three is called."""
    names = data.labels or []
    if len(names) not in (2, 3) or len(set(names)) < len(names):
        raise UserError(
            f"data.{data.name}.labels: is {data.labels}; name what is {', '.join(GOLD)}, or two "
            "classes: entailment, and the others together"
        )
    # Of two names the second stands for both others.
    return dict(zip(GOLD, [*names, names[-1]], strict=False))


def _pictures(folder: Path) -> Pictures:
    """The pictures by their names."""
    # Looked up by name: 400,000 rows name some 30,000 files.
    found = {
        path.name: path
        for path in sorted(folder.rglob("*"))
        if path.parent.name in FOLDERS and path.suffix.lower() in PICTURE_SUFFIXES
    }
    if not found:
        raise UserError(
            f"{folder}: holds no pictures in a folder {', '.join(FOLDERS[:-1])} or {FOLDERS[-1]}; "
            "put the folder of the Flickr30k pictures there"
        )
    return found


def _fault(row: Row, first: int, number: int, pictures: Pictures) -> str:
    """Why a row is of no use; empty where it is."""
    pair, picture = row["pairid"], row["flickr30kid"]
    if not pair:
        return "no pairID"
    if first != number:
        return f"pairID twice: {pair} is that of row {first}"
    if not picture:
        return f"no Flickr30kID: {pair}"
    if picture not in pictures:
        return f"no such picture: {picture}"
    if not row["hypothesis"]:
        return f"no hypothesis: {pair}"
    if not _gold(row):
        return f"no gold label: {row['gold_label'] or 'empty'}"
    if not _explanations(row):
        return f"no explanation: {pair}"
    return ""


def _example(row: Row, split: str, folder: Path, pictures: Pictures, labels: Labels) -> Raw:
    path, gold = pictures[row["flickr30kid"]], _gold(row)
    return Raw(
        f"{path.relative_to(folder).as_posix()}#{row['pairid']}",
        path,
        labels[gold],
        row["hypothesis"],
        _explanations(row),
        kind=gold,
        split=split,
        group=row["flickr30kid"],
    )


def _gold(row: Row) -> str:
    """One of the three; empty where the row names none."""
    given = row["gold_label"].lower()
    if given in ("0", "1", "2"):
        return GOLD[int(given)]
    return given if given in GOLD else ""


def _explanations(row: Row) -> tuple[str, ...]:
    """The references: `explanation`, then those of `explanation_1` and so on."""
    more = (row.get(f"explanation_{i}", "") for i in range(1, 10))
    return tuple(dict.fromkeys(filter(None, [row["explanation"], *more])))
