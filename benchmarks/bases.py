"""Bases of published shapes at a third of their width, with random weights, and work for them."""

import random
from pathlib import Path
from typing import Any

from src import config, families
from src.drawing.faces import draw, random_face
from src.files import write_json
from src.schema import Queries, Recipe, Text, Vision
from src.training.pretrain import corpus

SIDE = 224  # of a picture, in pixels
LABELS = ["Natural", "Anger", "Fear", "Joy", "Sadness", "Surprise"]
QUESTION = "What emotion does the face in the picture show? Answer with one word."
# By base: the parts, and the words in the published vocabulary, most of which are never made here.
SHAPES = {
    "qwen2_vl": (
        {
            "vision": Vision(layers=32, hidden=432, heads=6),
            "text": Text(layers=28, hidden=512, heads=4, kv_heads=2),
        },
        151_936,
    ),
    "blip2_opt": (
        {
            "vision": Vision(layers=39, hidden=480, heads=6),
            "text": Text(layers=32, hidden=832, heads=8, kv_heads=8),
            "queries": Queries(count=32, layers=12),
        },
        50_304,
    ),
}


def make(base: str, folder: Path) -> Path:
    """Write a base as the build stage does, untrained: `qwen2_vl` of 2B or `blip2_opt` of 2.7B."""
    known = config.load().base[base]
    parts, words = SHAPES[base]
    spec = known.model.model_copy(update={"image_size": SIDE, **parts})
    model, processor = families.load(known.family).build(spec, corpus(spec, 1), 1)
    model.resize_token_embeddings(words)
    model.save_pretrained(folder / "checkpoint")
    processor.save_pretrained(folder / "checkpoint")
    write_json(folder / "manifest.json", {"id": str(folder / "checkpoint"), "revision": None})
    return folder


def recipe_on(base: str, precision: str) -> Recipe:
    """The recipe of facial emotions on such a base: LoRA of rank 8 on queries and values."""
    params = config.load()
    recipe = params.recipes["emotion_qwen2vl"]
    prompt = recipe.prompt.model_copy(update={"system": None, "question": QUESTION})
    lora = recipe.lora.model_copy(update={"dropout": 0.0})
    more = {"base": base, "family": params.base[base].family, "precision": precision}
    return recipe.model_copy(update={"prompt": prompt, "lora": lora, **more})


def faces(count: int) -> list[dict[str, Any]]:
    """Drawn faces with their emotion."""
    rng = random.Random(3)
    return [
        {
            "id": str(i),
            "image": draw(rng, random_face(rng, LABELS[i % 6]), SIDE)[0],
            "label": LABELS[i % 6],
        }
        for i in range(count)
    ]
