"""One picture, one question of its own, a short answer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from src.records import Generated
from src.schema import Prompt


class Task:
    """Ask what the record asks; `{question}` in the prompt stands for it."""

    PLACEHOLDERS = ("question",)
    NEEDS = ("question", "answers")
    choices = None
    classifies = False

    def __init__(self, prompt: Prompt, labels: list[str] | None) -> None:
        self.system = prompt.system
        self._question = prompt.question

    def question(self, record: Mapping[str, Any]) -> str:
        """The record's own question, in the prompt's words."""
        return self._question.format(question=record["question"])

    def answer(self, record: Mapping[str, Any]) -> str:
        """The first of the references."""
        return record["answers"][0]

    def parse(self, text: str) -> str | None:
        """The text itself; None where there is none."""
        return text or None

    def doubts(self, record: Mapping[str, Any]) -> list[str]:
        """Any question may be asked."""
        return []

    def predictions(
        self, records: list[Mapping[str, Any]], said: Generated, scores: None
    ) -> pd.DataFrame:
        """One row an example."""
        references = [list(record["answers"]) for record in records]
        return pd.DataFrame(
            {
                "id": [record["id"] for record in records],
                "question": [self.question(record) for record in records],
                "answer": [r[0] if r else None for r in references],
                "answers": references,
                "predicted": said.texts,
                "probability": np.exp(said.likelihoods),
                "generated": said.texts,
            }
        )
