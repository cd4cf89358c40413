"""How good a picture is to look at, in four numbers, and what makes one doubtful."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from src.schema import Doubt

# Light and sharpness are measured on so small a picture that 48 and 350 pixels of one face give
# the same numbers: above it, a larger picture of the same scene would pass for a blurred one.
LIGHT_SIDE = 48
FACE_SIDE = 160
MARGIN = 32  # pixels at FACE_SIDE; a face that fills the picture is missed without
SMALLEST_FACE = 32  # pixels at FACE_SIDE
# A face is looked for in sizes so far apart, and must be found at as many neighbouring places. Of
# 330 real faces 1 is missed, as with steps of 1.1 and 3 places, which take 1.8 times as long.
STEP, NEIGHBOURS = 1.2, 2
DECODED_SIDE = 2 * FACE_SIDE  # a picture decoded no smaller measures as the original does


@dataclass(frozen=True)
class Quality:
    """What was measured of a picture."""

    brightness: float  # mean luma, 0 to 1
    contrast: float  # standard deviation of the luma (RMS contrast), 0 to 0.5
    sharpness: float  # variance of the luma's Laplacian per variance of the luma, 0 to some 20
    faces: int  # frontal faces found


def measure(picture: Image.Image) -> Quality:
    """Measure a picture, upright and RGB.

    Brightness, contrast and sharpness are those of the picture seen at 48 pixels on its shorter
    side: gross blur is seen, a slight one of a large picture is not. Sharpness is the variance of
    the Laplacian (Pech-Pacheco et al., 2000, "Diatom autofocusing in brightfield microscopy"),
    divided by that of the luma, so that a dim picture is not taken for a blurred one.
    """
    luma = np.asarray(picture.convert("L"))
    faces = _faces(luma)
    small = _resized(luma, min(1, LIGHT_SIDE / min(luma.shape))).astype(float)
    variance = small.var()
    sharpness = cv2.Laplacian(small, cv2.CV_64F).var() / variance if variance else 0
    return Quality(float(small.mean() / 255), float(variance**0.5 / 255), float(sharpness), faces)


def doubts(quality: Quality, width: int, height: int, limits: Doubt) -> list[str]:
    """Why a picture of `width` by `height` pixels is doubtful, in words; empty where it is not."""
    found = {
        f"too small: {width} x {height} pixels": min(width, height) < limits.min_side,
        "too dark": quality.brightness < limits.min_brightness,
        "low contrast": quality.contrast < limits.min_contrast,
        "blurred": quality.sharpness < limits.min_sharpness,
        "no visible face": limits.face and not quality.faces,
    }
    return [reason for reason, holds in found.items() if holds]


def _faces(luma: np.ndarray) -> int:
    """Frontal faces that OpenCV's cascade finds (Viola and Jones, 2001)."""
    detector = _detector()
    scaled = _resized(luma, FACE_SIDE / max(luma.shape))
    padded = cv2.copyMakeBorder(scaled, *(MARGIN,) * 4, cv2.BORDER_REPLICATE)
    smallest = (SMALLEST_FACE, SMALLEST_FACE)
    return len(detector.detectMultiScale(padded, STEP, minNeighbors=NEIGHBOURS, minSize=smallest))


@cache
def _detector() -> cv2.CascadeClassifier:
    # joblib has one process on each core already; each would start a thread for each core.
    cv2.setNumThreads(1)
    return cv2.CascadeClassifier(
        str(Path(cv2.data.haarcascades, "haarcascade_frontalface_alt2.xml"))
    )


def _resized(luma: np.ndarray, scale: float) -> np.ndarray:
    size = [max(1, round(scale * side)) for side in reversed(luma.shape)]
    return cv2.resize(luma, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
