"""Records into a batch of model inputs."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from datasets import Dataset
from torch.nn import functional
from transformers import PreTrainedModel, ProcessorMixin

from src.features import ROW, Features
from src.records import MEDIA
from src.training.prompts import Tokenized, media, rendered

IGNORED = -100


class PromptPool:
    """Asks each example in other words each epoch, drawn by a seed, an epoch and its id.

    So neither the order of the examples nor what was drawn before has a part in it, and a run that
    is resumed asks what it would have asked.
    """

    def __init__(self, tasks: Sequence[Any], seed: int) -> None:
        self.tasks = tasks  # the same but for their prompt
        self.seed = seed
        self.epoch = 0

    def __call__(self, record: Mapping[str, Any]) -> Any:
        """The task that asks about a record in this epoch."""
        return random.Random(f"{self.seed} {self.epoch} {record['id']}").choice(self.tasks)


class Collator:
    """Batches prompts, and with `answers` also the answers and their labels.

    A decoder reads both as one sequence: prompts are padded on the left and answers on the right,
    so that an answer begins at the same position in every row and generation can go on from the
    last one. An encoder-decoder reads them apart, both padded on the right. Nothing is ever
    truncated; training checks beforehand that everything fits.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        family: ModuleType,
        task: Any,
        answers: bool,
        encoder_decoder: bool = False,
        pool: PromptPool | None = None,
        features: Features | None = None,
    ) -> None:
        self.features = features
        self._visual: int | None = None  # tokens of a picture or video, beside its placeholder
        self.tokenized = None
        if features:
            prompt = rendered(family, processor, None, "", features.medium)
            self.tokenized = Tokenized(processor, features, prompt)
        self.pool = pool
        self.processor = processor
        self.encoder_decoder = encoder_decoder
        self.tokenizer = processor.tokenizer
        self.family = family
        self.task = task
        self.answers = answers
        # Kept, so that no epoch and none of its workers does it again.
        self._prompts: dict[tuple[str | None, str, str], str] = {}
        self._answers: dict[str, list[int]] = {}

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Inputs of (batch, sequence); `labels` are -100 but for the answer and its end token.

        Where the task has a classifier, `class_labels` (batch,) are the numbers of the classes.
        """
        if not self.answers:
            return self.prompts(records)
        batch = self.with_answers(records, [self.task.answer(record) for record in records])
        if self.task.classifies:
            classes = [self.task.choices.index(record["label"]) for record in records]
            batch["class_labels"] = torch.tensor(classes)
        return batch

    def with_answers(
        self, records: Sequence[Mapping[str, Any]], answers: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """The same, whatever the answers of the records are."""
        return self.join(self.prompts(records), [self.answer_ids(answer) for answer in answers])

    def join(
        self, prompts: dict[str, torch.Tensor], answers: Sequence[Sequence[int]]
    ) -> dict[str, torch.Tensor]:
        """One answer (token ids) to each prompt of a batch, with the labels."""
        join = decode if self.encoder_decoder else append
        return join(prompts, answers, self.tokenizer.pad_token_id)

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer as it follows the prompt, with the end token.

        SentencePiece writes a text that stands alone with another first token.
        """
        if text not in self._answers:
            self._answers[text] = self._tokens_of(text)
        return self._answers[text]

    def _tokens_of(self, text: str) -> list[int]:
        lead = "" if self.encoder_decoder else self.family.LEAD
        before, both = (
            self.tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
            for words in (lead, lead + self.family.answer(text))
        )
        return [*both[len(before) :], self.tokenizer.eos_token_id]

    def prompts(self, records: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Inputs without answers, whatever the collator is for."""
        texts = [self.prompt(record) for record in records]
        side = "right" if self.encoder_decoder else "left"
        if self.tokenized:
            return self.tokenized.batch(texts, [record[ROW] for record in records], side)
        batch = self.processor(
            text=texts, padding=True, padding_side=side, return_tensors="pt", **self._media(records)
        )
        return dict(batch)

    def prompt(self, record: Mapping[str, Any], task: Any = None, medium: str | None = None) -> str:
        """The text of a record's prompt, with one placeholder for its picture or video.

        It asks what a `task` asks, or what the collator would; a record that has lost its picture
        or video needs the `medium`.
        """
        task = task or (self.pool(record) if self.pool else self.task)
        medium = medium or self.medium(record)
        asked = task.system, task.question(record), medium
        if asked not in self._prompts:
            self._prompts[asked] = rendered(self.family, self.processor, *asked)
        return self._prompts[asked]

    def lengths(self, records: Sequence[Mapping[str, Any]]) -> list[int]:
        """Tokens of each record's prompt with its picture or video, of the longest of a pool."""
        if not len(records):
            return []
        first = records[0]
        medium, tasks = self.medium(first), self.pool.tasks if self.pool else [self.task]
        if self._visual is None and not self.tokenized:
            # Every picture or video of a data set has the same size, and so as many tokens.
            alone = len(self.tokenizer(self.prompt(first))["input_ids"])
            self._visual = self.prompts([first])["input_ids"].shape[1] - alone

        def tokens(record: Mapping[str, Any], task: Any) -> int:
            prompt = self.prompt(record, task, medium)
            if self.tokenized:
                return len(self.tokenized.ids(prompt))
            return self._visual + len(self.tokenizer(prompt)["input_ids"])

        return [max(tokens(record, task) for task in tasks) for record in without_media(records)]

    def medium(self, record: Mapping[str, Any]) -> str:
        """What a record shows: `image` or `video`."""
        if self.features:
            return self.features.medium
        return "video" if record.get("video") else "image"

    def _media(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        medium = self.medium(records[0])
        return media(medium, [record[medium] for record in records])


def without_media(records: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The records, without decoding what they show."""
    if not isinstance(records, Dataset):
        return records
    return records.select_columns([name for name in records.column_names if name not in MEDIA])


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of (rows, longest), and where they are no padding: 1 or 0 of the same shape."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, real


def next_tokens(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What each position must foretell (batch, sequence), and at which that is an answer token."""
    targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    return targets, targets != IGNORED


def append(
    batch: dict[str, torch.Tensor], answers: Sequence[Sequence[int]], pad: int
) -> dict[str, torch.Tensor]:
    """Put one answer (token ids) behind each prompt of a batch, and make the labels."""
    ids, real = pad_right(answers, pad)
    batch = dict(batch)
    prompt = batch["input_ids"]
    batch["input_ids"] = torch.cat([prompt, ids], 1)
    batch["attention_mask"] = torch.cat([batch["attention_mask"], real], 1)
    if "mm_token_type_ids" in batch:
        types = batch["mm_token_type_ids"]
        batch["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(ids, dtype=types.dtype)], 1)
    batch["labels"] = torch.cat(
        [torch.full_like(prompt, IGNORED), ids.masked_fill(real == 0, IGNORED)], 1
    )
    return batch


def decode(
    batch: dict[str, torch.Tensor], answers: Sequence[Sequence[int]], pad: int
) -> dict[str, torch.Tensor]:
    """Give one answer (token ids) to each prompt of a batch for the decoder, and make the labels.

    The decoder starts with the padding token, as T5's does.
    """
    ids, real = pad_right(answers, pad)
    return dict(batch) | {
        "decoder_input_ids": functional.pad(ids[:, :-1], (1, 0), value=pad),
        "labels": ids.masked_fill(real == 0, IGNORED),
    }


@dataclass(frozen=True)
class Foretold:
    """What a model foretells of the answers of a batch."""

    logits: torch.Tensor  # (tokens, vocabulary) in fp32, of the answers' tokens alone
    targets: torch.Tensor  # (tokens,) the right ones
    answered: torch.Tensor  # (batch, sequence) booleans: where in the labels they stand
    class_logits: torch.Tensor | None  # (batch, classes) where it was asked for them


def foretell(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], classify: bool = False
) -> Foretold:
    """Read prompts with their answers, and ask for no logits of anything else.

    With `classify` the same pass also feeds a second head, at the last token of each prompt.
    """
    inputs = dict(inputs)
    labels = inputs.pop("labels")
    inputs.pop("class_labels", None)
    if "decoder_input_ids" in inputs:
        targets, answered = labels, labels != IGNORED
        output = model(**inputs, use_cache=False)
        logits = output.logits[answered]
    else:
        targets, answered = next_tokens(labels)
        # The prompt's last token is the first that foretells a token of the answer.
        place = {"classify_at": answered.int().argmax(1)} if classify else {}
        output = model(**inputs, logits_to_keep=answered, wanted=answered, use_cache=False, **place)
        logits = output.logits
    class_logits = output.class_logits if classify else None
    return Foretold(logits.float(), targets[answered], answered, class_logits)


def log_likelihood(said: Foretold) -> torch.Tensor:
    """Log-probability of each answer, end token included: (batch,), in nats."""
    found = functional.log_softmax(said.logits, -1).gather(-1, said.targets[:, None])[:, 0]
    tokens = torch.zeros(said.answered.shape, device=found.device)
    tokens[said.answered] = found
    return tokens.sum(1)
