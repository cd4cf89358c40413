"""Records into a batch of model inputs."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel, ProcessorMixin

IGNORED = -100


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
    ) -> None:
        self.processor = processor
        self.encoder_decoder = encoder_decoder
        self.tokenizer = processor.tokenizer
        self.family = family
        self.task = task
        self.answers = answers

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Inputs of (batch, sequence); `labels` are -100 but for the answer and its end token."""
        if not self.answers:
            return self.prompts(records)
        return self.with_answers(records, [self.task.answer(record) for record in records])

    def with_answers(
        self, records: Sequence[Mapping[str, Any]], answers: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """The same, whatever the answers of the records are."""
        ids = [self.answer_ids(answer) for answer in answers]
        join = decode if self.encoder_decoder else append
        return join(self.prompts(records), ids, self.tokenizer.pad_token_id)

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer as it follows the prompt, with the end token.

        SentencePiece writes a text that stands alone with another first token.
        """
        lead = "" if self.encoder_decoder else self.family.LEAD
        before, both = (
            self.tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
            for words in (lead, lead + self.family.answer(text))
        )
        return [*both[len(before) :], self.tokenizer.eos_token_id]

    def prompts(self, records: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Inputs without answers, whatever the collator is for."""
        texts = [
            self.family.render(self.processor, self.task.system, self.task.question(record))
            for record in records
        ]
        batch = self.processor(
            text=texts,
            images=[record["image"] for record in records],
            padding=True,
            padding_side="right" if self.encoder_decoder else "left",
            return_tensors="pt",
        )
        return dict(batch)


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


def answer_logits(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a model foretells of the answers of a batch, and no logits of anything else.

    Returns:
        Logits (tokens, vocabulary) in fp32, the right tokens (tokens,), and where in the labels
        they stand: booleans (batch, sequence).
    """
    inputs = dict(inputs)
    labels = inputs.pop("labels")
    if "decoder_input_ids" in inputs:
        targets, answered = labels, labels != IGNORED
        logits = model(**inputs, use_cache=False).logits[answered]
    else:
        targets, answered = next_tokens(labels)
        logits = model(**inputs, logits_to_keep=answered, use_cache=False).logits
    return logits.float(), targets[answered], answered
