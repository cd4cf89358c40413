"""What generated texts are worth beside their references, and whether a model is stuck.

Words are runs of letters, digits and apostrophes, in lower case, but in the metrics of `headline`,
whose tokens are those of the modules in `src/metrics/modules`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from src.metrics.bertscore import bertscore_f1, key
from src.metrics.intervals import MEAN, Metric, Metrics
from src.metrics.modules.bleu import corpus_bleu, statistics
from src.metrics.modules.coco import cider
from src.metrics.modules.meteor import meteor
from src.metrics.modules.rouge import F1, rouge

# What `is_repetitive` goes by.
IN_A_ROW, REPEATED, WORDS = 3, 1 / 3, 4
_WORD = re.compile("[\\w'\u2019]+")
# A piece of a word, or of a script without spaces, ten times.
_STUCK = re.compile(r"(\S{1,8}?)\1{9}")


def headline(frame: pd.DataFrame, model: str) -> Metrics:
    """The metrics of `generated` against `answers`, with columns of one number an example.

    `rouge1`, `rougeL`, `bleu4`, `meteor`, `cider` and BERTScore's, by `model`. BLEU is of all texts
    together, in each resample too; the others are means over the texts, CIDEr's weights being of
    all references in the frame. A reference that an example has several times counts once. All are
    in 0 to 1 but `cider`, in 0 to 10, and a rescaled BERTScore. `meteor` is left out where Java is
    missing.
    """
    references = tuple(tuple(dict.fromkeys(several)) for several in frame["answers"])
    return dict(_headline(tuple(frame["generated"]), references, model))


# The tuned model's numbers and its gains are of the same texts.
@lru_cache(maxsize=2)
def _headline(
    texts: tuple[str, ...], references: tuple[tuple[str, ...], ...], model: str
) -> Metrics:
    overlap = rouge(texts, references, ("rouge1", "rougeL"))
    matched = meteor(texts, references)
    return {
        **{name: Metric(MEAN, (scores[:, F1],)) for name, scores in overlap.items()},
        "bleu4": Metric(corpus_bleu, statistics(texts, references)),
        **({} if matched is None else {"meteor": Metric(MEAN, (matched[1],))}),
        "cider": Metric(MEAN, (cider(texts, references),), greatest=10.0),
        key(model): Metric(MEAN, (bertscore_f1(texts, references, model),)),
    }


def among(metrics: Metrics, chosen: np.ndarray, suffix: str) -> Metrics:
    """The metrics of the chosen examples (n,) alone, under longer names; 0 where there are none.

    What an example scores is not computed anew, so CIDEr's weights stay those of all references.
    """
    any_chosen = bool(chosen.any())
    kept = chosen if any_chosen else np.arange(len(chosen)) == 0
    return {
        f"{name}{suffix}": metric._replace(
            columns=tuple(column[kept] * any_chosen for column in metric.columns), chosen=kept
        )
        for name, metric in metrics.items()
    }


def common(before: Metrics, after: Metrics) -> Metrics:
    """Those of `before` that `after` has too: Java may fail in between."""
    return {name: metric for name, metric in before.items() if name in after}


def rates(frame: pd.DataFrame) -> Metrics:
    """Shares of `generated` that are empty, repetitive and truncated, in 0 to 1.

    Truncated is what was stopped at `max_new_tokens` before it `ended`.
    """
    columns = {
        "empty_rate": [not text.strip() for text in frame["generated"]],
        "repetitive_rate": [is_repetitive(text) for text in frame["generated"]],
        "truncated_rate": ~frame["ended"].to_numpy(dtype=bool),
    }
    return {name: Metric(MEAN, (np.asarray(column, float),)) for name, column in columns.items()}


def diversity(frame: pd.DataFrame) -> dict[str, float]:
    """`distinct_1`, `distinct_2` and `identical_rate` of `generated`, in 0 to 1."""
    texts = list(frame["generated"])
    return {
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "identical_rate": identical_rate(texts),
    }


def is_repetitive(text: str) -> bool:
    """Whether a text goes round in circles.

    It does where words stand three times in a row, a few characters without a space ten times, as
    in `!!!!!!!!!!`, or where more than a third of its sequences of four words stood in it before:
    seq-rep-4 of Welleck et al. (2020), Neural Text Generation with Unlikelihood Training.
    """
    words = _words(text)
    sequences = _sequences(words, WORDS)
    repeated = len(sequences) - len(set(sequences))
    return _STUCK.search(text) is not None or _loops(words) or repeated > REPEATED * len(sequences)


def distinct(texts: Sequence[str], n: int) -> float:
    """Different sequences of `n` words in all texts, divided by the number of words; 0 if none.

    Li et al. (2016), A Diversity-Promoting Objective Function for Neural Conversation Models.
    """
    split = [_words(text) for text in texts]
    different = {sequence for words in split for sequence in _sequences(words, n)}
    return len(different) / max(sum(len(words) for words in split), 1)


def identical_rate(texts: Sequence[str]) -> float:
    """Share of the texts that have the same words as the most frequent one: 1 if all are one."""
    counts = Counter(tuple(_words(text)) for text in texts)
    return max(counts.values()) / len(texts)


def _loops(words: list[str]) -> bool:
    """Whether one word or several stand IN_A_ROW times in a row."""
    for length in range(1, len(words) // IN_A_ROW + 1):
        run = 0
        for earlier, later in zip(words, words[length:], strict=False):
            run = run + 1 if earlier == later else 0
            if run == (IN_A_ROW - 1) * length:
                return True
    return False


def _sequences(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
