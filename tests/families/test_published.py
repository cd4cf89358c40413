"""The full recipes on their published models, by configuration and without weights."""

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    Blip2Processor,
    BlipImageProcessor,
    CLIPImageProcessor,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from src import config, tasks
from src.families import qwen2_vl
from src.families.qwen2_vl import Qwen2VLWithClassifier
from src.families.tokenizer import train_tokenizer
from src.models import add_lora
from src.planning.published import configuration
from src.training.collator import Collator
from tests.conftest import ROOT

# Base, recipe, what is trained, and of how many parameters where it is published.
PUBLISHED = {
    "qwen2_vl": ("emotion_qwen2vl", 2_523_136, 8_293_898_752),
    # 32 layers x 2 projections x 16 x (4096 + 4096)
    "llava": ("emotion_llava", 8_388_608, None),
    # 32 layers x 16 x (4 x (2560 + 2560) + 2 x (2560 + 10240))
    "blip2_opt": ("vqa_blip2", 23_592_960, None),
    # 32 layers x 16 x (4 x (4096 + 4096) + 2 x (4096 + 16384))
    "blip2_opt_6b": ("vqa_blip2", 37_748_736, None),
    # 24 encoder and 24 decoder layers x 16 x (4 or 8 x (2048 + 2048) + 3 x (2048 + 5120))
    "blip2_flan_t5": ("vqa_blip2", 35_389_440, None),
    # the same with 4096 and 10240
    "blip2_flan_t5_xxl": ("vqa_blip2", 70_778_880, None),
}
PROJECTIONS = {
    "qwen2_vl": {"q_proj", "v_proj"},
    "llava": {"q_proj", "v_proj"},
    "opt": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "t5": {"q", "k", "v", "o", "wi_0", "wi_1", "wo"},
}


@pytest.fixture(scope="module")
def full():
    return config.at_scale(ROOT / "params.yaml", "full")


@pytest.fixture(scope="module")
def configurations(full, tmp_path_factory) -> dict[str, PreTrainedConfig]:
    """By base, as they lie here for the time before a download."""
    nothing = tmp_path_factory.mktemp("nothing")
    return {name: configuration(full.base[name], nothing / name) for name in PUBLISHED}


def on_meta(configuration) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(configuration)


@pytest.mark.parametrize("base", PUBLISHED)
def test_lora_trains_the_language_model_and_nothing_else(base, full, configurations):
    name, trained, of = PUBLISHED[base]
    recipe = full.recipes[name]
    assert full.base[base].family == recipe.family
    model = add_lora(on_meta(configurations[base]), recipe.lora)
    found, total = model.get_nb_trainable_parameters()
    assert found == trained
    assert of is None or total == of
    adapted = [n for n, p in model.named_parameters() if p.requires_grad]
    assert all("language_model." in n for n in adapted)
    kind = base if base in PROJECTIONS else configurations[base].text_config.model_type
    assert {n.split(".lora_")[0].rpartition(".")[2] for n in adapted} == PROJECTIONS[kind]


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        # 28 layers x 64 x (3584 + 3584 + 3584 + 512)
        # 28 layers x 16 x (2 x (3584 + 3584) + 2 x (3584 + 512) + 3 x (3584 + 18944)), and the head
        ("video_qwen2vl", 20_185_088),
        ("esnlive_qwen2vl", 40_370_176 + 2 * 3584 + 2),
    ],
)
def test_lora_of_videos_and_of_two_heads_leaves_the_vision_tower_alone(
    name, trained, full, configurations
):
    recipe, published = full.recipes[name], configurations["qwen2_vl"]
    with torch.device("meta"):
        if recipe.classifier:
            model = Qwen2VLWithClassifier(published)
        else:
            model = Qwen2VLForConditionalGeneration(published)
    model.requires_grad_(False)
    model = add_lora(model, recipe.lora)
    assert model.get_nb_trainable_parameters()[0] == trained
    adapted = [n for n, p in model.named_parameters() if p.requires_grad]
    assert not any("visual" in n for n in adapted)


def tokenizer(*specials: str):
    specials = ["<pad>", "</s>", "<unk>", *specials]
    return train_tokenizer(["a face"], 300, specials, "</s>", "<pad>")


def test_a_picture_is_64_tokens_to_qwen2_vl():
    images = Qwen2VLImageProcessor(min_pixels=3136, max_pixels=12845056)
    assert images.get_number_of_image_patches(224, 224) // images.merge_size**2 == 64


def test_eight_frames_are_256_tokens_to_qwen2_vl(full):
    specials = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(min_pixels=3136, max_pixels=12845056),
        tokenizer("<|im_start|>", "<|im_end|>", *specials),
        # As the checkpoint has it: it would make frames of 224 pixels larger.
        Qwen2VLVideoProcessor(cap_pixels_per_frame=False),
        chat_template=qwen2_vl.CHAT_TEMPLATE,
    )
    recipe, data = full.recipes["video_qwen2vl"], full.data["webvid"]
    assert (data.frames, data.image_size) == (8, 224)
    collator = Collator(processor, qwen2_vl, tasks.load(recipe, None), answers=False)
    frames = [Image.new("RGB", (224, 224), (i, 0, 0)) for i in range(8)]
    batch = collator([{"id": "a", "video": frames, "image": None, "question": None}])
    assert (batch["input_ids"] == processor.video_token_id).sum() == 256
    assert batch["video_grid_thw"].tolist() == [[4, 16, 16]]


def test_a_picture_is_576_tokens_to_llava(configurations):
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        tokenizer("<image>"),
        patch_size=configurations["llava"].vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    batch = processor(text="<image>", images=Image.new("RGB", (224, 224)), return_tensors="pt")
    assert batch["input_ids"].shape == (1, 576)
    assert batch["pixel_values"].shape == (1, 3, 336, 336)


def test_a_picture_is_32_tokens_to_blip2(configurations):
    assert configurations["blip2_opt"].num_query_tokens == 32
    processor = Blip2Processor(
        BlipImageProcessor(size={"height": 224, "width": 224}), tokenizer(), num_query_tokens=32
    )
    batch = processor(text="", images=Image.new("RGB", (300, 200)), return_tensors="pt")
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert (batch["input_ids"] == image).sum() == 32
