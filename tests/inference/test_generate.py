from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional

from src.inference.generate import Draw, clean, end_tokens, generate
from src.models import language_model, load_base
from src.schema import Generation
from src.training.collator import IGNORED
from src.training.pretrain import EXAM
from tests.conftest import LABELS, score


@pytest.fixture(scope="module")
def model(architecture):
    return architecture.tuned().eval()


@pytest.fixture(scope="module")
def prompts(architecture, questions):
    return architecture.collator(questions, answers=False)


def likelihoods(model, collator, records, answers) -> np.ndarray:
    """Of one answer to each record, from one forward pass over both."""
    batch = collator.with_answers(records, answers)
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch).logits.float()
    if not collator.encoder_decoder:
        labels, logits = labels[:, 1:], logits[:, :-1]
    tokens = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (tokens * (labels != IGNORED)).sum(1).numpy()


def written(length: int = 6, **others) -> Generation:
    return EXAM.model_copy(update={"max_new_tokens": length, **others})


WAYS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "beams of other lengths": {"num_beams": 2, "length_penalty": -2.0},
    "sampled": {"temperature": 1.5, "top_p": 0.9},
    "never twice": {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_batch_size_changes_no_answer(model, prompts, faces, way):
    generation = written(**WAYS[way])
    alone = generate(model, prompts, faces, generation, batch_size=1)
    together = generate(model, prompts, faces, generation, batch_size=5)
    assert alone.texts == together.texts
    np.testing.assert_allclose(alone.likelihoods, together.likelihoods, rtol=1e-4, atol=1e-3)
    assert alone.tokens.tolist() == together.tokens.tolist()
    assert alone.ended.tolist() == together.ended.tolist()
    assert any(alone.texts), "a model that says nothing tests nothing"


@pytest.fixture
def reads(model, prompts):
    """Calls a function with the (rows, tokens) that the language model, or its encoder, reads."""
    reader, hooks = language_model(model), []
    if prompts.encoder_decoder:
        reader = reader.encoder

    def told(note):
        def hook(module, args, given):
            read = (given.get(name) for name in ("input_ids", "inputs_embeds"))
            note(*next(tokens.shape[:2] for tokens in read if tokens is not None))

        # Before the batch is packed.
        hooks.append(reader.register_forward_pre_hook(hook, prepend=True, with_kwargs=True))

    yield told
    for hook in hooks:
        hook.remove()


def test_a_batch_that_memory_cannot_hold_is_halved(model, prompts, faces, reads, capsys):
    expected = generate(model, prompts, faces, written(3), batch_size=2)
    tried, held = [], 3 * max(prompts.lengths(faces))

    def fill(rows, tokens):
        if tokens == 1:
            return  # reads on from prompts that it holds already
        tried.append(rows)
        if rows * tokens > held:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    reads(fill)
    found = generate(model, prompts, faces, written(3), batch_size=12)
    assert tried[:3] == [12, 6, 3]
    assert sum(tried) == 12 + 6 + 12, "a batch after it was too large again"
    assert found.texts == expected.texts
    told = "generate: out of memory with 6; going on with half as many at a time"
    assert told in capsys.readouterr().err


def test_beams_find_what_is_likelier_than_the_greedy_answer(model, prompts, faces):
    # By the sum: a length is no part of it.
    one, many = (
        generate(model, prompts, faces, written(10, num_beams=n, length_penalty=0.0), 12)
        for n in (1, 6)
    )
    assert (many.likelihoods >= one.likelihoods - 1e-3).mean() > 0.7
    assert many.likelihoods.sum() >= one.likelihoods.sum() - 1e-3


def test_a_sample_hangs_on_the_seed_and_the_record_alone(model, prompts, faces):
    generation = written(temperature=30.0)
    first = generate(model, prompts, faces, generation, 4, seed=1).texts
    assert generate(model, prompts, faces[::-1], generation, 4, seed=1).texts == first[::-1]
    assert generate(model, prompts, faces, generation, 4, seed=2).texts != first
    cold = generate(model, prompts, faces, written(temperature=1e-4), 4).texts
    assert cold == generate(model, prompts, faces, written(), 4).texts


def test_samples_come_as_often_as_the_model_finds_them_likely():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    draws = 4000
    generators = [torch.Generator().manual_seed(i) for i in range(draws)]
    drawn = Draw(generators)(None, logits.repeat(draws, 1)).argmax(1)
    shares = torch.bincount(drawn, minlength=4) / draws
    torch.testing.assert_close(shares, logits.softmax(0), atol=0.03, rtol=0)


def test_no_phrase_is_written_twice_where_it_may_not_be(model, prompts, faces, monkeypatch):
    rows = []
    monkeypatch.setattr(
        prompts.tokenizer, "batch_decode", lambda new, *_: rows.extend(new) or [""] * len(new)
    )
    generate(model, prompts, faces, written(24, no_repeat_ngram_size=2), 12)
    assert max(map(len, rows)) > 4
    for row in rows:
        pairs = list(pairwise(row))
        assert len(pairs) == len(set(pairs))


def test_a_text_that_was_cut_off_is_told_from_one_that_ended(model, prompts, faces):
    cut = generate(model, prompts, faces[:2], written(1), 2)
    assert cut.tokens.tolist() == [1, 1]
    settings = model.get_base_model()
    language_model = getattr(settings, "language_model", settings)
    before = language_model.generation_config.eos_token_id
    every = list(range(len(prompts.tokenizer)))
    language_model.generation_config.eos_token_id = every
    try:
        ended = generate(model, prompts, faces[:2], written(5), 2)
    finally:
        language_model.generation_config.eos_token_id = before
    assert ended.ended.all()
    assert ended.tokens.tolist() == [1, 1]
    assert not cut.ended.all()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("  a  red\n\ncircle ", "a red circle"),
        ("red<|im_end|>", "red"),
        ("<|vision_start|>caf\u0065\u0301 \ufffd", "caf\u00e9"),
        ("2 < 3 | 4 > 1", "2 < 3 | 4 > 1"),
        ("", ""),
    ],
)
def test_a_text_is_cleaned_of_what_is_no_text(raw, expected):
    assert clean(raw) == expected


def test_batch_size_changes_no_score(model, prompts, faces):
    alone = score(model, prompts, faces, LABELS, batch_size=1)
    together = score(model, prompts, faces, LABELS, batch_size=5)
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-4)
    assert (alone.argmax(1) == together.argmax(1)).all()


@pytest.mark.parametrize("answers", [LABELS, ["Joy", "Joy and some anger", "", "J", "Joy"], [""]])
def test_scores_are_those_of_one_forward_pass_per_answer(
    architecture, model, prompts, questions, faces, answers
):
    collator = architecture.collator(questions, answers=True)
    found = score(model, prompts, faces[:4], answers, batch_size=4)
    for column, answer in enumerate(answers):
        expected = likelihoods(model, collator, faces[:4], [answer] * 4)
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_the_likelihood_of_a_text_is_that_of_its_tokens_to_the_end(
    architecture, model, prompts, questions, faces, way, monkeypatch
):
    ids = []
    monkeypatch.setattr(prompts.tokenizer, "batch_decode", lambda rows, *_: ids.extend(rows) or "?")
    collator = architecture.collator(questions, answers=True)
    for face in faces[:2]:
        found = generate(model, prompts, [face], written(4, **WAYS[way]), batch_size=2)
        monkeypatch.setattr(collator, "answer_ids", lambda _: ids[-1])
        expected = likelihoods(model, collator, [face], [""])
        np.testing.assert_allclose(found.likelihoods, expected, atol=1e-3)
        assert found.tokens == [len(ids[-1])]


@pytest.mark.parametrize("way", WAYS)
def test_choices_score_the_same_whatever_is_written_before(model, prompts, faces, way):
    expected = score(model, prompts, faces, LABELS, batch_size=5)
    found = generate(model, prompts, faces, written(**WAYS[way]), 5, choices=LABELS)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-4)
    alone = generate(model, prompts, faces, written(**WAYS[way]), 5)
    assert found.texts == alone.texts
    assert alone.scores is None


def test_a_decoder_reads_a_prompt_once_for_a_text_its_likelihood_and_all_scores(
    model, prompts, faces, reads
):
    if prompts.encoder_decoder:
        pytest.skip("its encoder reads once more")
    read = []
    reads(lambda *shape: read.append(shape))
    generate(model, prompts, faces[:4], written(3), 4, choices=LABELS)
    width = max(prompts.lengths(faces[:4]))
    answering = sum(len(prompts.answer_ids(label)) - 1 for label in LABELS)
    assert read == [(4, width), (4, 1), (4, 1), (4, answering)]


def test_a_text_ends_where_training_ends_it_and_where_the_base_does(architecture, model, prompts):
    language_model = getattr(model.get_base_model(), "language_model", model.get_base_model())
    settings = language_model.generation_config
    before = settings.eos_token_id
    settings.eos_token_id = 77
    try:
        assert {77, prompts.tokenizer.eos_token_id} <= set(end_tokens(model, prompts))
    finally:
        settings.eos_token_id = before


def test_special_tokens_and_white_space_are_not_part_of_an_answer(model, prompts, faces):
    for text in generate(model, prompts, faces[:3], written(8), batch_size=3).texts:
        assert not any(special in text for special in ("<|", "<s>", "</s>", "<pad>", "<image>"))
        assert text == text.strip()


def test_a_model_in_half_precision_says_and_scores(architecture, prompts, faces, monkeypatch):
    half = load_base(
        architecture.base, architecture.recipe.model_copy(update={"precision": "bf16"})
    )
    attention = functional.scaled_dot_product_attention

    def strict(query, key, value, attn_mask=None, **options):
        # As on a GPU: a CPU takes a mask of any dtype.
        assert attn_mask is None or attn_mask.dtype in (torch.bool, query.dtype)
        return attention(query, key, value, attn_mask=attn_mask, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", strict)
    said = generate(half, prompts, faces[:3], written(3), batch_size=2)
    assert len(said.texts) == 3
    assert np.isfinite(said.likelihoods).all()
    assert np.isfinite(score(half, prompts, faces[:3], LABELS, batch_size=2)).all()
