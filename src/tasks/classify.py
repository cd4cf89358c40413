"""One picture, one of several classes."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from src.config import Evaluate, Prompt
from src.metrics import classification
from src.metrics.labels import encode, per_class, reliability


class Task:
    """Ask for one of `labels`; the answer is its name and nothing else."""

    def __init__(self, prompt: Prompt, labels: list[str]) -> None:
        self.choices = labels
        self.system = prompt.system
        self._question = prompt.question.format(labels=", ".join(labels))
        self._by_text = {_normalise(label): label for label in labels}

    def question(self, record: Mapping[str, Any]) -> str:
        return self._question

    def answer(self, record: Mapping[str, Any]) -> str:
        return record["label"]

    def parse(self, text: str) -> str | None:
        """The class that a text names and nothing else; case and outer punctuation do not count."""
        return self._by_text.get(_normalise(text))

    def predictions(
        self, records: list[Mapping[str, Any]], texts: list[str], scores: np.ndarray
    ) -> pd.DataFrame:
        """One row an example, from generated texts and log-likelihoods (examples, classes)."""
        shifted = np.exp(scores - scores.max(1, keepdims=True))
        probabilities = shifted / shifted.sum(1, keepdims=True)
        best = probabilities.argmax(1)
        truth = [record["label"] for record in records]
        predicted = [self.choices[i] for i in best]
        return pd.DataFrame(
            {
                "id": [record["id"] for record in records],
                "question": [self.question(record) for record in records],
                "label": truth,
                "predicted": predicted,
                "probability": probabilities.max(1),
                "probabilities": list(probabilities),
                "generated": texts,
                "generated_label": [self.parse(text) for text in texts],
                "correct": [t == p for t, p in zip(truth, predicted, strict=True)],
            }
        )

    def metrics(self, frame: pd.DataFrame, evaluate: Evaluate, seed: int) -> dict[str, Any]:
        return classification.summarise(frame, self.choices, evaluate, seed)

    def gains(
        self, base: pd.DataFrame, tuned: pd.DataFrame, evaluate: Evaluate, seed: int
    ) -> dict[str, Any]:
        return classification.gains(base, tuned, self.choices, evaluate, seed)

    def plots(self, frames: dict[str, pd.DataFrame], evaluate: Evaluate) -> dict[str, pd.DataFrame]:
        """Tables behind the plots by name, from the predictions of the base and the tuned model."""
        tuned = frames["tuned"]
        tables = {
            "confusion": tuned[["label", "predicted"]].set_axis(["actual", "predicted"], axis=1)
        }
        bins, classes = [], []
        for model, frame in frames.items():
            truth, predicted = (encode(frame[c], self.choices) for c in ("label", "predicted"))
            confidence = frame["probability"].to_numpy(float)
            table = reliability(confidence, truth == predicted, evaluate.calibration_bins)
            bins.append(table.assign(model=model, bin=(table["low"] + table["high"]) / 2))
            classes.append(per_class(truth, predicted, self.choices).assign(model=model))
        columns = ["model", "bin", "confidence", "accuracy", "count"]
        tables["reliability"] = pd.concat(bins)[columns]
        tables["classes"] = pd.concat(classes)[
            ["model", "label", "precision", "recall", "f1", "support"]
        ]
        return {name: table.round(6) for name, table in tables.items()}


def _normalise(text: str) -> str:
    return re.sub(r"^\W+|\W+$", "", text).casefold()
