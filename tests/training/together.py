"""Train and answer: `python -m tests.training.together FOLDER PROCESSES RECIPE [STEP]`.

FOLDER holds a base, and gets what the first process saw as `seen.json`. With a STEP the last
process kills itself when the checkpoint of that step is written; -1: it raises before any.
SHARDING=fsdp in the environment shards, PRECISION is that in which it computes.
"""

import json
import os
import random
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from transformers import TrainerCallback

from src import config, models, tasks
from src.drawing.faces import draw, random_face
from src.errors import UserError, one_line
from src.files import write_json
from src.inference.predict import answers
from src.processes import is_first, number, spread
from src.records import FEATURES
from src.training import trainer
from src.training.collator import PromptPool
from src.training.each_epoch import AnswerEachEpoch
from src.training.load import collator_of
from src.training.shared import whole_weights
from tests.conftest import LABELS, ROOT

CLASSES = {
    "emotion_qwen2vl": LABELS,
    "emotion_llava": LABELS,
    "esnlive_qwen2vl": ["entailment", "not entailment"],
}
NUMBERS = ("width", "height", "brightness", "contrast", "sharpness", "faces")


def shard_on_the_cpu() -> None:
    """Accelerate shards where it sees an accelerator; what it then does runs on a CPU as well."""
    started = PartialState.__init__

    def start(self: PartialState, *args: Any, **options: Any) -> None:
        started(self, *args, **options)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = start


class Die(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        whole = Path(args.output_dir, f"checkpoint-{self.step}", "trainer_state.json").exists()
        if whole and PartialState().process_index == number() - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def records(name: str) -> Dataset:
    """Nine: one too many for whole batches of two, and for whole steps of eight."""
    rng, labels = random.Random(3), CLASSES[name]
    rows = [
        dict.fromkeys(FEATURES)
        | dict.fromkeys(NUMBERS, 1.0)
        | {
            "id": f"{i}.png",
            "group": f"{i}.png",
            "image": draw(rng, random_face(rng, LABELS[i % 6]), 56)[0],
            "label": labels[i % len(labels)],
            "question": "The face is happy." + " Look again." * (i % 4),
            "answers": ["As one sees. " * (i % 5 + 1)],
        }
        for i in range(9)
    ]
    return Dataset.from_list(rows, features=FEATURES)


def work(folder: Path, name: str, step: int | None) -> None:
    params = config.load(ROOT / "params.yaml")
    recipe = params.recipes[name]
    sharding = os.environ.get("SHARDING")
    settings = recipe.train.model_copy(
        update={
            "epochs": 3.0,
            "batch_size": 2,
            "gradient_accumulation": 4,
            "evaluations": 6,
            "group_by_length": name == "esnlive_qwen2vl",
            "optimizer": "adamw_torch_fused" if sharding else recipe.train.optimizer,
            "sharding": sharding if number() > 1 else None,
        }
    )
    recipe = recipe.model_copy(
        update={
            "train": settings,
            "precision": os.environ.get("PRECISION", recipe.precision),
            "lora": recipe.lora.model_copy(update={"dropout": 0.0}),
            "generation": recipe.generation.model_copy(update={"max_new_tokens": 3}),
        }
    )
    labels, joint, rows = CLASSES[name], recipe.classifier, records(name)
    torch.manual_seed(0)
    base = models.load_base(folder, recipe, len(labels) if joint else 0)
    model = models.add_lora(base, recipe.lora)
    task = tasks.load(recipe, labels)
    asking = collator_of(folder, recipe, task, answers=False)
    asked = answers(model.eval(), asking, recipe, rows, rows, batch_size=2)
    if step == -1 and PartialState().process_index == number() - 1:
        raise UserError("the last process stumbles")
    pool = PromptPool(tasks.load_pool(recipe, labels), 1) if recipe.prompt.pool else None
    evaluate = params.evaluate.model_copy(update={"bootstrap": 100})
    epochs = (
        [AnswerEachEpoch(recipe, asking, rows, labels, evaluate, 1)]
        if joint and not sharding
        else []
    )
    log = trainer.train(
        model,
        collator_of(folder, recipe, task, True, pool),
        rows,
        rows,
        settings,
        folder / "checkpoints",
        seed=1,
        eval_collator=collator_of(folder, recipe, task, answers=True),
        class_weight=joint.weight if joint else None,
        callbacks=[*epochs, *([Die(step)] if step else [])],
    )
    weights = whole_weights(model)
    if is_first():
        model.save_pretrained(folder / "adapter", state_dict=weights)
        told = asked.to_json(orient="split", double_precision=15)
        seen = {"processes": number(), "log": log, "answers": json.loads(told)}
        write_json(folder / "seen.json", seen)


@one_line
def main(folder: str, processes: str, name: str, step: str = "") -> None:
    if "SHARDING" in os.environ:
        shard_on_the_cpu()
    spread(int(processes), partial(work, Path(folder), name, int(step) if step else None))


if __name__ == "__main__":
    main(*sys.argv[1:])
