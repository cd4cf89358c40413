"""What a model says, and how likely it finds what it might say."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from src.training.collator import Collator, pad_right


def batches(records: Sequence[Any], size: int, what: str) -> Iterator[list[Any]]:
    """Consecutive slices of at most `size` records, under a progress bar if they are several."""
    with tqdm(total=len(records), desc=what, unit="example", disable=len(records) <= size) as bar:
        for start in range(0, len(records), size):
            batch = [records[i] for i in range(start, min(start + size, len(records)))]
            yield batch
            bar.update(len(batch))


class Likelihood(LogitsProcessor):
    """Watches greedy decoding: the log-probability of the token that each step takes."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Note the best of (batch, vocabulary) and change nothing."""
        self.steps.append(functional.log_softmax(scores.float(), -1).amax(-1))
        return scores


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    collator: Collator,
    records: Sequence[Any],
    max_new_tokens: int,
    batch_size: int,
) -> tuple[list[str], np.ndarray]:
    """The greedy answer to each record, without special tokens and outer white space.

    Returns:
        The texts, and their log-likelihoods (records,) in nats, end token included.
    """
    texts: list[str] = []
    likelihoods = []
    ends = end_tokens(model, collator)
    for batch in batches(records, batch_size, "generate"):
        inputs = to_device(collator(batch), model)
        watch = Likelihood()
        tokens = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=collator.tokenizer.pad_token_id,
            logits_processor=LogitsProcessorList([watch]),
        )
        new = tokens[:, -len(watch.steps) :]
        texts += collator.tokenizer.batch_decode(new, skip_special_tokens=True)
        ended = torch.isin(new, torch.tensor(ends, device=new.device)).int()
        going = ended.cumsum(1) - ended == 0
        likelihoods.append((torch.stack(watch.steps, 1) * going).sum(1).cpu().numpy())
    return [text.strip() for text in texts], np.concatenate(likelihoods)


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
def score(
    model: PreTrainedModel,
    collator: Collator,
    records: Sequence[Any],
    answers: Sequence[str],
    batch_size: int,
) -> np.ndarray:
    """Log-likelihood of every answer to every record, end token included: (records, answers).

    The prompt is read once; its cache is then repeated for the answers.
    """
    ids = [collator.answer_ids(answer) for answer in answers]
    padded = pad_right(ids, collator.tokenizer.pad_token_id)
    tokens, real = (tensor.to(model.device) for tensor in padded)
    rows = []
    for batch in batches(records, batch_size, "score"):
        inputs = to_device(collator(batch), model)
        rows.append(_score_batch(model, collator, inputs, tokens, real).float().cpu().numpy())
    return np.concatenate(rows)


def _score_batch(
    model: PreTrainedModel,
    collator: Collator,
    inputs: dict[str, torch.Tensor],
    tokens: torch.Tensor,
    real: torch.Tensor,
) -> torch.Tensor:
    size, count = len(inputs["input_ids"]), len(tokens)
    logits = collator.family.answer_logits(base_of(model), inputs, tokens, real).float()
    repeated = tokens.repeat(size, 1)[..., None]
    likelihood = functional.log_softmax(logits, -1).gather(-1, repeated)[..., 0]
    return (likelihood * real.repeat(size, 1)).sum(1).view(size, count)


def base_of(model: Any) -> PreTrainedModel:
    """The model under an adapter, if there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def to_device(batch: dict[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A batch on the model's device; what is not whole numbers in its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in batch.items()
    }
