"""What several families share; those that need no more import it under the names they must have."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from transformers import Cache, ProcessorMixin
from transformers.utils import ModelOutput

Positions = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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


def text_positions(lengths: torch.Tensor, depths: torch.Tensor) -> torch.Tensor:
    """Positions (batch, tokens) of tokens at `depths` behind texts of `lengths` (batch,)."""
    return lengths[:, None] + depths


@dataclass(frozen=True)
class Prefix:
    """Prompts that a decoder has read."""

    logits: torch.Tensor  # (prompts, vocabulary), of the token behind each
    cache: Cache


def after_prefix(
    reader: nn.Module,
    prefix: Prefix,
    mask: torch.Tensor,
    tokens: torch.Tensor,
    real: torch.Tensor,
    positions: Positions = text_positions,
) -> torch.Tensor:
    """Log-likelihood of every answer after every prompt, none of which is read again.

    All answers stand behind a prompt in one row, and a mask hides them from each other, as in the
    tree attention of SpecInfer (Miao et al. 2024, https://arxiv.org/abs/2305.09781): the cache
    holds a prompt once, however many answers there are. They are in the cache afterwards.

    Args:
        reader: what reads on from the cache: a decoder-only model, or its language model.
        prefix: what has been read.
        mask: (prompts, width), 0 at the padding of the prompts, on their left.
        tokens: (answers, width) token ids, padded on the right.
        real: (answers, width), 0 at the padding.
        positions: those of tokens at depths (tokens,) behind prompts of lengths (prompts,).

    Returns:
        (prompts, answers), in nats.
    """
    # The prompt's last logits foretell an answer's first token, each token's the next one. So the
    # last token is not read: nothing follows it.
    first = functional.log_softmax(prefix.logits.float(), -1)[:, tokens[:, 0]]
    of, depths = real[:, 1:].nonzero(as_tuple=True)
    if not len(of):
        return first
    size = len(mask)
    seen = torch.cat(
        [
            mask.bool()[:, None].expand(-1, len(of), -1),
            ((of[:, None] == of) & (depths[:, None] >= depths)).expand(size, -1, -1),
        ],
        2,
    )
    # In the dtype of what attention compares, which is that of its keys: the model's is that of its
    # first weight, and BLIP-2's stays in fp32.
    hidden = torch.zeros_like(seen, dtype=prefix.cache.layers[0].keys.dtype)
    hidden.masked_fill_(~seen, torch.finfo(hidden.dtype).min)
    said = reader(
        input_ids=tokens[of, depths].expand(size, -1),
        attention_mask=hidden[:, None],
        past_key_values=prefix.cache,
        position_ids=positions(mask.sum(1), depths),
    )
    following = tokens[of, depths + 1].expand(size, -1)[..., None]
    rest = functional.log_softmax(said.logits.float(), -1).gather(-1, following)[..., 0]
    counts = real[:, 1:].sum(1).tolist()
    return first + torch.stack([part.sum(1) for part in rest.split(counts, 1)], 1)


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
