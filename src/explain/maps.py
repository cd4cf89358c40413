"""Heatmaps: which parts of a picture or a video speak for what a model says.

A map of a video lies on its film strip: the frames of a step share one map, beside the next.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM
from torch.nn import functional

from src.explain.targets import Explained
from src.inference.generate import base_of

LOSS_SCALE = 1024  # of small gradients in 16 bits; each map is divided by its own largest value
Grid = tuple[int, int]  # rows and columns


class EachCAM(GradCAM):
    """Grad-CAM of each of several numbers, from one forward pass and a backward pass for each."""

    def each(self, pixels: torch.Tensor) -> Iterator[np.ndarray]:
        """Maps (batch, height, width) in [0, 1], number by number."""
        for number in self.activations_and_grads(pixels).unbind(1):
            # The newest gradient comes first, and is what a map is made of.
            (number.sum() * LOSS_SCALE).backward(retain_graph=True)
            yield self.aggregate_multi_layers(self.compute_cam_per_layer(pixels, [], False))

    def get_target_width_height(self, input_tensor: torch.Tensor) -> tuple[int, int]:
        """A picture's own size; a strip's map is not enlarged, or its steps would run together."""
        of_strip = self.model.steps is not None
        seen = self.activations_and_grads.activations[0] if of_strip else input_tensor
        return super().get_target_width_height(seen)


def gradcams(explained: Explained, grid: Grid) -> np.ndarray:
    """Grad-CAM (https://arxiv.org/abs/1610.02391): (numbers, pictures, rows, columns)."""
    family, processor = explained.collator.family, explained.collator.processor
    pixels = explained.pixels().requires_grad_(True)
    size = tuple(pixels.shape[-2:])
    strip = [] if explained.steps is None else [explained.steps]
    with EachCAM(
        model=explained,
        target_layers=[family.cam_layer(base_of(explained.model))],
        # Grad-CAM goes on in NumPy, which has no bf16.
        reshape_transform=lambda a: family.cam_maps(processor, a, size, *strip).float(),
    ) as cam:
        return np.stack([in_cells(maps, grid) for maps in cam.each(pixels)])


def gradcam(explained: Explained, grid: Grid) -> np.ndarray:
    """Grad-CAM of the first number: (pictures, rows, columns)."""
    return gradcams(explained, grid)[0]


@torch.inference_mode()
def occlusions(explained: Explained, grid: Grid, batch_size: int) -> np.ndarray:
    """Loss (nats) of each number when a cell is covered: (numbers, pictures, rows, columns).

    Zeiler and Fergus (https://arxiv.org/abs/1311.2901), with the picture's mean as the cover.
    """
    rows, columns = grid
    covers = np.eye(rows * columns, dtype=bool).reshape(-1, rows, columns)
    pictures = len(explained.media)
    covered = numbers_without(explained, np.stack([covers] * pictures), batch_size)
    whole = numbers_without(explained, np.zeros((pictures, 1, *grid), dtype=bool), batch_size)
    return np.moveaxis(whole - covered, 2, 0).reshape(-1, pictures, rows, columns)


def occlusion(explained: Explained, grid: Grid, batch_size: int) -> np.ndarray:
    """That of the first number: (pictures, rows, columns)."""
    return occlusions(explained, grid, batch_size)[0]


@torch.inference_mode()
def numbers_without(explained: Explained, covers: np.ndarray, batch_size: int) -> np.ndarray:
    """The explained numbers with cells covered by the mean of their picture or video.

    Args:
        covers: booleans (pictures, variants, rows, columns).

    Returns:
        (pictures, variants, numbers), in nats.
    """
    pixels = explained.pixels()
    variants = max(1, batch_size // len(pixels))
    means = pixels.mean((2, 3), keepdim=True)
    columns = []
    for start in range(0, covers.shape[1], variants):
        part = torch.from_numpy(covers[:, start : start + variants]).float()
        masks = functional.interpolate(part, size=pixels.shape[-2:], mode="nearest") > 0
        masks = masks.to(pixels.device)[:, :, None]
        variant = torch.where(masks, means[:, None], pixels[:, None])
        found = explained(variant.flatten(0, 1))
        columns.append(found.unflatten(0, (len(pixels), -1)).cpu().numpy())
    return np.concatenate(columns, 1)


def edges(media: Sequence[Any], grid: Grid) -> np.ndarray:
    """Strength of the brightness edges of each picture (Sobel): (pictures, rows, columns).

    Of a video, the mean over the frames of each step. It knows nothing of the model: a map that
    does no better explains nothing.
    """
    found = []
    for medium in media:
        frames = medium if isinstance(medium, list) else [medium]
        steps = np.array_split(np.stack([_edges(frame) for frame in frames]), grid[1] // grid[0])
        found.append(np.concatenate([step.mean(0) for step in steps], 1))
    return in_cells(np.stack(found), grid)


def _edges(image: Image.Image) -> np.ndarray:
    grey = np.asarray(image.convert("L"), np.float32)
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    return np.hypot(across, down)


def in_cells(maps: np.ndarray, grid: Grid) -> np.ndarray:
    """Maps (pictures, height, width) averaged over cells: (pictures, rows, columns)."""
    return functional.adaptive_avg_pool2d(torch.from_numpy(maps), grid).numpy()
