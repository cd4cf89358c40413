"""Base models as a recipe wants them, and their LoRA adapters."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from accelerate import PartialState
from httpx2 import HTTPError
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils import SAFETENSORS_WEIGHTS_NAME, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from src import cpu, families, packing
from src.errors import UserError
from src.files import read_json
from src.hub import at_commit, bring_weights
from src.repositories import is_commit
from src.schema import Lora, Recipe

CLASSIFIER = "classifier"  # the name of a second head
RECIPE = "recipe.json"  # beside the weights of an adapter
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device() -> torch.device:
    """The GPU of this process where there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def load_processor(base: Path, recipe: Recipe) -> ProcessorMixin:
    """The processor of a base that the build stage wrote, at the revision it recorded."""
    processor = _load(base, AutoProcessor)
    families.load(recipe.family).complete(processor, load_config(base))
    return processor


def load_config(base: Path) -> PreTrainedConfig:
    """The configuration of a base, without its weights."""
    return _load(base, AutoConfig)


def load_base(
    base: Path,
    recipe: Recipe,
    classes: int = 0,
    vision: bool = True,
    language: bool = True,
    on: torch.device | None = None,
) -> PreTrainedModel:
    """The frozen base, quantized as the recipe says, on the GPU where there is one.

    Args:
        base: the folder that the build stage wrote.
        recipe: says how it is quantized and in what it computes.
        classes: of an untrained second head in fp32; 0: it has none.
        vision: False: without its vision side; it reads features where others read pixels.
        language: False: without the layers of its language model; it gives features alone.
        on: where it goes instead.

    Raises:
        UserError: the base is not there, cannot compute in the recipe's precision, or finds no room
            on the GPU.
    """
    family = families.load(recipe.family)
    if recipe.precision in family.UNSAFE:
        raise UserError(
            f"params.yaml: recipes.{recipe.name}.precision: {recipe.precision} overflows in "
            f"{recipe.family}; use bf16 or fp32"
        )
    config = load_config(base)
    family.complete(_load(base, AutoProcessor), config)
    manifest = _manifest(base)
    if manifest["revision"]:
        with PartialState().local_main_process_first():
            bring_weights(manifest)
    if classes:
        config.num_labels = classes
    if not vision:
        family.without_vision(config)
    if not language:
        family.without_language(config)
    on = on or device()
    if on.type == "cpu":
        cpu.prepare_loading()
    model = _load(
        base,
        family.WITH_CLASSIFIER if classes else AutoModelForImageTextToText,
        config=config,
        dtype=DTYPES[recipe.precision],
        device_map={"": on},
        # The layers of the language model are all that is quantized.
        quantization_config=quantization_config(recipe, family) if language else None,
        use_safetensors=True,
    )
    if classes:
        model.classifier.float()
    if not vision:
        family.read_features(model)
    if not config.is_encoder_decoder:
        packing.pack(language_model(model).get_decoder())
    model.requires_grad_(False)
    if on.type == "cpu":
        cpu.optimize(model, sharded=bool(recipe.train.sharding))
        if not language:
            cpu.lay_out(family.vision(model))
    return model.eval()


def _manifest(base: Path) -> dict[str, Any]:
    if (base / "manifest.json").is_file():
        return read_json(base / "manifest.json")
    if base.parts[:2] == ("models", "base"):
        raise UserError(f"{base}: not there; make it with `dvc repro build@{base.name}`")
    # A checkpoint of the user's own, or the id of a repository.
    return {"id": str(base), "revision": None}


def _load(base: Path, kind: type, **options: Any) -> Any:
    """What the manifest of a base names, by one of transformers' auto classes."""
    manifest = _manifest(base)
    try:
        return kind.from_pretrained(manifest["id"], revision=manifest["revision"], **options)
    except OSError as error:
        why = str(error).partition("\n")[0]
        raise UserError(
            f"{base}: {manifest['id']} cannot be loaded: {why}; bring it back "
            f"with `dvc repro -s -f build@{base.name}`"
        ) from None
    except SafetensorError as error:
        raise _no_weights(manifest["id"], error) from None
    except torch.OutOfMemoryError:
        raise UserError(
            f"{base}: the GPU has no room for {manifest['id']}; end what else uses it, as "
            "`nvidia-smi` says, or ask `python -m tools.plan` what it needs"
        ) from None


def _no_weights(place: str | Path, error: SafetensorError) -> UserError:
    return UserError(
        f"{place}: a file there holds no weights ({error}): it is a git-lfs pointer, cut short "
        "or damaged; bring it anew"
    )


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
        # What is sharded must be floats, and those in which the layers compute.
        bnb_4bit_quant_storage=DTYPES[recipe.precision] if recipe.train.sharding else None,
        llm_int8_skip_modules=family.UNQUANTIZED,
    )


def lora_config(lora: Lora, targets: Iterable[str], classifier: bool = False) -> LoraConfig:
    """LoRA (https://arxiv.org/abs/2106.09685) on layers of the language model alone.

    `targets` are last names of layers, which alone would match the vision tower of some families
    as well. A `classifier` is trained whole and saved with the adapter.
    """
    names = "|".join(map(re.escape, targets))
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"(.*\.)?language_model\.(.*\.)?({names})",
        modules_to_save=[CLASSIFIER] if classifier else None,
        task_type="CAUSAL_LM",
    )


def add_lora(model: PreTrainedModel, lora: Lora) -> PeftModel:
    """A new adapter on the base.

    `all-linear` are the projections of attention and feed-forward, whatever the language model
    calls them, and never its output head.

    Raises:
        UserError: a target names no linear layer of the language model.
    """
    head = model.get_output_embeddings()
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "language_model." in name and module is not head
    }
    targets = sorted(linear) if "all-linear" in lora.targets else lora.targets
    if unknown := [t for t in targets if t not in linear]:
        raise UserError(
            f"lora.targets: the language model has no layer {unknown[0]!r}; "
            f"it has {', '.join(sorted(linear))}"
        )
    cpu.prepare_gradients(model)
    return get_peft_model(model, lora_config(lora, targets, hasattr(model, CLASSIFIER)))


def base_under(adapter: str | Path, named: str) -> Path:
    """Where the base is that somebody named for an adapter: a folder, or the id of a repository.

    A repository that the adapter names too is taken at the commit that it was trained on.

    Raises:
        UserError: there is no such adapter, or the base cannot be had at its commit.
    """
    if Path(named).is_dir():
        return Path(named)
    with _adapter_is_there(adapter):
        config = PeftConfig.from_pretrained(str(adapter))
    if config.base_model_name_or_path != named or not is_commit(config.revision):
        return Path(named)
    try:
        return at_commit(named, config.revision)
    except UserError as error:
        raise UserError(f"{adapter}: adapter_config.json: revision: {error}") from None


def load_tuned(
    base: Path,
    adapter: str | Path,
    recipe: Recipe,
    vision: bool = True,
    on: torch.device | None = None,
) -> PeftModel:
    """The base with a trained adapter on it, in eval mode.

    Args:
        base: the folder that the build stage wrote.
        adapter: a folder, or the id of a repository of the Hub.
        recipe: says how the base is quantized.
        vision, on: as `load_base` takes them.

    Raises:
        UserError: there is no such adapter, its weights did not come whole or are no safetensors,
            or it was trained on another base.
    """
    with _adapter_is_there(adapter):
        config = PeftConfig.from_pretrained(str(adapter))
        weights = _adapter_weights(adapter)
    head = [weight for name, weight in weights.items() if name.endswith(f"{CLASSIFIER}.bias")]
    model = load_base(base, recipe, len(head[0]) if head else 0, vision, on=on)
    try:
        # PEFT's own loading only warns of weights that find no place.
        tuned = get_peft_model(model, config)
        result = set_peft_model_state_dict(tuned, weights)
    except KeyError as error:
        raise UserError(
            f"{adapter}: its weight {error} is missing; bring the adapter anew"
        ) from None
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{adapter}: does not fit {base}: {_reason(error)}") from None
    trained = ("lora_", "modules_to_save")
    missing = [name for name in result.missing_keys if any(part in name for part in trained)]
    if result.unexpected_keys or missing:
        odd = [*result.unexpected_keys, *missing]
        raise UserError(
            f"{adapter}: {len(odd)} of its {len(weights)} weights find no place in {base}, "
            f"{odd[0]} first; it was trained on another base model"
        )
    return tuned.eval()


@contextmanager
def _adapter_is_there(adapter: str | Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise _no_weights(adapter, error) from None
    except (OSError, HTTPError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise UserError(f"{adapter}: no adapter can be loaded from there: {why}") from None


def _adapter_weights(adapter: str | Path) -> dict[str, torch.Tensor]:
    """Not by PEFT's own loading, which unpickles what is there where no safetensors are."""
    file = Path(adapter) / SAFETENSORS_WEIGHTS_NAME
    if not Path(adapter).is_dir():
        with suppress(RemoteEntryNotFoundError):
            file = Path(hf_hub_download(str(adapter), SAFETENSORS_WEIGHTS_NAME))
    if not file.is_file():
        raise UserError(
            f"{adapter}: has no {SAFETENSORS_WEIGHTS_NAME}, and weights of another kind may run "
            "code when they are loaded; bring it anew, or save it as safetensors where it is from"
        )
    return load_file(file)


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def language_model(model: nn.Module) -> PreTrainedModel:
    """The part of a vision-language model that reads and writes text."""
    return next(m for name, m in model.named_modules() if name.endswith("language_model"))
