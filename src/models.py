"""Base models as a recipe wants them, and their LoRA adapters."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from src import families
from src.errors import UserError
from src.files import read_json
from src.schema import Lora, Recipe

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_processor(base: Path) -> ProcessorMixin:
    """The processor of a base that the build stage wrote, at the revision it recorded."""
    return _load(base, AutoProcessor)


def load_base(base: Path, recipe: Recipe) -> PreTrainedModel:
    """The frozen base, quantized as the recipe says, on the GPU where there is one."""
    model = _load(
        base,
        AutoModelForImageTextToText,
        dtype=DTYPES[recipe.precision],
        device_map={"": device()},
        quantization_config=quantization_config(recipe, families.load(recipe.family)),
    )
    keep_differentiable(model)
    model.requires_grad_(False)
    return model.eval()


def _load(base: Path, kind: type, **options: Any) -> Any:
    """What the manifest of a base names, by one of transformers' auto classes."""
    manifest = read_json(base / "manifest.json")
    try:
        return kind.from_pretrained(manifest["id"], revision=manifest["revision"], **options)
    except OSError as error:
        why = str(error).partition("\n")[0]
        raise UserError(
            f"{base}: {manifest['id']} cannot be loaded: {why}; bring it back "
            f"with `dvc repro -s -f build@{base.name}`"
        ) from None


def quantization_config(recipe: Recipe, family: ModuleType) -> BitsAndBytesConfig | None:
    """4-bit as in QLoRA (https://arxiv.org/abs/2305.14314), or None for 16 bits."""
    quantization = recipe.quantization
    if quantization.bits == 16:
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=DTYPES[recipe.precision],
        llm_int8_skip_modules=family.UNQUANTIZED,
    )


def keep_differentiable(model: nn.Module) -> None:
    """Keep 4-bit layers in the layout that has gradients.

    On CPUs with AVX512-BF16, bitsandbytes repacks a layer for good at the first forward pass in
    eval mode; training after an evaluation then crashes, or trains nothing without a word.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            if not hasattr(module, "support_avx512bf16_for_cpu"):
                raise RuntimeError("bitsandbytes renamed support_avx512bf16_for_cpu: mend this")
            module.support_avx512bf16_for_cpu = False


def lora_config(lora: Lora) -> LoraConfig:
    """LoRA (https://arxiv.org/abs/2106.09685) on layers of the language model alone.

    The bare names would match the vision tower of some families as well.
    """
    names = "|".join(map(re.escape, lora.targets))
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"(.*\.)?language_model\.(.*\.)?({names})",
        task_type="CAUSAL_LM",
    )


def add_lora(model: PreTrainedModel, lora: Lora) -> PeftModel:
    """A new adapter on the base.

    Raises:
        UserError: a target names no linear layer of the language model.
    """
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "language_model." in name
    }
    if unknown := [t for t in lora.targets if t not in linear]:
        raise UserError(
            f"lora.targets: the language model has no layer {unknown[0]!r}; "
            f"it has {', '.join(sorted(linear))}"
        )
    return get_peft_model(model, lora_config(lora))


def load_tuned(base: Path, adapter: Path, recipe: Recipe) -> PeftModel:
    """The base with a trained adapter on it, in eval mode."""
    return PeftModel.from_pretrained(load_base(base, recipe), str(adapter)).eval()


def language_model(model: nn.Module) -> PreTrainedModel:
    """The part of a vision-language model that reads and writes text."""
    return next(m for name, m in model.named_modules() if name.endswith("language_model"))
