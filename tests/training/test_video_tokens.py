"""As many tokens in the prompt as features from the tower: for every clip, size and length."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from src import models, tasks
from src.errors import UserError
from src.inference.generate import generate
from src.training import losses, trainer
from src.training.load import collator_of
from src.training.pretrain import EXAM
from src.training.prompts import as_tensor


@pytest.fixture(scope="module")
def recipe(params):
    return params.recipes["video_qwen2vl"]


@pytest.fixture(scope="module")
def collator(base, recipe):
    return collator_of(base, recipe, tasks.load(recipe, None), answers=True)


@pytest.fixture(scope="module")
def model(base, recipe):
    return models.load_base(base, recipe)


def record(frames: int, side: int, caption: str = "a red circle", seed: int = 0) -> dict:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    video = [Pillow.fromarray(frame) for frame in pixels]
    return {
        "id": f"videos/{seed}.mp4",
        "image": None,
        "video": video,
        "question": None,
        "answers": [caption],
        "label": None,
    }


@settings(deadline=None, max_examples=25)
@given(
    frames=st.integers(1, 8),
    cells=st.integers(1, 4),
    captions=st.lists(st.text(max_size=30), min_size=1, max_size=3),
)
def test_a_prompt_holds_as_many_video_tokens_as_there_are_features(
    collator, model, frames, cells, captions
):
    rows = [record(frames, 28 * cells, caption, i) for i, caption in enumerate(captions)]
    batch = collator(rows)
    inside = (batch["input_ids"] == model.config.video_token_id).sum(1)
    with torch.no_grad():
        features = model.get_video_features(
            batch["pixel_values_videos"], batch["video_grid_thw"]
        ).pooler_output
        assert torch.isfinite(losses.AnswerLoss().compute_loss(model, batch))
    assert inside.tolist() == [len(one) for one in features]
    assert inside.tolist() == [-(-frames // 2) * cells**2] * len(rows)


def test_values_are_scaled_once_and_keep_their_order():
    levels = [0, 51, 102, 255]
    tensor = as_tensor([Pillow.new("RGB", (28, 28), (level, 0, 255)) for level in levels])
    assert tensor.shape == (4, 3, 28, 28)
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor[:, 0, 0, 0], torch.tensor([0, 0.2, 0.4, 1]))
    assert (tensor[:, 2] == 1).all()


def test_the_processor_normalises_what_it_is_given_once(collator):
    own = collator.processor.video_processor
    white = record(2, 28)
    white["video"] = [Pillow.new("RGB", (28, 28), "white")] * 2
    pixels = collator([white])["pixel_values_videos"]
    expected = (1 - torch.tensor(own.image_mean)) / torch.tensor(own.image_std)
    # A patch is laid out as channels, then two frames of 14 by 14.
    found = pixels.reshape(len(pixels), 3, -1)
    torch.testing.assert_close(found, expected[None, :, None].expand_as(found))


def dataset(rows: list[dict]) -> Dataset:
    features = Features(
        {
            "id": Value("string"),
            "image": Image(),
            "video": List(Image()),
            "question": Value("string"),
            "answers": List(Value("string")),
            "label": Value("string"),
        }
    )
    return Dataset.from_list(rows, features=features)


def test_a_clip_that_does_not_fit_is_refused_before_training_with_the_length_it_needs(
    collator, recipe, model, tmp_path
):
    rows = [record(8, 56), record(8, 56, "a caption of rather more words than the first", 1)]
    longest = collator(rows)["input_ids"].shape[1]
    assert longest == max(collator([row])["input_ids"].shape[1] for row in rows)
    examples = dataset(rows)
    trainer.check_lengths(collator, examples, longest, "train")
    short = recipe.train.model_copy(update={"max_length": longest - 1})
    with pytest.raises(UserError) as fault:
        trainer.train(
            models.add_lora(model, recipe.lora), collator, examples, examples, short, tmp_path, 1
        )
    assert f"videos/1.mp4: prompt, video and answer are {longest} tokens" in str(fault.value)
    assert f"raise it to {longest}" in str(fault.value)


def test_nothing_is_ever_cut_off(collator):
    """Whatever the tokenizer's own limit is, no token of a video is lost."""
    before = collator.tokenizer.model_max_length
    collator.tokenizer.model_max_length = 8
    try:
        batch = collator([record(8, 112)])
    finally:
        collator.tokenizer.model_max_length = before
    pad = collator.processor.video_token_id
    assert (batch["input_ids"] == pad).sum() == 4 * 16


def test_batch_size_changes_no_caption(collator, base, recipe):
    torch.manual_seed(0)
    tuned = models.add_lora(models.load_base(base, recipe), recipe.lora).eval()
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    rows = [record(8, 56, seed=i) | {"question": "What? " * (i + 1)} for i in range(5)]
    generation = EXAM.model_copy(update={"num_beams": 3})
    alone, together = (generate(tuned, collator, rows, generation, n) for n in (1, 5))
    assert alone.texts == together.texts
    np.testing.assert_allclose(alone.likelihoods, together.likelihoods, rtol=1e-4, atol=1e-3)
    assert any(alone.texts)


def test_a_caption_hangs_on_the_order_of_the_frames(collator, model):
    there = record(8, 56)
    back = there | {"video": there["video"][::-1]}
    with torch.no_grad():
        first, second = (
            losses.AnswerLoss().compute_loss(model, collator([row])) for row in (there, back)
        )
    assert abs(first - second) > 1e-5
