import numpy as np
import pytest
import torch

from src.inference.generate import end_tokens, generate, score
from src.models import load_base
from src.training.collator import IGNORED
from tests.conftest import LABELS


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


def test_batch_size_changes_no_answer(model, prompts, faces):
    alone, likely = generate(model, prompts, faces, max_new_tokens=6, batch_size=1)
    together, as_likely = generate(model, prompts, faces, max_new_tokens=6, batch_size=5)
    assert alone == together
    np.testing.assert_allclose(likely, as_likely, rtol=1e-4, atol=1e-3)
    assert any(alone), "a model that says nothing tests nothing"


def test_batch_size_changes_no_score(model, prompts, faces):
    alone = score(model, prompts, faces, LABELS, batch_size=1)
    together = score(model, prompts, faces, LABELS, batch_size=5)
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-4)
    assert (alone.argmax(1) == together.argmax(1)).all()


def test_scores_are_those_of_one_forward_pass_per_answer(
    architecture, model, prompts, questions, faces
):
    collator = architecture.collator(questions, answers=True)
    found = score(model, prompts, faces[:4], LABELS, batch_size=4)
    for column, label in enumerate(LABELS):
        expected = likelihoods(model, collator, faces[:4], [label] * 4)
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-5, atol=1e-4)


def test_the_likelihood_of_a_text_is_that_of_its_tokens_to_the_end(
    architecture, model, prompts, questions, faces, monkeypatch
):
    """Taught by hand to say one word and stop, its likelihood is the word's score."""
    texts, found = generate(model, prompts, faces[:2], max_new_tokens=4, batch_size=2)
    collator = architecture.collator(questions, answers=True)
    ids = []
    monkeypatch.setattr(
        prompts.tokenizer, "batch_decode", lambda new, **_: ids.extend(new.tolist()) or texts
    )
    generate(model, prompts, faces[:2], max_new_tokens=4, batch_size=2)
    ends = end_tokens(model, prompts)
    for number, row in enumerate(ids):
        stop = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
        monkeypatch.setattr(collator, "answer_ids", lambda _, own=row[:stop]: own)
        expected = likelihoods(model, collator, [faces[number]], [""])
        np.testing.assert_allclose(found[number], expected[0], atol=1e-3)


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
    for text in generate(model, prompts, faces[:3], max_new_tokens=8, batch_size=3)[0]:
        assert not any(special in text for special in ("<|", "<s>", "</s>", "<pad>", "<image>"))
        assert text == text.strip()


def test_a_model_in_half_precision_says_and_scores(architecture, prompts, faces):
    half = load_base(
        architecture.base, architecture.recipe.model_copy(update={"precision": "bf16"})
    )
    texts, likely = generate(half, prompts, faces[:3], max_new_tokens=3, batch_size=2)
    assert len(texts) == 3
    assert np.isfinite(likely).all()
    assert np.isfinite(score(half, prompts, faces[:3], LABELS, batch_size=2)).all()
