"""The gallery of one recipe: examples with their maps laid over them, and what the report says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pytorch_grad_cam.utils.image import show_cam_on_image

SHOWN_SIDE = 224  # pixels, of a picture
SMALL_SIDE = 112  # of a frame, and of a picture that is shown once for each word
FRAMES = 8  # of a video at most, of which a word has one row
ACROSS = 4
GAP, FILM = 3, (28, 28, 28)  # between frames
MAPS = ("gradcam", "occlusion")
Medium = Image.Image | list[Image.Image]


def chosen(correct: np.ndarray, count: int) -> list[int]:
    """Positions of `count` examples, half right and half wrong where there are as many."""
    right, wrong = np.flatnonzero(correct), np.flatnonzero(~correct)
    wrong_count = min(len(wrong), max(count // 2, count - len(right)))
    return [*_spread(right, count - wrong_count), *_spread(wrong, wrong_count)]


def _spread(positions: np.ndarray, count: int) -> list[int]:
    """Up to `count` of the positions, evenly: the split lists one class after the other."""
    count = min(count, len(positions))
    return positions[np.linspace(0, len(positions) - 1, count).round().astype(int)].tolist()


def save(
    folder: Path, number: int, medium: Medium, prediction: pd.Series, found: Mapping[str, Any]
) -> dict[str, Any]:
    """Save one example and its overlays, maps (rows, columns) by name; returns its entry."""
    files = {name: f"{number:02d}_{name}.png" for name in ("picture", *MAPS)}
    for name, file in files.items():
        shown(medium, found.get(name)).save(folder / file)
    columns = ("id", "question", "predicted", "probability", "correct")
    entry = {name: _plain(prediction[name]) for name in columns}
    entry["label"] = _plain(prediction["label" if "label" in prediction else "answer"])
    frames = {"frames": len(_frames(medium, FRAMES))} if isinstance(medium, list) else {}
    return entry | files | frames


def save_words(
    folder: Path, number: int, medium: Medium, words: list[str], found: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Save the overlays of an example's words, maps (words, rows, columns) by name.

    What an occluded cell costs is as hot under one word as under another; Grad-CAM has no scale.

    Returns:
        `words`, and how many `more_words` there are, of which no map was made.
    """
    entries = []
    count = len(found[MAPS[0]])
    top = float(found["occlusion"].max()) if count else 0.0
    for i, word in enumerate(words[:count]):
        files = {name: f"{number:02d}_word{i:02d}_{name}.png" for name in MAPS}
        for name, file in files.items():
            scale = top if name == "occlusion" else None
            shown(medium, found[name][i], scale, small=True).save(folder / file)
        entries.append({"word": word} | files)
    return {"words": entries, "more_words": len(words) - len(entries)}


def shown(
    medium: Medium,
    values: np.ndarray | None = None,
    top: float | None = None,
    small: bool = False,
) -> Image.Image:
    """A picture, or a sheet of a video's frames, under a map (rows, columns) if there is one.

    Args:
        medium: a picture, or all frames of a video.
        values: of a video's film strip, the maps of its steps side by side, each as wide as high.
        top: what is hottest; None: the map's own maximum.
        small: as it is shown for each word.
    """
    if isinstance(medium, Image.Image):
        side = SMALL_SIDE if small else SHOWN_SIDE
        return _under(medium, side, values, top)
    if values is not None and top is None:
        top = float(values.max())
    rows = []
    for place in _frames(medium, ACROSS if small else FRAMES):
        step = None
        if values is not None:
            side = len(values)
            first = side * (place // -(-len(medium) * side // values.shape[1]))
            step = values[:, first : first + side]
        rows.append(_under(medium[place], SMALL_SIDE, step, top))
    return _sheet(rows)


def overlay(picture: Image.Image, cells: np.ndarray, top: float | None = None) -> Image.Image:
    """A map laid over its picture, hottest at `top`; what speaks against the answer stays cold."""
    hot = np.clip(cells, 0, None)
    top = hot.max() if top is None else top
    scaled = hot / top if top > 0 else hot
    smooth = Image.fromarray(scaled.astype(np.float32)).resize(
        picture.size, Image.Resampling.BICUBIC
    )
    heat = np.clip(np.asarray(smooth), 0, 1)
    rgb = np.asarray(picture, np.float32) / 255
    return Image.fromarray(show_cam_on_image(rgb, heat, use_rgb=True, image_weight=0.55))


def _under(
    picture: Image.Image, side: int, values: np.ndarray | None, top: float | None
) -> Image.Image:
    picture = picture.resize((side, side), Image.Resampling.BICUBIC)
    return picture if values is None else overlay(picture, values, top)


def _frames(video: list[Image.Image], most: int) -> list[int]:
    """The numbers of at most so many frames, evenly, first and last among them."""
    places = np.linspace(0, len(video) - 1, min(most, len(video)))
    return places.round().astype(int).tolist()


def _sheet(frames: list[Image.Image]) -> Image.Image:
    """Frames in rows of `ACROSS`, from left to right."""
    across, down = min(ACROSS, len(frames)), -(-len(frames) // ACROSS)
    pitch = SMALL_SIDE + GAP
    sheet = Image.new("RGB", (across * pitch - GAP, down * pitch - GAP), FILM)
    for i, frame in enumerate(frames):
        sheet.paste(frame, (i % ACROSS * pitch, i // ACROSS * pitch))
    return sheet


def _plain(value: Any) -> Any:
    """A cell of a table as JSON has it."""
    if value is None or (np.isscalar(value) and pd.isna(value)):
        return None
    return getattr(value, "item", lambda: value)()
