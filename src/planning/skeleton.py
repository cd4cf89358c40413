"""A recipe's model on the meta device: the shape of every weight and none of its values."""

from copy import deepcopy
from dataclasses import dataclass

import bitsandbytes as bnb
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedConfig
from transformers.quantizers import AutoHfQuantizer

from src import families
from src.models import CLASSIFIER, DTYPES, add_lora, language_model, quantization_config
from src.schema import Recipe


@dataclass(frozen=True)
class Skeleton:
    """The base with its adapter, and what its weights come to."""

    model: PeftModel
    parameters: int  # of the base alone
    trainable: int
    frozen_bytes: int  # of the base as it lies in memory
    quantized_bytes: int  # the part of them that is 4-bit, constants included
    widest: int  # bytes of the largest 4-bit layer in the compute dtype; 0: none is 4-bit

    @property
    def language_model(self) -> nn.Module:
        """The part that reads and writes text."""
        return language_model(self.model)


def skeleton(
    configuration: PreTrainedConfig, recipe: Recipe, classes: int = 0, layers: int | None = None
) -> Skeleton:
    """What `load_base` and `add_lora` make of a configuration, by the same libraries.

    Args:
        configuration: of the base.
        recipe: says how it is quantized and what of it is adapted.
        classes: of a second head; 0: it has none.
        layers: of the language model (an encoder and a decoder have so many each); None: its own.
    """
    family, configuration = families.load(recipe.family), deepcopy(configuration)
    text, dtype = configuration.get_text_config(), DTYPES[recipe.precision]
    if layers:
        text.num_hidden_layers = layers
        if kinds := getattr(text, "layer_types", None):
            text.layer_types = kinds[:1] * layers
        if hasattr(text, "num_decoder_layers"):
            text.num_decoder_layers = layers
    if classes:
        configuration.num_labels = classes
    with torch.device("meta"):
        make = family.WITH_CLASSIFIER if classes else AutoModelForImageTextToText.from_config
        model = make(configuration)
    exact = (CLASSIFIER, *(model._keep_in_fp32_modules_strict or ()))
    for name, weight in model.named_parameters():
        weight.data = weight.data.to(torch.float32 if any(e in name for e in exact) else dtype)
    parameters = model.num_parameters()
    if quantization := quantization_config(recipe, family):
        AutoHfQuantizer.from_config(quantization, pre_quantized=False).preprocess_model(
            model, device_map=None
        )
    model.requires_grad_(False)
    _quantize(model, dtype)
    frozen, quantized = _bytes(model)
    in_4_bit = [m for m in model.modules() if isinstance(m, Linear4bit)]
    widest = max((m.in_features * m.out_features for m in in_4_bit), default=0)
    adapted = add_lora(model, recipe.lora)
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return Skeleton(adapted, parameters, trainable, frozen, quantized, widest * dtype.itemsize)


def _quantize(model: nn.Module, dtype: torch.dtype) -> None:
    """Put weights of bitsandbytes' own 4-bit layout in the place of those to be quantized."""
    # bitsandbytes keeps the table of the first tensor that it quantizes for all that follow in the
    # process, on that tensor's device: it must not be one on meta, which holds no numbers.
    bnb.functional.name2qmap.setdefault("dynamic", bnb.functional.create_dynamic_map())
    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            asked = layer.weight
            packed, state = bnb.functional.quantize_4bit(
                torch.empty(asked.shape, dtype=dtype, device="meta"),
                compress_statistics=asked.compress_statistics,
                quant_type=asked.quant_type,
            )
            # A Params4bit cannot be made fake later, and the layer reads no more than this of it.
            layer.weight = nn.Parameter(packed, requires_grad=False)
            layer.weight.quant_state = state
            layer.support_avx512bf16_for_cpu = False
            if layer.bias is not None:
                layer.bias.data = layer.bias.data.to(dtype)


def _bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes of all weights and buffers, and of the 4-bit ones with their constants among them."""
    plain = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    states = [p.quant_state for p in model.parameters() if hasattr(p, "quant_state")]
    constants = sum(tensor.nbytes for state in states for tensor in constants_of(state))
    packed = sum(p.nbytes for p in model.parameters() if hasattr(p, "quant_state"))
    return plain + constants, packed + constants


def constants_of(state: bnb.functional.QuantState) -> list[torch.Tensor]:
    """The tensors of a quantization's constants that each layer has for itself."""
    if not state.nested:
        return [state.absmax, state.code]
    return [state.absmax, state.code, state.offset, state.state2.absmax]
