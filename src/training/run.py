"""One recipe's training, from prepared data to a saved adapter, its loss curve and validation."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pandas as pd
import torch
import typer
from datasets import Dataset
from filelock import AcquireReturnProxy, FileLock, Timeout
from peft import PeftModel
from transformers import set_seed

from src.features import Features, key, opened, shown
from src.files import digest, repository, whole, write_json
from src.models import RECIPE, add_lora, load_base
from src.processes import is_first, wait_for_all
from src.records import read_labels
from src.schema import Data, Evaluate, Recipe
from src.training.collator import Collator, without_media
from src.training.each_epoch import answered_each_epoch
from src.training.load import check_records, load_collator
from src.training.shared import whole_weights
from src.training.trainer import train

# What of a recipe changes no loss of its training, or none but by dropout.
HARMLESS = {
    "doubt": True,
    "generation": True,
    "train": {
        *("processes", "sharding", "workers", "gradient_checkpointing", "answered_each_epoch"),
    },
}
# What of a recipe its adapter's answers hang on.
ANSWERING = {"family", "task", "prompt", "quantization", "precision"}


def run(
    recipe: Recipe, data: Data, evaluate: Evaluate, seed: int, check: Callable[[], None]
) -> None:
    """Train, then write `models/adapters/RECIPE`, and loss.csv and validation.json of its metrics.

    `check` is called when they are there: what it raises leaves the checkpoints, so that the next
    run has nothing left to train, or with `select_by: accuracy` what came after the last that
    improved.

    Raises:
        UserError: the data do not fit the task.
    """
    check_records(recipe)
    seed = seed if recipe.train.seed is None else recipe.train.seed
    features = opened(Path("data/features") / recipe.name, recipe)
    checkpoints = checkpoint_folder(recipe, seed, key(recipe))
    with held(checkpoints):
        tune(recipe, data, evaluate, seed, features, checkpoints)
        if is_first():
            check()
            shutil.rmtree(checkpoints)


@contextmanager
def held(checkpoints: Path) -> Iterator[None]:
    """Hold checkpoints against every other run of the very same training; waits for its end.

    The first process holds them for all of its run. A lock ends with it, however that ends.
    """
    lock = Path(f"{checkpoints}.lock")
    with _acquired(lock) if is_first() else nullcontext():
        wait_for_all()
        yield
        if is_first() and not checkpoints.exists():
            # Who waits for it sees that it is gone, and makes another.
            lock.unlink(missing_ok=True)


def _acquired(path: Path) -> AcquireReturnProxy:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        typer.echo(f"waits for another run of the same training: it holds {path}", err=True)
        return lock.acquire()


def tune(
    recipe: Recipe,
    data: Data,
    evaluate: Evaluate,
    seed: int,
    features: Features | None,
    checkpoints: Path,
) -> None:
    """Train from what is in `checkpoints`, or anew, and write what `run` writes."""
    base, prepared = Path("models/base") / recipe.base, Path("data/prepared") / recipe.data
    splits = [prepared / "train.parquet", prepared / "validation.parquet"]
    set_seed(seed)
    labels, head = read_labels(recipe.data), recipe.classifier
    model = load_base(base, recipe, len(labels) if head else 0, vision=features is None)
    model = add_lora(model, recipe.lora)
    train_set, validation_set = (shown(path, features) for path in splits)
    collator = load_collator(recipe, answers=True, pool_seed=seed, features=features)
    tell_cut_answers(recipe, collator, train_set)
    log = train(
        model,
        collator,
        train_set,
        validation_set,
        recipe.train,
        checkpoints,
        seed,
        eval_collator=load_collator(recipe, answers=True, features=features),
        class_weight=head.weight if head else None,
        callbacks=answered_each_epoch(recipe, validation_set, labels, evaluate, seed, features),
    )
    weights = whole_weights(model) if recipe.train.sharding else None
    wait_for_all()  # who is slower still reads the checkpoints
    if not is_first():
        return
    with whole(Path("models/adapters") / recipe.name) as adapter:
        save_adapter(model, recipe, labels, data, adapter, weights)
        if recipe.train.select_by == "accuracy":
            copy_improvements(checkpoints, adapter)
    metrics = Path("metrics") / recipe.name
    write_curve(log, metrics / "loss.csv")
    validation = kept_evaluation(log, recipe.train.select_by)
    write_json(metrics / "validation.json", {"n": len(validation_set)} | validation)


def tell_cut_answers(recipe: Recipe, collator: Collator, train_set: Dataset) -> None:
    """Say so where answers are learned that are too long to be written whole.

    Names of classes are written whole, however long.
    """
    task, most = collator.task, recipe.generation.max_new_tokens
    if (task.choices and not task.classifies) or not is_first():
        return
    records = without_media(train_set)
    lengths = [len(collator.answer_ids(task.answer(record))) for record in records]
    if cut := sum(length > most for length in lengths):
        typer.echo(
            f"note: params.yaml: recipes.{recipe.name}.generation.max_new_tokens: {most} cuts "
            f"answers like {cut} of the {len(lengths)} that are learned; the longest has "
            f"{max(lengths)} tokens",
            err=True,
        )


def save_adapter(
    model: PeftModel,
    recipe: Recipe,
    labels: list[str] | None,
    data: Data,
    folder: Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write an adapter's weights, and beside them what its answers hang on.

    They are the model's own where they are not given.
    """
    model.save_pretrained(folder, state_dict=weights)
    (folder / "README.md").unlink(missing_ok=True)
    known = {"labels": labels, "image_size": data.image_size, "frames": data.frames}
    write_json(folder / RECIPE, known | {"recipe": recipe.model_dump(include=ANSWERING)})


def copy_improvements(checkpoints: Path, adapter: Path) -> None:
    """Keep the adapter of each evaluation that improved, in a folder named after its step."""
    for weights in checkpoints.glob("checkpoint-*/adapter_model.safetensors"):
        kept = adapter / weights.parent.name
        kept.mkdir()
        for file in (weights, weights.with_name("adapter_config.json")):
            shutil.copy(file, kept)


def checkpoint_folder(recipe: Recipe, seed: int, made_of: Mapping[str, str]) -> Path:
    """Where this very run keeps its checkpoints: outside of the workspace that DVC cleans.

    Its name holds a digest of parameters, of what features hang on, and of code, so that a run
    never goes on from another's checkpoint. What changes no loss, or none but by dropout, has no
    part in it: processes, workers, checkpointing, and how answers are written. Features have: they
    are the tower's own, but rounded otherwise in other batches.
    """
    known = recipe.model_dump(exclude=HARMLESS)
    found = hashlib.sha256(json.dumps([known, seed, made_of], sort_keys=True).encode())
    for path in sorted(Path("src").rglob("*.py")):
        found.update(digest(path).encode())
    return repository() / ".checkpoints" / f"{recipe.name}-{found.hexdigest()[:16]}"


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


def kept_evaluation(log: list[dict[str, float]], select_by: str) -> dict[str, float]:
    """Step, loss and accuracy of the checkpoint that is kept, from a trainer's log.

    It is the first of the best: the trainer replaces it by what is better alone.
    """
    evaluations = [entry for entry in log if "eval_loss" in entry]
    sign = 1 if select_by == "accuracy" else -1
    best = max(evaluations, key=lambda entry: sign * entry[f"eval_{select_by}"])
    measured = {name: round(best[f"eval_{name}"], 6) for name in ("loss", "accuracy")}
    return {"step": int(best["step"])} | measured
