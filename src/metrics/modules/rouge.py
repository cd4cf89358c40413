"""ROUGE by rouge-score: shared words and sequences of words (Lin, 2004).

Tokens are runs of a-z and 0-9 in lower case, as of ROUGE-1.5.5, so a text in another script has
none and scores 0.
"""

from collections.abc import Sequence

import evaluate
import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from .common import info

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
RECALL, PRECISION, F1 = range(3)


def rouge(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    kinds: Sequence[str] = KINDS,
    stem: bool = False,
) -> dict[str, np.ndarray]:
    """By kind, recall, precision and F1 (n, 3) of each text against its best reference by F1.

    `rougeLsum` takes each line for a sentence. With `stem`, words are cut to their stems.
    """
    scorer = RougeScorer(list(kinds), use_stemmer=stem)
    pairs = zip(references, predictions, strict=True)
    best = [scorer.score_multi(list(several), text) for several, text in pairs]
    return {
        kind: np.array([(s[kind].recall, s[kind].precision, s[kind].fmeasure) for s in best])
        for kind in kinds
    }


class Rouge(evaluate.Metric):
    """Means over the texts: `rouge1` is F1, beside `rouge1_recall` and `rouge1_precision`."""

    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__, "https://aclanthology.org/W04-1013")

    def _compute(
        self, predictions: list[str], references: list[list[str]], stem: bool = False
    ) -> dict[str, float]:
        found = {}
        for kind, scores in rouge(predictions, references, stem=stem).items():
            recall, precision, f1 = scores.mean(axis=0).tolist()
            found |= {kind: f1, f"{kind}_recall": recall, f"{kind}_precision": precision}
        return found
