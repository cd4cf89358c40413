"""What to change where a GPU is too small."""

import pytest

from src import config
from src.planning.plan import plan
from src.planning.remedies import remedies, too_long
from tests.conftest import ROOT

GIB = 2**30


@pytest.fixture(scope="module")
def full():
    return config.at_scale(ROOT / "params.yaml", "full")


@pytest.fixture(scope="module")
def llava(full, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fresh"))
        return plan(full, "emotion_llava")


def test_they_end_where_the_recipe_fits_and_cost_time_first(llava, full):
    found = remedies(llava, full, 8 * GIB)
    keys = [remedy.key for remedy in found]
    assert keys[0] == "evaluate.batch_size.full"
    assert "recipes.emotion_llava.full.batch_size" in keys
    assert not any("quantization" in key or key.endswith(".base") for key in keys)
    assert found[-1].needs.peak <= 8 * GIB < found[0].needs.peak
    values = {remedy.key: remedy.value for remedy in found}
    own = "recipes.emotion_llava.full"
    assert values[f"{own}.batch_size"] * values[f"{own}.gradient_accumulation"] == 16
    assert len(values) == len(found)


def test_nothing_changes_where_it_fits_and_all_is_said_where_it_cannot(llava, full):
    assert remedies(llava, full, llava.needs.peak) == []
    found = remedies(llava, full, GIB)
    assert found[-1].needs.peak > GIB


def test_unquantized_weights_are_quantized_where_nothing_else_helps(full, llava):
    recipe = full.recipes["emotion_llava"]
    sixteen = recipe.quantization.model_copy(update={"bits": 16})
    changed = {"emotion_llava": recipe.model_copy(update={"quantization": sixteen})}
    whole = plan(full.model_copy(update={"recipes": changed}), "emotion_llava")
    assert whole.needs.made.frozen_bytes > 3 * llava.needs.made.frozen_bytes
    found = {r.key: r.value for r in remedies(whole, full, 10 * GIB)}
    assert found["recipes.emotion_llava.quantization.bits"] == 4


def test_a_smaller_base_of_the_family_comes_last(full):
    changed = {"vqa_blip2": full.recipes["vqa_blip2"].model_copy(update={"base": "blip2_opt_6b"})}
    large = plan(full.model_copy(update={"recipes": changed}), "vqa_blip2")
    found = remedies(large, full, round(5.2 * GIB))
    assert found[-1].key == "recipes.vqa_blip2.base"
    assert found[-1].needs.peak <= 5.2 * GIB


def test_a_picture_that_does_not_fit_into_max_length_is_seen(full, llava):
    assert too_long(llava) is None
    recipe = full.recipes["emotion_llava"]
    shorter = recipe.train.model_copy(update={"max_length": 512})
    changed = {"emotion_llava": recipe.model_copy(update={"train": shorter})}
    cut = plan(full.model_copy(update={"recipes": changed}), "emotion_llava")
    assert too_long(cut) >= 576 + cut.needs.lengths.answer
