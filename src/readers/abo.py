"""Amazon Berkeley Objects: gzipped JSON lines, a table of pictures, and questions made of both.

Any folders may lie above the publisher's. Without the table, a picture is named after its id.
"""

import csv
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from src.errors import UserError
from src.files import is_file
from src.readers import abo_questions
from src.readers.abo_questions import Question
from src.records import Raw, Rejected
from src.schema import Data

LISTINGS = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
SIZES = ("small", "original")
LAYOUT = (
    "expected are listings/metadata/listings_0.json.gz and so on, images/metadata/images.csv.gz "
    "and images/small, as the publisher's archives unpack"
)


@dataclass(frozen=True)
class Product:
    """What is kept of a listing."""

    item: str
    place: str  # file and row
    picture: str  # its id
    kind: str | None  # of product
    answers: Mapping[str, str]  # by kind of question
    rank: tuple[bool, int, str, str]  # the least is the listing to use


def read(folder: Path, data: Data) -> Iterator[Raw | Rejected]:
    """An example for each question about each product, and what gives none.

    A product listed more than once counts once: English before other languages, then the listing
    that says most.

    Raises:
        UserError: no listings, no pictures, or nothing that can be asked.
    """
    products: dict[str, Product] = {}
    for entry in _products(folder):
        if isinstance(entry, Rejected):
            yield entry
        elif entry.item not in products or entry.rank < products[entry.item].rank:
            products[entry.item] = entry
    pictures = _pictures(folder)
    shown: dict[Path, Product] = {}
    for _, product in sorted(products.items()):
        if isinstance(path := _picture(product, pictures, folder), Rejected):
            yield path
        elif not product.answers:
            yield Rejected(product.place, f"no question can be made: {product.item}")
        elif path in shown:
            reason = f"picture of another product: {shown[path].item} has it too"
            yield Rejected(product.place, reason)
        else:
            shown[path] = product
    if not shown:
        raise UserError(
            f"{folder}: none of {len(products)} products has both a picture and something to ask; "
            f"{LAYOUT}"
        )
    yield from _examples(shown, folder)


def _examples(shown: Mapping[Path, Product], folder: Path) -> Iterator[Raw]:
    colours = {p.item: p.answers["color"] for p in shown.values() if "color" in p.answers}
    closed = abo_questions.yes_no(colours)
    for path, product in shown.items():
        made = abo_questions.questions(product.answers)
        made += [closed[product.item]] if product.item in closed else []
        yield from (_raw(path, folder, product, question) for question in made)


def _raw(path: Path, folder: Path, product: Product, question: Question) -> Raw:
    return Raw(
        f"{path.relative_to(folder).as_posix()}#{question.kind}",
        path,
        question=question.text,
        answers=(question.answer,),
        kind=question.kind,
        group=product.item,
        subgroup=product.kind,
    )


def _products(folder: Path) -> Iterator[Product | Rejected]:
    """Every listing below the folder."""
    files = sorted(p for p in folder.rglob("listings*") if p.name.endswith(LISTINGS))
    if not files:
        raise UserError(f"{folder}: holds no listings; {LAYOUT}")
    for path in files:
        name = path.relative_to(folder).as_posix()
        try:
            with _open(path) as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield _product(line, f"{name} row {number}")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield Rejected(name, f"cut short or damaged: {error}")


def _product(line: bytes, place: str) -> Product | Rejected:
    try:
        listing = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Rejected(place, f"no JSON: {error}")
    item, picture = (
        listing.get(key) if isinstance(listing, dict) else None
        for key in ("item_id", "main_image_id")
    )
    if not isinstance(item, str) or not item:
        return Rejected(place, "no item_id")
    if not isinstance(picture, str) or not picture:
        return Rejected(place, f"no picture named: {item}")
    answers = abo_questions.answers(listing)
    rank = (
        not abo_questions.is_english(listing),
        -len(answers),
        str(listing.get("domain_name")),
        place,
    )
    return Product(item, place, picture, abo_questions.product_type(listing), answers, rank)


def _picture(product: Product, pictures: Mapping[str, Path], folder: Path) -> Path | Rejected:
    path = pictures.get(product.picture)
    if path is None:
        return Rejected(product.place, f"picture not listed: {product.picture}")
    if not path.is_relative_to(folder):
        return Rejected(product.place, f"outside the data's folder: {path}")
    if not is_file(path):
        return Rejected(product.place, f"no such file: {path.relative_to(folder).as_posix()}")
    return path


def _pictures(folder: Path) -> dict[str, Path]:
    """The path of each picture by its id."""
    tables = sorted(p for p in folder.rglob("images.csv*") if p.name.endswith((".csv", ".csv.gz")))
    if not tables:
        return {path.stem: path for path in sorted(folder.rglob("*.jpg"), reverse=True)}
    pictures = {}
    for table in tables:
        top = table.parent.parent
        sizes = [top / size for size in SIZES if (top / size).is_dir()]
        if not sizes:
            raise UserError(f"{top}: has no folder {' or '.join(SIZES)}; {LAYOUT}")
        pictures |= _listed(table, sizes[0])
    return pictures


def _listed(table: Path, top: Path) -> dict[str, Path]:
    try:
        with _open(table) as file:
            rows = list(csv.DictReader(line.decode("utf-8-sig") for line in file))
        # Lexical, not resolved: DVC may have checked the files out as links to its cache.
        return {
            row["image_id"]: Path(os.path.normpath(top / row["path"]))
            for row in rows
            if row["path"]
        }
    except KeyError as error:
        raise UserError(f"{table}: has no column {error.args[0]}; {LAYOUT}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: cannot be read: {error}; bring it anew") from None


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
