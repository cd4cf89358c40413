"""Small copies of pictures, carried inside the page."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

SIDE = 224


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data URI, with its size in pixels."""

    uri: str
    width: int
    height: int


def thumbnail(encoded: bytes, side: int = SIDE) -> Thumbnail:
    """Shrink an encoded picture to fit `side` pixels; metadata such as EXIF stays behind."""
    with Image.open(io.BytesIO(encoded)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=82, method=6)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/webp;base64,{text}", small.width, small.height)
