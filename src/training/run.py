"""One recipe's training, from prepared data to a saved adapter and its loss curve."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from peft import PeftModel
from transformers import set_seed

from src.files import whole, write_json
from src.models import RECIPE, add_lora, load_base
from src.records import read_labels, read_split
from src.schema import Recipe
from src.training.load import load_collator
from src.training.trainer import train

# What of a recipe its adapter's answers hang on.
ANSWERING = {"family", "task", "prompt", "quantization", "precision"}


def run(recipe: Recipe, image_size: int, seed: int) -> None:
    """Train, then write `models/adapters/RECIPE` and `metrics/RECIPE/loss.csv`."""
    base, data = Path("models/base") / recipe.base, Path("data/prepared") / recipe.data
    splits = [data / "train.parquet", data / "validation.parquet"]
    base_files = [path for path in base.rglob("*") if path.is_file()]
    checkpoints = checkpoint_folder(recipe, seed, [*splits, *base_files])
    set_seed(seed)
    collator = load_collator(recipe, answers=True)
    model = add_lora(load_base(base, recipe), recipe.lora)
    train_set, validation_set = map(read_split, splits)
    log = train(model, collator, train_set, validation_set, recipe.train, checkpoints, seed)
    with whole(Path("models/adapters") / recipe.name) as adapter:
        save_adapter(model, recipe, read_labels(recipe.data), image_size, adapter)
        if recipe.train.select_by == "accuracy":
            copy_improvements(checkpoints, adapter)
    write_curve(log, Path("metrics") / recipe.name / "loss.csv")
    shutil.rmtree(checkpoints)


def save_adapter(
    model: PeftModel, recipe: Recipe, labels: list[str] | None, image_size: int, folder: Path
) -> None:
    """Write an adapter's weights, and beside them what its answers hang on."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    asked = recipe.model_dump(include=ANSWERING)
    write_json(folder / RECIPE, {"labels": labels, "image_size": image_size, "recipe": asked})


def copy_improvements(checkpoints: Path, adapter: Path) -> None:
    """Keep the adapter of each evaluation that improved, in a folder named after its step."""
    for weights in checkpoints.glob("checkpoint-*/adapter_model.safetensors"):
        kept = adapter / weights.parent.name
        kept.mkdir()
        for file in (weights, weights.with_name("adapter_config.json")):
            shutil.copy(file, kept)


def checkpoint_folder(recipe: Recipe, seed: int, inputs: Iterable[Path]) -> Path:
    """Where this very run keeps its checkpoints: outside of the workspace that DVC cleans.

    Its name holds a digest of parameters, inputs and code, so that a run never goes on from
    another's checkpoint.
    """
    digest = hashlib.sha256(json.dumps([recipe.model_dump(), seed], sort_keys=True).encode())
    for path in [*sorted(inputs), *sorted(Path("src").rglob("*.py"))]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    root = Path(os.environ.get("DVC_ROOT", "."))
    return root / ".checkpoints" / f"{recipe.name}-{digest.hexdigest()[:16]}"


def write_curve(log: list[dict[str, float]], path: Path) -> None:
    """The losses of a trainer's log as step, split, loss."""
    names = {"loss": "train", "eval_loss": "validation"}
    rows = [
        (int(entry["step"]), split, round(entry[key], 6))
        for entry in log
        for key, split in names.items()
        if key in entry
    ]
    with whole(path) as beside:
        pd.DataFrame(rows, columns=["step", "split", "loss"]).to_csv(beside, index=False)
