"""How long an example is, against processors and collators."""

import pytest
from transformers import LlamaConfig

from src import config
from src.errors import UserError
from src.models import load_config
from src.planning import published
from src.planning.lengths import lengths, patch_bytes, visual_tokens
from tests.conftest import LABELS, ROOT


@pytest.fixture(scope="module")
def full():
    return config.at_scale(ROOT / "params.yaml", "full")


@pytest.mark.parametrize(
    ("name", "tokens", "patches"),
    [
        ("emotion_qwen2vl", 64, 256),
        ("video_qwen2vl", 256, 1024),
        ("emotion_llava", 576, 577),
        ("vqa_blip2", 32, 257),
    ],
)
def test_pictures_and_videos_are_as_long_as_to_the_published_processors(
    full, name, tokens, patches, tmp_path
):
    recipe = full.recipes[name]
    configuration = published.configuration(full.base[recipe.base], tmp_path)
    assert visual_tokens(configuration, full.data[recipe.data]) == (tokens, patches)


def test_a_picture_is_as_long_as_in_a_batch(architecture, questions, faces, params):
    batch = architecture.collator(questions, answers=False)(faces[:2])
    configuration = load_config(architecture.base)
    image = getattr(configuration, "image_token_index", None) or configuration.image_token_id
    found = int((batch["input_ids"][0] == image).sum())
    data = params.data[architecture.recipe.data].model_copy(update={"image_size": 56})
    assert visual_tokens(configuration, data)[0] == found


def test_a_model_of_another_type_is_one_line(full):
    with pytest.raises(UserError, match="a model of type llama cannot be planned"):
        visual_tokens(LlamaConfig(), full.data["abo"])


def test_a_patch_has_the_bytes_of_a_batch(architecture, questions, faces, params):
    batch = architecture.collator(questions, answers=False)(faces[:2])
    configuration = load_config(architecture.base)
    data = params.data[architecture.recipe.data].model_copy(update={"image_size": 56})
    found = batch["pixel_values"].nbytes / 2 / patch_bytes(configuration)
    assert visual_tokens(configuration, data)[1] - found in (0, 1)  # a class token has no pixels


def test_classes_are_scored_and_texts_are_not(full, tmp_path):
    def of(name):
        recipe = full.recipes[name]
        configuration = published.configuration(full.base[recipe.base], tmp_path)
        return lengths(recipe, full.data[recipe.data], configuration)

    assert of("emotion_qwen2vl").labels == len(LABELS)
    assert of("video_qwen2vl").labels == 0
    assert of("vqa_blip2").answer == full.recipes["vqa_blip2"].generation.max_new_tokens
