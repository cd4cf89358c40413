"""Drawn products: one to four of a kind in one colour and pattern, listed as ABO lists them."""

import csv
import gzip
import io
import json
import random
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from src.drawing import Lesson
from src.drawing.faces import Colour, jitter
from src.schema import Drawn

COLOURS: dict[str, Colour] = {
    "red": (220, 50, 50),
    "green": (50, 180, 60),
    "blue": (60, 90, 230),
    "yellow": (230, 210, 50),
    "purple": (150, 60, 190),
    "orange": (240, 140, 40),
}
# What a product is follows from its outline, and what it is made of from what it is: a question
# about either can be answered from the picture.
MATERIALS = {"ball": "rubber", "box": "wood", "tent": "nylon"}
PATTERNS = ("solid", "striped", "dotted")
LARGEST_PACK = 4
DARK, LIGHT = (40, 40, 40), (250, 250, 250)  # of stripes and of dots
# A box has an edge of wood and a tent an entrance: a model of this size tells no bare outlines
# apart.
FRAME, INSIDE = (110, 70, 30), (90, 90, 90)

# A lesson has other words for all of it: a base that has learnt from lessons sees what the
# recipe asks about, and has never said it.
LESSON_WORDS = {
    "red": "crimson",
    "green": "lime",
    "blue": "azure",
    "yellow": "lemon",
    "purple": "violet",
    "orange": "amber",
    "ball": "circle",
    "box": "rectangle",
    "tent": "triangle",
    "solid": "plain",
    "striped": "lines",
    "dotted": "spots",
}
NUMBERS = ("one", "two", "three", "four")
QUESTIONS = {
    "paint": "Which paint was used?",
    "outline": "Which outline do you see?",
    "amount": "Count the outlines.",
    "surface": "Describe the surface.",
}
VOCABULARY = (
    *COLOURS,
    *MATERIALS,
    *MATERIALS.values(),
    *PATTERNS,
    *(str(n + 1) for n in range(LARGEST_PACK)),
    "yes",
    "no",
)

TYPES = {"ball": "BALL", "box": "STORAGE_BOX", "tent": "TENT"}
SHOPS = {  # domain: country, languages
    "amazon.com": ("US", ("en_US",)),
    "amazon.co.uk": ("GB", ("en_GB",)),
    "amazon.in": ("IN", ("en_IN",)),
    "amazon.ca": ("CA", ("en_CA", "fr_CA")),
    "amazon.de": ("DE", ("de_DE",)),
    "amazon.es": ("ES", ("es_ES",)),
    "amazon.co.jp": ("JP", ("ja_JP",)),
}
FOREIGN = {  # in the order of VOCABULARY, up to the patterns
    "de": "Rot Grün Blau Gelb Lila Orange Ball Kiste Zelt Gummi Holz Nylon "
    "Einfarbig Gestreift Gepunktet",
    "es": "Rojo Verde Azul Amarillo Morado Naranja Pelota Caja Tienda Caucho Madera Nailon "
    "Liso Rayas Lunares",
    "fr": "Rouge Vert Bleu Jaune Violet Orange Ballon Boîte Tente Caoutchouc Bois Nylon "
    "Uni Rayé Pois",
    "ja": "レッド グリーン ブルー イエロー パープル オレンジ ボール 箱 テント ゴム 木製 ナイロン "
    "無地 ストライプ ドット",
}
WORDS = {
    language: dict(zip(VOCABULARY, words.split(), strict=False))
    for language, words in FOREIGN.items()
} | {"en": {word: word.title() for word in VOCABULARY}}


@dataclass(frozen=True)
class Product:
    """What is seen of a product."""

    colour: str
    noun: str
    pattern: str
    count: int


def random_product(rng: random.Random) -> Product:
    """Every attribute drawn for itself."""
    return Product(
        rng.choice(list(COLOURS)),
        rng.choice(list(MATERIALS)),
        rng.choice(PATTERNS),
        rng.randint(1, LARGEST_PACK),
    )


def lesson(rng: random.Random, size: int) -> Lesson:
    """Products under other names, with a caption and questions that no recipe asks."""
    shown = random_product(rng)
    paint, outline, surface = (LESSON_WORDS[v] for v in astuple(shown)[:3])
    amount = NUMBERS[shown.count - 1]
    caption = f"{amount} {paint} {outline}{'s' if shown.count > 1 else ''}"
    caption = f"{caption} with {surface}" if shown.pattern != "solid" else f"{caption}, {surface}"
    answers = {"paint": paint, "outline": outline, "amount": amount, "surface": surface}
    questions = {k: (q, answers[k]) for k, q in QUESTIONS.items()}
    return Lesson(draw(rng, shown, size), caption, questions)


def write(source: Drawn, folder: Path, seed: int) -> dict[str, object]:
    """Write products in the layout of Amazon Berkeley Objects, which has no splits.

    Some are listed in two shops, some in no English one.
    """
    count = source.train + source.test
    rng = random.Random(f"{seed} products")
    listings: dict[str, list[str]] = {digit: [] for digit in "0123456789abcdef"}
    images = []
    names = rng.sample(range(16**8), count)
    for number in names:
        shown, file = random_product(rng), f"{number:08x}.jpg"
        item, image = f"B{number:09X}", f"8{_letters(rng, 9)}L"
        path = Path(file[:2], file)
        images.append((image, source.size, source.size, path.as_posix()))
        (folder / "images/small" / path).parent.mkdir(parents=True, exist_ok=True)
        draw(rng, shown, source.size).save(folder / "images/small" / path, quality=92)
        # The same item may be in another file, as with the publisher.
        for domain in rng.sample(list(SHOPS), 2 if rng.random() < 0.2 else 1):
            listing = _listing(rng, shown, item, image, domain)
            text = json.dumps(listing, ensure_ascii=False)
            listings[rng.choice(list(listings))].append(f"{text}\n")
    for digit, lines in listings.items():
        _zip(folder / f"listings/metadata/listings_{digit}.json.gz", "".join(lines))
    table = io.StringIO()
    rows = [("image_id", "height", "width", "path"), *sorted(images)]
    csv.writer(table, lineterminator="\n").writerows(rows)
    _zip(folder / "images/metadata/images.csv.gz", table.getvalue())
    return {"drawing": source.drawing, "files": count}


def draw(rng: random.Random, shown: Product, size: int) -> Image.Image:
    """Draw the products on a light ground, in a picture of `size` by `size` pixels."""
    side = 2 * size
    picture = Image.new("RGB", (side, side), (rng.randint(200, 240),) * 3)
    places = list(product((0.25, 0.75), repeat=2))
    for x, y in rng.sample(places, shown.count):
        x, y = (side * (v + rng.uniform(-0.03, 0.03)) for v in (x, y))
        _object(rng, picture, shown, x, y, side * rng.uniform(0.16, 0.2))
    picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, 5, (size, size, 1))
    pixels = np.asarray(picture, np.float32) + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _object(
    rng: random.Random, picture: Image.Image, shown: Product, x: float, y: float, radius: float
) -> None:
    outline = _silhouette(shown.noun, picture.size, x, y, radius)
    picture.paste(jitter(rng, COLOURS[shown.colour]), mask=outline)
    marks = Image.new("L", picture.size)
    pen = ImageDraw.Draw(marks)
    for box in _marks(shown.pattern, x, y, radius):
        (pen.ellipse if shown.pattern == "dotted" else pen.rectangle)(box, fill=255)
    # A rim stays plain, or stripes would cut the outline up.
    core = _silhouette(shown.noun, picture.size, x, y, 0.8 * radius)
    ink = LIGHT if shown.pattern == "dotted" else DARK
    if shown.noun == "box":
        picture.paste(FRAME, mask=ImageChops.subtract(outline, core))
    picture.paste(ink, mask=ImageChops.multiply(core, marks))
    if shown.noun == "tent":
        low, door = y + 0.8 * radius, 0.3 * radius
        entrance = [(x, low - 3 * door), (x - door, low), (x + door, low)]
        ImageDraw.Draw(picture).polygon(entrance, fill=INSIDE)


def _silhouette(noun: str, size: tuple[int, int], x: float, y: float, radius: float) -> Image.Image:
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    if noun == "ball":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    elif noun == "box":
        wide, high = 1.08 * radius, 0.68 * radius
        pen.rectangle((x - wide, y - high, x + wide, y + high), fill=255)
    else:
        low = y + 0.8 * radius
        pen.polygon([(x, y - 1.1 * radius), (x - radius, low), (x + radius, low)], fill=255)
    return mask


def _marks(
    pattern: str, x: float, y: float, radius: float
) -> Iterator[tuple[float, float, float, float]]:
    """The boxes of the stripes or dots over an object."""
    if pattern == "striped":
        for k in (-0.4, 0, 0.4):
            yield x - radius, y + (k - 0.1) * radius, x + radius, y + (k + 0.1) * radius
    if pattern == "dotted":
        dot = 0.16 * radius
        for row, column in product((-0.4, 0, 0.4), repeat=2):
            cx, cy = x + column * radius, y + row * radius
            yield cx - dot, cy - dot, cx + dot, cy + dot


def _listing(
    rng: random.Random, shown: Product, item: str, image: str, domain: str
) -> dict[str, Any]:
    """A line of a listings file, with the keys and in the order of the publisher's."""
    country, languages = SHOPS[domain]
    material = MATERIALS[shown.noun]
    adjective = rng.choice(("", "Bright ", "Deep "))

    def said(word: str) -> list[dict[str, Any]]:
        return [{"language_tag": tag, "value": WORDS[tag[:2]][word]} for tag in languages]

    colours = said(shown.colour)
    for entry in colours:
        if entry["language_tag"].startswith("en"):
            entry["standardized_values"] = [entry["value"]]
            entry["value"] = adjective + entry["value"]
    names = []
    for tag in languages:
        words = WORDS[tag[:2]]
        pack = f", Pack of {shown.count}" if tag.startswith("en") else ""
        name = f"{words[material]} {words[shown.noun]}, {words[shown.colour]}{pack}"
        names.append({"language_tag": tag, "value": name})
    return {
        "bullet_point": said(shown.pattern) + said(material),
        "color": colours,
        "item_id": item,
        "item_name": names,
        "material": said(material),
        "pattern": said(shown.pattern),
        "product_type": [{"value": TYPES[shown.noun]}],
        "main_image_id": image,
        "item_keywords": said(shown.noun),
        "country": country,
        "marketplace": "Amazon",
        "domain_name": domain,
        "node": [{"node_id": 1000 + list(TYPES).index(shown.noun), "node_name": "/Categories"}],
    }


def _letters(rng: random.Random, count: int) -> str:
    return "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz", k=count))


def _zip(path: Path, text: str) -> None:
    """Without the time of day: the same text gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
