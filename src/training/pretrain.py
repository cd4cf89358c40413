"""Train a small base model on drawn pictures, so that it sees and follows a prompt."""

import random
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin, Trainer, TrainingArguments

from src import families
from src.drawing import Lesson
from src.files import whole, write_json
from src.inference.generate import generate
from src.schema import Base, BuiltBase, Generation, Pretrain
from src.training.collator import Collator
from src.training.losses import AnswerLoss

CAPTION = "Describe the {}."  # picture or video
EXAM = Generation(
    max_new_tokens=16,
    num_beams=1,
    temperature=0.0,
    top_p=1.0,
    length_penalty=1.0,
    repetition_penalty=1.0,
    no_repeat_ngram_size=0,
)
LEADS = ("", "Look at the picture. ", "What do you see in the picture? ", "What does it show? ")


class PretrainTrainer(AnswerLoss, Trainer):
    """transformers' trainer with the answer-only loss."""


class Lessons:
    """As a task: a record holds its own question and answer, and there is no system message."""

    system = None
    classifies = False

    def question(self, record: Mapping[str, Any]) -> str:
        """What the lesson asks."""
        return record["question"]

    def answer(self, record: Mapping[str, Any]) -> str:
        """What the lesson answers."""
        return record["answer"]


def corpus(spec: BuiltBase, seed: int) -> list[str]:
    """Texts that the tokenizer of a base is trained on."""
    rng = random.Random(f"{seed} corpus")
    texts = ["system user assistant You are a helpful assistant.", CAPTION.format("picture")]
    for drawing in _drawings(spec.pretrain):
        for _ in range(500):
            lesson = drawing.lesson(rng, 28)
            texts += [lesson.caption, *(f"{q} {a}" for q, a in lesson.questions.values())]
            texts.append(_instruction(rng, drawing.VOCABULARY)[0])
    return texts


def records(pretrain: Pretrain, size: int, count: int, seed: str) -> list[dict[str, Any]]:
    """Pictures with a question and an answer: captions, attributes, and instructions in words.

    The words of a drawing's vocabulary come up in instructions only, which have nothing to do
    with the picture: a base must be able to say them, and must not know when.
    """
    rng = random.Random(seed)
    drawings = _drawings(pretrain)
    made = []
    for _ in tqdm(range(count), desc="draw", unit="picture"):
        drawing = rng.choice(drawings)
        lesson = drawing.lesson(rng, size)
        question, answer = _exercise(rng, lesson, drawing.VOCABULARY, pretrain.captions)
        media = {"image": lesson.picture, "video": lesson.video}
        made.append(media | {"question": question, "answer": answer})
    return made


def pretrain(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    family: ModuleType,
    spec: BuiltBase,
    seed: int,
) -> None:
    """Train every weight of `model` in place."""
    settings = spec.pretrain
    examples = records(settings, spec.image_size, settings.pictures, f"{seed} pretrain")
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=settings.steps,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": 0.05},
            warmup_steps=0.03,
            adam_beta2=0.98,
            weight_decay=0.01,
            save_strategy="no",
            logging_steps=max(1, settings.steps // 10),
            report_to=[],
            remove_unused_columns=False,
            seed=seed,
            data_seed=seed,
            use_cpu=not torch.cuda.is_available(),
        )
        PretrainTrainer(
            model=model,
            args=arguments,
            train_dataset=examples,
            data_collator=Collator(
                processor, family, Lessons(), True, model.config.is_encoder_decoder
            ),
        ).train()
    model.eval()


def attribute_accuracy(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    family: ModuleType,
    spec: BuiltBase,
    seed: int,
) -> dict[str, float]:
    """How often the base names an attribute of a picture that it has not seen, by attribute."""
    rng = random.Random(f"{seed} exam")
    collator = Collator(processor, family, Lessons(), False, model.config.is_encoder_decoder)
    right: dict[str, list[bool]] = {}
    for drawing in _drawings(spec.pretrain):
        lessons = [drawing.lesson(rng, spec.image_size) for _ in range(200)]
        for attribute in lessons[0].questions:
            exam = [
                dict(zip(("question", "answer"), x.questions[attribute], strict=True))
                | {"image": x.picture, "video": x.video}
                for x in lessons
            ]
            said = generate(model, collator, exam, EXAM, batch_size=64).texts
            right[attribute] = [s == r["answer"] for s, r in zip(said, exam, strict=True)]
    return {name: sum(r) / len(r) for name, r in right.items()}


def make(base: Base, folder: Path, seed: int) -> dict[str, Any]:
    """Build a base, train it, and save it with its manifest in `folder`.

    Returns:
        What is known of it: its number of `parameters`, and how well it answers questions about
        the attributes of pictures.
    """
    family, spec = families.load(base.family), base.model
    model, processor = family.build(spec, corpus(spec, seed), seed)
    pretrain(model, processor, family, spec, seed)
    with whole(folder) as beside:
        checkpoint = beside / "checkpoint"
        processor.save_pretrained(checkpoint)
        model.save_pretrained(checkpoint)
        manifest = {"id": (folder / "checkpoint").as_posix(), "revision": None}
        write_json(beside / "manifest.json", manifest)
    return {
        "parameters": model.num_parameters(),
        "attributes": attribute_accuracy(model, processor, family, spec, seed),
    }


def _drawings(pretrain: Pretrain) -> list[ModuleType]:
    return [import_module(f"src.drawing.{name}") for name in pretrain.drawings]


def _exercise(
    rng: random.Random, lesson: Lesson, words: Sequence[str], captions: float
) -> tuple[str, str]:
    kind = rng.random()
    if kind < captions:
        return CAPTION.format("video" if lesson.video else "picture"), lesson.caption
    if kind < 0.9:
        return rng.choice([*lesson.questions.values(), *lesson.more])
    return _instruction(rng, words)


def _instruction(rng: random.Random, words: Sequence[str]) -> tuple[str, str]:
    """A question in words alone, whose answer says nothing of the picture."""
    shuffled = rng.sample(list(words), len(words))
    if rng.random() < 0.4:
        return f"Repeat the word: {shuffled[0]}.", shuffled[0]
    return f"{rng.choice(LEADS)}Answer with one word: {', '.join(shuffled)}.", rng.choice(shuffled)
