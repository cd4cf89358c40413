"""What autograd keeps of a forward pass for the backward one, counted without doing either.

The language model runs on fake tensors (https://docs.pytorch.org/docs/stable/torch.compiler_fake_tensor.html),
which have a shape and no memory, under autograd's own hooks for what it saves. So the count is that
of the model's code, PEFT's and bitsandbytes', not of a formula for each architecture. Layers are
alike: those of two and of three are enough to know all of them.

Attention is the fused kernel, which keeps queries, keys, values, its output and a number a row (Dao
et al. 2022, https://arxiv.org/abs/2205.14135), with a mask, as a padded batch has it. The last
feed-forward is counted with all tokens, of which training reads the answer's alone where it is a
module of its own (OPT's is none). Autocast is that of a CPU; a GPU's also keeps layer norms in
fp32, which OPT has and the others have not. A CPU keeps less of a gated feed-forward (src/cpu.py).
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedConfig

from src.models import DTYPES
from src.planning.skeleton import Skeleton, skeleton
from src.schema import Recipe


@dataclass(frozen=True)
class Shape:
    """One batch: sequences of a prompt with its picture, and of an answer."""

    batch: int
    prompt: int  # tokens, those of the picture among them
    answer: int

    @property
    def tokens(self) -> int:
        """Of a sequence."""
        return self.prompt + self.answer


@dataclass(frozen=True)
class Saved:
    """Bytes that a training step's forward pass leaves behind."""

    total: int  # for the backward pass
    recomputed: int  # by it, one layer at a time; 0 without checkpointing


def saved(
    configuration: PreTrainedConfig, recipe: Recipe, shape: Shape, checkpointing: bool
) -> Saved:
    """Bytes saved by the language model for a batch, from its code at two and three layers."""
    made = {count: skeleton(configuration, recipe, layers=count) for count in (2, 3)}
    depth = configuration.get_text_config().num_hidden_layers
    plain = {n: count_saved(part, recipe, shape, False) for n, part in made.items()}
    a_layer = plain[3] - plain[2]
    if not checkpointing:
        return Saved(plain[2] + (depth - 2) * a_layer, 0)
    kept = {n: count_saved(part, recipe, shape, True) for n, part in made.items()}
    return Saved(kept[2] + (depth - 2) * (kept[3] - kept[2]), a_layer)


def count_saved(part: Skeleton, recipe: Recipe, shape: Shape, checkpointing: bool) -> int:
    """Bytes of the distinct tensors, weights aside, that one forward pass of training saves."""
    reader = part.language_model
    with FakeTensorMode():
        _make_fake(reader)
        # The storages themselves, so that none is let go and its number given to another.
        held = [t.untyped_storage() for t in (*reader.parameters(), *reader.buffers())]
        weights = {storage._cdata for storage in held}
        reader.train()
        if checkpointing:
            reader.activation_checkpointing_enable({"use_reentrant": False})
        else:
            reader.activation_checkpointing_disable()
        kept: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if _storage(tensor) not in weights:
                kept[_storage(tensor)] = tensor
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        dtype = DTYPES[recipe.precision]
        with hooks, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            # The result keeps the graph, and so what was saved, alive until it is counted.
            output = reader(**_inputs(reader, shape, dtype))
        found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        del output
    return found


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _inputs(reader: nn.Module, shape: Shape, dtype: torch.dtype) -> dict[str, torch.Tensor | bool]:
    """What the language model is given: embeddings, in which pictures are in their places."""
    apart = reader.config.is_encoder_decoder
    length = shape.prompt if apart else shape.tokens
    inputs: dict[str, torch.Tensor | bool] = {
        "inputs_embeds": torch.empty(shape.batch, length, reader.config.hidden_size, dtype=dtype),
        "attention_mask": torch.ones(shape.batch, length, dtype=torch.long),
        "use_cache": False,
    }
    if apart:
        inputs["decoder_input_ids"] = torch.ones(shape.batch, shape.answer, dtype=torch.long)
    return inputs


def _make_fake(model: nn.Module) -> None:
    """Give every weight, buffer and quantization constant a fake tensor of the CPU."""
    # With the weight itself, so that its id is not given to another one meanwhile.
    fakes: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and id(weight) not in fakes:
                fakes[id(weight)] = weight, _fake_weight(weight)
            module._parameters[name] = None if weight is None else fakes[id(weight)][1]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else _fake(buffer)


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def _fake_weight(weight: nn.Parameter) -> nn.Parameter:
    made = nn.Parameter(_fake(weight), requires_grad=weight.requires_grad)
    if state := getattr(weight, "quant_state", None):
        state.absmax, state.code = _fake(state.absmax), _fake(state.code)
        if state.nested:
            state.offset = _fake(state.offset)
            state.state2.absmax = _fake(state.state2.absmax)
            state.state2.code = _fake(state.state2.code)
        made.quant_state = state
    return made
