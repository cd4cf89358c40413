"""BERTScore by bert-score: words matched by what a language model makes of them.

Tokens are the model's own. Unlike the modules beside it, it needs this repository on the path of
imports: the models are those of `src/metrics/bertscore.py`.
"""

import evaluate

from src.metrics.bertscore import bertscore_f1, key

from .common import info


class BertScore(evaluate.Metric):
    """`bertscore_f1_<model>`, the mean over the texts."""

    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__, "https://arxiv.org/abs/1904.09675")

    def _compute(
        self, predictions: list[str], references: list[list[str]], model: str = "all-MiniLM-L6-v2"
    ) -> dict[str, float]:
        return {key(model): float(bertscore_f1(predictions, references, model).mean())}
