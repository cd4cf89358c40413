import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import get_peft_model
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor

from src import models
from src.errors import UserError
from src.families import qwen2_vl
from src.schema import Lora, Quantization
from src.training.collator import Collator
from src.training.trainer import AnswerLoss
from tests.conftest import ROOT


def loss(model, collator, records):
    return AnswerLoss().compute_loss(model, collator(records))


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.fixture
def collator(processor, task):
    return Collator(processor, qwen2_vl, task, answers=True)


@pytest.fixture
def tuned(base, recipe):
    torch.manual_seed(0)
    model = models.add_lora(models.load_base(base, recipe), recipe.lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_four_bit_is_for_the_language_model_alone(tuned):
    quantized = [n for n, m in tuned.named_modules() if isinstance(m, Linear4bit)]
    assert quantized
    assert all("language_model" in name for name in quantized)
    plain = [n for n, m in tuned.named_modules() if type(m) is torch.nn.Linear and "lora" not in n]
    assert any("visual" in n for n in plain)
    assert not any("language_model" in n for n in plain)


def test_lora_is_on_the_named_layers_of_the_language_model_alone(tuned, recipe):
    adapted = [n for n, p in tuned.named_parameters() if p.requires_grad]
    assert len(adapted) == 2 * 2 * 2  # layers, targets, A and B
    assert all("language_model" in n and "visual" not in n for n in adapted)
    assert all(any(f".{t}." in n for t in recipe.lora.targets) for n in adapted)


def test_a_layer_name_of_the_tower_does_not_bring_lora_into_it(base, recipe):
    with pytest.raises(UserError, match=r"no layer 'qkv'; it has .*q_proj"):
        models.add_lora(
            models.load_base(base, recipe), recipe.lora.model_copy(update={"targets": ["qkv"]})
        )


def test_sixteen_bits_means_no_quantization(base, recipe):
    plain = recipe.model_copy(
        update={"quantization": Quantization(bits=16, type="nf4", double=True)}
    )
    model = models.load_base(base, plain)
    assert not any(isinstance(m, Linear4bit) for m in model.modules())


def test_training_after_an_evaluation_has_the_gradients_of_training_alone(
    base, recipe, collator, faces
):
    def build():
        torch.manual_seed(0)
        return models.add_lora(models.load_base(base, recipe), recipe.lora)

    fresh = build().eval()
    loss(fresh, collator, faces[:4]).backward()
    used = build().eval()
    with torch.no_grad():
        used(**{k: v for k, v in collator(faces[:4]).items() if k != "labels"})
    loss(used, collator, faces[:4]).backward()
    for name, gradient in gradients(fresh).items():
        assert torch.equal(gradient, gradients(used)[name])
    assert any(g.abs().sum() > 0 for g in gradients(fresh).values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_frozen_tower_is_never_differentiated(tuned, collator, faces, checkpointing):
    if checkpointing:
        models.language_model(tuned).activation_checkpointing_enable({"use_reentrant": False})
    seen = []
    tower = qwen2_vl.vision(tuned.get_base_model())
    for block in tower.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    tuned.train()
    loss(tuned, collator, faces[:2]).backward()
    assert len(seen) == len(tower.blocks), "a block ran twice: it was recomputed"
    assert not any(output.requires_grad for output in seen)


def test_checkpointing_changes_no_gradient(tuned, collator, faces):
    tuned.eval()
    loss(tuned, collator, faces[:4]).backward()
    plain = gradients(tuned)
    tuned.zero_grad()
    models.language_model(tuned).activation_checkpointing_enable({"use_reentrant": False})
    models.language_model(tuned).train()
    for module in tuned.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    loss(tuned, collator, faces[:4]).backward()
    for name, gradient in gradients(tuned).items():
        torch.testing.assert_close(gradient, plain[name])


def test_a_saved_adapter_gives_the_same_logits(tuned, base, recipe, collator, faces, tmp_path):
    tuned.save_pretrained(tmp_path)
    again = models.load_tuned(base, tmp_path, recipe)
    inputs = {k: v for k, v in collator(faces[:3]).items() if k != "labels"}
    with torch.no_grad():
        assert torch.equal(tuned.eval()(**inputs).logits, again(**inputs).logits)


def seven_billion() -> Qwen2VLForConditionalGeneration:
    """Qwen2-VL-7B-Instruct by its published configuration, without weights."""
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
        },
        vision_config={"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16},
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        return Qwen2VLForConditionalGeneration(config)


def test_the_full_recipe_trains_the_published_number_of_parameters():
    from src import config

    full = config.at_scale(ROOT / "params.yaml", "full").recipes["emotion_qwen2vl"]
    model = get_peft_model(seven_billion(), models.lora_config(full.lora))
    assert model.get_nb_trainable_parameters() == (2_523_136, 8_293_898_752)
    adapted = [n for n, p in model.named_parameters() if p.requires_grad]
    assert not any("visual" in name for name in adapted)


def test_a_picture_of_224_pixels_is_64_tokens():
    images = Qwen2VLImageProcessor(min_pixels=3136, max_pixels=12845056)
    patches = images.get_number_of_image_patches(224, 224)
    assert patches // images.merge_size**2 == 64


def test_an_unknown_target_is_named(base, recipe):
    lora = Lora(r=4, alpha=8, dropout=0.0, targets=["q_proj", "query"])
    with pytest.raises(UserError, match="query"):
        models.add_lora(models.load_base(base, recipe), lora)
