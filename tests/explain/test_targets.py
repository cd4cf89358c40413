import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from src.explain import maps
from src.explain.targets import (
    AnswerLikelihood,
    ClassLikelihood,
    WordLikelihoods,
    scored,
    spelt,
)
from src.inference.generate import classify
from src.training.collator import foretell
from tests.conftest import score
from tests.explain.conftest import CLASSES, small

TEXTS = ["a red circle moves left", "it grows.", "", "one two three four five six seven"]


def numbers(explained, times=1):
    with torch.no_grad():
        return explained(explained.pixels().repeat_interleave(times, 0)).numpy()


def test_the_explained_number_of_a_video_is_the_score_of_its_text(captioner, videos):
    model, collator = captioner
    found = numbers(AnswerLikelihood(model, collator, videos, TEXTS))
    expected = np.diag(score(model, collator, videos, TEXTS, batch_size=4))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5, atol=1e-4)


def test_the_explained_class_is_that_of_the_second_head(two_heads, statements):
    model, collator = two_heads
    names = [CLASSES[i] for i in (0, 1, 1, 0)]
    found = numbers(ClassLikelihood(model, collator, statements, names), times=2)
    logits = torch.from_numpy(classify(model, collator, statements, batch_size=2))
    expected = logits.log_softmax(1)[torch.arange(4), [0, 1, 1, 0]].repeat_interleave(2)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert len({round(float(value), 4) for value in found[:, 0]}) > 1


@pytest.mark.parametrize("times", [1, 3])
def test_words_are_the_sums_of_their_tokens(captioner, videos, times):
    model, collator = captioner
    explained = WordLikelihoods(model, collator, videos, TEXTS, most=6)
    found = numbers(explained, times).reshape(4, times, 6)
    assert explained.words == [text.split() for text in TEXTS]
    for record, text, rows in zip(videos, TEXTS, found, strict=True):
        with torch.no_grad():
            said = foretell(model, collator.with_answers([record], [text]))
        each = functional.log_softmax(said.logits, -1).gather(1, said.targets[:, None])[:, 0]
        expected, ids = np.zeros(6), collator.answer_ids(text)
        written = ""
        for token, value in zip(ids[:-1], each[:-1].tolist(), strict=True):
            written += collator.tokenizer.decode([token])
            if len(written.split()) <= 6:
                expected[len(written.split()) - 1] += value
        for row in rows:
            np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)


def test_words_and_the_end_token_make_up_the_text(architecture, questions, faces):
    model = architecture.tuned().eval()
    collator = architecture.collator(questions, answers=True)
    texts = ["a joyful face", "it is so"]
    explained = WordLikelihoods(model, collator, faces[:2], texts, most=12)
    assert explained.words == [text.split() for text in texts]
    found = numbers(explained)
    for record, text, row in zip(faces, texts, found, strict=False):
        with torch.no_grad():
            said = foretell(model, collator.with_answers([record], [text]))
        each = functional.log_softmax(said.logits, -1).gather(1, said.targets[:, None])[:, 0]
        np.testing.assert_allclose(row.sum(), each[:-1].sum(), rtol=1e-4, atol=1e-3)
        assert (row < 0).all()


def test_every_token_has_a_word(captioner):
    tokenizer = captioner[1].tokenizer

    def words(text):
        return spelt(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])

    read, places = words("unquestionably  naïve, 東京 yes")
    assert read == ["unquestionably", "naïve,", "東京", "yes"]
    assert sorted(set(places)) == [0, 1, 2, 3]
    assert places == sorted(places)
    assert places.count(0) > 1
    assert words("  a") == (["a"], [0, 0])
    assert words("") == ([], [])


def test_texts_without_a_word_still_have_a_map_of_their_end(captioner, videos):
    model, collator = captioner
    assert WordLikelihoods(model, collator, videos[:2], ["", ""], most=6).count == 0
    explained = AnswerLikelihood(model, collator, videos[:2], ["", ""])
    found = maps.gradcam(explained, explained.grid(4))
    assert found.shape == (2, 2, 8)
    assert np.isfinite(found).all()


def test_maps_of_the_words_of_a_video(captioner, videos):
    model, collator = captioner
    explained = WordLikelihoods(model, collator, videos[:2], TEXTS[:2], most=12)
    grid = explained.grid(6)
    for found in (maps.gradcams(explained, grid), maps.occlusions(explained, grid, 8)):
        assert found.shape == (5, 2, 3, 12)
        assert np.isfinite(found).all()
        assert (np.ptp(found.reshape(5, 2, -1), axis=2) > 0).tolist() == [
            [True, True],
            [True, True],
            *[[True, False]] * 3,
        ]


def test_words_of_half_precision(base, params, statements):
    recipe = params.recipes["esnlive_qwen2vl"].model_copy(update={"precision": "bf16"})
    model, collator = small(base, recipe, classes=2)
    texts = ["it is so"] * 4
    for explained in (
        WordLikelihoods(model, collator, statements, texts, most=12),
        ClassLikelihood(model, collator, statements, [CLASSES[0]] * 4),
    ):
        for found in (maps.gradcams(explained, (4, 4)), maps.occlusions(explained, (4, 4), 8)):
            assert found.shape == (explained(explained.pixels()).shape[1], 4, 4, 4)
            assert np.isfinite(found).all()


@pytest.mark.parametrize("cells", [7, 8, 14])
def test_a_film_strip_has_about_as_many_cells_as_a_picture(captioner, videos, cells):
    model, collator = captioner
    for frames in (2, 7, 8):
        records = [{**videos[0], "video": videos[0]["video"][:frames]}]
        explained = AnswerLikelihood(model, collator, records, ["a"])
        rows, columns = explained.grid(cells)
        assert columns == rows * math.ceil(frames / 2)
        assert 0.6 * cells**2 <= rows * columns <= 1.4 * cells**2


def test_a_class_is_scored_where_a_head_names_it_and_else_the_text(
    two_heads, captioner, base, params, statements, videos
):
    rows = pd.DataFrame({"predicted": [CLASSES[0]] * 4, "generated": TEXTS})
    assert isinstance(scored(*two_heads, statements, rows), ClassLikelihood)
    model, collator = small(base, params.recipes["esnlive_qwen2vl"])
    found = numbers(scored(model, collator, statements, rows))
    expected = np.diag(score(model, collator, statements, TEXTS, batch_size=4))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5, atol=1e-4)
    of_videos = pd.DataFrame({"predicted": TEXTS, "generated": TEXTS})
    assert isinstance(scored(*captioner, videos, of_videos), AnswerLikelihood)
