"""What a LLaMA-Factory training file says of the data."""

import json
import math
import os
from pathlib import Path
from typing import Any

from src.schema import Params
from tools.llamafactory.settings import Settings, free, identifier

PATCH = 28  # pixels a side of what becomes one token of Qwen2-VL
READERS = ("sharegpt", "webvid")


def data(settings: Settings, params: Params) -> tuple[str, dict[str, Any] | None]:
    """The name of the data, and their block; None where the file names none."""
    names = settings.names("dataset")
    if not (names or settings.given("dataset_dir") or settings.given("media_dir")):
        known = sorted(params.data.values(), key=lambda d: d.reader not in READERS)
        settings.note("dataset", f"data.{known[0].name} stands in its place")
        return known[0].name, None
    folder = _folder(settings)
    frames = _frames(settings, _video(settings, names))
    name = identifier(names[0] if names else Path(folder).name)
    return free(name, params.data), {
        "reader": "sharegpt",
        "labels": None,
        "licence": "unknown",
        "own_licence": None,
        "publisher_splits": True,
        "validation": _validation(settings),
        "test": 0.1,
        "near_duplicate_distance": {"tiny": 12, "full": 12},
        "limit": {"tiny": None, "full": settings.get("max_samples", None, int)},
        "frames": frames,
        "image_size": {"tiny": 2 * PATCH, "full": _side(settings, "video" if frames else "image")},
        "tiny": {"folder": folder},
        "full": {"folder": folder},
    }


def _folder(settings: Settings) -> str:
    lists = settings.get("dataset_dir", "data", str)
    media = settings.get("media_dir", lists, str)
    if Path(os.path.normpath(lists)).is_relative_to(os.path.normpath(media)):
        return media
    settings.note("media_dir", f"media are looked for beside the lists; bring them into {lists}")
    return lists


def _video(settings: Settings, names: list[str]) -> bool:
    """Whether the data are videos; notes what else of dataset_info.json will be read, or not."""
    path = Path(settings.get("dataset_dir", "data", str), "dataset_info.json")
    try:
        known = json.loads(path.read_text(encoding="utf-8-sig"))
        columns = {name: set(entry.get("columns") or ()) for name, entry in known.items()}
    except (OSError, ValueError, AttributeError):
        settings.note(
            "dataset", f"{path} cannot be read here; each of its lists with media is read"
        )
        return settings.given("video_maxlen") or any("video" in name.lower() for name in names)
    shown = [name for name, found in columns.items() if found & {"images", "videos"}]
    if unread := [name for name in names if name not in shown]:
        settings.note("dataset", f"no pictures or videos in {', '.join(unread)}, which is not read")
    if others := [name for name in shown if names and name not in names]:
        settings.note("dataset", f"{', '.join(others)} of {path} is read too where it is there")
    kinds = {kind for name in names or shown for kind in columns.get(name, ()) if name in shown}
    if {"images", "videos"} <= kinds:
        settings.note("dataset", "pictures and videos do not mix; the videos are read")
    return "videos" in kinds


def _frames(settings: Settings, video: bool) -> int | None:
    for key in [key for key in settings.values if key.startswith("image_" if video else "video_")]:
        read, unread = ("videos", "pictures") if video else ("pictures", "videos")
        settings.note(key, f"no {unread} are read, but {read}")
    if not video:
        return None
    if not settings.given("video_maxlen"):
        settings.note("video_maxlen", "8 frames are taken, not LLaMA-Factory's default")
    longest = settings.get("video_maxlen", 8, int)
    frames = min(max(longest - longest % 2, 2), 128)
    if frames != longest:
        settings.note(
            "video_maxlen", f"the frames are an even number up to 128; {frames} are taken"
        )
    return frames


def _side(settings: Settings, kind: str) -> int:
    """The side of a square of that many pixels, in whole patches."""
    key = f"{kind}_max_pixels"
    if not settings.given(key):
        settings.note(key, "224 pixels a side are taken, not LLaMA-Factory's default")
    pixels = settings.get(key, 224**2, int)
    return max(math.isqrt(pixels) // PATCH, 1) * PATCH


def _validation(settings: Settings) -> float:
    share = settings.get("val_size", 0.1, float)
    if 0 < share <= 0.5:
        return share
    settings.note("val_size", "validation is a share above 0 and up to 0.5; 0.1 is taken")
    return 0.1
