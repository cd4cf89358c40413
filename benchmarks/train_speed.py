"""Speed of training beside other trainers: `python -m benchmarks.train_speed image`.

All train the same LoRA on the same base and examples, in batches of the same size, with the same
optimizer and rate, each time in a process of its own, and ours in two, as the pipeline's stages
are. What is measured is features, batches and steps, without what is made before them. Runs
are interleaved, so that a machine that slows down slows all of them. Behind it, and not measured,
each adapter is asked for the loss of the answers, by the same lines whoever trained it.
"""

import gc
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from datasets import Dataset, Image, List
from peft import prepare_model_for_kbit_training
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from benchmarks.alone import alone, ratio
from benchmarks.bases import (
    FRAMES,
    LABELS,
    PUBLISHED,
    QUESTION,
    SIDE,
    as_others,
    clips,
    faces,
    keep,
    keep_differentiable,
    make,
    recipe_on,
)
from benchmarks.llamafactory.run import train as by_llamafactory
from src import families, models, tasks
from src.features import ROW, Features, opened
from src.inference.generate import to_device
from src.schema import Recipe
from src.training import trainer
from src.training.collator import foretell, log_likelihood
from src.training.load import collator_of
from src.training.prompts import media
from src.training.shared import layer_classes

BATCH = 4
KEEPING = ("ours", "compiled")  # with features, which a process before them makes
ASSISTANT = "<|im_start|>assistant\n"  # what Qwen2-VL's template puts before an answer


class Work(StrEnum):
    """What is trained."""

    IMAGE = "image"
    VIDEO = "video"
    BLIP2_OPT = "blip2_opt"
    BLIP2_FLAN_T5 = "blip2_flan_t5"

    @property
    def base(self) -> str:
        """By its name in params.yaml."""
        return self.value if self.value.startswith("blip2") else "qwen2_vl"

    @property
    def contestants(self) -> dict[str, str]:
        """What can train it, and what that is."""
        own = {
            "ours": "vlm-recipes",
            "compiled": "vlm-recipes, layers by torch.compile",
            "live": "vlm-recipes, live tower",
        }
        if self is Work.IMAGE:
            return own | {
                "trl": "TRL's SFTTrainer, its defaults",
                "trl_tuned": "TRL's SFTTrainer, no checkpointing, loss of the answers",
                "llamafactory": "LLaMA-Factory 0.9.5",
                "llamafactory_tuned": "LLaMA-Factory 0.9.5, no checkpointing",
            }
        if self is Work.VIDEO:
            return own | {
                "trl": "TRL's SFTTrainer, its defaults, a collator of videos",
                "trl_tuned": "the same, no checkpointing, loss of the answers",
            }
        return own | {
            "plain": "transformers' Trainer, PEFT's `prepare_model_for_kbit_training`",
            "plain_tuned": "transformers' Trainer, without that",
        }


def main(
    work: Work,
    examples: int = 12,
    epochs: int = 3,
    repeats: int = 5,
    precision: str = "fp32",
    only: Annotated[
        list[str] | None, typer.Option(help="contestants; the ratio is to the first")
    ] = None,
) -> None:
    """Print seconds a step, examples a second, the ratios, the last losses and the peaks."""
    known = work.contestants
    chosen = only or [name for name in known if name not in ("compiled", "live")]
    if odd := [name for name in chosen if name not in known]:
        raise typer.BadParameter(f"{odd[0]}: {work} is trained by {', '.join(known)}")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory(prefix="train-speed-") as scratch:
        alone(make, work.base, Path(scratch))
        for _ in range(repeats):
            for name in chosen:
                found[name].append(_run(name, work, Path(scratch), examples, epochs, precision))
                print(f"{name}: {found[name][-1]}", file=sys.stderr)
    steps = -(-examples // BATCH) * epochs
    shown = f"{FRAMES} frames of {SIDE} pixels" if work is Work.VIDEO else f"{SIDE} pixels"
    print(
        f"\n{PUBLISHED[work.base]} at a third of its width, 4-bit, {precision}: {examples} examples"
        f" ({shown}), {epochs} epochs of batches of {BATCH}, {repeats} runs each\n"
    )
    print("| | s a step | examples a second | ratio (spread) | loss afterwards | peak, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in chosen:
        runs = found[name]
        seconds = statistics.median(run["seconds"] for run in runs)
        times = ratio(*([run["seconds"] for run in r] for r in (found[chosen[0]], runs)))
        loss = statistics.median(run["loss"] for run in runs)
        peak = max(run["peak"] for run in runs)
        print(
            f"| {known[name]} | {seconds / steps:.2f} | {examples * epochs / seconds:.2f} "
            f"| {times if name != chosen[0] else '1'} | {loss:.3f} | {peak:.0f} |"
        )


def _run(name: str, *rest: Any) -> dict[str, float]:
    """One contestant; with features kept in two processes, as the pipeline's stages are."""
    if name not in KEEPING:
        return alone(_part, name, *rest)
    before, run = alone(_part, "encode", *rest), alone(_part, name, *rest)
    peak = max(before["peak"], run["peak"])
    return run | {"seconds": before["seconds"] + run["seconds"], "peak": peak}


def _part(
    name: str, work: Work, scratch: Path, examples: int, epochs: int, precision: str
) -> dict[str, float]:
    records = (clips if work is Work.VIDEO else faces)(examples)
    recipe, features = recipe_on(work.base, precision), None
    if name == "encode":
        return {"seconds": encode(scratch, recipe, records), "peak": peak_memory()}
    if name.startswith("llamafactory"):
        return llamafactory(scratch, recipe, records, epochs, name == "llamafactory")
    if name in KEEPING:
        features = opened(scratch / "features")
        compiled = name == "compiled"
        seconds, model = ours(scratch, recipe, records, epochs, features, compiled)
    else:
        contestants = {
            "live": ours,
            "plain": partial(plain, prepared=True),
            "plain_tuned": plain,
            "trl": trl,
            "trl_tuned": partial(trl, tuned=True),
        }
        seconds, model = contestants[name](scratch, recipe, records, epochs)
    found = {"seconds": seconds, "peak": peak_memory()}
    return found | {"loss": afterwards(model, scratch, recipe, records, features)}


def peak_memory() -> float:
    """Of the GPU's memory, or of this process's where there is none, so far, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.no_grad()
def afterwards(
    model: PreTrainedModel,
    base: Path,
    recipe: Recipe,
    records: list[dict[str, Any]],
    features: Features | None,
) -> float:
    """Mean loss of an answer's tokens over all records, in nats."""
    keep_differentiable(model)
    model.eval()
    collator = collator_of(base, recipe, tasks.load(recipe, LABELS), True, features=features)
    if features:
        records = [{"id": r["id"], "label": r["label"], ROW: i} for i, r in enumerate(records)]
    total, tokens = 0.0, 0
    for start in range(0, len(records), BATCH):
        batch = to_device(collator(records[start : start + BATCH]), model)
        with torch.autocast(model.device.type, torch.bfloat16, recipe.precision == "bf16"):
            said = foretell(model, batch)
        total, tokens = total - log_likelihood(said).sum().item(), tokens + len(said.targets)
    return total / tokens


def as_dataset(records: list[dict[str, Any]]) -> Dataset:
    """Records as `read_split` gives them."""
    medium = next(name for name in ("image", "video") if name in records[0])
    data = Dataset.from_list(records)
    return data.cast_column(medium, Image() if medium == "image" else List(Image()))


def encode(base: Path, recipe: Recipe, records: list[dict[str, Any]]) -> float:
    """Seconds for the features of all records, which are kept."""
    shutil.rmtree(base / "features", ignore_errors=True)
    tower = models.load_base(base, recipe, language=False)
    collator = collator_of(base, recipe, tasks.load(recipe, LABELS), False)
    data = as_dataset(records)
    start = time.perf_counter()
    keep(tower, collator, data, base / "features")
    return time.perf_counter() - start


def ours(
    base: Path,
    recipe: Recipe,
    records: list[dict[str, Any]],
    epochs: int,
    features: Features | None = None,
    compiled: bool = False,
) -> tuple[float, PreTrainedModel]:
    """Seconds, and what was trained by this project's lines; `compiled`: each layer of it.

    What is compiled is compiled anew, and that is measured with the rest.
    """
    gc.freeze()  # what is imported, as of a stage (src/errors.py)
    data = as_dataset(records)
    if features:
        data = data.select_columns(["id", "label"]).add_column(ROW, list(range(len(records))))
    model = models.load_base(base, recipe, vision=features is None)
    set_seed(1)
    model = models.add_lora(model, recipe.lora)
    if compiled:
        layers = layer_classes(model)
        for module in model.modules():
            if type(module).__name__ in layers:
                module.compile(dynamic=True)
    collator = collator_of(base, recipe, tasks.load(recipe, LABELS), True, features=features)
    settings = recipe.train.model_copy(update={"epochs": float(epochs), "batch_size": BATCH})
    with tempfile.TemporaryDirectory() as folder:
        asked = trainer.arguments(settings, Path(folder), model, 1)
        for key, value in common(epochs).items():
            setattr(asked, key, value)
        asked.eval_strategy, asked.load_best_model_at_end = "no", False
        log = trainer.fit(model, collator, data, None, asked)
    gc.unfreeze()
    # Of its steps, as the others are measured.
    return next(entry["train_runtime"] for entry in log if "train_runtime" in entry), model


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


@as_others()
def plain(
    base: Path,
    recipe: Recipe,
    records: list[dict[str, Any]],
    epochs: int,
    prepared: bool = False,
) -> tuple[float, PreTrainedModel]:
    """The same by transformers' Trainer: the model's own loss, from the logits of every token.

    TRL's trainer fails on BLIP-2. `prepared` is what PEFT's guide to QLoRA does before, which
    also checkpoints, and differentiates the tower.
    """
    model = models.load_base(base, recipe)
    if prepared:
        model = prepare_model_for_kbit_training(model)
    set_seed(1)
    model = models.add_lora(model, recipe.lora)
    collator = collator_of(base, recipe, tasks.load(recipe, LABELS), True)
    with tempfile.TemporaryDirectory() as folder:
        by_trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                bf16=recipe.precision == "bf16",
                remove_unused_columns=False,
                label_names=["labels"],
                **common(epochs),
            ),
            data_collator=collator,
            train_dataset=as_dataset(records),
        )
        start = time.perf_counter()
        by_trainer.train()
    return time.perf_counter() - start, model


def trl(
    base: Path,
    recipe: Recipe,
    records: list[dict[str, Any]],
    epochs: int,
    tuned: bool = False,
    checkpointing: bool = True,
) -> tuple[float, PreTrainedModel]:
    """The same by TRL, as its examples set up a vision-language model.

    `tuned` is what a good user makes of it: no `checkpointing`, and the loss of the answers alone.
    """
    model = AutoModelForImageTextToText.from_pretrained(
        base / "checkpoint",
        dtype=models.DTYPES[recipe.precision],
        device_map={"": models.device()},
        quantization_config=models.quantization_config(recipe, families.load(recipe.family)),
    )
    processor = AutoProcessor.from_pretrained(base / "checkpoint")
    more: dict[str, Any] = {"gradient_checkpointing": checkpointing and not tuned}
    collator = None
    if "video" in records[0]:
        collator = _of_videos(processor, records, tuned)
        data = Dataset.from_dict({"number": list(range(len(records)))})
        more["remove_unused_columns"] = False
        more["dataset_kwargs"] = {"skip_prepare_dataset": True}
    else:
        data = Dataset.from_list([_row(record, tuned) for record in records])
        data = data.cast_column("images", List(Image()))
    set_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        by_trl = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=folder,
                max_length=None,
                bf16=recipe.precision == "bf16",
                **common(epochs),
                **more,
            ),
            train_dataset=data,
            processing_class=processor,
            peft_config=models.lora_config(recipe.lora, recipe.lora.targets),
            data_collator=collator,
        )
        start = time.perf_counter()
        by_trl.train()
    return time.perf_counter() - start, by_trl.model


def _turns(label: str, medium: str) -> tuple[dict[str, Any], dict[str, Any]]:
    ask = [{"type": medium}, {"type": "text", "text": QUESTION}]
    said = [{"type": "text", "text": label}]
    return {"role": "user", "content": ask}, {"role": "assistant", "content": said}


def _row(record: dict[str, Any], tuned: bool) -> dict[str, Any]:
    ask, said = _turns(record["label"], "image")
    text = {"prompt": [ask], "completion": [said]} if tuned else {"messages": [ask, said]}
    return {"images": [record["image"]], **text}


def _of_videos(
    processor: Any, records: list[dict[str, Any]], answers_alone: bool
) -> Callable[..., Any]:
    """What TRL's collator does with pictures, with videos: all that is no padding is learnt.

    Or `answers_alone`, with what the template puts behind them.
    """

    def collate(rows: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        batch = [records[row["number"]] for row in rows]
        texts = [
            processor.apply_chat_template(list(_turns(r["label"], "video")), tokenize=False)
            for r in batch
        ]
        videos = media("video", [r["video"] for r in batch])
        made = processor(text=texts, padding=True, return_tensors="pt", **videos)
        made["labels"] = made["input_ids"].masked_fill(made["attention_mask"] == 0, -100)
        if answers_alone:
            for row, text in zip(made["labels"], texts, strict=True):
                answer = processor.tokenizer(text.rpartition(ASSISTANT)[2])["input_ids"]
                row[: (row != -100).nonzero()[-len(answer), 0]] = -100
        return made

    return collate


def llamafactory(
    base: Path, recipe: Recipe, records: list[dict[str, Any]], epochs: int, checkpointing: bool
) -> dict[str, float]:
    """The same by LLaMA-Factory, in the environment that `benchmarks.llamafactory.run` makes."""
    with tempfile.TemporaryDirectory() as folder:
        found = by_llamafactory(
            base / "checkpoint", records, epochs, recipe.precision, checkpointing, Path(folder)
        )
        if torch.cuda.is_available():
            found["peak"] = float("nan")  # it is that of its process, not of the GPU
        model = models.load_tuned(base, Path(folder) / "adapter", recipe)
        return found | {"loss": afterwards(model, base, recipe, records, None)}


if __name__ == "__main__":
    typer.run(main)
