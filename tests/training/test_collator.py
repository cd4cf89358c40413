import torch

from src.families import qwen2_vl
from src.training.collator import IGNORED, Collator


def test_labels_cover_the_answer_and_its_end_and_nothing_else(processor, task, faces):
    batch = Collator(processor, qwen2_vl, task, answers=True)(faces[:6])
    tokenizer = processor.tokenizer
    for row, face in zip(batch["labels"], faces, strict=False):
        assert tokenizer.decode(row[row != IGNORED]) == face["label"] + tokenizer.eos_token
    assert (batch["labels"] == batch["input_ids"])[batch["labels"] != IGNORED].all()


def test_without_answers_every_prompt_ends_at_the_last_position(processor, questions, faces):
    batch = Collator(processor, qwen2_vl, questions, answers=False)(faces[:4])
    assert "labels" not in batch
    assert batch["attention_mask"][:, -1].all()
    assert not batch["attention_mask"][:, 0].all(), "prompts of one length test no padding"
    for row in batch["input_ids"]:
        assert processor.tokenizer.decode(row).endswith("<|im_start|>assistant\n")


def test_each_picture_has_as_many_tokens_as_features(processor, questions, faces):
    batch = Collator(processor, qwen2_vl, questions, answers=True)(faces[:4])
    tokens = (batch["input_ids"] == processor.image_token_id).sum(1)
    features = batch["image_grid_thw"].prod(1) // processor.image_processor.merge_size**2
    assert torch.equal(tokens, features)


def test_pictures_stay_with_their_texts(processor, task, faces):
    collator = Collator(processor, qwen2_vl, task, answers=True)
    together = collator(faces[:4])
    patches = together["pixel_values"].chunk(4)
    for face, labels, pixels in zip(faces, together["labels"], patches, strict=False):
        alone = collator([face])
        assert torch.equal(pixels, alone["pixel_values"])
        assert torch.equal(labels[labels != IGNORED], alone["labels"][alone["labels"] != IGNORED])
