import numpy as np

from src.duplicates import CHUNK, merge, near_duplicates, nearest


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
