"""What a heatmap is worth: tests that a map fails unless it follows the model.

Pointing at the right place proves nothing by itself, because an edge map and the maps of a
randomised model do so as well (https://arxiv.org/abs/1810.03292). So every score stands beside
theirs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn


def hottest(maps: np.ndarray, share: float) -> np.ndarray:
    """The hottest `share` of the cells of each map, as booleans (pictures, cells, cells)."""
    flat = maps.reshape(len(maps), -1)
    count = max(1, round(share * flat.shape[1]))
    chosen = np.zeros(flat.shape, dtype=bool)
    np.put_along_axis(chosen, np.argsort(-flat, 1, kind="stable")[:, :count], True, 1)
    return chosen.reshape(maps.shape)


def pointing_hits(maps: np.ndarray, regions: Sequence[Sequence[dict[str, Any]]]) -> np.ndarray:
    """Whether the middle of each map's hottest cell lies in a region (the pointing game).

    Zhang et al. (https://arxiv.org/abs/1608.00507). Boxes are x0, y0, x1, y1 in shares of the side.
    """
    cells = maps.shape[1]
    rows, columns = np.unravel_index(maps.reshape(len(maps), -1).argmax(1), maps.shape[1:])
    points = zip((columns + 0.5) / cells, (rows + 0.5) / cells, strict=True)
    return np.array(
        [_inside(x, y, boxes) for (x, y), boxes in zip(points, regions, strict=True)], dtype=float
    )


def region_share(cells: int, regions: Sequence[Sequence[dict[str, Any]]]) -> np.ndarray:
    """Share of the cells whose middle lies in a region: the pointing game's chance level."""
    middles = (np.arange(cells) + 0.5) / cells
    return np.array(
        [np.mean([_inside(x, y, boxes) for y in middles for x in middles]) for boxes in regions]
    )


def rank_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each pair of maps; 0 where a map is flat."""
    pairs = zip(one.reshape(len(one), -1), other.reshape(len(other), -1), strict=True)
    return np.array(
        [0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else spearmanr(a, b).statistic for a, b in pairs]
    )


@torch.no_grad()
def redrawn(module: nn.Module, seed: int) -> list[torch.Tensor]:
    """Every weight of `module`, in their order, drawn anew with the mean and spread that it has."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        drawn.append(parameter.mean() + noise * parameter.std(correction=0))
    return drawn


@contextmanager
def randomised(module: nn.Module, weights: Sequence[torch.Tensor]) -> Iterator[None]:
    """Within, `module` has these weights, as `redrawn` gives them."""
    parameters = list(module.parameters())
    kept = [parameter.data for parameter in parameters]
    try:
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.data = weight
        yield
    finally:
        for parameter, weight in zip(parameters, kept, strict=True):
            parameter.data = weight


def _inside(x: float, y: float, boxes: Sequence[dict[str, Any]]) -> bool:
    return any(box[0] <= x <= box[2] and box[1] <= y <= box[3] for box in (b["box"] for b in boxes))
