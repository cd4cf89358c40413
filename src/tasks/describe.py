"""One picture or video, one text that says what is in it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from src.records import Generated
from src.schema import Prompt


class Task:
    """Ask the same of everything, unless a record asks something of its own."""

    PLACEHOLDERS = ()
    NEEDS = ("answers",)
    choices = None
    classifies = False

    def __init__(self, prompt: Prompt, labels: list[str] | None) -> None:
        self.system = prompt.system
        self._question = prompt.question.format()

    def question(self, record: Mapping[str, Any]) -> str:
        """The record's own question, or the prompt's."""
        return record.get("question") or self._question

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
        """One row an example; the probability is the geometric mean of those of its tokens."""
        references = [list(record["answers"]) for record in records]
        return pd.DataFrame(
            {
                "id": [record["id"] for record in records],
                "question": [self.question(record) for record in records],
                "label": [record["label"] for record in records],
                "answer": [r[0] if r else None for r in references],
                "answers": references,
                "predicted": said.texts,
                "probability": np.exp(said.likelihoods / said.tokens),
                "generated": said.texts,
                "ended": said.ended,
            }
        )
