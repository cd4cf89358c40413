"""One picture, one of several classes."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from src.records import Generated
from src.schema import Prompt, spelling


class Task:
    """Ask for one of `labels`; the answer is its name and nothing else."""

    PLACEHOLDERS = ("labels",)
    NEEDS = ("label",)
    classifies = False

    def __init__(self, prompt: Prompt, labels: list[str]) -> None:
        self.choices = labels
        self.system = prompt.system
        self._question = prompt.question.format(labels=", ".join(labels))
        self._by_text = {spelling(label): label for label in labels}
        # Some names are told apart by punctuation alone, such as C, C++ and C#.
        words = Counter(map(_word, labels))
        self._by_word = {w: label for label in labels if words[w := _word(label)] == 1 and w}

    def question(self, record: Mapping[str, Any]) -> str:
        """The same of every picture, unless a record asks something of its own."""
        return record.get("question") or self._question

    def answer(self, record: Mapping[str, Any]) -> str:
        """The name of the class."""
        return record["label"]

    def parse(self, text: str) -> str | None:
        """The class that a text names and nothing else, whatever its case.

        Outer punctuation does not count where one class alone is left without it.
        """
        return self._by_text.get(spelling(text)) or self._by_word.get(_word(text))

    def doubts(self, record: Mapping[str, Any]) -> list[str]:
        """It knows one question, and answers any other with one of its classes."""
        own = self.question(record) == self._question
        return [] if own else ["asked something else than it was trained on"]

    def predictions(
        self, records: list[Mapping[str, Any]], said: Generated, scores: np.ndarray
    ) -> pd.DataFrame:
        """One row an example; scores are log-likelihoods (examples, classes)."""
        probabilities = softmax(scores, axis=1)
        best = probabilities.argmax(1)
        return pd.DataFrame(
            {
                "id": [record["id"] for record in records],
                "question": [self.question(record) for record in records],
                "label": [record["label"] for record in records],
                "predicted": [self.choices[i] for i in best],
                "probability": probabilities.max(1),
                "probabilities": list(probabilities),
                "generated": said.texts,
                "generated_label": [self.parse(text) for text in said.texts],
            }
        )


def _word(text: str) -> str:
    return re.sub(r"^\W+|\W+$", "", spelling(text))
