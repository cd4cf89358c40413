"""The terms of the memory of training and of answering."""

import pytest
import torch
from transformers import EncoderDecoderCache

from src import config
from src.models import load_config
from src.planning import memory, published
from src.planning.activations import Saved, Shape
from src.planning.lengths import Lengths
from src.planning.skeleton import skeleton
from tests.conftest import ROOT


def nbytes(cache):
    if isinstance(cache, EncoderDecoderCache):
        return nbytes(cache.self_attention_cache) + nbytes(cache.cross_attention_cache)
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


@torch.inference_mode()
def test_the_cache_is_what_generate_keeps(architecture, questions, faces):
    inputs = architecture.collator(questions, answers=False)(faces[:3])
    model = architecture.load()
    said = model.generate(
        **inputs, max_new_tokens=5, min_new_tokens=5, return_dict_in_generate=True
    )
    # The last token that is written is never read.
    prompt = inputs["input_ids"].shape[1]
    written = 5 - (0 if architecture.encoder_decoder else 1)
    counted = memory.cache_bytes(
        load_config(architecture.base), architecture.recipe, 3, prompt, written
    )
    assert counted == nbytes(said.past_key_values)


@pytest.mark.parametrize(("optimizer", "state"), [("paged_adamw_32bit", 8), ("adamw_bnb_8bit", 2)])
def test_an_adapter_has_weights_gradients_and_states(architecture, optimizer, state):
    train = architecture.recipe.train.model_copy(update={"optimizer": optimizer})
    recipe = architecture.recipe.model_copy(update={"train": train})
    configuration = load_config(architecture.base)
    made = skeleton(configuration, recipe)
    found = memory.training(made, configuration, recipe, Shape(1, 8, 2), Saved(100, 0))
    assert found.adapter == made.trainable * (8 + state)
    assert (found.weights, found.kept) == (made.frozen_bytes, 100)


@pytest.mark.parametrize("state", [(torch.optim.AdamW, "adamw_torch"), (torch.optim.SGD, "sgd")])
def test_states_are_those_of_the_optimizer(state):
    kind, name = state
    weight = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = kind([weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = optimizer.state[weight].values()
    found = sum(t.nbytes for t in kept if isinstance(t, torch.Tensor) and t.ndim)
    assert found == memory.STATES[name] * weight.numel()


def test_long_answers_make_their_logits_the_peak(architecture):
    recipe, configuration = architecture.recipe, load_config(architecture.base)
    made = skeleton(configuration, recipe)
    vocabulary = configuration.get_text_config().vocab_size
    kept = Saved(0, 0)
    long = memory.training(made, configuration, recipe, Shape(4, 1, 200), kept)
    assert long.working >= 4 * 200 * vocabulary * memory.TRAINING_LOGIT
    longer = memory.training(made, configuration, recipe, Shape(8, 1, 200), kept)
    assert longer.working > 1.9 * long.working


def test_classes_lengthen_the_cache_and_beams_repeat_it(tmp_path):
    full = config.at_scale(ROOT / "params.yaml", "full")
    recipe = full.recipes["video_qwen2vl"]
    configuration = published.configuration(full.base[recipe.base], tmp_path)
    made = skeleton(configuration, recipe)

    def kept(beams, labels):
        generation = recipe.generation.model_copy(update={"num_beams": beams})
        changed = recipe.model_copy(update={"generation": generation})
        lengths = Lengths(256, 300, 64, labels, 4 if labels else 0, 1024)
        return memory.answering(made, configuration, changed, lengths, 8)

    assert kept(1, 40).kept == 8 * (300 + 40 * 4) * 57344
    assert kept(6, 0).total > kept(1, 0).total
