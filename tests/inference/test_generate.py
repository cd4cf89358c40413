import numpy as np
import pytest
import torch

from src.families import qwen2_vl
from src.inference.generate import generate, score
from src.models import add_lora, load_base
from src.training.collator import IGNORED, Collator
from tests.conftest import LABELS


@pytest.fixture(scope="module")
def model(base, recipe):
    torch.manual_seed(0)
    tuned = add_lora(load_base(base, recipe), recipe.lora)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return tuned.eval()


def test_batch_size_changes_no_answer(model, processor, questions, faces):
    collator = Collator(processor, qwen2_vl, questions, answers=False)
    alone = generate(model, collator, faces, max_new_tokens=6, batch_size=1)
    together = generate(model, collator, faces, max_new_tokens=6, batch_size=5)
    assert alone == together
    assert any(alone), "a model that says nothing tests nothing"


def test_batch_size_changes_no_score(model, processor, questions, faces):
    collator = Collator(processor, qwen2_vl, questions, answers=False)
    alone = score(model, collator, faces, LABELS, batch_size=1)
    together = score(model, collator, faces, LABELS, batch_size=5)
    np.testing.assert_allclose(alone, together, atol=1e-4)
    assert (alone.argmax(1) == together.argmax(1)).all()


def test_scores_are_those_of_one_forward_pass_per_answer(model, processor, questions, faces):
    with_answers = Collator(processor, qwen2_vl, questions, answers=True)
    prompts = Collator(processor, qwen2_vl, questions, answers=False)
    found = score(model, prompts, faces[:4], LABELS, batch_size=4)
    for column, label in enumerate(LABELS):
        batch = with_answers.with_answers(faces[:4], [label] * 4)
        labels = batch.pop("labels")[:, 1:]
        with torch.no_grad():
            likelihood = model(**batch).logits[:, :-1].float().log_softmax(-1)
        tokens = likelihood.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        expected = (tokens * (labels != IGNORED)).sum(1)
        np.testing.assert_allclose(found[:, column], expected, atol=1e-4)


def test_special_tokens_and_white_space_are_not_part_of_an_answer(
    model, processor, questions, faces
):
    collator = Collator(processor, qwen2_vl, questions, answers=False)
    for text in generate(model, collator, faces[:3], max_new_tokens=8, batch_size=3):
        assert "<|" not in text
        assert text == text.strip()


def test_a_model_in_half_precision_says_and_scores(base, recipe, processor, questions, faces):
    half = load_base(base, recipe.model_copy(update={"precision": "bf16"}))
    collator = Collator(processor, qwen2_vl, questions, answers=False)
    assert len(generate(half, collator, faces[:3], max_new_tokens=3, batch_size=2)) == 3
    assert np.isfinite(score(half, collator, faces[:3], LABELS, batch_size=2)).all()
