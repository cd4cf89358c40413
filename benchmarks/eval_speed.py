"""Speed of scoring six classes, and of writing an answer: `python -m benchmarks.eval_speed`.

The base has random weights and the shape of Qwen2-VL-2B or BLIP-2 OPT-2.7b at a third of its width.
All ways answer the same question about the same pictures, one after the other, so that a machine
that slows down slows all of them; ours in one process, and the others in another, where nothing of
this project's is switched on. Scores are held against six full forward passes.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import torch
import typer
from bitsandbytes.functional import has_avx512bf16

from benchmarks.alone import alone, process, ratio
from benchmarks.bases import LABELS, PUBLISHED, SIDE, as_others, faces, keep, make, recipe_on
from src import cpu, models, tasks
from src.features import ROW, Features, opened
from src.inference.generate import generate, to_device
from src.schema import Recipe
from src.training.collator import foretell, log_likelihood
from src.training.load import collator_of
from src.training.pretrain import EXAM

BATCH = 8
Way = Callable[[], np.ndarray | None]
prepared: dict[str, Way] = {}  # in the process that they run in


def main(
    bases: Annotated[list[str] | None, typer.Argument(help="of params.yaml")] = None,
    pictures: int = 16,
    repeats: int = 5,
    precision: str = "fp32",
) -> None:
    """Print seconds a picture of each way, and its ratio to ours."""
    for base in bases or ["qwen2_vl", "blip2_opt"]:
        with (
            tempfile.TemporaryDirectory(prefix="eval-speed-") as scratch,
            process() as own,
            process() as another,
        ):
            folder = alone(make, base, Path(scratch))
            asked = folder, base, pictures, precision
            where = {
                name: pool
                for pool, ways in ((own, our_ways), (another, other_ways))
                for name in pool.submit(prepare, ways, *asked).result()
            }
            spent: dict[str, list[float]] = {name: [] for name in where}
            scores: dict[str, np.ndarray | None] = {}
            for _ in range(repeats):
                for name, pool in where.items():
                    seconds, scores[name] = pool.submit(timed, name).result()
                    spent[name].append(seconds)
        show(base, pictures, precision, spent, scores)


def show(
    base: str,
    pictures: int,
    precision: str,
    spent: dict[str, list[float]],
    scores: dict[str, np.ndarray | None],
) -> None:
    """A table of all ways; the first is what the others are held against."""
    ours, exact = next(iter(spent.values())), scores["six full forward passes, live tower"]
    print(
        f"\n{PUBLISHED[base]} at a third of its width, 4-bit, {precision}: {pictures} pictures of "
        f"{SIDE} pixels, batches of {BATCH}, {len(ours)} runs each\n"
    )
    print("| way | s a picture | ratio (spread) | largest difference of a score |")
    print("| --- | --- | --- | --- |")
    for name, seconds in spent.items():
        times = ratio(ours, seconds)
        found = scores[name]
        off = "" if found is None else f"{np.abs(found - exact).max():.1e}"
        each = statistics.median(seconds) / pictures
        print(f"| {name} | {each:.3f} | {times if seconds is not ours else '1'} | {off} |")


def prepare(ways_of: Callable[..., dict[str, Way]], *asked: Any) -> list[str]:
    """Load what the ways of a process need; returns their names."""
    prepared.update(ways_of(*asked))
    return list(prepared)


def timed(name: str) -> tuple[float, np.ndarray | None]:
    """The seconds that one of them takes, and its scores."""
    start = time.perf_counter()
    scores = prepared[name]()
    return time.perf_counter() - start, scores


def our_ways(folder: Path, base: str, pictures: int, precision: str) -> dict[str, Way]:
    """This project's ways to score all classes of all pictures; the first is its own default."""
    recipe, task, records = work(base, pictures, precision)
    live = models.load_base(folder, recipe)
    collator = collator_of(folder, recipe, task, answers=False)
    features = kept(folder, live, collator, records)
    reader = models.load_base(folder, recipe, vision=False)
    of_rows = collator_of(folder, recipe, task, answers=False, features=features)
    rows = [{"id": r["id"], "label": r["label"], ROW: i} for i, r in enumerate(records)]

    def encoded() -> np.ndarray:
        kept(folder, live, collator, records)
        return scored(reader, of_rows, rows)

    return {
        "ours, features kept": lambda: scored(reader, of_rows, rows),
        "ours, features computed for this one use": encoded,
        "ours, live tower": lambda: scored(live, collator, records),
        "ours, features kept, and the text": lambda: scored(reader, of_rows, rows, text=True),
        "ours, live tower, and the text": lambda: scored(live, collator, records, text=True),
    }


@as_others()
def other_ways(folder: Path, base: str, pictures: int, precision: str) -> dict[str, Way]:
    """What people do otherwise: six passes give scores, and greedy writing none."""
    recipe, task, records = work(base, pictures, precision)
    model = models.load_base(folder, recipe)
    collator = collator_of(folder, recipe, task, answers=False)
    ways = {
        "six full forward passes, live tower": lambda: forwards(model, collator, records),
        "batch-1 greedy, live tower": lambda: said(model, collator, records, 1),
        "batched greedy, live tower": lambda: said(model, collator, records, BATCH),
    }
    if has_avx512bf16():
        with mock.patch.object(cpu, "optimize"):  # layers as bitsandbytes makes them
            rounding = models.load_base(folder, recipe)
        name = "batch-1 greedy, live tower, bitsandbytes' products in bf16"
        ways[name] = lambda: said(rounding, collator, records, 1)
    return ways


def work(base: str, pictures: int, precision: str) -> tuple[Recipe, Any, list[dict[str, Any]]]:
    """The recipe, its task and the pictures that all ways are asked about."""
    recipe = recipe_on(base, precision)
    return recipe, tasks.load(recipe, LABELS), faces(pictures)


def kept(folder: Path, model: Any, collator: Any, records: list[dict[str, Any]]) -> Features:
    """The features of all pictures."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        keep(model, collator, records, Path(place) / "features")
        return opened(Path(place) / "features")


def scored(
    model: Any, collator: Any, records: list[dict[str, Any]], text: bool = False
) -> np.ndarray:
    """The scores of all classes, as `evaluate` has them.

    With a `text` as long as the longest class; else of one token, which takes no pass of its own.
    """
    tokens = max(len(collator.answer_ids(label)) for label in LABELS) if text else 1
    greedy = EXAM.model_copy(update={"max_new_tokens": tokens})
    return generate(model, collator, records, greedy, BATCH, choices=LABELS).scores


@as_others()
@torch.inference_mode()
def forwards(model: Any, collator: Any, records: list[dict[str, Any]]) -> np.ndarray:
    """Each class after each prompt in a pass of its own."""
    found = []
    for start in range(0, len(records), BATCH):
        batch = records[start : start + BATCH]
        prompts, passes = collator.prompts(batch), []
        for label in LABELS:
            given = collator.join(prompts, [collator.answer_ids(label)] * len(batch))
            passes.append(log_likelihood(foretell(model, to_device(given, model))))
        found.append(torch.stack(passes, 1).float().cpu().numpy())
    return np.concatenate(found)


@as_others()
@torch.inference_mode()
def said(model: Any, collator: Any, records: list[dict[str, Any]], size: int) -> None:
    """What the model writes greedily, which scores nothing.

    Random weights end no answer, so that each is as long as the longest right one of its batch.
    """
    for start in range(0, len(records), size):
        batch = records[start : start + size]
        tokens = max(len(collator.answer_ids(record["label"])) for record in batch)
        inputs = to_device(collator.prompts(batch), model)
        model.generate(**inputs, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False)


if __name__ == "__main__":
    typer.run(main)
