"""What is explained: numbers that a model says of a picture or a video, as functions of its pixels.

They are log-probabilities: of a whole text, of each of its words, or of the class that a second
head names.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from src.inference.generate import base_of, to_device
from src.models import CLASSIFIER
from src.training.collator import Collator, Foretold, foretell, log_likelihood


class Explained(nn.Module):
    """Normalised pictures, or the film strips of videos, into numbers (batch, numbers).

    A batch may hold every example several times in a row, as `occlusion` does with its variants.
    Subclasses say in `forward` which numbers they are.
    """

    def __init__(
        self,
        model: PeftModel,
        collator: Collator,
        records: Sequence[dict[str, Any]],
        answers: Sequence[str],
    ) -> None:
        super().__init__()
        self.model = model
        self.collator = collator
        self.inputs = to_device(collator.with_answers(records, answers), model)
        self.media = [record.get("video") or record["image"] for record in records]
        # The steps of a film strip; None of pictures. Frames keep their size.
        self.steps = None
        if isinstance(self.media[0], list):
            self.steps = self.pixels().shape[-1] // self.media[0][0].width

    def pixels(self) -> torch.Tensor:
        """Of the records, as their family lays them out: (batch, channels, height, width)."""
        pixels = self.collator.family.pixels(self.collator.processor, self.media)
        return pixels.to(self.model.device, self.model.dtype)

    def grid(self, cells: int) -> tuple[int, int]:
        """Rows and columns of a map, of `cells` by `cells` for a picture.

        A film strip has about as many cells in all, as many in each of its steps and as many rows
        in a step as columns, so that it is covered cell by cell in about as many passes.
        """
        if self.steps is None:
            return cells, cells
        side = max(1, round(cells / math.sqrt(self.steps)))
        return side, self.steps * side

    def times(self, pixels: torch.Tensor) -> int:
        """How often a batch holds every example."""
        return len(pixels) // len(self.media)

    def foretold(self, pixels: torch.Tensor, classify: bool = False) -> Foretold:
        """What the model says of the answers, given these pixels."""
        family, processor = self.collator.family, self.collator.processor
        strip = [] if self.steps is None else [self.steps]
        visual = family.visual_inputs(processor, pixels, *strip)
        inputs = {
            name: value.repeat_interleave(self.times(pixels), 0)
            for name, value in self.inputs.items()
            if name not in visual
        }
        return foretell(self.model, inputs | visual, classify)


class AnswerLikelihood(Explained):
    """The log-probability of each answer, end token included: (batch, 1)."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """In nats."""
        return log_likelihood(self.foretold(pixels))[:, None]


class ClassLikelihood(Explained):
    """The log-probability that the second head gives a class of each record: (batch, 1)."""

    def __init__(
        self,
        model: PeftModel,
        collator: Collator,
        records: Sequence[dict[str, Any]],
        classes: Sequence[str],
    ) -> None:
        # The head reads the prompt alone.
        super().__init__(model, collator, records, [""] * len(records))
        numbers = [collator.task.choices.index(name) for name in classes]
        self.classes = torch.tensor(numbers, device=model.device)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """In nats."""
        logits = self.foretold(pixels, classify=True).class_logits
        classes = self.classes.repeat_interleave(self.times(pixels))
        return logits.log_softmax(-1).gather(1, classes[:, None])


class WordLikelihoods(Explained):
    """The log-probability of each word after those before it: (batch, words).

    `words` are those of each answer, of which the first `most` are explained. Where an answer has
    fewer than another of the batch, the number that stands for the missing word is 0.
    """

    def __init__(
        self,
        model: PeftModel,
        collator: Collator,
        records: Sequence[dict[str, Any]],
        answers: Sequence[str],
        most: int,
    ) -> None:
        super().__init__(model, collator, records, answers)
        read = [spelt(collator.tokenizer, collator.answer_ids(answer)[:-1]) for answer in answers]
        self.words = [words for words, _ in read]
        self.count = min(most, max(len(words) for words in self.words))
        # The end token is of no word.
        self.places = [torch.tensor([*places, self.count]) for _, places in read]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """In nats."""
        said = self.foretold(pixels)
        places = torch.cat([p.repeat(self.times(pixels)) for p in self.places])
        columns = []
        for number in range(self.count):
            among = (places == number).to(said.answered.device)
            where = torch.zeros_like(said.answered)
            where[said.answered] = among
            part = replace(
                said, logits=said.logits[among], targets=said.targets[among], answered=where
            )
            columns.append(log_likelihood(part))
        return torch.stack(columns, 1)


def spelt(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[list[str], list[int]]:
    """The words of a text (token ids), and for each token the number of its word."""
    texts = [
        tokenizer.decode(ids[: i + 1], clean_up_tokenization_spaces=False) for i in range(len(ids))
    ]
    # White space that is a token of its own counts to the word before it.
    places = [max(0, len(text.split()) - 1) for text in texts]
    return texts[-1].split() if texts else [], places


def scored(
    model: PeftModel, collator: Collator, records: Sequence[dict[str, Any]], rows: pd.DataFrame
) -> Explained:
    """What the maps of these predictions are tested with.

    That is the class where a second head names it, else the text: of a task that has classes and
    texts the one that was written, of any other the predicted one.
    """
    if named_by_head(model, collator):
        return ClassLikelihood(model, collator, records, list(rows["predicted"]))
    text = "generated" if collator.task.classifies else "predicted"
    return AnswerLikelihood(model, collator, records, list(rows[text]))


def named_by_head(model: PeftModel, collator: Collator) -> bool:
    """Whether a second head names the class of a record."""
    return collator.task.classifies and hasattr(base_of(model), CLASSIFIER)
