"""Pictures as they come, checked, upright and in 8-bit RGB."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import imagehash
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base

from src.quality import DECODED_SIDE, Quality, measure

FINGERPRINT_BYTES = 32
SUPPORTED_MODES = {"1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"}
TRANSPARENT_MODES = {"RGBA", "RGBa", "LA", "La", "PA"}
# Where white may lie in a mode of more than 8 bits: cameras and scanners store 10, 12 or 14 bits
# in 16, and floats are shares as often as 8-bit values.
INTEGER_WHITES = (2**8 - 1, 2**10 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1)
FLOAT_WHITES = (1.0, *INTEGER_WHITES)


class BadMediaError(Exception):
    """A file that is not used, and why: `kind of reason: detail`, or the kind alone."""

    def __init__(self, kind: str, detail: object = "") -> None:
        super().__init__(f"{kind}: {detail}" if str(detail) else kind)


@dataclass(frozen=True)
class Stored:
    """A picture, or frames of a video, as `prepare` stores it."""

    frames: tuple[bytes, ...]  # PNG; one of a picture
    width: int  # of the original in pixels, upright
    height: int
    fingerprint: bytes  # perceptual hash
    mirrored: bytes  # that of the picture seen in a mirror
    quality: Quality  # of the original, before it is squashed


def load_image(path: Path) -> Image.Image:
    """Decode the whole file, first frame, upright, in 8-bit RGB, without metadata.

    Transparency is laid on white; more than 8 bits are scaled, not clipped.

    Raises:
        BadMediaError: no picture, damaged, cut short, empty, or of more pixels than Pillow's limit.
    """
    return _load(path, None)[0]


def stored(path: Path, side: int) -> Stored:
    """Decode a file and squash it to `side` by `side` pixels.

    The fingerprints are those of the squashed picture, so that anyone can check them.

    Raises:
        BadMediaError: as `load_image` does.
    """
    picture, (width, height) = _load(path, max(2 * side, DECODED_SIDE))
    quality = measure(picture)
    picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    mirrored = fingerprint(ImageOps.mirror(picture))
    return Stored((png(picture),), width, height, fingerprint(picture), mirrored, quality)


def png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    # Half the time of the default level, for 2 % more bytes.
    picture.save(file, "PNG", compress_level=3)
    return file.getvalue()


def fingerprint(picture: Image.Image) -> bytes:
    """The 256-bit perceptual hash, in 32 bytes."""
    return np.packbits(imagehash.phash(picture, hash_size=16).hash).tobytes()


def _load(path: Path, least: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """The picture, no side reduced below `least` pixels, and the upright original's size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            if path.stat().st_size == 0:
                raise BadMediaError("empty file")
            with Image.open(path) as file:
                return _decode(file, least)
        except (BadMediaError, KeyboardInterrupt):
            raise
        except UnidentifiedImageError:
            raise _unidentified(path) from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            limit = f"over {Image.MAX_IMAGE_PIXELS:,}"
            raise BadMediaError("more pixels than allowed", limit) from None
        # Pillow's decoders raise whatever their struct, zlib and index errors happen to be.
        except Exception as error:
            raise _failed(error) from None


def _decode(file: Image.Image, least: int | None) -> tuple[Image.Image, tuple[int, int]]:
    # Pillow would start Ghostscript: a PostScript program of a stranger is not run.
    if file.format == "EPS":
        raise BadMediaError("not a picture", "a PostScript program")
    original = file.size
    if 0 in original:
        raise BadMediaError("no pixels", f"{original[0]} x {original[1]}")
    if least:
        file.draft(None, (least, least))
    reduced = file.size != original
    file.load()
    # Some formats learn their size, or turn themselves upright, only when they load.
    width, height = original if reduced else file.size
    turn = _orientation(file)
    picture = _rgb(file)
    if turn is not None:
        picture = picture.transpose(turn)
    if turn in SIDEWAYS:
        width, height = height, width
    # Pillow writes the colour profile that it finds here into a PNG.
    picture.info.clear()
    return picture, (width, height)


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = {TURNS[k] for k in (5, 6, 7, 8)}


def _orientation(file: Image.Image) -> Image.Transpose | None:
    """What makes the picture upright; a broken EXIF block is no reason to lose the picture."""
    try:
        return TURNS.get(file.getexif().get(Base.Orientation))
    except Exception:
        return None


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _scaled(picture).convert("RGB")
    if picture.mode in TRANSPARENT_MODES or "transparency" in picture.info:
        # La converts to nothing but LA.
        picture = picture.convert("LA") if picture.mode == "La" else picture
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    if picture.mode not in SUPPORTED_MODES:
        raise BadMediaError("unsupported colours", picture.mode)
    return picture.convert("RGB")


def _scaled(picture: Image.Image) -> Image.Image:
    """Integers and floats as 8-bit grey: from 0 to the white that covers them, else their range."""
    values = np.asarray(picture).astype(np.float32)
    values = np.nan_to_num(values, copy=False, posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    whites = FLOAT_WHITES if picture.mode == "F" else INTEGER_WHITES
    white = next((w for w in whites if high <= w), None)
    if low < 0 or white is None:
        values -= low
        white = (high - low) or 1
    values *= 255 / white
    return Image.fromarray(np.rint(values, out=values).astype(np.uint8))


# Formats whose signature begins no text, as BMP's "BM" does.
SIGNED = {"PNG", "JPEG", "GIF", "TIFF", "WEBP", "JPEG2000", "AVIF", "PSD"}


def _unidentified(path: Path) -> BadMediaError:
    """Tell a file that starts as a picture does from one that was never a picture."""
    with path.open("rb") as file:
        head = file.read(16)
        for name in sorted(SIGNED & Image.OPEN.keys()):
            reader, accepts = Image.OPEN[name]
            if accepts and accepts(head) is True:
                file.seek(0)
                return _damaged_header(reader, file, name)
    return BadMediaError("not a picture")


def _damaged_header(
    reader: Callable[[BinaryIO, str], Image.Image], file: BinaryIO, name: str
) -> BadMediaError:
    """Image.open keeps the reason to itself; the reader of that format gives it."""
    try:
        reader(file, "")
    except Exception as error:
        # That is how ImageFile says that a side is not above 0.
        unnamed = "not identified by this driver" in str(error)
        return BadMediaError("damaged header", f"{name}: {'no size' if unnamed else error}")
    return BadMediaError("damaged header", name)


def _failed(error: Exception) -> BadMediaError:
    words = str(error)
    if isinstance(error, PermissionError | FileNotFoundError | IsADirectoryError):
        return BadMediaError("cannot be read", error.strerror)
    if isinstance(error, MemoryError):
        return BadMediaError("cannot be decoded", "it needs more memory than there is")
    if isinstance(error, EOFError) or "truncated" in words.lower():
        return BadMediaError("cut short")
    return BadMediaError("cannot be decoded", words.partition("\n")[0] or type(error).__name__)
