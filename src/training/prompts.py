"""Prompts, and what they show, as processors take them."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import ProcessorMixin

from src.errors import UserError
from src.features import Features


def rendered(
    family: ModuleType, processor: ProcessorMixin, system: str | None, question: str, medium: str
) -> str:
    """A family's prompt; those that read pictures alone know of no other medium."""
    return family.render(processor, system, question, *([medium] if medium == "video" else []))


def media(medium: str, shown: Sequence[Any]) -> dict[str, Any]:
    """Pictures, or videos as lists of frames, as a processor takes them."""
    if medium == "image":
        return {"images": list(shown)}
    # In [0, 1] and of the right size already: neither is done a second time.
    return {"videos": list(map(as_tensor, shown)), "do_rescale": False, "do_resize": False}


def as_tensor(frames: Sequence[Image.Image]) -> torch.Tensor:
    """The frames of a video: (frames, 3, height, width), in [0, 1]."""
    stacked = np.stack([np.asarray(frame.convert("RGB")) for frame in frames])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255


class Tokenized:
    """Prompts as the processor makes them, each text once and without a picture.

    All media of a data set have one size, so that all stand as so many tokens in a prompt: where
    the text has its placeholder, or in front where it has none.
    """

    def __init__(self, processor: ProcessorMixin, features: Features, prompt: str) -> None:
        self.tokenizer = processor.tokenizer
        self.features = features
        self._known: dict[str, np.ndarray] = {}
        # What the processor makes of any prompt with a blank picture or video.
        blank = Image.new("RGB", (features.size, features.size))
        shown = [blank] * features.frames if features.frames else blank
        inputs = media(features.medium, [shown])
        made = dict(processor(text=[prompt], return_tensors="pt", **inputs))
        self._pixels = "pixel_values" if features.medium == "image" else "pixel_values_videos"
        ids = made.pop("input_ids")[0]
        extra = Counter(ids.tolist()) - Counter(self.tokenizer(prompt)["input_ids"])
        if len(extra) != 1:
            kinds = ", ".join(map(repr, self.tokenizer.convert_ids_to_tokens(list(extra))))
            raise UserError(
                f"{type(processor).__name__} adds tokens of other than one kind for each "
                f"{features.medium}: {kinds or 'none'}; set vision_features to live in the recipe"
            )
        (self._placeholder,) = extra
        self._count = int((ids == self._placeholder).sum())
        types = made.pop("mm_token_type_ids", None)
        self._type = None if types is None else int(types[0][ids == self._placeholder][0])
        for name in (self._pixels, "attention_mask"):
            del made[name]
        self._of_each = made  # such as the grid of a picture: (1, ...)

    def ids(self, text: str) -> np.ndarray:
        """Token ids of a prompt: (sequence,)."""
        if text not in self._known:
            own = np.array(self.tokenizer(text)["input_ids"], dtype=np.int32)
            places = np.flatnonzero(own == self._placeholder)
            before, after = np.split(own, places[:1] if len(places) else [0])
            seen = np.full(self._count, self._placeholder, dtype=np.int32)
            self._known[text] = np.concatenate([before, seen, after[len(places[:1]) :]])
        return self._known[text]

    def batch(self, texts: Sequence[str], rows: Sequence[int], side: str) -> dict[str, Any]:
        """The processor's inputs, padded on one side, with features where it has pixels."""
        ids = [torch.from_numpy(self.ids(text)).long() for text in texts]
        padded = partial(pad_sequence, batch_first=True, padding_side=side)
        tokens = padded(ids, padding_value=self.tokenizer.pad_token_id)
        real = padded([torch.ones_like(row) for row in ids])
        batch = {"input_ids": tokens, "attention_mask": real}
        if self._type is not None:
            batch["mm_token_type_ids"] = (tokens == self._placeholder).long() * self._type
        for name, value in self._of_each.items():
            batch[name] = value.repeat_interleave(len(texts), 0)
        return batch | {self._pixels: self.features.of(rows)}
