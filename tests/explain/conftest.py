"""Drawn clips and statements about faces as records, and small tuned models that answer them."""

import random

import pytest

CLASSES = ["entailment", "not entailment"]


@pytest.fixture(scope="session")
def videos():
    """Four records of drawn clips of 8 frames."""
    from src.drawing.clips import draw, random_scene

    rng = random.Random(5)
    scenes = [random_scene(rng) for _ in range(4)]
    return [
        {
            "id": f"{i}.mp4",
            "image": None,
            "video": list(draw(rng, scene, 56, 8)),
            "label": scene.motion,
            "answers": [scene.caption],
            "regions": [],
        }
        for i, scene in enumerate(scenes)
    ]


@pytest.fixture(scope="session")
def statements(faces):
    """Four records of faces, with a statement that is true of every second one."""
    return [
        {
            "id": face["id"],
            "image": face["image"],
            "video": None,
            "question": f"The face shows {face['label']}.",
            "label": CLASSES[i % 2],
            "answers": [f"It shows {face['label']}."],
            "regions": [],
        }
        for i, face in enumerate(faces[:4])
    ]


def small(base, recipe, classes=0):
    """A model with an adapter that changes every answer, and its collator with answers."""
    import torch

    from src import models, tasks
    from src.training.load import collator_of

    torch.manual_seed(0)
    model = models.add_lora(models.load_base(base, recipe, classes), recipe.lora).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model, collator_of(base, recipe, tasks.load(recipe, CLASSES), answers=True)


@pytest.fixture(scope="session")
def captioner(base, params):
    return small(base, params.recipes["video_qwen2vl"])


@pytest.fixture(scope="session")
def two_heads(base, params):
    return small(base, params.recipes["esnlive_qwen2vl"], classes=2)
