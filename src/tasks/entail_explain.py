"""Does a picture entail a hypothesis, and why: a class by the second head, a text by the first."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from src.records import Generated
from src.schema import Prompt


class Task:
    """Ask about the record's hypothesis, which is `{hypothesis}` in the prompt."""

    PLACEHOLDERS = ("hypothesis",)
    NEEDS = ("question", "label", "answers")
    classifies = True

    def __init__(self, prompt: Prompt, labels: list[str]) -> None:
        self.choices = labels
        self.system = prompt.system
        self._question = prompt.question

    def question(self, record: Mapping[str, Any]) -> str:
        """The record's hypothesis, in the prompt's words."""
        return self._question.format(hypothesis=record["question"])

    def answer(self, record: Mapping[str, Any]) -> str:
        """The first of the reference explanations."""
        return record["answers"][0]

    def parse(self, text: str) -> str | None:
        """The explanation itself; None where there is none."""
        return text or None

    def doubts(self, record: Mapping[str, Any]) -> list[str]:
        """Any hypothesis may be asked about."""
        return []

    def predictions(
        self, records: list[Mapping[str, Any]], said: Generated, scores: np.ndarray
    ) -> pd.DataFrame:
        """One row an example; scores are logits or log-likelihoods (examples, classes)."""
        probabilities = softmax(scores, axis=1)
        references = [list(record["answers"]) for record in records]
        return pd.DataFrame(
            {
                "id": [record["id"] for record in records],
                "question": [self.question(record) for record in records],
                "label": [record["label"] for record in records],
                "predicted": [self.choices[i] for i in probabilities.argmax(1)],
                "probability": probabilities.max(1),
                "probabilities": list(probabilities),
                "answer": [r[0] if r else None for r in references],
                "answers": references,
                "generated": said.texts,
                "ended": said.ended,
            }
        )
