"""What makes a frozen model faster on a CPU, and changes its numbers by rounding alone.

- 4-bit weights are unpacked once, where memory has room for all of them, not at each pass, and lie
  as products read them fastest.
- The products of fp32 are oneDNN's. PyTorch's own are MKL's on x86, in which a row comes out
  otherwise where it is one of few, and which know no AVX-512 on AMD's processors. Where a processor
  has none, they are faster in training, and serve where gradients are wanted.
- Of a gated feed-forward two tensors are kept for the gradients, from which they are single
  products.
- QuickGELU is made a part at a time, which stays in the processor's cache.
- Memory that is freed stays with the process, for the next tensor, but not while a model is loaded.
- No weight of a quantized model holds on to its file, in which all are unquantized.
"""

import copy
import ctypes
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import psutil
import torch
from accelerate import PartialState
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import nn
from transformers.activations import QuickGELUActivation, SiLUActivation

ROOM = 0.25  # of the memory that is available: what unpacked weights may take
CONTAINER = (
    "/sys/fs/cgroup/memory.max",  # or the word max
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",  # of older kernels
)
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of glibc's mallopt
GIVEN_BACK = 2**20  # bytes: so large memory is given back as soon as it is freed
KEPT = 2**30, 2**25  # and this is kept; old versions of glibc refuse the first
# Where PyTorch has MKL, it takes oneDNN only for 16 bits by itself.
ONEDNN = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
LAID_OUT = [torch.float32]
if ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    LAID_OUT.append(torch.bfloat16)
# Wider than what PyTorch's own products use on AMD's processors.
AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
PART = 2**19  # numbers, of which a few such tensors find room in a processor's cache
ROWS = 256  # for which weights are laid out: what suits a single row is slower with many


def prepare_loading() -> None:
    """Give freed memory back until `optimize` is called.

    On the way to 4-bit weights many tensors are made and freed. What glibc keeps of them was
    anything up to the size of the weights, from run to run, and too scattered to be used again.
    """
    _keep_memory([GIVEN_BACK])


def optimize(model: nn.Module, sharded: bool = False) -> None:
    """Make a frozen model on the CPU faster, whatever is done with it.

    Layers that are unfrozen later compute as they always did. Of a model that is to be `sharded`
    over processes none keeps all weights unpacked.
    """
    # Or each large tensor is new memory, whose pages the kernel clears at their first use.
    _keep_memory(KEPT)
    quantized = [m for m in model.modules() if isinstance(m, Linear4bit)]
    if quantized:
        _let_go_of_file(model)
    room = ROOM * _available() / PartialState().num_processes
    unpacked = sum(m.in_features * m.out_features * m.compute_dtype.itemsize for m in quantized)
    for layer in quantized:
        layer.quant_state = layer.weight.quant_state  # a gathered shard has none
        if unpacked <= room and not sharded:
            layer.unpacked = _Unpacked(layer.weight, _lay_out(_unpack(layer)))
        layer.forward = partial(_quantized, layer)
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.float32:
            module.forward = partial(_unquantized, module)
        elif hasattr(module, "gate_proj") and isinstance(module.act_fn, SiLUActivation):
            module.forward = partial(_gated, module)
        elif hasattr(module, "variance_epsilon"):
            module.forward = partial(_normalized, module)
        elif isinstance(module, QuickGELUActivation):
            module.forward = _quick_gelu


def prepare_gradients(model: nn.Module) -> None:
    """Let unpacked weights lie so that the products of both ways are fast, in as much memory.

    What is laid out for one way must be brought back for the other at each pass. A weight whose
    longer side is contiguous is laid out fast for either.
    """
    for layer in model.modules():
        if kept := getattr(layer, "unpacked", None):
            weight = kept.weight.to_dense()
            outputs, inputs = weight.shape
            turn = ONEDNN and AVX512 and outputs > inputs
            kept.weight = weight.T.contiguous().T if turn else weight


def lay_out(model: nn.Module) -> None:
    """Let all weights of a model that only computes lie as products read them.

    It can be neither copied nor saved, and has no gradients.
    """
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.float32:
            module.weight = nn.Parameter(_lay_out(module.weight.data), requires_grad=False)


def _available() -> float:
    """Memory for this and what runs beside it, in bytes: a container's, where it has its own."""
    files = [Path(name) for name in CONTAINER if Path(name).is_file()]
    limits = [text for file in files if (text := file.read_text().strip()).isdigit()]
    return min([psutil.virtual_memory().available, *map(int, limits)])


def _keep_memory(sizes: Sequence[int]) -> None:
    """Of tensors of less than the first of these sizes that is accepted, in bytes."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        kept = next((size for size in sizes if mallopt(MMAP_THRESHOLD, size)), None)
        if kept:
            mallopt(TRIM_THRESHOLD, kept)


def _let_go_of_file(model: nn.Module) -> None:
    """Copy the weights that are as they came: read in place, they keep the whole file mapped."""
    for weight in model.parameters():
        if not isinstance(weight, Params4bit):
            weight.data = weight.data.clone()


def _unpack(layer: Linear4bit) -> torch.Tensor:
    state = getattr(layer.weight, "quant_state", layer.quant_state)
    return dequantize_4bit(layer.weight.data, state).to(layer.compute_dtype)


def _quantized(layer: Linear4bit, rows: torch.Tensor) -> torch.Tensor:
    if _trained(layer):
        return Linear4bit.forward(layer, rows)
    weight, cast = partial(_quantized_weight, layer), rows.to(layer.compute_dtype)
    kept = getattr(layer, "unpacked", None)
    trains = torch.is_grad_enabled() and kept and not kept.weight.is_mkldnn
    if trains and not (ONEDNN and AVX512):
        return nn.functional.linear(cast, weight(), layer.bias).to(rows.dtype)
    return _Product.apply(cast, weight, layer.bias).to(rows.dtype)


def _unquantized(layer: nn.Linear, rows: torch.Tensor) -> torch.Tensor:
    if _trained(layer) or torch.is_autocast_enabled("cpu"):
        return nn.Linear.forward(layer, rows)
    return _Product.apply(rows, lambda: layer.weight, layer.bias)


def _trained(layer: nn.Linear) -> bool:
    return layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad)


def _quantized_weight(layer: Linear4bit) -> torch.Tensor:
    kept = getattr(layer, "unpacked", None)
    # Merged with an adapter, a layer has another weight.
    return kept.weight if kept and kept.packed is layer.weight else _unpack(layer)


@dataclass
class _Unpacked:
    """What a 4-bit weight is, unpacked."""

    packed: Params4bit
    weight: torch.Tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """PyTorch cannot copy what oneDNN laid out; nothing writes into it."""
        return replace(self, packed=copy.deepcopy(self.packed, memo))


def _lay_out(weight: torch.Tensor) -> torch.Tensor:
    """The same (out, in) as oneDNN reads it; as it comes, it is laid out at each product."""
    if ONEDNN and weight.dtype in LAID_OUT:
        return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return weight


class _Product(torch.autograd.Function):
    """What a frozen linear layer makes of rows (..., channels).

    Its weight is asked for at each pass: it need not be there between them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        weight: Callable[[], torch.Tensor],
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.weight = weight
        return _product(rows, weight(), bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _product(gradient, ctx.weight().to_dense().T, None), None, None


def _product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if weight.is_mkldnn or (ONEDNN and rows.dtype == torch.float32):
        return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return nn.functional.linear(rows, weight, bias)


def _gated(module: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    return module.down_proj(_Gated.apply(module.gate_proj(rows), module.up_proj(rows)))


class _Gated(torch.autograd.Function):
    """SiLU of the gate (..., channels), times what it lets through, of the same shape.

    What is kept are the derivatives by both, as many tensors as came in.
    """

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, let_through: torch.Tensor) -> torch.Tensor:
        if not any(ctx.needs_input_grad):
            return nn.functional.silu(gate).mul_(let_through)
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        # The derivative of SiLU is sigmoid + silu (1 - sigmoid).
        by_gate = sigmoid.lerp_(sigmoid.new_ones(()), silu).mul_(let_through)
        ctx.save_for_backward(by_gate, silu)
        return silu * let_through

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        by_gate, silu = ctx.saved_tensors
        return gradient * by_gate, gradient * silu


def _normalized(module: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    if rows.dtype != torch.float32 or module.weight.requires_grad:
        return type(module).forward(module, rows)
    return _RMSNorm.apply(rows, module.weight, module.variance_epsilon)


class _RMSNorm(torch.autograd.Function):
    """Rows (..., channels) by their root mean square (https://arxiv.org/abs/1910.07467).

    Its gradients are made of the rows that come out, in a third of the passes of autograd's.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, least: float) -> torch.Tensor:
        factor = torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + least)
        normal = rows * factor
        ctx.save_for_backward(normal, factor, weight)
        return weight * normal

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        normal, factor, weight = ctx.saved_tensors
        back = gradient * weight
        along = (back * normal).mean(-1, keepdim=True)
        return back.addcmul_(normal, along, value=-1).mul_(factor), None, None


def _quick_gelu(inputs: torch.Tensor) -> torch.Tensor:
    if torch.is_grad_enabled() and inputs.requires_grad:
        return inputs * torch.sigmoid(1.702 * inputs)
    found = torch.empty_like(inputs, memory_format=torch.contiguous_format)
    flat = inputs.reshape(-1), found.view(-1)
    for part, place in zip(*(all_of.split(PART) for all_of in flat), strict=True):
        torch.mul(part, 1.702, out=place).sigmoid_().mul_(part)
    return found
