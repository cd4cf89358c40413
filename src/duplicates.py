"""Near-duplicates by perceptual hash, and the groups that a split must keep together."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

CHUNK = 128  # rows compared with all others at once: 100 MB for 100,000 pictures


def near_duplicates(fingerprints: np.ndarray, mirrored: np.ndarray, distance: int) -> np.ndarray:
    """Number the groups of pictures that are linked by near-duplicates.

    Args:
        fingerprints: (n, 32) uint8, the pictures' 256-bit hashes.
        mirrored: (n, 32) uint8, the hashes of the pictures seen in a mirror.
        distance: bits in which the hashes of near-duplicates differ at most.

    Returns:
        (n,) the group of each picture.
    """
    # Byte-identical pictures are one point: a thousand blank ones would make a million pairs.
    both = np.concatenate([fingerprints, mirrored], axis=1)
    points, of_point = np.unique(both, axis=0, return_inverse=True)
    words = np.ascontiguousarray(points).view(np.uint64)
    plain, mirror = words[:, :4], words[:, 4:]
    n = len(points)
    first = np.arange(n)  # of the group of each point: a point that stands for it
    for start in range(0, n, CHUNK):
        rows = plain[start : start + CHUNK]
        found = np.hstack([_near(rows, plain, distance), _near(rows, mirror, distance)])
        a = np.concatenate([found[0] + start, np.arange(n)])
        b = np.concatenate([found[1], first])
        groups = _components(a, b, n)
        first = np.unique(groups, return_index=True)[1][groups]
    return groups[of_point.ravel()]


def _near(a: np.ndarray, b: np.ndarray, distance: int) -> np.ndarray:
    """(2, pairs) the rows of `a` and of `b`, (·, 4) uint64, that differ in few bits."""
    # Few pairs that differ much agree in their first quarter: it spares the other three.
    candidates = np.bitwise_count(a[:, :1] ^ b[:, 0]) <= distance
    i, j = np.nonzero(candidates)
    near = np.bitwise_count(a[i] ^ b[j]).sum(axis=1) <= distance
    return np.stack([i[near], j[near]])


def nearest(
    fingerprints: np.ndarray, mirrored: np.ndarray, picture: int, others: Sequence[int]
) -> tuple[int, int]:
    """Which of the `others` is most like the picture or its mirror image, and by how many bits."""
    a, b = fingerprints[others], fingerprints[picture]
    pairs = (a ^ b, a ^ mirrored[picture], mirrored[others] ^ b)
    bits = np.min([np.bitwise_count(pair).sum(axis=1) for pair in pairs], axis=0)
    return others[int(bits.argmin())], int(bits.min())


def merge(groups: np.ndarray, names: Sequence[str | None]) -> np.ndarray:
    """Join groups that share a name, such as a person's. Returns (n,) the group of each row."""
    n = int(groups.max()) + 1
    numbers = {name: n + k for k, name in enumerate(dict.fromkeys(filter(None, names)))}
    links = [(group, numbers[name]) for group, name in zip(groups, names, strict=True) if name]
    a, b = np.array(links, int).reshape(-1, 2).T
    return _components(a, b, n + len(numbers))[groups]


def _components(a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    """The number of the component of each of `n` nodes, linked by the edges a[k] to b[k]."""
    edges = coo_array((np.ones(len(a), bool), (a, b)), (n, n))
    return connected_components(edges, directed=False)[1]
