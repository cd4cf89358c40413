"""Small untrained models, drawn faces as records, and the recipes that they stand for."""

import io
import os
import random
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers whose threads wait for each other take many times as long as one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent
LONG = ("test_rehearsal.py", "test_pipeline.py")
LABELS = ["Natural", "Anger", "Fear", "Joy", "Sadness", "Surprise"]


def png(picture: Any) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def score(model: Any, collator: Any, records: Any, choices: list[str], batch_size: int) -> Any:
    """Log-likelihoods of all choices, with next to nothing written before: (records, choices)."""
    from src.inference.generate import generate
    from src.training.pretrain import EXAM

    short = EXAM.model_copy(update={"max_new_tokens": 1})
    return generate(model, collator, records, short, batch_size, choices=choices).scores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole pipelines first: begun last, one of them would keep one worker busy alone."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def params():
    from src import config

    return config.load(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def recipe(params):
    return params.recipes["emotion_qwen2vl"]


def small_base(params, name: str, folder: Path) -> Path:
    """A base folder as the build stage leaves it, with random weights and two layers of each."""
    from src import families
    from src.files import write_json
    from src.schema import Text, Vision
    from src.training.pretrain import corpus

    small = {"layers": 2, "hidden": 64, "heads": 2}
    spec = params.base[name].model.model_copy(
        update={"image_size": 56, "vision": Vision(**small), "text": Text(**small, kv_heads=1)}
    )
    model, processor = families.load(params.base[name].family).build(spec, corpus(spec, 1), 1)
    model.save_pretrained(folder / "checkpoint")
    processor.save_pretrained(folder / "checkpoint")
    write_json(folder / "manifest.json", {"id": str(folder / "checkpoint"), "revision": None})
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory, params) -> Path:
    return small_base(params, "qwen2_vl", tmp_path_factory.mktemp("base"))


@dataclass
class Architecture:
    """One of the language models that a recipe may stand on, small and untrained."""

    base: Path
    recipe: Any
    processor: Any
    encoder_decoder: bool

    @property
    def family(self):
        from src import families

        return families.load(self.recipe.family)

    def collator(self, task, answers: bool):
        from src.training.load import collator_of

        return collator_of(self.base, self.recipe, task, answers)

    def load(self):
        from src.models import load_base

        return load_base(self.base, self.recipe)

    def tuned(self):
        """With an adapter that changes every answer."""
        import torch

        from src.models import add_lora

        torch.manual_seed(0)
        model = add_lora(self.load(), self.recipe.lora)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return model


ARCHITECTURES = {
    "qwen2_vl": "emotion_qwen2vl",
    "llava": "emotion_llava",
    "blip2_opt": "vqa_blip2",
    "blip2_flan_t5": "vqa_blip2",
}


@pytest.fixture(scope="session", params=ARCHITECTURES)
def architecture(request, tmp_path_factory, params) -> Architecture:
    from src.models import load_config, load_processor

    name = request.param
    folder = small_base(params, name, tmp_path_factory.mktemp(name))
    recipe = params.recipes[ARCHITECTURES[name]].model_copy(update={"base": name})
    decoder = load_config(folder).is_encoder_decoder
    return Architecture(folder, recipe, load_processor(folder, recipe), decoder)


@pytest.fixture(scope="session")
def processor(base, recipe):
    from src.models import load_processor

    return load_processor(base, recipe)


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
    classifies = False

    def doubts(self, record):
        return []

    def question(self, record):
        return "Look closely and say it. " * (int(record["id"].split(".")[0]) % 4) + "Which?"

    def answer(self, record):
        return record["label"]


@pytest.fixture(scope="session")
def questions():
    return Questions()


@pytest.fixture
def hub_of(tmp_path_factory, monkeypatch):
    """Serve a folder as a repository of the Hub, which has an empty cache in this process."""
    from huggingface_hub import constants

    from tests.servers.hub_server import serve

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
    with ExitStack() as servers:

        def hub_of(folder: Path, repo: str, commit: str = "c" * 40) -> Any:
            hub = servers.enter_context(serve(folder, repo, commit))
            files = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
            monkeypatch.setattr(constants, "ENDPOINT", hub.url)
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
            return hub

        yield hub_of


@pytest.fixture
def old_driver(monkeypatch):
    """One GPU as torch sees it through a driver that is too old: counted and not to be used."""
    import torch

    def init():
        raise RuntimeError(
            "The NVIDIA driver on your system is too old (found version 12040). Please update your "
            "GPU driver by downloading and installing a new version\nfrom the URL"
        )

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
