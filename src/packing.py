"""Decoders that read a batch as one sequence: no padding, and what begins all rows once.

Nearly all that a decoder does it does to each token by itself, so that padding costs as much as
text, and the words before the pictures as often as there are pictures. Attention alone sees rows.
The shared beginning is that of Prefix Grouper (Liu et al. 2025, https://arxiv.org/abs/2506.05433).
And behind the last attention only those tokens are read on that are asked for.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    Cache,
    DynamicCache,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import BaseModelOutputWithPast

NAME = "packed"  # of the attention, among those of transformers


@dataclass(frozen=True)
class Packing:
    """Where the tokens of a batch stand in the sequence: what begins all rows, then the others.

    Aligned rows begin in the first column and have their padding behind.
    """

    order: torch.Tensor  # (batch, longest) columns of each row's tokens, then of its padding
    shared: int  # tokens that begin all rows
    others: torch.Tensor  # (tokens - shared,) which of the aligned rows' tokens the others are
    places: torch.Tensor  # (batch, longest - shared) of those in the sequence; 0 at padding
    columns: torch.Tensor  # (batch, width) where each column stands in its aligned row; 0: padding

    @classmethod
    def of(cls, embeddings: torch.Tensor, mask: torch.Tensor) -> Self | None:
        """That of (batch, width, channels) under a mask (batch, width); None if it spares nothing.

        Without gradients, a row equal to the one before, as the beams of a prompt are, is not read
        again. With them it is: on a GPU, what is added up over its copies may come out otherwise
        each time. And where embeddings themselves have gradients, as those of pictures that are to
        be explained, nothing is shared: all of it would be the first row's.
        """
        size, width = mask.shape
        lengths = mask.sum(1)
        order = mask.argsort(dim=1, descending=True, stable=True)
        rows = embeddings.detach().gather(1, order[..., None].expand_as(embeddings))
        real = torch.arange(width, device=mask.device) < lengths[:, None]
        begin = ((rows == rows[:1]).all(-1) & real).all(0).cumprod(0).sum()
        new = torch.ones_like(lengths)
        if not torch.is_grad_enabled():
            copies = (rows[1:] == rows[:-1]).flatten(1).all(1) & (lengths[1:] == lengths[:-1])
            new[1:] = ~copies
        # Here the host waits for the device, and in `_ask`.
        numbers = torch.stack([begin, lengths.max(), new.sum(), (lengths * new).sum()])
        shared, longest, read, total = numbers.tolist()
        shared = 0 if embeddings.requires_grad else min(shared, longest - 1)
        tokens = total - (read - 1) * shared
        if tokens == size * width:
            return None
        order = order[:, :longest]
        spared = ~(real[:, shared:longest] & new[:, None].bool())
        others = spared.flatten().int().argsort(stable=True)[: tokens - shared]
        places = torch.zeros_like(spared, dtype=torch.long)
        places.view(-1)[others] = torch.arange(shared, tokens, device=mask.device)
        places = places[(torch.arange(size, device=mask.device) * new).cummax(0).values]
        columns = torch.zeros_like(mask)
        columns.scatter_(1, order, torch.arange(longest, device=mask.device).expand(size, -1))
        return cls(order, shared, others, places, columns)

    def pack(self, batch: torch.Tensor) -> torch.Tensor:
        """The sequence (1, tokens, ...) of a batch (batch, width, ...) as it came."""
        return self.join(_columns(batch, self.order))

    def join(self, aligned: torch.Tensor) -> torch.Tensor:
        """The sequence (1, tokens, ...) of aligned rows (batch, longest, ...)."""
        others = aligned[:, self.shared :].flatten(0, 1).index_select(0, self.others)
        return torch.cat([aligned[0, : self.shared], others])[None]

    def align(self, sequence: torch.Tensor) -> torch.Tensor:
        """Aligned rows (batch, longest, ...) of a sequence (1, tokens, ...)."""
        first = sequence[:, : self.shared].expand(len(self.order), *[-1] * (sequence.dim() - 1))
        others = sequence[0].index_select(0, self.places.flatten()).unflatten(0, self.places.shape)
        return torch.cat([first, others], 1)

    def unpack(self, sequence: torch.Tensor) -> torch.Tensor:
        """The batch (batch, width, ...) as it came, with any token for padding."""
        return _columns(self.align(sequence), self.columns)


def _columns(rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Those columns (batch, count) of each row (batch, width, ...)."""
    wanted = wanted.view(*wanted.shape, *[1] * (rows.dim() - 2))
    return rows.gather(1, wanted.expand(-1, -1, *rows.shape[2:]))


class Unpacked(DynamicCache):
    """Stands before the cache of the rows while a sequence is read, and keeps nothing itself."""

    def __init__(self, packing: Packing, rows: Cache) -> None:
        super().__init__()
        self.packing, self.rows = packing, rows

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the rows theirs, and the attention the sequence's: (1, heads, tokens, channels)."""
        both = [self.packing.unpack(x.transpose(1, 2)) for x in (key_states, value_states)]
        self.rows.update(*(x.transpose(1, 2) for x in both), layer_idx, *args)
        return key_states, value_states


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packing: Packing | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """PyTorch's attention, between the tokens of each row where they came in one sequence."""
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **others)
    rows = [packing.align(heads.transpose(1, 2)).transpose(1, 2) for heads in (query, key, value)]
    # Padding is behind, where no token sees it.
    found, _ = sdpa_attention_forward(module, *rows, None, **others)
    return packing.join(found), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def pack(decoder: PreTrainedModel) -> None:
    """Let a decoder read its batches so.

    Whoever calls it finds what it would find without, but for what stands at padding. Where it is
    called with `wanted`, booleans (batch, width), that holds for those tokens alone, and dropout
    behind the last attention draws for them alone.
    """
    decoder.set_attn_implementation(NAME)
    decoder.register_forward_pre_hook(_one_sequence, with_kwargs=True)
    decoder.register_forward_hook(_rows, with_kwargs=True)
    # In OPT's layers it is no module of its own.
    feed_forward = getattr(decoder.layers[-1], "mlp", None) if len(decoder.layers) else None
    # Behind the first, whose packing it looks at.
    decoder.register_forward_pre_hook(partial(_ask, feed_forward), with_kwargs=True)
    if feed_forward is not None:
        feed_forward.wanted = None
        feed_forward.register_forward_pre_hook(_wanted_alone)
        feed_forward.register_forward_hook(_among_all)


def _one_sequence(
    decoder: PreTrainedModel, args: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    embeddings, mask = inputs.get("inputs_embeds"), inputs.get("attention_mask")
    cache, use_cache = inputs.get("past_key_values"), inputs.get("use_cache")
    goes_on = cache is not None and cache.get_seq_length() > 0
    own_mask = mask is not None and mask.dim() != 2
    if embeddings is None or len(embeddings) == 1 or goes_on or own_mask:
        return None
    if mask is None:
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
    packing = Packing.of(embeddings, mask.long())
    if packing is None:
        return None
    positions = inputs.get("position_ids")
    if positions is None:
        positions = mask.long().cumsum(1) - 1
    # Several are those of Qwen2-VL's axes, or of the text and the axes, which alone are read.
    axes = positions.view(-1, *mask.shape)[-3:]
    packed = torch.stack([packing.pack(axis) for axis in axes])
    if cache is None and (decoder.config.use_cache if use_cache is None else use_cache):
        cache = DynamicCache(config=decoder.config)
    return args, inputs | {
        "inputs_embeds": packing.pack(embeddings),
        # With four dimensions it passes for complete, so that none is made of the whole sequence.
        "attention_mask": mask[None, None],
        "position_ids": packed if positions.dim() == 3 else packed[0],
        "past_key_values": None if cache is None else Unpacked(packing, cache),
        "use_cache": cache is not None,
        "packing": packing,
    }


def _rows(
    decoder: PreTrainedModel,
    args: tuple[Any, ...],
    inputs: dict[str, Any],
    output: BaseModelOutputWithPast,
) -> None:
    if packing := inputs.get("packing"):
        output.last_hidden_state = packing.unpack(output.last_hidden_state)
        if output.past_key_values is not None:
            output.past_key_values = output.past_key_values.rows


def _ask(
    feed_forward: nn.Module | None,
    decoder: PreTrainedModel,
    args: tuple[Any, ...],
    inputs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Tell the last feed-forward which tokens of the sequence are wanted."""
    inputs = dict(inputs)
    wanted, packing = inputs.pop("wanted", None), inputs.get("packing")
    if feed_forward is not None:
        # Kept until the next batch: checkpointing reads a layer once more, going back.
        feed_forward.wanted = None
    if feed_forward is not None and wanted is not None:
        shape = inputs["inputs_embeds"].shape[:2]
        numbers = torch.arange(shape.numel(), device=wanted.device).view(shape)
        numbers = packing.unpack(numbers) if packing else numbers
        feed_forward.wanted = numbers[wanted].unique(), shape
    return args, inputs


def _wanted_alone(feed_forward: nn.Module, args: tuple[torch.Tensor]) -> torch.Tensor | None:
    if feed_forward.wanted is None:
        return None
    tokens, _ = feed_forward.wanted
    return args[0].flatten(0, 1).index_select(0, tokens)


def _among_all(
    feed_forward: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor
) -> torch.Tensor | None:
    if feed_forward.wanted is None:
        return None
    tokens, shape = feed_forward.wanted
    others = output.new_zeros(shape.numel(), output.shape[-1])
    return others.index_copy_(0, tokens, output).unflatten(0, shape)
