"""The numbers of `metrics/<recipe>/base.json` and `tuned.json` for a class with an explanation.

A frame of predictions has one row an example: `id`, `label`, `predicted` (the most probable label),
`probability` (of it), `probabilities` (of all labels, in order), `generated` (the explanation),
`ended` (False: cut off) and `answers` (the reference explanations). What is right is the class, and
the plots are those of a task that names one.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from src.metrics import audit
from src.metrics.answer import check, ready, same_references
from src.metrics.classify import correct, of_classes, plots, same_labels, shares
from src.metrics.intervals import bounds, counts, paired_gains, rounded, values
from src.metrics.labels import brier, encode, majority
from src.metrics.texts import among, common, diversity, headline, rates
from src.schema import Evaluate

__all__ = ["correct", "gains", "plots", "ready", "summarise"]


def summarise(
    frame: pd.DataFrame, labels: Sequence[str], evaluate: Evaluate, seed: int
) -> dict[str, Any]:
    """All numbers of one model, rounded to 6 decimals; those of `audit.summary` are among them.

    The metrics of explanations, see `src/metrics/texts.py`, are of all examples, and those with
    `_correct` of the `n_correct` alone whose class is right, 0 where it never is: Kayser et al.
    (2021), e-ViL, https://arxiv.org/abs/2105.03761. Two models are right on different examples, so
    the latter have no gain.

    Raises:
        UserError: no examples, a name that is none of the labels, an example without a reference,
            broken probabilities, or BERTScore's model is not there.
    """
    check(frame)
    probabilities = shares(frame, len(labels))
    truth = encode(frame["label"], labels)
    frame = frame.assign(correct=correct(frame))
    explained = headline(frame, evaluate.bertscore)
    right = among(explained, frame["correct"].to_numpy(), "_correct")
    metrics = of_classes(frame, labels) | explained | right | rates(frame)
    audited, audited_bounds = audit.summary(frame, "accuracy", evaluate, seed)
    numbers = {
        **counts(frame),
        "n_correct": int(frame["correct"].sum()),
        **values(metrics),
        **diversity(frame),
        "brier": brier(truth, probabilities),
        **audited,
        "chance": 1 / len(labels),
        "majority": majority(truth),
        "interval": bounds(metrics, frame, evaluate, seed) | audited_bounds,
    }
    return rounded(numbers)


def gains(
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    labels: Sequence[str],
    evaluate: Evaluate,
    seed: int,
) -> dict[str, Any]:
    """`{metric: {value, low, high}}`: tuned minus base, with its paired interval.

    Raises:
        UserError: the two frames are not of the same examples with the same labels and references.
    """
    tuned = same_labels(base, same_references(base, tuned))
    before, after = (
        of_classes(frame, labels) | headline(frame, evaluate.bertscore) for frame in (base, tuned)
    )
    return rounded(paired_gains(common(before, after), after, base, evaluate, seed))
