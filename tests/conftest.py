"""A small untrained Qwen2-VL, drawn faces as records, and the recipe that they stand for."""

import os
import random
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).parent.parent
LABELS = ["Natural", "Anger", "Fear", "Joy", "Sadness", "Surprise"]


@pytest.fixture(scope="session")
def params():
    from src import config

    return config.load(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def recipe(params):
    return params.recipes["emotion_qwen2vl"]


@pytest.fixture(scope="session")
def base(tmp_path_factory, params) -> Path:
    """A base folder as the build stage leaves it, with random weights."""
    from src.families import qwen2_vl
    from src.files import write_json
    from src.schema import Text, Vision
    from src.training.pretrain import corpus

    small = {"layers": 2, "hidden": 64, "heads": 2}
    spec = params.base["qwen2_vl"].model.model_copy(
        update={"vision": Vision(**small), "text": Text(**small, kv_heads=1)}
    )
    folder = tmp_path_factory.mktemp("base")
    model, processor = qwen2_vl.build(spec, corpus(spec, 1), 1)
    model.save_pretrained(folder / "checkpoint")
    processor.save_pretrained(folder / "checkpoint")
    write_json(folder / "manifest.json", {"id": str(folder / "checkpoint"), "revision": None})
    return folder


@pytest.fixture(scope="session")
def processor(base):
    from src.models import load_processor

    return load_processor(base)


@pytest.fixture(scope="session")
def task(recipe):
    from src import tasks

    return tasks.load(recipe, LABELS)


@pytest.fixture(scope="session")
def faces():
    """Twelve records of drawn faces, two of each emotion."""
    from src.drawing.faces import draw, random_face

    rng = random.Random(3)
    return [
        {
            "id": f"{i}.png",
            "image": draw(rng, random_face(rng, LABELS[i % 6]), 56)[0],
            "label": LABELS[i % 6],
        }
        for i in range(12)
    ]


class Questions:
    """A task whose questions differ in length, so that batches need padding."""

    system = None
    choices = LABELS

    def question(self, record):
        return "Look closely and say it. " * (int(record["id"].split(".")[0]) % 4) + "Which?"

    def answer(self, record):
        return record["label"]


@pytest.fixture(scope="session")
def questions():
    return Questions()
