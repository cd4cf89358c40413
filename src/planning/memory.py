"""GPU memory of training and of answering, as sums of named terms in bytes.

Training, at its peak:

    weights       the frozen base: 4-bit blocks of 64 with a constant each, which double
                  quantization makes 8-bit in blocks of 256 (Dettmers et al. 2023,
                  https://arxiv.org/abs/2305.14314, section 3), the rest in the compute dtype
    adapter       per trained weight 4 bytes of fp32, 4 of its gradient, and the optimizer's state:
                  8 for AdamW's two moments, 2 in 8 bits (Dettmers et al. 2022,
                  https://arxiv.org/abs/2110.02861); a paged one may leave it to the host
    activations   what autograd saves: see activations.py. With checkpointing, the input of each
                  layer (Chen et al. 2016, https://arxiv.org/abs/1604.06174)
    workspace     the larger of two that are never there at once:
                  the layer whose backward pass runs: its activations, where they are recomputed,
                  three tensors of its widest projection, and one weight matrix out of 4-bit;
                  the logits of the answers' tokens (src/training/collator.py asks for no others):
                  2 bytes as computed, 4 each in fp32, as log-probabilities and as their gradient,
                  and 2 as the gradient that goes on

Answering, at its peak, has no gradient: weights, adapter, the cache of keys and values, and the
pass's workspace, in which the logits of all that is written stay until it ends. The cache holds one
key and one value a layer, a head and a token, for each of batch x beams texts, or for each example
with all its classes where classes are scored.

Both have OVERHEAD and SLACK on top. The vision tower's pass is over before a peak, in training and
in answering, and its memory is used again. `explain`, whose gradients go through the tower, is not
planned here. A tower whose features are kept is counted among the weights all the same, since
`encode` and `explain` load it.
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from src.models import DTYPES
from src.planning.activations import Saved, Shape
from src.planning.lengths import Lengths
from src.planning.skeleton import Skeleton
from src.schema import Generation, Recipe

OVERHEAD = 2**30  # CUDA's context, its libraries' kernels and workspaces; some 0.5 to 1 GiB
SLACK = 0.1  # of what comes and goes: what the caching allocator cannot use again
STATES = {
    "paged_adamw_32bit": 8,
    "paged_adamw_8bit": 2,
    "adamw_bnb_8bit": 2,
    "adamw_torch": 8,
    "adamw_torch_fused": 8,
    "adafactor": 0,  # a row and a column of each matrix
    "sgd": 0,  # without momentum
}  # bytes a trained weight
TRAINING_LOGIT = 2 + 4 + 4 + 4 + 2  # bytes: see above
ANSWERING_LOGIT = 2 + 4 + 4  # as computed, in fp32, as log-probability


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for."""

    weights: int
    adapter: int
    kept: int  # activations, or the cache of keys and values
    working: int

    @property
    def slack(self) -> int:
        """What the allocator cannot use again."""
        return round(SLACK * (self.kept + self.working))

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.adapter + self.kept + self.working + self.slack + OVERHEAD


def training(
    made: Skeleton, configuration: PreTrainedConfig, recipe: Recipe, shape: Shape, kept: Saved
) -> Memory:
    """Peak of a training step on batches of this shape."""
    vocabulary = configuration.get_text_config().vocab_size
    logits = shape.batch * shape.answer * vocabulary * TRAINING_LOGIT
    tensors = 3 * _widest(made, shape.batch * shape.tokens, recipe)
    return Memory(
        weights=made.frozen_bytes,
        adapter=made.trainable * (4 + 4 + STATES[recipe.train.optimizer]),
        kept=kept.total,
        working=max(kept.recomputed + tensors + made.widest, logits),
    )


def answering(
    made: Skeleton, configuration: PreTrainedConfig, recipe: Recipe, lengths: Lengths, batch: int
) -> Memory:
    """Peak of the base's and the tuned model's predictions, of the passes that there are."""
    passes = [_writing(made, configuration, recipe, lengths, batch)]
    if lengths.labels:
        passes.append(_scoring(made, configuration, recipe, lengths, batch))
    kept, working = max(passes, key=sum)
    return Memory(made.frozen_bytes, 4 * made.trainable, kept, working)


def _writing(
    made: Skeleton, configuration: PreTrainedConfig, recipe: Recipe, lengths: Lengths, batch: int
) -> tuple[int, int]:
    """The cache of beam search, and the larger of reading prompts and of the last word's logits.

    By then those of all words before it are there too, for the likelihood of what was said.
    """
    asked: Generation = recipe.generation
    rows, vocabulary = batch * asked.num_beams, configuration.get_text_config().vocab_size
    cache = cache_bytes(configuration, recipe, rows, lengths.prompt, asked.max_new_tokens)
    reading = 3 * _widest(made, rows * lengths.prompt, recipe) + made.widest
    saying = rows * vocabulary * ANSWERING_LOGIT
    said = said_bytes(configuration, recipe, batch)
    return max((cache, reading + saying), (cache, said + saying), key=sum)


def said_bytes(configuration: PreTrainedConfig, recipe: Recipe, batch: int) -> int:
    """Logits in fp32 of all words of all beams."""
    asked: Generation = recipe.generation
    vocabulary = configuration.get_text_config().vocab_size
    return 4 * batch * asked.num_beams * asked.max_new_tokens * vocabulary


def _scoring(
    made: Skeleton, configuration: PreTrainedConfig, recipe: Recipe, lengths: Lengths, batch: int
) -> tuple[int, int]:
    """A cache of prompts with the classes behind them, and the logits of the classes' tokens.

    Those of what was written before are there too.
    """
    classes, vocabulary = lengths.labels * lengths.label, configuration.get_text_config().vocab_size
    repeated = lengths.labels if configuration.is_encoder_decoder else 1  # what an encoder made
    cache = repeated * cache_bytes(configuration, recipe, batch, lengths.prompt, classes)
    logits = batch * classes * vocabulary * ANSWERING_LOGIT
    return cache, logits + said_bytes(configuration, recipe, batch)


def cache_bytes(
    configuration: PreTrainedConfig, recipe: Recipe, rows: int, prompt: int, written: int
) -> int:
    """Keys and values of `rows` texts; a decoder beside an encoder keeps the encoder's as well."""
    text, size = configuration.get_text_config(), DTYPES[recipe.precision].itemsize
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or getattr(text, "d_kv", None)
    head = head or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * rows * (prompt + written) * heads * head * size


def _widest(made: Skeleton, tokens: int, recipe: Recipe) -> int:
    """Bytes of the largest tensor that a projection of the language model makes, its head aside."""
    layers = [m for n, m in made.language_model.named_modules() if "lm_head" not in n]
    width = max(m.out_features for m in layers if isinstance(m, torch.nn.Linear))
    return tokens * width * DTYPES[recipe.precision].itemsize
