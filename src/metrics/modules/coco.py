"""The scores of the COCO captions by pycocoevalcap: CIDEr, and BLEU and ROUGE-L as defined there.

Tokens are what white space separates, as they are: COCO's own tokenizer needs Java. The BLEU and
ROUGE-L of other work are those of `bleu.py` and `rouge.py`.
"""

from collections.abc import Sequence

import evaluate
import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from .common import info, one_line


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """BLEU of all texts together, of up to 1, 2, 3 and 4 tokens, each in 0 to 1."""
    return Bleu(4).compute_score(*_keyed(predictions, references), verbose=0)[0]


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """ROUGE-L (n,) in 0 to 1, with the best recall and the best precision of any reference."""
    scores = Rouge().compute_score(*_keyed(predictions, references))[1]
    # An empty text would equal an empty reference.
    return np.where([bool(text.strip()) for text in predictions], scores, 0.0)


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """CIDEr-D (n,) of each text, 0 to 10; what is rare among all these references weighs more.

    Vedantam et al. (2015), https://arxiv.org/abs/1411.5726. Of a single text all weights are 0.
    """
    if not any(reference.strip() for several in references for reference in several):
        return np.zeros(len(predictions))
    return Cider().compute_score(*_keyed(predictions, references))[1]


def _keyed(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """References and texts by number, as pycocoevalcap takes them."""
    several = {i: [one_line(r) for r in references[i]] for i in range(len(references))}
    return several, {i: [one_line(text)] for i, text in enumerate(predictions)}


class Coco(evaluate.Metric):
    """`Bleu_1` to `Bleu_4`, `ROUGE_L` and `CIDEr`, named as there."""

    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__, "https://arxiv.org/abs/1504.00325")

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        texts = predictions, references
        return {
            **{f"Bleu_{n}": score for n, score in enumerate(bleu(*texts), start=1)},
            "ROUGE_L": float(rouge_l(*texts).mean()),
            "CIDEr": float(cider(*texts).mean()),
        }
