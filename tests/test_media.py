import io
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from src.drawing import fer
from src.media import BadMediaError, load_image, stored
from src.quality import measure

ROOT = Path(__file__).parents[1]
BAD = ROOT / "../shared/real/bad/images"
real = pytest.mark.skipif(not BAD.is_dir(), reason="../shared/real is not there")


def photo(width: int = 90, height: int = 60) -> Image.Image:
    """Red above, blue below left, green below right: every turn of it looks different."""
    picture = Image.new("RGB", (width, height), (200, 30, 30))
    picture.paste((30, 30, 200), (0, height // 2, width // 2, height))
    picture.paste((30, 200, 30), (width // 2, height // 2, width, height))
    return picture


def assert_alike(picture: Image.Image, expected: Image.Image, most: float = 4) -> None:
    assert (picture.mode, picture.size) == ("RGB", expected.size)
    difference = np.abs(np.asarray(picture, int) - np.asarray(expected.convert("RGB"), int))
    assert difference.mean() < most


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_orientation_comes_out_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    upright = photo()
    if orientation > 1:
        upright.transpose(turned[orientation]).save(path, exif=exif)
    else:
        upright.save(path, exif=exif)
    assert_alike(load_image(path), upright)
    kept = stored(path, 28)
    assert (kept.width, kept.height) == (90, 60)
    assert_alike(Image.open(io.BytesIO(kept.frames[0])), upright.resize((28, 28)), 8)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("CMYK", "jpg"), ("CMYK", "tif"), ("P", "png"), ("P", "gif"), ("YCbCr", "jpg"), ("L", "png")],
)
def test_colours_survive_every_mode(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    (photo().quantize() if mode == "P" else photo().convert(mode)).save(path)
    expected = photo().convert("L") if mode == "L" else photo()
    assert_alike(load_image(path), expected, 8)


@pytest.mark.parametrize(("dtype", "white"), [("uint16", 65535), ("uint16", 4095), ("float32", 1)])
def test_deep_greys_are_scaled_and_not_clipped(tmp_path: Path, dtype: str, white: float) -> None:
    ramp = np.tile(np.linspace(0, white, 256), (8, 1)).astype(dtype)
    path = tmp_path / "ramp.tif"
    Image.fromarray(ramp).save(path)
    grey = np.asarray(load_image(path))[0, :, 0].astype(int)
    assert np.abs(grey - np.arange(256)).max() <= 1


def test_values_below_zero_or_beyond_16_bits_are_scaled_from_their_range(tmp_path: Path) -> None:
    for number, dtype in enumerate(("float32", "int32")):
        ramp = np.tile(np.linspace(-1e6, 1e6, 256), (8, 1)).astype(dtype)
        path = tmp_path / f"{number}.tif"
        Image.fromarray(ramp).save(path)
        grey = np.asarray(load_image(path))[0, :, 0].astype(int)
        assert np.abs(grey - np.arange(256)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (20, 0, 40, 40))
    path = tmp_path / "picture.png"
    picture.convert(mode).save(path)
    pixels = np.asarray(load_image(path))
    assert (pixels[:, :19] == 255).all()
    assert (pixels[:, 21:] == 0).all()


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    for suffix in ("gif", "png", "webp"):
        path = tmp_path / f"animated.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert np.asarray(load_image(path))[0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_nothing_but_pixels_is_kept(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "SECRET description"
    exif.get_ifd(0x8825)[29] = "SECRET gps date"
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "SECRET text")
    texts.add_itxt("XML:com.adobe.xmp", "SECRET xmp")
    extra = {
        "jpg": {"comment": b"SECRET comment", "xmp": b"SECRET xmp"},
        "png": {"pnginfo": texts},
        "webp": {"xmp": b"SECRET xmp"},
        "tif": {"description": "SECRET tag"},
    }[suffix]
    path = tmp_path / f"picture.{suffix}"
    photo().save(path, exif=exif, icc_profile=b"SECRET profile" * 20, **extra)
    assert b"SECRET" in path.read_bytes()
    kept = stored(path, 28).frames[0]
    assert chunks(kept) == {b"IHDR", b"IDAT", b"IEND"}
    picture = Image.open(io.BytesIO(kept))
    picture.load()
    assert (dict(picture.getexif()), picture.info, load_image(path).info) == ({}, {}, {})


def chunks(png: bytes) -> set[bytes]:
    names, place = set(), 8
    while place < len(png):
        names.add(png[place + 4 : place + 8])
        place += 12 + int.from_bytes(png[place : place + 4], "big")
    return names


def test_broken_metadata_is_no_reason_to_lose_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    photo().save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff")
    assert_alike(load_image(path), photo())


def test_a_large_jpeg_is_decoded_small_with_its_true_size_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "large.jpg"
    photo(2000, 1200).save(path, exif=exif)
    kept = stored(path, 56)
    assert (kept.width, kept.height) == (1200, 2000)
    expected = photo(2000, 1200).transpose(Image.Transpose.ROTATE_270).resize((56, 56))
    assert_alike(Image.open(io.BytesIO(kept.frames[0])), expected)


@pytest.mark.parametrize("side", [28, 448])
def test_quality_is_that_of_the_original_whatever_size_is_stored(tmp_path: Path, side: int) -> None:
    rng = random.Random(2)
    face = fer.draw(rng, fer.random_face(rng, "happy"), 48)[0].convert("RGB")
    wide = Image.new("RGB", (2400, 800), "gray")
    wide.paste(face.resize((600, 600)), (100, 100))
    path = tmp_path / "wide.jpg"
    wide.save(path)
    quality, expected = stored(path, side).quality, measure(load_image(path))
    assert quality.faces == expected.faces == 1
    assert quality.brightness == pytest.approx(expected.brightness, abs=0.002)
    assert quality.contrast == pytest.approx(expected.contrast, abs=0.002)
    assert quality.sharpness == pytest.approx(expected.sharpness, rel=0.02)


def whole_file(suffix: str) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file, suffix)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"A text is not a picture, and P6 neither", "not a picture"),
        (b"<html><body>404</body></html>", "not a picture"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\4\xf4\xa8garbage", "damaged header: PNG: broken PNG.*"),
        (b"GIF89a\0\0\x20\0\x70\0\0,\0\0\0\0\0\0\x20\0\0\2\0", "damaged header: GIF: no size"),
        (whole_file("JPEG")[:-900], "cut short"),
        (whole_file("PNG")[:-900], "cut short"),
        (whole_file("WEBP")[:-900], "cannot be decoded: .*"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture: a PostScript.*"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    with pytest.raises(BadMediaError, match=f"^{reason}$"):
        load_image(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(BadMediaError, match="cannot be read: No such file"):
        load_image(tmp_path / "none.jpg")


def test_a_bomb_is_refused_before_its_pixels_take_memory(tmp_path: Path) -> None:
    # 12,000 by 12,000 pixels: above Pillow's limit, below the double of it where Pillow raises.
    code = """
import resource, sys
from pathlib import Path
from src.media import BadMediaError, load_image
path = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_image(path)
except BadMediaError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""
    path = tmp_path / "bomb.png"
    Image.new("1", (12_000, 12_000)).save(path)
    run = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    kilobytes, reason = run.stdout.strip().split(" ", 1)
    assert reason == "more pixels than allowed: over 89,478,485"
    assert int(kilobytes) < 10_000


def test_fingerprints_tell_copies_from_other_pictures(tmp_path: Path) -> None:
    def bits(a: bytes, b: bytes) -> int:
        return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()

    rng = np.random.default_rng(1)
    one, other = (
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).resize((300, 300), 3)
        for _ in "ab"
    )
    kept = {}
    for name, picture in {
        "one": one,
        "copy": one.resize((150, 150)),
        "mirror": one.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "other": other,
    }.items():
        picture.save(tmp_path / f"{name}.jpg", quality=70)
        kept[name] = stored(tmp_path / f"{name}.jpg", 56)
    assert len(kept["one"].fingerprint) == 32
    assert bits(kept["one"].fingerprint, kept["copy"].fingerprint) <= 12
    assert bits(kept["one"].mirrored, kept["mirror"].fingerprint) <= 12
    assert bits(kept["one"].fingerprint, kept["other"].fingerprint) > 60
    assert bits(kept["one"].fingerprint, kept["mirror"].fingerprint) > 60


@real
@pytest.mark.parametrize("name", ["2.jpg", "4.jpg", "5.jpg", "6.webp", "8.jpg"])
def test_a_portrait_comes_out_upright(name: str) -> None:
    expected = load_image(BAD / "pillow_hopper.jpg")
    assert_alike(load_image(BAD / f"pillow_hopper_orientation_{name}"), expected, 8)
