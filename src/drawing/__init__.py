"""Pictures and videos drawn here, for the tiny scale and the tests.

A module of this package defines
- `write(source, folder, seed)`: a data set in its publisher's file layout;
- `lesson(rng, size)`: a picture or video with what can be said of it, for the pretraining of a
  base model;
- `VOCABULARY`: texts whose words the base must be able to say.
"""

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Lesson:
    """A picture or a video, its caption, and questions about it with their answers by attribute."""

    picture: Image.Image | None
    caption: str
    questions: dict[str, tuple[str, str]]
    video: tuple[Image.Image, ...] | None = None  # its frames, where there is no picture
    more: tuple[tuple[str, str], ...] = ()  # questions like these, with their answers
