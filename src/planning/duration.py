"""Optimizer steps, arithmetic and time, with what they rest on.

A pass of a model of P weights in matrices over T tokens is 2 P T floating-point operations (Kaplan
et al. 2020, https://arxiv.org/abs/2001.08361, section 2.1), and its attention 4 T^2 d a layer. Of a
frozen model the backward pass computes gradients of activations alone, which is as much again, and
not twice as much; only the adapter's own weights have a gradient as well, and checkpointing adds a
second forward pass. The head reads the answer's tokens, as does the last feed-forward of most,
which is counted with all; the vision tower goes forward alone, and once where its features are
kept. An encoder-decoder's halves read a prompt and an answer each.

The time of a pass is the longest of three: its operations at SHARE of CARD's matrix rate; bringing
every weight from memory at its bandwidth, which for 4-bit is to read half a byte, to write and to
read two; and LAUNCH for every layer, which is what Python needs to start its kernels. SHARE and
LAUNCH are estimates and have not been measured; a time is good to a factor of two at best.
"""

import math
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig

from src import families
from src.planning.lengths import Lengths
from src.planning.published import Examples
from src.planning.skeleton import Skeleton
from src.schema import Data, Recipe, Training


@dataclass(frozen=True)
class Card:
    """A GPU, as its maker's data sheet has it."""

    name: str
    rate: float  # operations a second of dense bf16 matrices
    bandwidth: float  # bytes a second


CARD = Card("A100 80GB", 312e12, 2.0e12)
SHARE = 0.3  # of the matrix rate
LAUNCH = 0.0008  # seconds a layer and pass


@dataclass(frozen=True)
class Splits:
    """Examples by split."""

    train: int
    validation: int
    test: int


def splits(known: Examples, data: Data) -> Splits:
    """How prepare will divide what a source brings, at most `data.limit` pictures of it."""
    pictures = known.pictures or known.train + (known.validation or 0) + (known.test or 0)
    share = min(1.0, (data.limit or pictures) / pictures)
    rest = share * known.train
    given = data.publisher_splits
    if not given:
        rest = share * (known.train + (known.validation or 0) + (known.test or 0))
    test = share * known.test if given and known.test else rest * data.test
    rest -= 0 if given and known.test else test
    validation = share * known.validation if given and known.validation else rest * data.validation
    rest -= 0 if given and known.validation else validation
    return Splits(round(rest), round(validation), round(test))


def optimizer_steps(training: Training, examples: int) -> int:
    """As the Trainer counts them: what is left of an epoch's batches is a step as well."""
    batches = math.ceil(examples / training.batch_size)
    an_epoch = math.ceil(batches / training.gradient_accumulation)
    return training.max_steps or math.ceil(training.epochs * an_epoch)


@dataclass(frozen=True)
class Work:
    """What one forward pass over one example comes to."""

    text: float  # operations of the language model, a prompt with its answer
    adapter: float  # of the gradient of the adapter's weights
    head: float  # of the output head over the answer
    tower: float  # of the vision tower; 0: its features are kept
    features: float  # of the vision tower, once, where its features are kept
    token: float  # of one more token of an answer
    layers: int  # of the whole model, for LAUNCH
    moved: int  # bytes that a pass over the language model moves for its weights
    encoder: bool  # whether prompts are read by an encoder of their own


def work(made: Skeleton, configuration: PreTrainedConfig, recipe: Recipe, lengths: Lengths) -> Work:
    """Operations of a recipe's passes, by the shapes of its model's matrices."""
    text = configuration.get_text_config()
    family = families.load(recipe.family)
    tower = sum(p.numel() for p in family.vision(made.model.get_base_model()).parameters())
    head = text.vocab_size * text.hidden_size
    encoder, decoder = matrices(made, adapter=False)
    more = matrices(made, adapter=True)
    tokens = lengths.prompt + lengths.answer
    depth = text.num_hidden_layers * (2 if encoder else 1)
    read_by = (lengths.prompt, lengths.answer) if encoder else (0, tokens)
    read, adapting = (
        2 * sum(weights * count for weights, count in zip(halves, read_by, strict=True))
        for halves in ((encoder, decoder), more)
    )
    attended = lengths.prompt**2 + lengths.answer * tokens if encoder else tokens**2
    attention = 4 * attended * text.hidden_size * text.num_hidden_layers
    a_weight = 0.5 + 2 + 2 if recipe.quantization.bits == 4 else 2
    seen, kept = 2 * tower * lengths.patches, recipe.vision_features == "cached"
    return Work(
        text=read + adapting + attention,
        adapter=adapting,
        head=2 * head * lengths.answer,
        tower=0 if kept else seen,
        features=seen if kept else 0,
        token=2 * (decoder + head),
        layers=depth,
        moved=round((encoder + decoder) * a_weight),
        encoder=bool(encoder),
    )


def matrices(made: Skeleton, adapter: bool) -> tuple[int, int]:
    """Weights in projections of the language model's encoder, if it has one, and of the rest.

    Either those of the base, without the head, which reads answers alone, or of the adapter.
    """
    found = {True: 0, False: 0}
    for name, layer in made.language_model.named_modules():
        of_adapter = "lora_" in name
        if isinstance(layer, nn.Linear) and of_adapter == adapter and "lm_head" not in name:
            found[name.startswith("encoder.")] += layer.in_features * layer.out_features
    return found[True], found[False]


def training_operations(one: Work, checkpointing: bool) -> float:
    """Operations of training on one example."""
    return (3 if checkpointing else 2) * one.text + one.adapter + 2 * one.head + one.tower


def training_seconds(one: Work, training: Training, examples: int, steps: int) -> float:
    """All optimizer steps, and the evaluations of the validation split aside."""
    passes = 3 if training.gradient_checkpointing else 2
    batches = steps * training.gradient_accumulation
    seen = min(batches * training.batch_size, round(training.epochs * examples))
    busy = seen * training_operations(one, training.gradient_checkpointing) / (SHARE * CARD.rate)
    moving = batches * passes * one.moved / CARD.bandwidth
    return max(busy, moving, batches * passes * one.layers * LAUNCH)


def encoding_seconds(one: Work, pictures: int) -> float:
    """The vision tower over every picture or video, where its features are kept; 0 where not."""
    return pictures * one.features / (SHARE * CARD.rate)


def reading_seconds(one: Work, examples: int, batch: int) -> float:
    """One forward pass over examples in batches, as a measured validation loss needs."""
    busy = examples * (one.text + one.head + one.tower) / (SHARE * CARD.rate)
    batches = math.ceil(examples / batch)
    return max(busy, batches * one.moved / CARD.bandwidth, batches * one.layers * LAUNCH)


def answering_seconds(
    one: Work, recipe: Recipe, lengths: Lengths, examples: int, batch: int
) -> float:
    """Writing answers of the longest length, and scoring classes where there are.

    With beams each text is read and written so many times; a second head reads it once more, and
    so does an encoder whose decoder scores classes.
    """
    beams, batches = recipe.generation.num_beams, math.ceil(examples / batch)
    busy = batch * beams * one.token / (SHARE * CARD.rate)
    a_token = max(busy, one.moved / CARD.bandwidth, one.layers * LAUNCH)
    writing = batches * recipe.generation.max_new_tokens * a_token
    read = reading_seconds(one, examples, batch)
    scored = lengths.labels * lengths.label * examples * one.token / (SHARE * CARD.rate)
    again = bool(recipe.classifier) or (one.encoder and lengths.labels > 0)
    return writing + read * (beams + again) + scored
