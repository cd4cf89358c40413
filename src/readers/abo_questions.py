"""Questions with one-word answers about a product, made from its listing."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from src.readers.abo_words import (
    ALIKE,
    ENGLISH,
    FOREIGN,
    NUMBERS,
    ODD_TYPES,
    PLAIN_COLOURS,
    UNSURE,
    VAGUE,
    the_one,
    words,
)

QUESTIONS = {
    "product_type": "What type of product is this?",
    "color": "What color is the product?",
    "material": "What is the product made of?",
    "pattern": "What pattern does the product have?",
    "style": "What style is the product?",
    "shape": "What shape is the product?",
    "brand": "What brand is the product?",
    "count": "How many items are in the pack?",
}
YES_NO = "Is the product {}?"
SIZES = {str(n) for n in range(1, 25)}  # of a pack; above it nobody counts what a picture shows
NUMBER = rf"\d+|{'|'.join(NUMBERS)}"
PACK = re.compile(
    rf"\b(?:pack|set) of ({NUMBER})\b|(?<![\w.])({NUMBER})[- ]?(?:pack|count|ct|pieces?|pcs?)\b",
    re.I,
)

Listing = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """What is asked, and the answer in one lower-case word."""

    kind: str
    text: str
    answer: str


def answers(listing: Listing) -> dict[str, str]:
    """What the listing says of its product in one word each, by kind of question.

    English values count; without any, those in another language whose English word is known.
    """
    found = {
        "product_type": _type(listing),
        "color": _color(listing),
        "material": _material(listing),
        **{kind: _listed(listing, kind) for kind in ("pattern", "style")},
        "shape": _listed(listing, "shape", "item_shape"),
        "brand": _brand(listing),
        "count": _count(listing),
    }
    return {kind: answer for kind, answer in found.items() if answer}


def questions(answers: Mapping[str, str]) -> list[Question]:
    """The open questions that have these answers, none of which gives its answer away."""
    made = [Question(kind, QUESTIONS[kind], answer) for kind, answer in answers.items()]
    return [q for q in made if q.answer not in words(q.text)]


def yes_no(colours: Mapping[str, str]) -> dict[str, Question]:
    """Whether a product is of some colour, for products by id with their colours.

    Two products of different colours are asked about the first one's: each colour is as often
    right as wrong, and no answer can be told from the question alone. Who is left without a
    partner is not asked.
    """
    asked: dict[str, Question] = {}
    waiting: dict[str, list[str]] = {}
    for product in sorted(colours, key=_shuffled):
        own = colours[product]
        if own not in PLAIN_COLOURS:
            continue
        others = (c for c in waiting if waiting[c] and c != own and {c, own} not in ALIKE)
        if (other := next(others, None)) is None:
            waiting.setdefault(own, []).append(product)
            continue
        text = YES_NO.format(other)
        asked[waiting[other].pop()] = Question("yes_no", text, "yes")
        asked[product] = Question("yes_no", text, "no")
    return asked


def is_english(listing: Listing) -> bool:
    """Whether any value of the listing is in English."""
    return any(_english(entry) for key in listing for entry in _entries(listing, key))


def product_type(listing: Listing) -> str | None:
    """The publisher's type in plain words, such as "cellular phone case"."""
    texts = _texts(_entries(listing, "product_type"))
    return texts[0].replace("_", " ").lower() if texts else None


def _values(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []


def _entries(listing: Listing, key: str) -> list[dict[str, Any]]:
    return [entry for entry in _values(listing.get(key)) if isinstance(entry, dict)]


def _english(entry: Mapping[str, Any]) -> bool:
    return str(entry.get("language_tag", "")).lower().startswith("en")


def _texts(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    return [e["value"] for e in entries if isinstance(e.get("value"), str) and e["value"].strip()]


def _listed(listing: Listing, kind: str, key: str | None = None) -> str | None:
    entries = _entries(listing, key or kind)
    if english := [entry for entry in entries if _english(entry)]:
        return the_one(_texts(english), ENGLISH[kind])
    return the_one(_texts(entries), FOREIGN.get(kind, {}))


def _color(listing: Listing) -> str | None:
    standard = [
        {"language_tag": entry.get("language_tag"), "value": value}
        for entry in _entries(listing, "color")
        for value in _values(entry.get("standardized_values"))
    ]
    return _listed({"color": standard}, "color") or _listed(listing, "color")


def _material(listing: Listing) -> str | None:
    key = "material" if _entries(listing, "material") else "fabric_type"
    said = {word for text in _texts(_entries(listing, key)) for word in words(text)}
    return None if said & UNSURE else _listed(listing, "material", key)


def _type(listing: Listing) -> str | None:
    """The noun of a type: the last word, as English has it."""
    whole = (product_type(listing) or "").replace(" ", "_").upper()
    if whole in ODD_TYPES:
        return ODD_TYPES[whole]
    parts = words(whole.replace("_", " "))
    if not parts or parts[-1] in VAGUE or {"and", "or"} & set(parts):
        return None
    return parts[-1]


def _brand(listing: Listing) -> str | None:
    """A name is the same in all languages; "Amazon Brand - Solimo" is Solimo."""
    entries = sorted(_entries(listing, "brand"), key=lambda entry: not _english(entry))
    for text in _texts(entries)[:1]:
        name = words(text.rpartition(" - ")[2])
        if len(name) == 1 and not name[0].isdigit():
            return name[0]
    return None


def _count(listing: Listing) -> str | None:
    stated = [str(e.get("value")) for e in _entries(listing, "number_of_items")]
    english = [e for k in ("item_name", "style") for e in _entries(listing, k) if _english(e)]
    packs = [a or b for text in _texts(english) for a, b in PACK.findall(text)]
    numbers = {NUMBERS.get(word.lower(), word) for word in stated or packs}
    number = numbers.pop() if len(numbers) == 1 else ""
    return number if number in SIZES else None


def _shuffled(product: str) -> str:
    """A key that sorts in an order without a meaning, the same in every run."""
    return hashlib.sha256(product.encode()).hexdigest()
