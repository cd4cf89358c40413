"""What a model says, and how likely it finds what it might say."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import ModelOutput

from src.families.common import Prefix
from src.inference.batches import in_batches
from src.records import Generated
from src.schema import Generation
from src.training.collator import Collator, pad_right


class Draw(LogitsProcessor):
    """Makes greedy decoding draw from the distribution, each record by a generator of its own.

    The Gumbel-max trick (Maddison et al. 2014, https://arxiv.org/abs/1411.0030): the largest of the
    logits with Gumbel noise is a sample, and no other record of a batch has a part in it.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = generators

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Add the noise of this step to scores of (batch, vocabulary)."""
        width = scores.shape[1]
        drawn = torch.stack([torch.rand(width, generator=g) for g in self.generators])
        return scores - (-drawn.clamp_min(1e-20).log()).log().to(scores.device)


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    collator: Collator,
    records: Sequence[Any],
    generation: Generation,
    batch_size: int,
    seed: int = 0,
    choices: Sequence[str] | None = None,
) -> Generated:
    """The answer to each record, by beam search, sampled, or greedily, and scores of all choices.

    The batch size changes none of them but by rounding: in 16 bits a GPU rounds otherwise in
    batches of another size, which may turn a close answer. Likelihoods are those that the model
    gives a text by itself, whatever way it was found. A decoder reads each prompt once for all of
    it.

    Args:
        model: a base or a tuned model.
        collator: without answers.
        records: with an `id` where answers are sampled.
        generation: how a text is written.
        batch_size: of the longest records in one forward pass.
        seed: of what is sampled, together with a record's id.
        choices: texts that are asked for their likelihood after every prompt.
    """
    ends = end_tokens(model, collator)
    ids = [collator.answer_ids(choice) for choice in choices or ()]
    padded = pad_right(ids, collator.tokenizer.pad_token_id) if ids else ()

    def written(batch: list[Any]) -> list[tuple[Any, ...]]:
        inputs = to_device(collator.prompts(batch), model)
        found = model.generate(
            **inputs,
            max_new_tokens=generation.max_new_tokens,
            num_beams=generation.num_beams,
            length_penalty=generation.length_penalty,
            repetition_penalty=generation.repetition_penalty,
            no_repeat_ngram_size=generation.no_repeat_ngram_size,
            do_sample=False,
            suppress_tokens=_placeholders(model),
            eos_token_id=ends,
            pad_token_id=collator.tokenizer.pad_token_id,
            logits_processor=_sampling(generation, batch, seed),
            return_dict_in_generate=True,
            output_logits=True,
        )
        start = 1 if collator.encoder_decoder else inputs["input_ids"].shape[1]
        rows = [_until(row, ends) for row in found.sequences[:, start:].tolist()]
        texts = [clean(text) for text in collator.tokenizer.batch_decode(rows, True)]
        likelihoods = _likelihoods(found.logits, found.get("beam_indices"), rows)
        ended = [row[-1] in ends for row in rows]
        scores = _scores(model, collator, inputs, found, *padded) if ids else [None] * len(rows)
        return list(zip(texts, likelihoods, map(len, rows), ended, scores, strict=True))

    longest = max(generation.max_new_tokens, sum(map(len, ids)))
    lengths = [length + longest for length in collator.lengths(records)]
    said = in_batches(written, records, lengths, batch_size, "generate")
    texts, *numbers, scores = zip(*said, strict=True)
    return Generated(
        list(texts), *map(np.array, numbers), scores=np.stack(scores) if choices else None
    )


def _placeholders(model: PreTrainedModel) -> list[int] | None:
    """The tokens that stand for a picture or a video, which no text may hold."""
    names = ("image_token_id", "video_token_id")
    found = {getattr(model.config, name, None) for name in names} - {None}
    return sorted(found) or None


def _sampling(generation: Generation, batch: Sequence[Any], seed: int) -> LogitsProcessorList:
    if not generation.temperature:
        return LogitsProcessorList()
    digests = (hashlib.sha256(f"{seed} {record['id']}".encode()).digest() for record in batch)
    seeds = [int.from_bytes(digest[:8], "big", signed=True) for digest in digests]
    return LogitsProcessorList(
        [
            TemperatureLogitsWarper(generation.temperature),
            TopPLogitsWarper(generation.top_p),
            Draw([torch.Generator().manual_seed(number) for number in seeds]),
        ]
    )


def _until(row: list[int], ends: Sequence[int]) -> list[int]:
    """A row of token ids up to its first end token."""
    return row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))]


def _likelihoods(
    logits: Sequence[torch.Tensor], beams: torch.Tensor | None, rows: Sequence[Sequence[int]]
) -> np.ndarray:
    """Log-probability of each row of tokens, from the logits that it was written by: (rows,).

    Args:
        logits: of each step (records * beams, vocabulary), before anything was done to them.
        beams: (rows, steps) which of the logits' rows a token was taken from; None: its own.
        rows: token ids, up to the end token.
    """
    tokens, real = (tensor.to(logits[0].device) for tensor in pad_right(rows, 0))
    likelihoods = torch.zeros(len(rows), device=tokens.device)
    for step in range(tokens.shape[1]):
        own = logits[step] if beams is None else logits[step][beams[:, step].clamp(min=0)]
        found = functional.log_softmax(own, -1).gather(-1, tokens[:, step, None])[:, 0]
        likelihoods += found * real[:, step]
    return likelihoods.cpu().numpy()


def _scores(
    model: PreTrainedModel,
    collator: Collator,
    inputs: dict[str, torch.Tensor],
    found: ModelOutput,
    tokens: torch.Tensor,
    real: torch.Tensor,
) -> np.ndarray:
    """Log-likelihood of every choice after every prompt: (prompts, choices).

    What a decoder has written is dropped from its cache, and the choices go on from the prompts.
    Choices are `tokens` (choices, longest), padded on the right, where `real` is 0.
    """
    tokens, real = tokens.to(model.device), real.to(model.device)
    prefix = None
    if not collator.encoder_decoder:
        prompts, width = inputs["input_ids"].shape
        cache = found.past_key_values
        cache.crop(width - cache.get_seq_length())
        # All beams of a prompt hold the same of it.
        beams = len(found.logits[0]) // prompts
        if beams > 1:
            cache.batch_select_indices(torch.arange(0, prompts * beams, beams))
        prefix = Prefix(found.logits[0][::beams], cache)
    scores = collator.family.answer_likelihoods(base_of(model), inputs, prefix, tokens, real)
    return scores.cpu().numpy()


_TOKEN = re.compile(r"<\|[^<>|]*\|>")


def clean(text: str) -> str:
    """A text in one line and in Unicode's composed form, without what is left of special tokens."""
    text = unicodedata.normalize("NFC", _TOKEN.sub(" ", text)).replace("\ufffd", " ")
    return " ".join(text.split())


def end_tokens(model: PreTrainedModel, collator: Collator) -> list[int]:
    """What ends an answer: the token that training puts there, and those that the base writes.

    BLIP-2's OPT was taught to end with a line break, which is not its tokenizer's end token.
    """
    base = base_of(model)
    found = {collator.tokenizer.eos_token_id}
    for part in (base, getattr(base, "language_model", None)):
        own = getattr(getattr(part, "generation_config", None), "eos_token_id", None)
        found.update(own if isinstance(own, list) else [own])
    return sorted(found - {None})


@torch.inference_mode()
def classify(
    model: PreTrainedModel, collator: Collator, records: Sequence[Any], batch_size: int
) -> np.ndarray:
    """Logits of the second head for every record: (records, classes)."""

    def classified(batch: list[Any]) -> Sequence[np.ndarray]:
        inputs = to_device(collator.prompts(batch), model)
        last = torch.full((len(batch),), inputs["input_ids"].shape[1] - 1, device=model.device)
        output = model(**inputs, classify_at=last, logits_to_keep=1, use_cache=False)
        return output.class_logits.cpu().numpy()

    lengths = collator.lengths(records)
    return np.stack(in_batches(classified, records, lengths, batch_size, "classify"))


def base_of(model: Any) -> PreTrainedModel:
    """The model under an adapter, if there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def to_device(batch: dict[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A batch on the model's device; what is not whole numbers in its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in batch.items()
    }
