"""Bases of published shapes at a third of their width, with random weights, and work for them."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from bitsandbytes.nn import Linear4bit
from PIL import Image
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin

from src import config, cpu, families
from src.drawing.faces import draw, random_face
from src.features import write
from src.files import write_json
from src.inference.encode import BATCH
from src.inference.generate import to_device
from src.packing import Packing
from src.schema import Queries, Recipe, Text, Vision
from src.training.collator import Collator
from src.training.pretrain import corpus

SIDE = 224  # of a picture, in pixels
FRAMES = 8  # of a video
LABELS = ["Natural", "Anger", "Fear", "Joy", "Sadness", "Surprise"]
QUESTION = "What emotion does the face in the picture show? Answer with one word."
TEMPLATES = ["system\nYou are a helpful assistant.", "user\n", "assistant\n", "Question: Answer:"]
EVA = Vision(layers=39, hidden=448, heads=8)
QUERIES = Queries(count=32, layers=12)
EVA_WIDTHS = {
    "vision_config": {"intermediate_size": 2048},
    "qformer_config": {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
}
# By base: its parts, and what the small bases of the pipeline have otherwise. A third of its words
# too, so that the head's share of the weights is the published one.
SHAPES: dict[str, tuple[dict[str, Any], dict[str, dict[str, int]]]] = {
    "qwen2_vl": (
        {
            "vision": Vision(layers=32, hidden=448, heads=8),
            "text": Text(layers=28, hidden=512, heads=8, kv_heads=2),
        },
        {
            "vision_config": {"mlp_ratio": 4},
            "text_config": {"intermediate_size": 2944, "vocab_size": 50_688},
        },
    ),
    "blip2_opt": (
        {
            "vision": EVA,
            "text": Text(layers=32, hidden=896, heads=16, kv_heads=16),
            "queries": QUERIES,
        },
        EVA_WIDTHS | {"text_config": {"ffn_dim": 3584, "vocab_size": 16_768}},
    ),
    "blip2_flan_t5": (
        {
            "vision": EVA,
            "text": Text(layers=24, hidden=704, heads=11, kv_heads=11),
            "queries": QUERIES,
        },
        EVA_WIDTHS | {"text_config": {"d_ff": 1728, "vocab_size": 10_752}},
    ),
}
PUBLISHED = {
    "qwen2_vl": "Qwen2-VL-2B",
    "blip2_opt": "BLIP-2 OPT-2.7b",
    "blip2_flan_t5": "BLIP-2 FLAN-T5-XL",
}


def keep_differentiable(model: nn.Module) -> None:
    """Keep 4-bit layers in the layout that has gradients, on a CPU.

    With AVX512-BF16, bitsandbytes repacks a layer for good at the first forward pass in eval mode;
    training after an evaluation then crashes, or trains nothing without a word.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            if not hasattr(module, "support_avx512bf16_for_cpu"):
                raise RuntimeError("bitsandbytes renamed support_avx512bf16_for_cpu: mend this")
            module.support_avx512bf16_for_cpu = False


@contextmanager
def as_others() -> Iterator[None]:
    """Load and use models as others do.

    Batches are read row by row, padding too, and layers are those of bitsandbytes and PyTorch.
    """
    with (
        mock.patch.object(Packing, "of", return_value=None),
        mock.patch.object(cpu, "optimize", lambda model, **_: keep_differentiable(model)),
    ):
        yield


def make(base: str, folder: Path) -> Path:
    """Write a base as the build stage does, untrained."""
    known = config.load().base[base]
    parts, widths = SHAPES[base]
    spec = known.model.model_copy(update={"image_size": SIDE, "vocabulary": 1000, **parts})
    # So often that each of their words is a token, as in the published vocabulary: a prompt has as
    # many tokens as there.
    words = [*corpus(spec, 1), *[QUESTION, *LABELS, *TEMPLATES] * 10_000]
    small, processor = families.load(known.family).build(spec, words, 1)
    for part, values in widths.items():
        for key, value in values.items():
            setattr(getattr(small.config, part), key, value)
    torch.manual_seed(1)
    model = type(small)(small.config)
    model.generation_config = small.generation_config
    if hasattr(model, "query_tokens"):
        nn.init.normal_(model.query_tokens, std=0.5)  # as in src/families/blip2.py
    save(model, processor, folder)
    return folder


def save(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
    """Write a base with its manifest, as the build stage does."""
    model.save_pretrained(folder / "checkpoint")
    processor.save_pretrained(folder / "checkpoint")
    write_json(folder / "manifest.json", {"id": str(folder / "checkpoint"), "revision": None})


def recipe_on(base: str, precision: str) -> Recipe:
    """The recipe of facial emotions on such a base: LoRA of rank 8 on queries and values."""
    params = config.load()
    recipe = of_emotions(params.recipes["emotion_qwen2vl"])
    targets = ["q", "v"] if base == "blip2_flan_t5" else ["q_proj", "v_proj"]
    lora = recipe.lora.model_copy(update={"dropout": 0.0, "targets": targets})
    more = {"base": base, "family": params.base[base].family, "precision": precision}
    return recipe.model_copy(update={"lora": lora, **more})


def of_emotions(recipe: Recipe) -> Recipe:
    """The same recipe, asking what emotion a face shows."""
    prompt = recipe.prompt.model_copy(update={"system": None, "question": QUESTION})
    return recipe.model_copy(update={"task": "classify", "prompt": prompt, "classifier": None})


def face(rng: random.Random, number: int, side: int = SIDE) -> Image.Image:
    """A drawn face with the emotion of that number."""
    return draw(rng, random_face(rng, LABELS[number % len(LABELS)]), side)[0]


def faces(count: int) -> list[dict[str, Any]]:
    """Drawn faces with their emotion."""
    rng = random.Random(3)
    return [
        {
            "id": str(i),
            "image": face(rng, i),
            "label": LABELS[i % 6],
        }
        for i in range(count)
    ]


def clips(count: int) -> list[dict[str, Any]]:
    """Videos whose frames are faces of one emotion."""
    rng = random.Random(3)
    return [
        {
            "id": str(i),
            "video": [face(rng, i) for _ in range(FRAMES)],
            "label": LABELS[i % 6],
        }
        for i in range(count)
    ]


def keep(
    model: PreTrainedModel,
    collator: Collator,
    records: Sequence[dict[str, Any]],
    folder: Path,
) -> None:
    """Write the features of all records, as the encode stage does."""
    medium = collator.medium(records[0])
    frames = FRAMES if medium == "video" else None
    size = BATCH // (frames or 1)
    batches = (range(i, min(i + size, len(records))) for i in range(0, len(records), size))
    blocks = (
        collator.family.features(
            model, to_device(collator.prompts([records[i] for i in batch]), model)
        )
        for batch in batches
    )
    write(folder, blocks, {"medium": medium, "frames": frames, "size": SIDE, "splits": {}})
