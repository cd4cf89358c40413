"""What a LLaMA-Factory training file says of a recipe and its base."""

import math
import re
from typing import Any

from src.errors import UserError
from src.schema import HubBase, Params
from tools.llamafactory.settings import Settings, free, identifier

FAMILIES = {"qwen2_vl": r"qwen2-vl", "llava": r"llava-(v?1\.5)", "blip2": r"blip2"}
TASK = "describe"
# Training values here: their key there, its default there, its type.
TRAINING: dict[str, tuple[str, Any, type]] = {
    "epochs": ("num_train_epochs", 3, float),
    "max_steps": ("max_steps", None, int),
    "batch_size": ("per_device_train_batch_size", 8, int),
    "gradient_accumulation": ("gradient_accumulation_steps", 1, int),
    "learning_rate": ("learning_rate", 5e-5, float),
    "schedule": ("lr_scheduler_type", "linear", str),
    "warmup_ratio": ("warmup_ratio", 0.0, float),
    "warmup_steps": ("warmup_steps", 0, float),
    "weight_decay": ("weight_decay", 0.0, float),
    "max_grad_norm": ("max_grad_norm", 1.0, float),
    "optimizer": ("optim", "adamw_torch", str),
    "gradient_checkpointing": ("disable_gradient_checkpointing", False, bool),
    "group_by_length": ("group_by_length", False, bool),
    "max_length": ("cutoff_len", 2048, int),
    "workers": ("dataloader_num_workers", 0, int),
    "seed": ("seed", 42, int),
}
SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "cosine_with_restarts": "cosine",
    "cosine_with_min_lr": "cosine",
}
OPTIMIZERS = {
    "adamw_torch": "adamw_torch",
    "adamw_hf": "adamw_torch",
    "adamw_torch_fused": "adamw_torch_fused",
    "adafactor": "adafactor",
    "sgd": "sgd",
    "paged_adamw": "paged_adamw_32bit",
    "paged_adamw_32bit": "paged_adamw_32bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adamw_8bit": "adamw_bnb_8bit",
    "adamw_bnb_8bit": "adamw_bnb_8bit",
}
ALIASES = ("paged_adamw", "adamw_8bit")  # of transformers, for what is taken for them


def base(settings: Settings, params: Params) -> tuple[str, str, dict[str, Any] | None]:
    """The name and the family of the base, and its full block where params.yaml has none of it.

    Raises:
        UserError: the model is of no family, or it cannot be told what it is.
    """
    model, revision = (settings.get(k, "", str) for k in ("model_name_or_path", "model_revision"))
    on_hub = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model)
    last = model.rstrip("/").rpartition("/")[2].lower()
    known = {n: b for n, b in params.base.items() if isinstance(b.model, HubBase)}
    ids = {name: b.model.id.lower() for name, b in known.items()}
    same = [
        n for n, i in ids.items() if i == model.lower() or (not on_hub and i.endswith(f"/{last}"))
    ]
    if same:
        # Of several bases of one model, the one that such a recipe has already.
        used = {recipe.base for recipe in params.recipes.values() if recipe.task == TASK}
        name = min(same, key=lambda name: name not in used)
        found = known[name].model
        if not on_hub:
            settings.note("model_name_or_path", f"taken for {found.id} of the Hub")
        if revision not in ("", "main", found.revision):
            settings.note("model_revision", f"base.{name} is pinned to {found.revision}")
        return name, known[name].family, None
    family = next((f for f, form in FAMILIES.items() if re.search(form, last)), None)
    if not family or not on_hub:
        raise UserError(
            f"{settings.path}: model_name_or_path: {model} is no model of the Hub of a family that"
            f" is here ({', '.join(FAMILIES)})"
        )
    pinned = revision if re.fullmatch(r"[0-9a-f]{40}", revision) else None
    if revision not in ("", "main", pinned):
        settings.note("model_revision", "only a commit can be pinned; the newest is taken")
    return free(identifier(last), params.base), family, {"id": model, "revision": pinned}


def recipe(settings: Settings, data: str, base: str, family: str, video: bool) -> dict[str, Any]:
    """The recipe's block, with LLaMA-Factory's own defaults where the file says nothing."""
    template = settings.get("template", None, str)
    if template not in (None, family):
        settings.note("template", f"the form of the prompt is that of the family {family}")
    question = "What happens in the video?" if video else "What does the picture show?"
    return {
        "data": data,
        "base": base,
        "family": family,
        "task": TASK,
        "prompt": {"system": settings.get("default_system", None, str), "question": question},
        "doubt": None,
        "generation": _generation(settings),
        "classifier": None,
        "quantization": _quantization(settings),
        "precision": {"tiny": "fp32", "full": _precision(settings, family)},
        "vision_features": "live" if family == "llava" else "cached",
        "lora": _lora(settings),
        "tiny": {},
        "full": _training(settings),
    }


def _training(settings: Settings) -> dict[str, Any]:
    """The values of the recipe's full block, with LLaMA-Factory's own defaults."""
    values = {ours: settings.get(*theirs) for ours, theirs in TRAINING.items()}
    values["gradient_checkpointing"] = not values["gradient_checkpointing"]
    for ours, known in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS)):
        given = values[ours]
        values[ours] = known.get(given, next(iter(known)))
        if given not in (values[ours], *ALIASES):
            settings.note(TRAINING[ours][0], f"{values[ours]} is the nearest here")
    if values["max_steps"] is not None and values["max_steps"] < 1:
        values["max_steps"] = None
    if 0 < values["warmup_steps"] < 1:
        values["warmup_ratio"], values["warmup_steps"] = values["warmup_steps"], 0
    if values["warmup_steps"] and values["warmup_ratio"]:
        settings.note("warmup_ratio", "warmup_steps goes before it")
        values["warmup_ratio"] = 0.0
    if not values["max_grad_norm"]:
        settings.note("max_grad_norm", "gradients are always clipped here; 1.0 is taken")
        values["max_grad_norm"] = 1.0
    if settings.values.get("eval_strategy") == "epoch":
        settings.taken.add("eval_strategy")
        values["evaluations"] = math.ceil(values["epochs"])
    return values


def _quantization(settings: Settings) -> dict[str, Any]:
    """Of the frozen base."""
    bits = settings.get("quantization_bit", 16, int)
    if bits not in (4, 16):
        settings.note("quantization_bit", "the base is in 4 bits or in 16; 4 are taken")
        bits = 4
    method = settings.get("quantization_method", "bnb", str)
    if method.lower() not in ("bnb", "bitsandbytes"):
        settings.note("quantization_method", "quantization is by bitsandbytes")
    kind, double = settings.get("quantization_type", "nf4", str), "double_quantization"
    return {"bits": bits, "type": kind, "double": settings.get(double, True, bool)}


def _precision(settings: Settings, family: str) -> str:
    """What the frozen base computes in."""
    bf16, pure, fp16 = (settings.get(k, False, bool) for k in ("bf16", "pure_bf16", "fp16"))
    if pure:
        settings.note("pure_bf16", "the base computes in bf16, the adapter stays in fp32")
    if fp16 and family == "blip2":
        settings.note("fp16", "it overflows in BLIP-2; bf16 is taken")
        return "bf16"
    return "bf16" if bf16 or pure else "fp16" if fp16 else "fp32"


def _lora(settings: Settings) -> dict[str, Any]:
    """The adapter, with LLaMA-Factory's own defaults."""
    rank, targets = settings.get("lora_rank", 8, int), settings.names("lora_target") or ["all"]
    return {
        "r": rank,
        "alpha": settings.get("lora_alpha", None, int) or 2 * rank,
        "dropout": settings.get("lora_dropout", 0.0, float),
        "targets": ["all-linear"] if "all" in targets else targets,
    }


def _generation(settings: Settings) -> dict[str, Any]:
    """How an answer is written: greedily where the file says nothing of it."""
    beams = settings.get("num_beams", settings.get("eval_num_beams", 1, int), int)
    temperature = settings.get("temperature", 0.0, float)
    if temperature and not settings.get("do_sample", True, bool):
        temperature = 0.0
    if temperature and beams > 1:
        settings.note("temperature", "beams are not sampled; 0 is taken")
        temperature = 0.0
    top_p = settings.get("top_p", 1.0, float)
    if top_p < 1 and not temperature:
        settings.note("top_p", "at temperature 0 nothing is sampled; 1 is taken")
        top_p = 1.0
    return {
        "max_new_tokens": settings.get("max_new_tokens", 64, int),
        "num_beams": beams,
        "temperature": temperature,
        "top_p": top_p,
        "length_penalty": settings.get("length_penalty", 1.0, float),
        "repetition_penalty": settings.get("repetition_penalty", 1.0, float),
        "no_repeat_ngram_size": settings.get("no_repeat_ngram_size", 0, int),
    }
