"""The numbers of `metrics/<recipe>/base.json` and `tuned.json` for a task that answers questions.

A frame of predictions has one row an example: `id`, `answer` (the first reference), `answers` (all
references), `generated` (the text), `probability` (of that text) and `kind` (of the question, or
None).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from src.errors import UserError
from src.metrics import audit, bertscore
from src.metrics.bertscore import bertscore_f1, key
from src.metrics.intervals import (
    MEAN,
    Metric,
    Metrics,
    bounds,
    counts,
    paired_gains,
    rounded,
    same_examples,
    values,
)
from src.metrics.vqa import PEOPLE, exact_match, normalise, soft_accuracy
from src.schema import Evaluate

# Log-likelihoods of half precision add up to a little more than 0.
_TOLERANCE = 0.01
CONFUSED = 12
OTHER, ANOTHER, EMPTY, NO_KIND = "(other)", "(another)", "(empty)", "(no kind)"


def ready(evaluate: Evaluate) -> None:
    """Bring BERTScore's model. Raises UserError where it is not to be had."""
    bertscore.ready(evaluate.bertscore)


def correct(frame: pd.DataFrame) -> np.ndarray:
    """Whether the generated text is one of the references, both normalised (n,), as bool."""
    pairs = zip(frame["generated"], frame["answers"], strict=True)
    return np.array([exact_match(text, references) for text, references in pairs], dtype=bool)


def summarise(
    frame: pd.DataFrame, labels: Sequence[str] | None, evaluate: Evaluate, seed: int
) -> dict[str, Any]:
    """All numbers of one model, rounded to 6 decimals; those of `audit.summary` are among them.

    `vqa_accuracy` is of the examples with ten references, and left out where there are none: it
    counts the votes of the ten people whom the official scorer asks, and other numbers of
    references, such as a list of synonyms, are no such votes.
    `empty_rate` is the share of empty texts. `majority` is the exact match of always giving, to
    questions of one kind, the answer that is right for most of them. All are in 0 to 1 but the
    count `n`, the bounds of a difference and a rescaled BERTScore, which can be negative.

    Raises:
        UserError: no examples, a broken probability, or BERTScore's model is not there.
    """
    check(frame)
    frame = frame.assign(correct=correct(frame))
    metrics = _headline(frame, evaluate)
    audited, audited_bounds = audit.summary(frame, "exact_match", evaluate, seed)
    numbers = {
        **counts(frame),
        **values(metrics),
        "empty_rate": float(np.mean([not text.strip() for text in frame["generated"]])),
        **audited,
        "majority": majority(frame),
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
        UserError: the two frames are not of the same examples with the same references.
    """
    tuned = same_references(base, tuned)
    before, after = _headline(base, evaluate), _headline(tuned, evaluate)
    return rounded(paired_gains(before, after, base, evaluate, seed))


def plots(
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    labels: Sequence[str] | None,
    evaluate: Evaluate,
) -> dict[str, pd.DataFrame]:
    """The tables behind the plots, by name.

    `confusion` is of the tuned model and of normalised answers, each beyond the 12 most frequent
    references as OTHER, and as ANOTHER where the model gave it wrongly; an answer that is right
    stands with the first reference, whichever it matched. In `classes` a label is a kind of
    question, and its score the exact match.
    """
    base, tuned = (frame.assign(correct=correct(frame)) for frame in (base, tuned))
    tables = {
        "confusion": confusion(tuned),
        "classes": pd.concat([by_kind(base, "base"), by_kind(tuned, "tuned")]),
        **audit.tables(base, tuned, evaluate),
    }
    return {name: table.round(6) for name, table in tables.items()}


def check(frame: pd.DataFrame) -> None:
    """Refuse what cannot be judged.

    Raises:
        UserError: no examples, one without a reference, or a broken probability.
    """
    if frame.empty:
        raise UserError("there are no predictions to score: the split is empty")
    probability = frame["probability"].to_numpy(dtype=float)
    # Written so that NaN, which compares false, is refused.
    whole = (probability >= 0) & (probability <= 1 + _TOLERANCE)
    if not whole.all():
        example, value = frame[["id", "probability"]].iloc[int(np.argmin(whole))]
        raise UserError(
            f"{example!r}: the probability {value} of its answer is none; if it is nan, the model "
            "overflowed: use precision bf16 or fp32"
        )
    if without := [i for i, a in zip(frame["id"], frame["answers"], strict=True) if not len(a)]:
        raise UserError(f"{without[0]!r} has no reference to be judged by; prepare the data again")


def same_references(base: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """`tuned` in the order of `base`.

    Raises:
        UserError: the two frames are not of the same examples with the same references.
    """
    tuned = same_examples(base, tuned)
    for example, before, after in zip(base["id"], base["answers"], tuned["answers"], strict=True):
        if list(before) != list(after):
            raise UserError(
                f"{example!r} has other references in the base predictions than in the tuned "
                "ones; evaluate both on the same split"
            )
    return tuned


def majority(frame: pd.DataFrame) -> float:
    """Exact match of always giving, to questions of one kind, the answer right for most of them."""
    right = pd.DataFrame(
        {
            "kind": _kinds(frame),
            "answer": [{normalise(answer) for answer in answers} for answers in frame["answers"]],
        }
    ).explode("answer")
    most = right.groupby("kind")["answer"].agg(lambda answers: answers.value_counts().max())
    return float(most.sum() / len(frame))


def confusion(frame: pd.DataFrame) -> pd.DataFrame:
    """`actual, predicted` of each example, as `plots` says."""
    actual = pd.Series([normalise(answer) or EMPTY for answer in frame["answer"]])
    given = pd.Series([normalise(text) or EMPTY for text in frame["generated"]])
    right = frame["correct"].to_numpy()
    given = given.mask(right, actual)
    counts = actual.value_counts().rename_axis("answer").reset_index()
    ordered = counts.sort_values(["count", "answer"], ascending=[False, True])
    shown = ordered["answer"].iloc[:CONFUSED]
    # Two names, so that no wrong answer stands where right ones do.
    beyond = pd.Series(np.where(right, OTHER, ANOTHER))
    return pd.DataFrame(
        {
            "actual": actual.where(actual.isin(shown), OTHER),
            "predicted": given.where(given.isin(shown), beyond),
        }
    )


def by_kind(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    """One row a kind of question: `model, label, score, support`."""
    grouped = frame["correct"].groupby(_kinds(frame))
    table = pd.DataFrame({"score": grouped.mean(), "support": grouped.size()})
    table = table.rename_axis("label").reset_index()
    table.insert(0, "model", model)
    return table


def _headline(frame: pd.DataFrame, evaluate: Evaluate) -> Metrics:
    """The metrics that carry an interval and a gain."""
    pairs = list(zip(frame["generated"], frame["answers"], strict=True))
    voted = np.array([len(references) == PEOPLE for _, references in pairs])
    soft = [soft_accuracy(*pairs[i]) for i in np.flatnonzero(voted)]
    f1 = bertscore_f1(*zip(*pairs, strict=True), model=evaluate.bertscore)
    return {
        "exact_match": Metric(MEAN, (correct(frame).astype(float),)),
        **({"vqa_accuracy": Metric(MEAN, (np.array(soft),), chosen=voted)} if soft else {}),
        key(evaluate.bertscore): Metric(MEAN, (f1,)),
    }


def _kinds(frame: pd.DataFrame) -> np.ndarray:
    if "kind" not in frame:
        return np.full(len(frame), NO_KIND, dtype=object)
    return frame["kind"].astype(object).fillna(NO_KIND).to_numpy()
