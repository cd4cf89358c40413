"""The model without values against the one that is loaded."""

from dataclasses import replace

import bitsandbytes as bnb
import pytest
from bitsandbytes.nn import Linear4bit

from src.models import add_lora, load_config
from src.planning.skeleton import constants_of, skeleton


def in_4_bit(model):
    return {name for name, layer in model.named_modules() if isinstance(layer, Linear4bit)}


def loaded_bytes(model):
    states = [m.weight.quant_state for m in model.modules() if isinstance(m, Linear4bit)]
    constants = sum(tensor.nbytes for state in states for tensor in constants_of(state))
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers())) + constants


@pytest.mark.parametrize(
    "quantization",
    [
        {},
        {"double": False},
        {"type": "fp4"},
        {"bits": 16},
    ],
    ids=["nf4 double", "nf4", "fp4 double", "16-bit"],
)
def test_its_weights_take_what_those_of_the_loaded_base_take(architecture, quantization):
    recipe = architecture.recipe
    changed = recipe.quantization.model_copy(update=quantization)
    changed = recipe.model_copy(update={"quantization": changed})
    architecture = replace(architecture, recipe=changed)
    model = architecture.load()
    frozen, parameters = loaded_bytes(model), model.num_parameters()
    made = skeleton(load_config(architecture.base), architecture.recipe)
    assert (made.frozen_bytes, made.parameters) == (frozen, parameters)
    adapted = add_lora(model, architecture.recipe.lora)
    assert in_4_bit(made.model) == in_4_bit(adapted)
    assert made.trainable == adapted.get_nb_trainable_parameters()[0]


def test_in_bf16_it_keeps_what_the_loaded_base_keeps_in_fp32(architecture):
    recipe = architecture.recipe.model_copy(update={"precision": "bf16"})
    model = replace(architecture, recipe=recipe).load()
    made = skeleton(load_config(architecture.base), recipe)
    assert made.frozen_bytes == loaded_bytes(model)


def test_a_base_is_quantized_after_it_in_the_same_process(architecture, monkeypatch):
    monkeypatch.setattr(bnb.functional, "name2qmap", {})
    skeleton(load_config(architecture.base), architecture.recipe)
    assert in_4_bit(architecture.load())
