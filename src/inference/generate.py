"""What a model says, and how likely it finds what it might say."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm
from transformers import PreTrainedModel

from src.training.collator import Collator, pad_right


def batches(records: Sequence[Any], size: int, what: str) -> Iterator[list[Any]]:
    """Consecutive slices of at most `size` records, under a progress bar."""
    with tqdm(total=len(records), desc=what, unit="example") as bar:
        for start in range(0, len(records), size):
            batch = [records[i] for i in range(start, min(start + size, len(records)))]
            yield batch
            bar.update(len(batch))


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    collator: Collator,
    records: Sequence[Any],
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """The greedy answer to each record, without special tokens and outer white space."""
    texts: list[str] = []
    for batch in batches(records, batch_size, "generate"):
        inputs = to_device(collator(batch), model)
        tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        texts += collator.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]


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
    count, width = tokens.shape
    size, lengths = len(inputs["input_ids"]), inputs["attention_mask"].sum(1)
    read = model(**inputs, use_cache=True, logits_to_keep=1)
    read.past_key_values.batch_repeat_interleave(count)
    places = collator.family.positions_after(base_of(model), lengths, width)
    repeated = tokens.repeat(size, 1)
    mask = torch.cat(
        [inputs["attention_mask"].repeat_interleave(count, 0), real.repeat(size, 1)], 1
    )
    said = model(
        input_ids=repeated,
        attention_mask=mask,
        past_key_values=read.past_key_values,
        **{name: _repeat(value, count) for name, value in places.items()},
    )
    # The prompt's last logits foretell an answer's first token, each token's the next one.
    first = read.logits.repeat_interleave(count, 0)
    logits = torch.cat([first, said.logits[:, :-1]], 1).float()
    likelihood = functional.log_softmax(logits, -1).gather(-1, repeated[..., None])[..., 0]
    return (likelihood * real.repeat(size, 1)).sum(1).view(size, count)


def _repeat(positions: torch.Tensor, count: int) -> torch.Tensor:
    return positions.repeat_interleave(count, dim=-2)


def base_of(model: Any) -> PreTrainedModel:
    """The model under an adapter, if there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def to_device(batch: dict[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A batch on the model's device; what is not whole numbers in its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in batch.items()
    }
