"""Data drawn here, in the file layout of the set that it stands for."""

from importlib import import_module
from pathlib import Path

from src.schema import Drawn


def fetch(source: Drawn, folder: Path, seed: int) -> dict[str, object]:
    """Draw a data set into the empty `folder`; returns where it came from."""
    return import_module(f"src.drawing.{source.drawing}").write(source, folder, seed)
