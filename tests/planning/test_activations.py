"""What the planner counts on fake tensors, against what autograd keeps on real ones."""

import random
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from src.models import DTYPES, language_model, load_config
from src.planning.activations import Shape, count_saved, saved
from src.planning.skeleton import skeleton
from src.training.collator import foretell


def measured(architecture, batch, checkpointing):
    """Bytes that the language model saves in a real forward pass of training, on a real batch."""
    model = architecture.tuned().train()
    reader = language_model(model)
    if checkpointing:
        reader.activation_checkpointing_enable({"use_reentrant": False})
    unpacked = [m.unpacked.weight for m in model.modules() if hasattr(m, "unpacked")]
    held = [t for t in (*model.parameters(), *model.buffers(), *unpacked) if not t.is_mkldnn]
    weights = {tensor.untyped_storage()._cdata for tensor in held}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    stack = ExitStack()
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    reader.register_forward_pre_hook(lambda *_: stack.enter_context(hooks) and None)
    reader.register_forward_hook(lambda *_: stack.close())
    dtype = DTYPES[architecture.recipe.precision]
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        said = foretell(model, batch)
    assert said.logits.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def example_batch(architecture, questions, faces, count):
    collator = architecture.collator(questions, answers=True)
    batch = collator(random.Random(0).sample(faces, count))
    if "decoder_input_ids" in batch:
        shape = Shape(count, batch["input_ids"].shape[1], batch["labels"].shape[1])
    else:
        answer = int((batch["labels"] != -100).any(0).sum())
        shape = Shape(count, batch["input_ids"].shape[1] - answer, answer)
    return batch, shape


@pytest.mark.parametrize("checkpointing", [False, True], ids=["whole", "checkpointing"])
def test_it_is_what_autograd_saves(architecture, questions, faces, checkpointing, unspared):
    recipe = architecture.recipe.model_copy(update={"precision": "bf16"})
    architecture = replace(architecture, recipe=recipe)
    batch, shape = example_batch(architecture, questions, faces, 6)
    batch |= {k: v.bfloat16() for k, v in batch.items() if v.is_floating_point()}
    found = measured(architecture, batch, checkpointing)
    counted = saved(load_config(architecture.base), recipe, shape, checkpointing).total
    # BLIP-2's OPT also keeps a mask of where a picture is.
    assert counted == pytest.approx(found, rel=0.005)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["whole", "checkpointing"])
def test_two_and_three_layers_tell_of_seven(architecture, checkpointing):
    recipe, shape = architecture.recipe, Shape(3, 40, 5)
    configuration = deepcopy(load_config(architecture.base))
    direct = count_saved(skeleton(configuration, recipe, layers=7), recipe, shape, checkpointing)
    configuration.get_text_config().num_hidden_layers = 7
    assert saved(configuration, recipe, shape, checkpointing).total == direct


def test_it_grows_evenly_with_batch_and_length(architecture):
    recipe, configuration = architecture.recipe, load_config(architecture.base)

    def total(batch, prompt):
        return saved(configuration, recipe, Shape(batch, prompt, 8), False).total

    assert total(3, 64) - total(2, 64) == total(2, 64) - total(1, 64)
    first, second, third = (total(2, n + 64) - total(2, n) for n in (64, 128, 192))
    # But for masks, which are as large as a length squared.
    assert third - second == pytest.approx(second - first, rel=0.01)
    assert 0 <= second - first < 0.1 * first


def test_checkpointing_recomputes_what_a_layer_saves(architecture):
    recipe, configuration = architecture.recipe, load_config(architecture.base)
    whole, spared = (saved(configuration, recipe, Shape(2, 64, 8), c) for c in (False, True))
    assert whole.recomputed == 0
    assert spared.recomputed > 0
    assert spared.total + spared.recomputed < whole.total
