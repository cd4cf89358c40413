"""One recipe's training, from prepared data to a saved adapter and its loss curve."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from transformers import set_seed

from src.files import whole
from src.models import add_lora, load_base
from src.records import read_split
from src.schema import Recipe
from src.training.load import load_collator
from src.training.trainer import train


def run(recipe: Recipe, seed: int) -> None:
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
        model.save_pretrained(adapter)
        (adapter / "README.md").unlink(missing_ok=True)
    write_curve(log, Path("metrics") / recipe.name / "loss.csv")
    shutil.rmtree(checkpoints)


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
