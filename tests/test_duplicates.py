import random
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from src import config
from src.decoding import decoder
from src.drawing import clips, products
from src.duplicates import CHUNK, merge, near_duplicates, nearest

PARAMS = Path(__file__).parents[1] / "params.yaml"


def flip(hashes: np.ndarray, rng: np.random.Generator, most: int) -> np.ndarray:
    bits = np.unpackbits(hashes, axis=1)
    for row in bits:
        row[rng.choice(256, rng.integers(0, most + 1), replace=False)] ^= 1
    return np.packbits(bits, axis=1)


def partition(groups: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(groups == g).tolist()) for g in np.unique(groups)}


def brute(plain: np.ndarray, mirror: np.ndarray, distance: int) -> set[frozenset[int]]:
    def bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.bitwise_count(a[:, None] ^ b[None]).sum(axis=2, dtype=int)

    linked = (bits(plain, plain) <= distance) | (bits(plain, mirror) <= distance)
    groups = np.arange(len(plain))
    for _ in range(len(plain)):
        for i, j in zip(*np.nonzero(linked), strict=True):
            groups[[i, j]] = min(groups[i], groups[j])
    return partition(groups)


def test_groups_are_those_of_all_pairs_compared() -> None:
    rng = np.random.default_rng(0)
    some = rng.integers(0, 256, (40, 32), np.uint8)
    plain = rng.permutation(np.concatenate([flip(some, rng, 9) for _ in range(4)] + [some[:9]]))
    mirror = rng.integers(0, 256, plain.shape, np.uint8)
    # Pictures 5 and 100 are mirror images of each other; one of 7's neighbours is, too.
    mirror[5], mirror[100] = plain[100], plain[5]
    mirror[7] = plain[60]
    assert len(plain) > CHUNK
    assert partition(near_duplicates(plain, mirror, 12)) == brute(plain, mirror, 12)


def test_distance_counts_bits_up_to_and_including() -> None:
    plain = np.zeros((2, 32), np.uint8)
    plain[1, 20:22] = 0b111111
    mirror = np.full((2, 32), 255, np.uint8)
    assert len(partition(near_duplicates(plain, mirror, 12))) == 1
    assert len(partition(near_duplicates(plain, mirror, 11))) == 2


def test_the_nearest_is_found_in_the_mirror_too() -> None:
    rng = np.random.default_rng(0)
    plain, mirror = (rng.integers(0, 256, (5, 32), np.uint8) for _ in "ab")
    mirror[3] = plain[0]
    mirror[3, 0] ^= 1
    assert nearest(plain, mirror, 0, [1, 3, 4]) == (3, 1)


def test_groups_that_share_a_name_are_joined() -> None:
    groups = np.array([0, 0, 1, 2, 3])
    names = [None, "Ann", "Ann", None, "Bob"]
    assert partition(merge(groups, names)) == {
        frozenset({0, 1, 2}),
        frozenset({3}),
        frozenset({4}),
    }


def encode(path: Path, frames: Iterable[Image.Image], codec: str) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, 12)
        stream.width = stream.height = 224
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_image(frame)))
        file.mux(stream.encode())
    return path


def pictures_and_copies(folder: Path) -> list[list[Path]]:
    rng, files = random.Random(1), []
    for i in range(20):
        picture = products.draw(rng, products.random_product(rng), 256)
        made = {
            "as-it-is.png": picture,
            "again.jpg": picture,
            "less.jpg": picture.resize((205, 205)),
        }
        for name, copy in made.items():
            copy.save(folder / f"{i}-{name}", quality=75)
        files.append([folder / f"{i}-{name}" for name in made])
    return files


def clips_and_copies(folder: Path) -> list[list[Path]]:
    rng, files = random.Random(1), []
    for motion in clips.MOTIONS:
        frames = list(clips.draw(rng, clips.Scene("red", "circle", motion), 224, 12))
        codecs = {"mp4": "mpeg4", "webm": "libvpx", "mkv": "libvpx-vp9"}
        made = [encode(folder / f"{motion}.{end}", frames, c) for end, c in codecs.items()]
        files.append(made)
    return files


@pytest.mark.parametrize("name", ["abo", "esnlive", "webvid"])
def test_at_full_what_was_encoded_anew_is_grouped_and_nothing_else(
    tmp_path: Path, name: str
) -> None:
    data = config.at_scale(PARAMS, "full").data[name]
    files = (clips_and_copies if data.frames else pictures_and_copies)(tmp_path)
    decode = decoder(data.image_size, data.frames)
    stored = [decode(file) for copies in files for file in copies]
    plain, mirrored = (
        np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)
        for hashes in ([s.fingerprint for s in stored], [s.mirrored for s in stored])
    )
    groups = near_duplicates(plain, mirrored, data.near_duplicate_distance)
    assert partition(groups) == {frozenset(range(3 * i, 3 * i + 3)) for i in range(len(files))}
    assert partition(near_duplicates(plain, mirrored, 0)) != partition(groups)
