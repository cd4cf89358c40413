from contextlib import contextmanager

import pytest
import torch
from torch.nn import functional

from src.inference.generate import generate
from src.models import language_model, load_base
from src.packing import Packing
from src.training.collator import foretell
from src.training.pretrain import EXAM
from tests.conftest import LABELS

ANSWERS = ["Joy", "Sadness and surprise", "Fear"]


@pytest.fixture(scope="module")
def decoders(architecture):
    """Base models that are no decoders read as they always did."""
    if architecture.encoder_decoder:
        pytest.skip("reads prompts and answers apart")


@pytest.fixture(scope="module")
def batch(architecture, decoders, questions, faces):
    """Three pictures, one of them twice, with questions and answers of unlike lengths."""
    collator = architecture.collator(questions, answers=True)
    return collator.with_answers([faces[0], faces[0], faces[1], faces[7]], ["Joy", *ANSWERS])


@contextmanager
def unpacked(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Packing, "of", lambda *_: None)
        yield


def read(model, batch, checkpointing=False):
    """The logits of the answers, and the gradient of each weight of the adapter."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if checkpointing:
        language_model(model).activation_checkpointing_enable({"use_reentrant": False})
    said = foretell(model, batch)
    functional.cross_entropy(said.logits, said.targets).backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert grads
    return said.logits.detach(), grads


@pytest.mark.parametrize("checkpointing", [False, True], ids=["whole", "checkpointing"])
def test_it_changes_neither_logits_nor_gradients(architecture, batch, monkeypatch, checkpointing):
    logits, grads = read(architecture.tuned(), batch, checkpointing)
    with unpacked(monkeypatch):
        expected, wanted = read(architecture.tuned(), batch)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert grads.keys() == wanted.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, wanted[name], rtol=1e-3, atol=1e-5)


def test_each_picture_has_its_own_gradient_where_all_are_the_same(
    architecture, decoders, questions, faces, monkeypatch
):
    batch = architecture.collator(questions, answers=True).with_answers([faces[0]] * 3, ANSWERS)

    def pixels():
        given = batch["pixel_values"].clone().requires_grad_()
        said = foretell(architecture.tuned().eval(), batch | {"pixel_values": given})
        said.logits.logsumexp(-1).sum().backward()
        return given.grad

    found = pixels()
    with unpacked(monkeypatch):
        expected = pixels()
    assert expected[-1].abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def tokens_read(model, call):
    """How many tokens the first layer of the decoder reads, in each of its passes."""
    seen = []
    layer = language_model(model).get_decoder().layers[0]
    hook = layer.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].shape[0] * args[0].shape[1])
    )
    call()
    hook.remove()
    return seen


def test_no_padding_is_read_and_the_shared_beginning_once(architecture, batch):
    model = architecture.tuned().train()
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    rows = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
    shared = min(row.index(model.config.image_token_id) for row in rows)
    (read,) = tokens_read(model, lambda: foretell(model, batch))
    assert read == sum(map(len, rows)) - 3 * shared
    assert read < ids.numel()


@pytest.mark.parametrize("shown", [[0, 0, 1], [0, 0, 0]], ids=["two pictures", "one"])
def test_the_last_feed_forward_reads_what_foretells_answers_alone(
    architecture, decoders, questions, faces, shown
):
    collator = architecture.collator(questions, answers=True)
    batch = collator.with_answers([faces[i] for i in shown], ANSWERS)
    model = architecture.tuned().train()
    last = getattr(language_model(model).get_decoder().layers[-1], "mlp", None)
    if last is None:
        pytest.skip("its feed-forward is no module")
    rows = []
    last.down_proj.register_forward_pre_hook(
        lambda _, args: rows.append(args[0].shape[:-1].numel())
    )
    found, grads = read(model, batch)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    answered = foretell(model, batch).answered
    model.zero_grad()
    output = model(**inputs, logits_to_keep=answered, use_cache=False)
    functional.cross_entropy(output.logits, batch["labels"][:, 1:][answered[:, :-1]]).backward()
    # Where all prompts are equal, their last token is read once.
    assert rows[0] == answered.sum() if len(set(shown)) > 1 else rows[0] < answered.sum()
    assert rows[-1] > 4 * rows[0]
    torch.testing.assert_close(found, output.logits, rtol=1e-4, atol=1e-5)
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-3, atol=1e-5)


def test_beams_of_a_prompt_are_read_once(architecture, decoders, questions, faces):
    model = architecture.tuned().eval()
    collator = architecture.collator(questions, answers=False)
    long = EXAM.model_copy(update={"max_new_tokens": 2})

    def first(beams, records):
        asked = long.model_copy(update={"num_beams": beams})
        return tokens_read(model, lambda: generate(model, collator, records, asked, 4))[0]

    assert first(3, faces[:1]) == first(1, faces[:1])
    assert first(3, faces[:2]) == first(1, faces[:2])


def test_texts_and_scores_of_cached_prompts_are_the_same(
    architecture, decoders, questions, faces, monkeypatch
):
    model = architecture.tuned().eval()
    collator = architecture.collator(questions, answers=False)
    written = EXAM.model_copy(update={"max_new_tokens": 6, "num_beams": 2})
    found = generate(model, collator, faces, written, 5, choices=LABELS)
    with unpacked(monkeypatch):
        expected = generate(model, collator, faces, written, 5, choices=LABELS)
    assert found.texts == expected.texts
    torch.testing.assert_close(
        torch.tensor(found.scores), torch.tensor(expected.scores), rtol=1e-4, atol=1e-4
    )


def test_a_caller_finds_the_batch_as_it_came(architecture, batch):
    model = load_base(architecture.base, architecture.recipe)
    given = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        output = model(**given)
    size, width = batch["input_ids"].shape
    assert output.logits.shape[:2] == (size, width)
    cache = getattr(output, "language_model_outputs", output).past_key_values
    assert cache.get_seq_length() == width
    assert len(cache.layers[0].keys) == size
