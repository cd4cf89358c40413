"""The numbers of `metrics/<recipe>/base.json` and `tuned.json` for a task that writes captions.

A frame of predictions has one row an example: `id`, `answer` (the first reference), `answers` (all
references), `generated` (the caption), `ended` (False: cut off), `probability` (of the caption,
the geometric mean over its tokens) and `label` (the word that the caption must name, or None).
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from src.metrics import answer, audit
from src.metrics.answer import ready
from src.metrics.classify import same_labels
from src.metrics.intervals import (
    MEAN,
    Metric,
    Metrics,
    bounds,
    counts,
    paired_gains,
    rounded,
    values,
)
from src.metrics.texts import common, diversity, headline, rates
from src.metrics.vqa import exact_match
from src.schema import Evaluate, spelling

__all__ = ["correct", "gains", "plots", "ready", "summarise"]
NONE, SEVERAL = "(none)", "(several)"


def correct(frame: pd.DataFrame) -> np.ndarray:
    """Whether each caption is right (n,), as bool.

    One with a label is where it names that label and no other that occurs in the frame; one without
    is where it is one of the references, both normalised as in `src/metrics/vqa.py`.
    """
    return np.where(_labelled(frame), frame["label"] == _named(frame), _exact(frame) == 1)


def summarise(
    frame: pd.DataFrame, labels: Sequence[str] | None, evaluate: Evaluate, seed: int
) -> dict[str, Any]:
    """All numbers of one model, rounded to 6 decimals; those of `audit.summary` are among them.

    `label_accuracy` is the mean of `correct` over the examples with a label. Where there are none
    it is left out, and so is the audit: free captions are hardly ever a reference word by word.
    `rougeL` then stands first. `majority` is what always naming the most frequent label makes of
    `label_accuracy`, else the exact match of the most frequent caption. For the other numbers see
    `src/metrics/texts.py`.

    Raises:
        UserError: no examples, a broken probability, or BERTScore's model is not there.
    """
    answer.check(frame)
    frame = frame.assign(correct=correct(frame))
    metrics = _headline(frame, evaluate) | rates(frame)
    audited, audited_bounds = {}, {}
    if (labelled := _labelled(frame)).any():
        judged_by = "label_accuracy" if labelled.all() else "correct"
        audited, audited_bounds = audit.summary(frame, judged_by, evaluate, seed)
    numbers = {
        **counts(frame),
        **values(metrics),
        **diversity(frame),
        **audited,
        "majority": _majority(frame),
        "interval": bounds(metrics, frame, evaluate, seed) | audited_bounds,
    }
    return rounded(numbers)


def gains(
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    labels: Sequence[str] | None,
    evaluate: Evaluate,
    seed: int,
) -> dict[str, Any]:
    """`{metric: {value, low, high}}`: tuned minus base, with its paired interval.

    Raises:
        UserError: the two frames are not of the same examples with the same references and labels.
    """
    tuned = same_labels(base, answer.same_references(base, tuned))
    before, after = _headline(base, evaluate), _headline(tuned, evaluate)
    return rounded(paired_gains(common(before, after), after, base, evaluate, seed))


def plots(
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    labels: Sequence[str] | None,
    evaluate: Evaluate,
) -> dict[str, pd.DataFrame]:
    """The tables behind the plots, by name.

    `confusion` is of the labels that the tuned model's captions name, NONE or SEVERAL, and the
    score of a class is the share of its examples that are right. Where there are no labels, the
    tables have no rows.
    """
    base, tuned = (frame.assign(correct=correct(frame)) for frame in (base, tuned))
    labelled = _labelled(tuned)
    confusion = pd.DataFrame({"actual": tuned["label"], "predicted": _named(tuned)})
    tables = {
        "confusion": confusion[labelled],
        "classes": pd.concat([_by_label(base, "base"), _by_label(tuned, "tuned")]),
        **audit.tables(base, tuned, evaluate),
    }
    if not labelled.any():
        tables = {name: table.iloc[:0] for name, table in tables.items()}
    return {name: table.round(6) for name, table in tables.items()}


def _headline(frame: pd.DataFrame, evaluate: Evaluate) -> Metrics:
    """The metrics that carry an interval and a gain, first the one that a recipe is judged by."""
    labelled = _labelled(frame)
    right = correct(frame)[labelled].astype(float)
    texts = headline(frame, evaluate.bertscore)
    first = {"rougeL": texts["rougeL"]}
    if labelled.any():
        first = {"label_accuracy": Metric(MEAN, (right,), chosen=labelled)}
    return {**first, "exact_match": Metric(MEAN, (_exact(frame),)), **texts}


def _majority(frame: pd.DataFrame) -> float:
    labels = frame["label"][_labelled(frame)]
    if labels.empty:
        return answer.majority(frame.assign(kind=None))
    return float(labels.value_counts(normalize=True).max())


def _by_label(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    """One row a label: `model, label, score, support`."""
    labelled = frame[_labelled(frame)]
    return answer.by_kind(labelled.assign(kind=labelled["label"]), model)


def _labelled(frame: pd.DataFrame) -> np.ndarray:
    return frame["label"].notna().to_numpy()


def _exact(frame: pd.DataFrame) -> np.ndarray:
    pairs = zip(frame["generated"], frame["answers"], strict=True)
    return np.array([exact_match(text, references) for text, references in pairs], dtype=float)


def _named(frame: pd.DataFrame) -> np.ndarray:
    """The one label that each caption names (n,), as whole words and in any case; NONE, SEVERAL.

    Of labels that hold one another, such as "left" and "top left", the longer one counts.
    """
    labels = {spelling(label): label for label in frame["label"].dropna().unique()}
    if not labels:
        return np.full(len(frame), NONE, dtype=object)
    longest = sorted(labels, key=lambda label: (-len(label), label))
    words = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)")

    def one(text: str) -> str:
        named = {labels[word] for word in words.findall(spelling(text))}
        return named.pop() if len(named) == 1 else SEVERAL if named else NONE

    return np.array([one(text) for text in frame["generated"]], dtype=object)
