"""Corpus BLEU by sacrebleu: shared sequences of one to four tokens (Papineni et al., 2002).

Tokens are those of `mteval-v13a`, sacrebleu's default: upper and lower case differ, marks are
tokens of their own. Where no sequence of some length matches, its precision is smoothed
exponentially, as there. In 0 to 1, a hundredth of sacrebleu's number.
"""

from collections.abc import Sequence

import evaluate
import numpy as np
from sacrebleu.metrics.bleu import BLEU

from .common import info

ORDER = 4


def statistics(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[np.ndarray, ...]:
    """Ten columns of counts (n,), whose sums over texts are all that `corpus_bleu` needs.

    Matches of one to four tokens, sequences of one to four tokens, tokens, and tokens of the
    reference whose length is closest.
    """
    # The order changes no count, and without it sacrebleu warns of scores that are not used.
    scorer = BLEU(effective_order=True)
    rows = []
    for text, several in zip(predictions, references, strict=True):
        score = scorer.sentence_score(text, list(several))
        rows.append((*score.counts, *score.totals, score.sys_len, score.ref_len))
    return tuple(np.array(rows, dtype=np.int64).T)


def corpus_bleu(*columns: np.ndarray) -> np.ndarray:
    """BLEU of the texts along the last axis of the columns (..., n) of `statistics`, as (...)."""
    *counts, length, closest = (column.sum(axis=-1) for column in columns)
    smoothed, logarithms = 1, 0
    for matches, sequences in zip(counts[:ORDER], counts[ORDER:], strict=True):
        smoothed = np.where(matches == 0, 2 * smoothed, smoothed)
        precision = np.where(matches == 0, 1 / smoothed, matches) / np.maximum(sequences, 1)
        logarithms = logarithms + np.log(precision)
    brevity = np.minimum(0, 1 - closest / np.maximum(length, 1))
    # Without one match, or one sequence of four tokens, sacrebleu's BLEU is 0.
    defined = (counts[0] > 0) & (counts[2 * ORDER - 1] > 0)
    return np.where(defined, np.exp(logarithms / ORDER + brevity), 0.0)


class Bleu(evaluate.Metric):
    """`bleu4`, of all texts together."""

    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__, "https://aclanthology.org/P02-1040, https://aclanthology.org/W18-6319")

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"bleu4": float(corpus_bleu(*statistics(predictions, references)))}
