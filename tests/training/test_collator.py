from types import SimpleNamespace

import pytest
import torch

from src.errors import UserError
from src.families import qwen2_vl
from src.training.collator import IGNORED, Collator
from src.training.prompts import Tokenized

ENDS = {"qwen2_vl": "<|im_start|>assistant\n", "llava": "ASSISTANT:", "blip2": "Answer:"}


def test_labels_cover_the_answer_and_its_end_and_nothing_else(architecture, questions, faces):
    batch = architecture.collator(questions, answers=True)(faces[:6])
    tokenizer = architecture.processor.tokenizer
    for row, face in zip(batch["labels"], faces, strict=False):
        said = tokenizer.decode(row[row != IGNORED])
        assert said == architecture.family.answer(face["label"]) + tokenizer.eos_token
    if not architecture.encoder_decoder:
        assert (batch["labels"] == batch["input_ids"])[batch["labels"] != IGNORED].all()


def test_an_encoder_decoder_reads_each_answer_one_token_late(architecture, questions, faces):
    batch = architecture.collator(questions, answers=True)(faces[:6])
    assert ("decoder_input_ids" in batch) == architecture.encoder_decoder
    if architecture.encoder_decoder:
        answered = batch["labels"][:, :-1] != IGNORED
        assert (batch["decoder_input_ids"][:, 1:] == batch["labels"][:, :-1])[answered].all()
        assert (batch["decoder_input_ids"][:, 0] == 0).all()


def test_without_answers_every_prompt_ends_where_the_answer_begins(architecture, questions, faces):
    batch = architecture.collator(questions, answers=False)(faces[:4])
    assert "labels" not in batch
    mask, tokenizer = batch["attention_mask"], architecture.processor.tokenizer
    assert not mask.all(), "prompts of one length test no padding"
    if not architecture.encoder_decoder:
        assert mask[:, -1].all()
    for row, real in zip(batch["input_ids"], mask, strict=True):
        text = tokenizer.decode(row[real == 1]).removesuffix("</s>")
        assert text.endswith(ENDS[architecture.recipe.family])


def test_each_picture_has_as_many_tokens_as_features(architecture, questions, faces):
    batch = architecture.collator(questions, answers=True)(faces[:4])
    image = architecture.processor.tokenizer.convert_tokens_to_ids(
        "<|image_pad|>" if architecture.recipe.family == "qwen2_vl" else "<image>"
    )
    tokens = (batch["input_ids"] == image).sum(1)
    if architecture.recipe.family == "qwen2_vl":
        merged = architecture.processor.image_processor.merge_size**2
        features = batch["image_grid_thw"].prod(1) // merged
    elif architecture.recipe.family == "llava":
        features = torch.full((4,), (56 // architecture.processor.patch_size) ** 2)
    else:
        features = torch.full((4,), architecture.processor.num_query_tokens)
    assert torch.equal(tokens, features)


def test_pictures_stay_with_their_texts(processor, task, faces):
    collator = Collator(processor, qwen2_vl, task, answers=True)
    together = collator(faces[:4])
    patches = together["pixel_values"].chunk(4)
    for face, labels, pixels in zip(faces, together["labels"], patches, strict=False):
        alone = collator([face])
        assert torch.equal(pixels, alone["pixel_values"])
        assert torch.equal(labels[labels != IGNORED], alone["labels"][alone["labels"] != IGNORED])


def test_an_answer_is_tokenized_as_it_follows_the_prompt(architecture, questions):
    """SentencePiece writes a text that stands alone with another first token."""
    if architecture.encoder_decoder:
        return
    collator = architecture.collator(questions, answers=True)
    family, tokenizer = architecture.family, architecture.processor.tokenizer
    prompt = family.render(architecture.processor, None, "Which?")
    both = tokenizer(prompt + family.answer("Joy"))["input_ids"]
    assert collator.answer_ids("Joy")[:-1] == both[len(tokenizer(prompt)["input_ids"]) :]


def test_lengths_are_those_of_the_prompts_that_the_model_gets(architecture, questions, faces):
    collator = architecture.collator(questions, answers=False)
    found = collator.lengths(faces)
    assert found == [int(collator([face])["attention_mask"].sum()) for face in faces]
    assert len(set(found)) > 1, "prompts of one length test nothing"
    assert collator.lengths([]) == []


class TwoKinds:
    """A processor that adds tokens 7 and 8 for a picture, and its tokenizer."""

    @property
    def tokenizer(self):
        return self

    def __call__(self, text, **inputs):
        if not inputs:
            return {"input_ids": [1, 2]}
        return {"input_ids": torch.tensor([[1, 7, 7, 8, 2]])}

    def convert_ids_to_tokens(self, ids):
        return [f"<{i}>" for i in ids]


def test_a_processor_with_two_kinds_of_tokens_for_a_picture_is_one_line():
    features = SimpleNamespace(size=28, frames=None, medium="image")
    says = r"^TwoKinds adds tokens of .* for each image: '<7>', '<8>'; set vision_features to live"
    with pytest.raises(UserError, match=says):
        Tokenized(TwoKinds(), features, "What?")
