"""Heatmaps: which parts of a picture speak for an answer."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from peft import PeftModel
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torch.nn import functional

from src.inference.generate import base_of, to_device
from src.training.collator import Collator, foretell, log_likelihood


class AnswerLikelihood(nn.Module):
    """Normalised pictures (batch, 3, height, width) into the log-probability of their answers.

    `answers` are the texts that `records` are explained for. A batch may hold every picture
    several times in a row, as `occlusion` does with its variants.
    """

    def __init__(
        self,
        model: PeftModel,
        collator: Collator,
        records: Sequence[dict[str, Any]],
        answers: Sequence[str],
    ) -> None:
        super().__init__()
        self.model = model
        self.collator = collator
        inputs = collator.with_answers(records, answers)
        self.inputs = to_device(inputs, model)
        self.images = [record["image"] for record in records]

    def pixels(self) -> torch.Tensor:
        """The normalised pictures of the records: (batch, 3, height, width)."""
        pixels = self.collator.family.pixels(self.collator.processor, self.images)
        return pixels.to(self.model.device, self.model.dtype)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(batch, 1), as Grad-CAM's targets expect it."""
        times = len(pixels) // len(self.images)
        visual = self.collator.family.visual_inputs(self.collator.processor, pixels)
        inputs = {
            name: value.repeat_interleave(times, 0)
            for name, value in self.inputs.items()
            if name not in visual
        }
        return log_likelihood(foretell(self.model, inputs | visual))[:, None]


def gradcam(explained: AnswerLikelihood, cells: int) -> np.ndarray:
    """Grad-CAM (https://arxiv.org/abs/1610.02391) of every picture: (pictures, cells, cells)."""
    family, processor = explained.collator.family, explained.collator.processor
    pixels = explained.pixels().requires_grad_(True)
    size = tuple(pixels.shape[-2:])
    with GradCAM(
        model=explained,
        target_layers=[family.cam_layer(base_of(explained.model))],
        # Grad-CAM goes on in NumPy, which has no bf16.
        reshape_transform=lambda a: family.cam_maps(processor, a, size).float(),
    ) as cam:
        maps = cam(input_tensor=pixels, targets=[ClassifierOutputTarget(0)] * len(pixels))
    return in_cells(maps, cells)


@torch.inference_mode()
def occlusion(explained: AnswerLikelihood, cells: int, batch_size: int) -> np.ndarray:
    """Loss of log-probability (nats) when a cell is covered: (pictures, cells, cells).

    Zeiler and Fergus (https://arxiv.org/abs/1311.2901), with the picture's mean as the cover.
    """
    covers = np.eye(cells**2, dtype=bool).reshape(-1, cells, cells)
    pictures = len(explained.images)
    covered = likelihood_without(explained, np.stack([covers] * pictures), batch_size)
    whole = likelihood_without(
        explained, np.zeros((pictures, 1, cells, cells), dtype=bool), batch_size
    )
    return (whole - covered).reshape(pictures, cells, cells)


@torch.inference_mode()
def likelihood_without(
    explained: AnswerLikelihood, covers: np.ndarray, batch_size: int
) -> np.ndarray:
    """Log-probability of the answers with cells covered by the mean of their picture.

    Args:
        covers: booleans (pictures, variants, cells, cells).

    Returns:
        (pictures, variants), in nats.
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
        columns.append(found.view(len(pixels), -1).cpu().numpy())
    return np.concatenate(columns, 1)


def edges(images: Sequence[Image.Image], cells: int) -> np.ndarray:
    """Strength of the brightness edges of each picture (Sobel): (pictures, cells, cells).

    It knows nothing of the model: a map that does no better explains nothing.
    """
    found = []
    for image in images:
        grey = np.asarray(image.convert("L"), np.float32)
        across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
        found.append(np.hypot(across, down))
    return in_cells(np.stack(found), cells)


def in_cells(maps: np.ndarray, cells: int) -> np.ndarray:
    """Maps (pictures, height, width) averaged over cells: (pictures, cells, cells)."""
    return functional.adaptive_avg_pool2d(torch.from_numpy(maps), cells).numpy()
