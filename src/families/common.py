"""What several families share; those that need no more import it under the names they must have."""

import math
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin
from transformers.utils import ModelOutput

Positions = Callable[[PreTrainedModel, torch.Tensor, int], dict[str, torch.Tensor]]


def chat(
    processor: ProcessorMixin, system: str | None, question: str, medium: str = "image"
) -> str:
    """A chat by the processor's template, up to the assistant's turn.

    One placeholder stands for the medium, which is an `image` or a `video`.
    """
    content = [{"type": medium}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    if system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def after_prefix(
    model: PreTrainedModel,
    reader: nn.Module,
    inputs: dict[str, torch.Tensor],
    tokens: torch.Tensor,
    real: torch.Tensor,
    positions_after: Positions,
) -> torch.Tensor:
    """Logits of every answer after every prompt, from a cache of the prompts that is repeated.

    Args:
        model: a decoder-only vision-language model.
        reader: what reads on from the cache: the model itself, or its language model.
        inputs: the prompts, padded on the left.
        tokens: (answers, width) token ids, padded on the right.
        real: (answers, width), 0 at the padding.
        positions_after: the positions of tokens after prefixes, as model inputs.

    Returns:
        (prompts * answers, width, vocabulary): what foretells each token of each answer.
    """
    count, width = tokens.shape
    mask = inputs["attention_mask"]
    read: Any = model(**inputs, use_cache=True, logits_to_keep=1)
    # The prompt's last logits foretell an answer's first token, each token's the next one.
    first = read.logits[:, -1:].repeat_interleave(count, 0)
    if width == 1:
        return first
    cache = getattr(read, "language_model_outputs", read).past_key_values
    cache.batch_repeat_interleave(count)
    # So that the last token is not read: nothing follows it.
    real = torch.cat([mask.repeat_interleave(count, 0), real[:, :-1].repeat(len(mask), 1)], 1)
    places = positions_after(model, mask.sum(1), width - 1)
    said = reader(
        input_ids=tokens[:, :-1].repeat(len(mask), 1),
        attention_mask=real,
        past_key_values=cache,
        **{name: value.repeat_interleave(count, dim=-2) for name, value in places.items()},
    )
    return torch.cat([first, said.logits], 1)


def after_a_space(text: str) -> str:
    """The answer where a space parts it from the prompt."""
    return f" {text}"


def pixels(processor: ProcessorMixin, images: list[Image.Image]) -> torch.Tensor:
    """Pictures as the processor resizes and normalises them: (batch, 3, height, width)."""
    return processor.image_processor(images, return_tensors="pt")["pixel_values"]


def visual_inputs(processor: ProcessorMixin, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Model inputs from normalised pictures (batch, 3, height, width), differentiably."""
    return {"pixel_values": pixels}


def cam_maps(
    processor: ProcessorMixin, activations: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """Activations (batch, 1 + side², channels) as (batch, channels, side, side).

    The first is that of the class token.
    """
    side = math.isqrt(activations.shape[1] - 1)
    return activations[:, 1:].transpose(1, 2).unflatten(2, (side, side))


class Given(nn.Module):
    """Stands in for a part of the vision side, and gives on what was computed before."""

    def __init__(self, give: Callable[..., ModelOutput], **attributes: Any) -> None:
        super().__init__()
        self.give = give
        vars(self).update(attributes)

    def forward(self, *args: Any, **inputs: Any) -> ModelOutput:
        """What the part would say, were its inputs not its outputs already."""
        return self.give(*args, **inputs)
