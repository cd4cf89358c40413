"""Speed of training beside TRL's: `python -m benchmarks.train_speed`.

All train the same LoRA on the same 4-bit base and pictures, in the same batches, with the same
optimizer, each time in a process of its own. The base has random weights and Qwen2-VL-2B's shape
at a third of its width. What is measured is everything behind the loading of the model: features,
batches, steps. Runs are interleaved, so that a machine that slows down slows all of them.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import set_seed

from benchmarks.bases import LABELS, QUESTION, SIDE, faces, make, recipe_on

BATCH = 4
CONTESTANTS = {
    "ours": "vlm-recipes, features kept",
    "ours_live": "vlm-recipes, live tower",
    "trl": "TRL's SFTTrainer as its defaults set it up",
    "trl_tuned": "TRL's, no checkpointing, answer-only loss",
}
app = typer.Typer(add_completion=False)


@app.command()
def main(
    pictures: int = 24,
    epochs: int = 3,
    repeats: int = 5,
    precision: str = "fp32",
    only: Annotated[list[str] | None, typer.Option(help="contestants")] = None,
) -> None:
    """Print seconds a step, samples a second, the last losses and the peaks, and the ratios."""
    chosen = only or list(CONTESTANTS)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory(prefix="train-speed-") as scratch:
        _alone("make", scratch, pictures, epochs, precision)
        for _ in range(repeats):
            for name in chosen:
                found[name].append(_alone(name, scratch, pictures, epochs, precision))
                print(f"{name}: {found[name][-1]}", file=sys.stderr)
    steps = -(-pictures // BATCH) * epochs
    print(f"{pictures} pictures, {epochs} epochs, batch {BATCH}, {precision}, 4-bit base")
    print("| | s a step | samples/s | ratio (spread) | loss, last epoch | peak, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in chosen:
        runs = found[name]
        seconds = statistics.median(run["seconds"] for run in runs)
        pairs = [
            theirs["seconds"] / ours["seconds"]
            for ours, theirs in zip(found[chosen[0]], runs, strict=True)
        ]
        ratio = f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"
        loss = statistics.median(run["loss"] for run in runs)
        peak = max(run["peak"] for run in runs)
        print(
            f"| {CONTESTANTS[name]} | {seconds / steps:.2f} | {pictures * epochs / seconds:.2f} "
            f"| {ratio} | {loss:.3f} | {peak:.0f} |"
        )


@app.command(hidden=True)
def run(name: str, scratch: Path, pictures: int, epochs: int, precision: str) -> None:
    """One contestant, or the making of the base; a line of JSON on stdout."""
    if name == "make":
        make("qwen2_vl", scratch)
        print("{}")
        return
    set_seed(1)
    work = {"trl": trl, "trl_tuned": trl}.get(name, ours)
    seconds, losses = work(name, scratch, faces(pictures), epochs, precision)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    a_step = losses[-(pictures // BATCH) :]
    print(json.dumps({"seconds": seconds, "loss": statistics.mean(a_step), "peak": peak}))


def _alone(name: str, *rest: Any) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.train_speed", "run", name, *map(str, rest)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def ours(
    name: str, base: Path, records: list[dict[str, Any]], epochs: int, precision: str
) -> tuple[float, list[float]]:
    """Seconds and the loss of each step, by this project's own lines."""
    from datasets import Dataset, Image

    from src import families, models, tasks
    from src.features import ROW, opened, write
    from src.inference.generate import to_device
    from src.training import trainer
    from src.training.load import collator_of

    recipe = recipe_on("qwen2_vl", precision)
    task = tasks.load(recipe, LABELS)
    data = Dataset.from_list(records).cast_column("image", Image())
    spent, features = 0.0, None
    if name == "ours":
        tower, collator = models.load_base(base, recipe), collator_of(base, recipe, task, False)
        family, start = families.load(recipe.family), time.perf_counter()
        blocks = (
            family.features(tower, to_device(collator.prompts(records[i : i + 16]), tower))
            for i in range(0, len(records), 16)
        )
        rows = list(range(len(records)))
        known = {"medium": "image", "frames": None, "size": SIDE, "splits": {"train": rows}}
        write(base / f"features-{os.getpid()}", blocks, known)
        spent = time.perf_counter() - start
        del tower
        features = opened(base / f"features-{os.getpid()}")
        data = data.remove_columns("image").add_column(ROW, rows)
    model = models.load_base(base, recipe, vision=features is None)
    model = models.add_lora(model, recipe.lora)
    start = time.perf_counter()
    collator = collator_of(base, recipe, task, True, features=features)
    settings = recipe.train.model_copy(update={"epochs": float(epochs), "batch_size": BATCH})
    with tempfile.TemporaryDirectory() as folder:
        asked = trainer.arguments(settings, Path(folder), model.dtype, 1)
        for key, value in common(epochs).items():
            setattr(asked, key, value)
        asked.eval_strategy, asked.save_strategy = "no", "no"
        asked.load_best_model_at_end = False
        log = trainer.fit(model, collator, data, None, asked)
    return spent + time.perf_counter() - start, [e["loss"] for e in log if "loss" in e]


def common(epochs: int) -> dict[str, Any]:
    """What all contestants are told."""
    return {
        "num_train_epochs": epochs,
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "optim": "adamw_torch",
        "logging_steps": 1,
        "seed": 1,
        "data_seed": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_num_workers": 0,
    }


def trl(
    name: str, base: Path, records: list[dict[str, Any]], epochs: int, precision: str
) -> tuple[float, list[float]]:
    """The same by TRL, as its examples set up a vision-language model."""
    from datasets import Dataset, Image, List
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    from src.models import DTYPES

    recipe, dtype, tuned = recipe_on("qwen2_vl", precision), DTYPES[precision], name == "trl_tuned"
    model = AutoModelForImageTextToText.from_pretrained(
        base / "checkpoint",
        dtype=dtype,
        device_map={"": "cuda" if torch.cuda.is_available() else "cpu"},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=["model.visual", "lm_head"],
        ),
    )
    ask = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
    rows = []
    for record in records:
        said = {"role": "assistant", "content": [{"type": "text", "text": record["label"]}]}
        text = {"prompt": [ask], "completion": [said]} if tuned else {"messages": [ask, said]}
        rows.append({"images": [record["image"]], **text})
    data = Dataset.from_list(rows).cast_column("images", List(Image()))
    lora = LoraConfig(
        r=recipe.lora.r,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        target_modules=recipe.lora.targets,
        task_type="CAUSAL_LM",
    )
    more = {"gradient_checkpointing": False} if tuned else {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=folder,
                max_length=None,
                bf16=precision == "bf16",
                **common(epochs),
                **more,
            ),
            train_dataset=data,
            processing_class=AutoProcessor.from_pretrained(base / "checkpoint"),
            peft_config=lora,
        )
        start = time.perf_counter()
        trainer.train()
        spent = time.perf_counter() - start
    return spent, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    app()
