"""What the recipes' full settings make of a GPU: `python -m benchmarks.gpu`.

Each base has its published shape and random weights (15 GB on the disk for one of 7B), each recipe
its settings of `full`, and the examples are drawn. Their texts are written by a small tokenizer, in
more tokens than the published one would make of them: the table says how many. The floating-point
operations of an example are counted by torch, without those that checkpointing does again, but with
those of a beginning that a batch reads once for all; their rate is held against that of a large
matrix product on the same card. Scoring is one picture at a time, as in a live demonstration, and
in batches. Each part runs in a process of its own, whose peak of the GPU's memory is its alone, and
prints what it found to stderr before the next begins.
"""

import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForImageTextToText,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from benchmarks import train_speed
from benchmarks.alone import alone
from benchmarks.bases import clips, face, faces, keep, of_emotions, save
from benchmarks.train_speed import BATCH, as_dataset, peak_memory
from src import config, families, models, tasks
from src.features import ROW, opened
from src.inference.generate import generate, to_device
from src.planning.published import configuration
from src.schema import Params, Recipe
from src.training import trainer
from src.training.collator import foretell
from src.training.load import collator_of
from src.training.losses import answer_loss
from src.training.pretrain import EXAM, corpus

gemm_4bit = torch.ops.bitsandbytes.gemm_4bit
SIDE = 8192  # of the matrices whose product is the card's rate
WARM_UP = 5  # steps
SCORED = 4  # batches
FER = 28_709  # eight tenths of the pictures of FER
TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


class Clock(TrainerCallback):
    """Seconds of each step, with the loading of its batch."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wait for the GPU, and look at the time."""
        torch.cuda.synchronize()
        self.ticks.append(time.perf_counter())

    def median(self) -> float:
        """Of the steps behind the warm-up."""
        late = self.ticks[WARM_UP:]
        return statistics.median(after - before for before, after in pairwise(late))


def main(
    recipes: Annotated[list[str] | None, typer.Argument(help="of params.yaml")] = None,
    steps: Annotated[int, typer.Option(min=WARM_UP + 2)] = 20,
) -> None:
    """Print a table of training, one of memory beside others, and one of scoring."""
    if not torch.cuda.is_available():
        sys.exit("error: there is no GPU here; benchmarks.train_speed runs without one")
    # The Trainer would share each batch among all that it sees. Processes that are started see one.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    rate = alone(matrix_rate)
    print(f"{torch.cuda.get_device_name()}: {rate:.0f} TFLOP/s in bf16 products of {SIDE} x {SIDE}")
    found = {}
    for name in recipes or config.load().recipes:
        with tempfile.TemporaryDirectory(prefix="gpu-") as scratch:
            found[name] = {}
            for part in measured(name, Path(scratch), steps):
                print(f"{name}: {part}", file=sys.stderr, flush=True)
                found[name] |= part
    print("\n| recipe | 10⁹ weights | tokens an example | examples a second | peak, GiB |", end="")
    print(" share of the rate | encoding, examples a second |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, row in found.items():
        encoded = f"{row['encode']:.1f}" if row["encode"] else ""
        print(
            f"| {name} | {row['weights']:.1f} | {row['tokens']} | {row['speed']:.2f} "
            f"| {row['peak']:.1f} | {row['flops'] / rate:.2f} | {encoded} |"
        )
    print(f"\nBatches of {BATCH}, no checkpointing, GiB at the peak\n")
    print("| recipe | vlm-recipes | TRL (BLIP-2: Trainer) | ratio |\n| --- | --- | --- | --- |")
    for name, row in found.items():
        share = row["ours"] / row["theirs"]
        print(f"| {name} | {row['ours']:.1f} | {row['theirs']:.1f} | {share:.2f} |")
    print("\n| recipe | scoring a picture, ms | in batches, ms | features kept, ms |")
    print("| --- | --- | --- | --- |")
    for name, row in found.items():
        if "alone" in row:
            kept = f"{row['kept']:.1f}" if "kept" in row else ""
            print(f"| {name} | {row['alone']:.1f} | {row['batched']:.1f} | {kept} |")
    if row := found.get("emotion_llava"):
        hours = FER * _full("emotion_llava")[1].train.epochs / row["speed"] / 3600
        print(
            f"\nemotion_llava: {row['alone']:.0f} ms a picture, and {hours:.1f} GPU-hours to train "
            f"on {FER:,}; somebody's fine-tuning on an A100 took about 50 ms and 3"
        )


def measured(name: str, folder: Path, steps: int) -> Iterator[dict[str, Any]]:
    """A recipe's numbers by name, part by part."""
    yield {"weights": alone(make, name, folder)}
    yield {"encode": alone(encode, name, folder, steps)}
    yield alone(train, name, folder, steps)
    yield alone(scoring, name, folder)
    peaks = [alone(beside, way, name, folder) for way in ("encode", "ours", "theirs")]
    yield {"ours": max(peaks[:2]), "theirs": peaks[2]}


def matrix_rate() -> float:
    """TFLOP/s of a large matrix product in bf16."""
    a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * SIDE**3 / Timer("a @ b", globals={"a": a, "b": b}).blocked_autorange().median / 1e12


def _full(name: str) -> tuple[Params, Recipe]:
    params = config.at_scale(config.PARAMS, "full")
    return params, params.recipes[name]


def make(name: str, folder: Path) -> float:
    """Write a recipe's base with random weights; returns how many thousand millions it has."""
    params, recipe = _full(name)
    published = configuration(params.base[recipe.base], Path("models/base") / recipe.base)
    spec = config.at_scale(config.PARAMS, "tiny").base[recipe.base].model
    side = getattr(published.vision_config, "image_size", params.data[recipe.data].image_size)
    parts: dict[str, Any] = {"image_size": side}
    if spec.queries:
        parts["queries"] = spec.queries.model_copy(update={"count": published.num_query_tokens})
    small, processor = families.load(recipe.family).build(
        spec.model_copy(update=parts), corpus(spec, 1), 1
    )
    # The tokenizer is a small one, and so are the numbers of its special tokens.
    for key in TOKENS:
        if hasattr(published, key):
            setattr(published, key, getattr(small.config, key))
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        if hasattr(small.config.text_config, key):
            setattr(published.text_config, key, getattr(small.config.text_config, key))
    if hasattr(processor, "patch_size"):
        processor.patch_size = published.vision_config.patch_size
    with models.device():
        model = AutoModelForImageTextToText.from_config(published, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    save(model, processor, folder)
    return model.num_parameters() / 1e9


def examples(recipe: Recipe, params: Params, count: int) -> list[dict[str, Any]]:
    """Drawn faces with all that any task asks for."""
    rng, data = random.Random(3), params.data[recipe.data]
    labels = data.labels or [""]
    made = []
    for i in range(count):
        seen = [face(rng, i, data.image_size) for _ in range(data.frames or 1)]
        shown = {"video": seen} if data.frames else {"image": seen[0]}
        words = {"question": "Is there a face in it?", "answers": ["There is a face of a child."]}
        made.append({"id": str(i), "label": labels[i % len(labels)], **shown, **words})
    return made


def _collator(name: str, folder: Path, answers: bool, features: Any = None) -> Any:
    params, recipe = _full(name)
    task = tasks.load(recipe, params.data[recipe.data].labels)
    return collator_of(folder, recipe, task, answers, features=features)


def _shown(name: str, folder: Path, count: int) -> tuple[list[dict[str, Any]], Any]:
    """Examples, and features where the recipe keeps them."""
    params, recipe = _full(name)
    records = examples(recipe, params, count)
    features = opened(folder / "features") if recipe.vision_features == "cached" else None
    if features:
        others = ("id", "label", "question", "answers")
        records = [{k: r[k] for k in others} | {ROW: i} for i, r in enumerate(records)]
    return records, features


def encode(name: str, folder: Path, steps: int) -> float | None:
    """Examples a second; None where the recipe keeps no features."""
    params, recipe = _full(name)
    if recipe.vision_features != "cached":
        return None
    count = (steps + 1) * recipe.train.batch_size * recipe.train.gradient_accumulation
    count = max(count, SCORED * params.evaluate.batch_size)
    records = examples(recipe, params, count)
    model = models.load_base(folder, recipe, language=False)
    collator = _collator(name, folder, False)
    start = time.perf_counter()
    keep(model, collator, records, folder / "features")
    return count / (time.perf_counter() - start)


def train(name: str, folder: Path, steps: int) -> dict[str, float]:
    """Of so many steps: examples a second, the peak in GiB, TFLOP/s, and tokens an example."""
    params, recipe = _full(name)
    step = recipe.train.batch_size * recipe.train.gradient_accumulation
    records, features = _shown(name, folder, (steps + 1) * step)
    head = recipe.classifier
    classes = len(params.data[recipe.data].labels) if head else 0
    set_seed(1)
    model = models.load_base(folder, recipe, classes, vision=features is None)
    model = models.add_lora(model, recipe.lora)
    collator, clock = _collator(name, folder, True, features), Clock()
    asked = recipe.train.model_copy(
        update={"max_steps": steps, "evaluations": 1, "answered_each_epoch": 0, "max_length": 2048}
    )
    data = as_dataset(records) if features is None else Dataset.from_list(records)
    trainer.train(
        model,
        collator,
        data,
        data.select(range(step)),
        asked,
        folder / "checkpoints",
        seed=1,
        class_weight=head.weight if head else None,
        callbacks=[clock],
    )
    peak = peak_memory() / 2**10
    # One alone, as what a whole batch leaves behind without checkpointing may not fit.
    batch = to_device(collator([data[0]]), model)
    model.train()
    models.language_model(model).activation_checkpointing_disable()
    dtype = models.DTYPES[recipe.precision]
    with (
        FlopCounterMode(display=False, custom_mapping={gemm_4bit: _flops}) as counter,
        torch.autocast(model.device.type, dtype, dtype != torch.float32),
    ):
        answer_loss(foretell(model, batch), None).backward()
    return {
        "speed": step / clock.median(),
        "peak": peak,
        "flops": step * counter.get_total_flops() / clock.median() / 1e12,
        "tokens": batch["input_ids"].shape[1],
    }


def _flops(given: torch.Size, quantized: torch.Size, shape: list[int], *_: Any, **__: Any) -> int:
    """Of a product with a 4-bit matrix of (out, in), of which torch knows nothing."""
    return 2 * math.prod(given) * shape[0]


def beside(way: str, name: str, folder: Path) -> float:
    """GiB at the peak of some steps, by our lines, which encode before, or by another trainer's."""
    params, recipe = _full(name)
    records = (clips if params.data[recipe.data].frames else faces)(2 * BATCH)
    lora = recipe.lora.model_copy(update={"targets": ["q_proj", "v_proj"]})
    recipe = of_emotions(recipe).model_copy(update={"lora": lora})
    cached = recipe.vision_features == "cached"
    if way == "encode":
        if cached:
            train_speed.encode(folder, recipe, records)
    elif way == "ours":
        features = opened(folder / "features") if cached else None
        train_speed.ours(folder, recipe, records, 1, features)
    elif recipe.family == "blip2":
        train_speed.plain(folder, recipe, records, 1)
    else:
        train_speed.trl(folder, recipe, records, 1, checkpointing=False)
    return peak_memory() / 2**10


def scoring(name: str, folder: Path) -> dict[str, float]:
    """Milliseconds for all choices of a picture: `alone`, `batched`, and with features `kept`."""
    params, recipe = _full(name)
    choices, size = params.data[recipe.data].labels, params.evaluate.batch_size
    if not choices or recipe.classifier:
        return {}
    model = models.load_base(folder, recipe)
    records, collator = examples(recipe, params, SCORED * size), _collator(name, folder, False)
    found = {
        "alone": _each(model, collator, records[: 2 * WARM_UP], choices, 1),
        "batched": _each(model, collator, records, choices, size),
    }
    rows, features = _shown(name, folder, len(records))
    if features:
        of_rows = _collator(name, folder, False, features)
        del model  # two at a time may not fit
        clear_device_cache(garbage_collection=True)
        model = models.load_base(folder, recipe, vision=False)
        found["kept"] = _each(model, of_rows, rows, choices, size)
    return found


def _each(
    model: Any, collator: Any, records: list[dict[str, Any]], choices: list[str], size: int
) -> float:
    short = EXAM.model_copy(update={"max_new_tokens": 1})
    scores = partial(generate, generation=short, batch_size=size, choices=choices)
    scores(model, collator, records[:size])
    start = time.perf_counter()
    scores(model, collator, records)
    return 1000 * (time.perf_counter() - start) / len(records)


if __name__ == "__main__":
    typer.run(main)
