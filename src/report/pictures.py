"""Small copies of pictures, carried inside the page."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

SIDE = 224
FRAMES, FRAME_SIDE, GAP = 4, 112, 3  # of a strip at most, and pixels
FILM = (28, 28, 28)


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data URI, with its size in pixels."""

    uri: str
    width: int
    height: int


def thumbnail(encoded: bytes, side: int = SIDE) -> Thumbnail:
    """Shrink an encoded picture to fit `side` pixels; metadata such as EXIF stays behind."""
    return _carried(_small(encoded, side))


def strip(frames: list[bytes]) -> Thumbnail:
    """A few frames of a video side by side, from the first of these encoded ones to the last."""
    count = min(FRAMES, len(frames))
    places = [round(i * (len(frames) - 1) / max(1, count - 1)) for i in range(count)]
    shown = [_small(frames[place], FRAME_SIDE) for place in places]
    width = sum(frame.width + GAP for frame in shown) - GAP
    film = Image.new("RGB", (width, max(frame.height for frame in shown)), FILM)
    left = 0
    for frame in shown:
        film.paste(frame, (left, 0))
        left += frame.width + GAP
    return _carried(film)


def _small(encoded: bytes, side: int) -> Image.Image:
    with Image.open(io.BytesIO(encoded)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _carried(picture: Image.Image) -> Thumbnail:
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=82, method=6)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/webp;base64,{text}", picture.width, picture.height)
