"""A sweep of LoRA ranks on BLIP-2: `python -m benchmarks.sweep`.

Six adapters are trained on one base, and each then scores the classes of the pictures: ours from
features that are made once for all six, and the same lines with a live tower. As people do it by
hand means transformers' Trainer as PEFT's guide to QLoRA sets it up, and greedy answers one by one;
or without that guide, which checkpoints and differentiates the tower, and with answers in batches.
Each way and rank has a process of its own; loading a model is not counted.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import typer

from benchmarks.alone import alone, ratio
from benchmarks.bases import LABELS, PUBLISHED, SIDE, faces, make, recipe_on
from benchmarks.eval_speed import said, scored
from benchmarks.train_speed import encode, ours, plain
from src import tasks
from src.features import ROW, opened
from src.training.load import collator_of

BASE = "blip2_opt"
RANKS = [2, 4, 8, 16, 32, 64]
BATCH = 8  # pictures that are scored at a time
WAYS = {
    "kept": "vlm-recipes",
    "live": "vlm-recipes, live tower",
    "by hand": "transformers' Trainer, PEFT's `prepare_model_for_kbit_training`, batch-1 greedy",
    "tuned": "transformers' Trainer, without that, batched greedy",
}


def main(pictures: int = 4, epochs: int = 3, precision: str = "fp32") -> None:
    """Print the seconds of a sweep each way, and the ratio to ours."""
    with tempfile.TemporaryDirectory(prefix="sweep-") as scratch:
        folder = Path(scratch)
        alone(make, BASE, folder)
        shared = alone(encoded, folder, pictures, precision)
        spent: dict[str, list[float]] = {way: [] for way in WAYS}
        for rank in RANKS:
            for way in WAYS:
                seconds = alone(point, way, folder, rank, pictures, epochs, precision)
                spent[way].append(seconds)
                print(f"rank {rank}, {way}: {seconds:.1f} s", file=sys.stderr)
    print(
        f"\n{PUBLISHED[BASE]} at a third of its width, 4-bit, {precision}: ranks "
        f"{', '.join(map(str, RANKS))}; {pictures} pictures of {SIDE} pixels, {epochs} epochs; "
        f"features {shared:.1f} s, once\n"
    )
    print("| | s the sweep | s an adapter | ratio (spread over adapters) |")
    print("| --- | --- | --- | --- |")
    # Each adapter has its part in the features.
    mine = [seconds + shared / len(RANKS) for seconds in spent["kept"]]
    for way, shown in WAYS.items():
        found = mine if way == "kept" else spent[way]
        times = "1" if way == "kept" else ratio(mine, found)
        print(f"| {shown} | {sum(found):.0f} | {statistics.median(found):.1f} | {times} |")


def encoded(folder: Path, pictures: int, precision: str) -> float:
    """Seconds for the features of all pictures, which are kept in `folder`."""
    return encode(folder, recipe_on(BASE, precision), faces(pictures))


def point(way: str, folder: Path, rank: int, pictures: int, epochs: int, precision: str) -> float:
    """Seconds to train an adapter of a rank and to ask it about all pictures."""
    recipe = recipe_on(BASE, precision)
    recipe = recipe.model_copy(update={"lora": recipe.lora.model_copy(update={"r": rank})})
    records = faces(pictures)
    features = opened(folder / "features") if way == "kept" else None
    asked = folder, recipe, records, epochs
    by_hand = way in ("by hand", "tuned")
    seconds, model = plain(*asked, way == "by hand") if by_hand else ours(*asked, features)
    model.eval()
    task = tasks.load(recipe, LABELS)
    collator = collator_of(folder, recipe, task, answers=False, features=features)
    if features:
        records = [{"id": r["id"], ROW: number} for number, r in enumerate(records)]
    start = time.perf_counter()
    if by_hand:
        said(model, collator, records, 1 if way == "by hand" else BATCH)
    else:
        scored(model, collator, records, text=True)
    return seconds + time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
