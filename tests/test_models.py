import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from src import models
from src.errors import UserError
from src.files import read_json, write_json
from src.schema import Lora, Quantization, Recipe
from src.training.losses import AnswerLoss


def loss(model, collator, records):
    return AnswerLoss().compute_loss(model, collator(records))


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.fixture
def collator(architecture, questions):
    return architecture.collator(questions, answers=True)


@pytest.fixture
def tuned(architecture):
    return architecture.tuned()


def test_four_bit_is_for_the_language_model_alone(tuned):
    quantized = [n for n, m in tuned.named_modules() if isinstance(m, Linear4bit)]
    assert quantized
    assert all("language_model" in name for name in quantized)
    head = tuned.get_base_model().get_output_embeddings()
    plain = [
        n
        for n, m in tuned.named_modules()
        if type(m) is torch.nn.Linear and "lora" not in n and m is not head
    ]
    assert plain
    # T5 keeps the output of its feed-forward layers as it is: it would overflow.
    assert not [n for n in plain if "language_model" in n and not n.endswith(".wo.base_layer")]


def test_lora_is_on_the_layers_of_the_language_model_alone(tuned, architecture):
    adapted = {
        n.partition(".lora_")[0].rpartition("base_model.model.")[2]
        for n, p in tuned.named_parameters()
        if p.requires_grad
    }
    targets = architecture.recipe.lora.targets
    head = tuned.get_base_model().get_output_embeddings()
    expected = {
        name
        for name, module in architecture.load().named_modules()
        if isinstance(module, torch.nn.Linear)
        and "language_model." in name
        and not name.endswith("lm_head")
        and ("all-linear" in targets or name.rpartition(".")[2] in targets)
    }
    assert adapted == expected
    assert not hasattr(head, "lora_A")


def test_a_layer_name_of_the_tower_does_not_bring_lora_into_it(base, recipe):
    with pytest.raises(UserError, match=r"no layer 'qkv'; it has .*q_proj"):
        models.add_lora(
            models.load_base(base, recipe), recipe.lora.model_copy(update={"targets": ["qkv"]})
        )


def test_sixteen_bits_means_no_quantization(architecture):
    plain = architecture.recipe.model_copy(
        update={"quantization": Quantization(bits=16, type="nf4", double=True)}
    )
    model = models.load_base(architecture.base, plain)
    assert not any(isinstance(m, Linear4bit) for m in model.modules())


def test_training_after_an_evaluation_has_the_gradients_of_training_alone(
    architecture, collator, faces
):
    fresh = architecture.tuned().eval()
    loss(fresh, collator, faces[:4]).backward()
    used = architecture.tuned().eval()
    with torch.no_grad():
        loss(used, collator, faces[:4])
    loss(used, collator, faces[:4]).backward()
    for name, gradient in gradients(fresh).items():
        assert torch.equal(gradient, gradients(used)[name])
    assert any(g.abs().sum() > 0 for g in gradients(fresh).values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_frozen_tower_is_never_differentiated(
    tuned, architecture, collator, faces, checkpointing
):
    if checkpointing:
        models.language_model(tuned).activation_checkpointing_enable({"use_reentrant": False})
    seen = []
    block = architecture.family.cam_layer(tuned.get_base_model())
    block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    tuned.train()
    loss(tuned, collator, faces[:2]).backward()
    assert len(seen) == 1, "the tower ran twice: it was recomputed"
    assert not seen[0].requires_grad


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
        # What 4-bit layers compute with differs a little between training and evaluation.
        largest = plain[name].abs().max().item()
        torch.testing.assert_close(gradient, plain[name], rtol=0, atol=1e-3 * largest)


def test_every_weight_of_the_adapter_is_trained_and_no_other(tuned, collator, faces):
    tuned.train()
    loss(tuned, collator, faces[:4]).backward()
    for name, parameter in tuned.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        assert not parameter.requires_grad or parameter.grad.abs().sum() > 0, name


def test_a_saved_adapter_gives_the_same_logits(tuned, architecture, collator, faces, tmp_path):
    tuned.save_pretrained(tmp_path)
    again = models.load_tuned(architecture.base, tmp_path, architecture.recipe)
    inputs = {k: v for k, v in collator(faces[:3]).items() if k != "labels"}
    with torch.no_grad():
        assert torch.equal(tuned.eval()(**inputs).logits, again(**inputs).logits)


def test_an_adapter_whose_layers_the_base_lacks_is_an_error(tuned, architecture, tmp_path):
    tuned.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    renamed = {name.replace("language_model", "decoder"): w for name, w in weights.items()}
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"find no place in .* trained on another base"):
        models.load_tuned(architecture.base, tmp_path, architecture.recipe)


def test_an_adapter_of_another_architecture_is_an_error(architecture, base, recipe, tmp_path):
    if architecture.recipe.family != "blip2":
        pytest.skip("the small models of these families share names and sizes")
    architecture.tuned().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"does not fit|find no place"):
        models.load_tuned(base, tmp_path, recipe)


def test_a_missing_adapter_is_one_line(base, recipe, tmp_path):
    with pytest.raises(UserError, match="no adapter can be loaded from there"):
        models.load_tuned(base, tmp_path / "nothing", recipe)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"


@pytest.fixture(params=["git-lfs pointer", "cut short"])
def spoil(request):
    """Leave of a file of weights what a clone without git-lfs, or a broken copy, leaves."""

    def spoil(weights: Path) -> None:
        half = weights.read_bytes()[: weights.stat().st_size // 2]
        weights.write_bytes(POINTER if request.param == "git-lfs pointer" else half)

    return spoil


def test_an_adapter_that_did_not_come_whole_is_one_line(tuned, architecture, tmp_path, spoil):
    tuned.save_pretrained(tmp_path)
    spoil(tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"holds no weights .*git-lfs pointer.*bring it anew$"):
        models.load_tuned(architecture.base, tmp_path, architecture.recipe)


def refused_as_pickled(adapter: str | Path, base: Path, recipe: Recipe) -> None:
    says = rf"{adapter}: has no adapter_model\.safetensors, and weights of another kind may run"
    with pytest.raises(UserError, match=says):
        models.load_tuned(base, adapter, recipe)


def test_an_adapter_is_read_as_safetensors_and_nothing_else(base, recipe, tmp_path, hub_of):
    adapter = models.add_lora(models.load_base(base, recipe), recipe.lora)
    adapter.save_pretrained(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "adapter_model.bin")
    weights.unlink()
    refused_as_pickled(tmp_path, base, recipe)
    hub = hub_of(tmp_path, "someone/adapter")
    refused_as_pickled("someone/adapter", base, recipe)
    assert hub.requests
    assert not [request for request in hub.requests if request.endswith(".bin")]


def test_a_base_that_did_not_come_whole_is_one_line(base, recipe, tmp_path, spoil):
    copy = shutil.copytree(base / "checkpoint", tmp_path / "checkpoint")
    spoil(copy / "model.safetensors")
    with pytest.raises(UserError, match=r"holds no weights .*git-lfs pointer.*bring it anew$"):
        models.load_base(copy, recipe)


def test_a_precision_that_overflows_is_refused(architecture):
    half = architecture.recipe.model_copy(update={"precision": "fp16"})
    if architecture.family.UNSAFE:
        with pytest.raises(UserError, match=r"precision: fp16 overflows in blip2; use bf16"):
            models.load_base(architecture.base, half)
    else:
        assert models.load_base(architecture.base, half).dtype == torch.float16


def test_the_query_side_of_blip2_stays_in_full_precision(architecture):
    if architecture.recipe.family != "blip2":
        pytest.skip("it has no Q-Former")
    half = architecture.recipe.model_copy(update={"precision": "bf16"})
    model = models.load_base(architecture.base, half)
    assert model.query_tokens.dtype == torch.float32
    assert {p.dtype for p in model.qformer.parameters()} == {torch.float32}


def test_an_old_checkpoint_gets_what_it_lacks(architecture):
    name = architecture.recipe.family
    if name == "qwen2_vl":
        pytest.skip("its checkpoints lack nothing")
    config = models.load_config(architecture.base)
    processor = models.load_processor(architecture.base, architecture.recipe)
    if name == "llava":
        expected = (processor.patch_size, processor.num_additional_image_tokens)
        processor.patch_size = processor.num_additional_image_tokens = None
        architecture.family.complete(processor, config)
        assert (processor.patch_size, processor.num_additional_image_tokens) == expected
    else:
        expected = (processor.num_query_tokens, config.image_token_index)
        processor.num_query_tokens = config.image_token_index = None
        architecture.family.complete(processor, config)
        assert (processor.num_query_tokens, config.image_token_index) == expected


def test_a_gpu_without_room_is_one_line(base, recipe, monkeypatch):
    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 16.60 GiB.")

    monkeypatch.setattr(models.AutoModelForImageTextToText, "from_pretrained", full)
    with pytest.raises(UserError, match=r"GPU has no room for .*`nvidia-smi` says.*tools\.plan"):
        models.load_base(base, recipe)


def test_an_unknown_target_is_named(base, recipe):
    lora = Lora(r=4, alpha=8, dropout=0.0, targets=["q_proj", "query"])
    with pytest.raises(UserError, match="query"):
        models.add_lora(models.load_base(base, recipe), lora)


def test_a_base_that_was_not_built_is_one_line(recipe, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="make it with `dvc repro build@qwen2_vl`"):
        models.load_base(Path("models/base/qwen2_vl"), recipe)


COMMIT = "a" * 40


@pytest.fixture
def adapter(base, recipe, tmp_path):
    """One that names its base as the Hub does, at a commit."""
    models.add_lora(models.load_base(base, recipe), recipe.lora).save_pretrained(tmp_path)
    rename_base(tmp_path, base_model_name_or_path="someone/base", revision=COMMIT)
    return tmp_path


def rename_base(adapter: Path, **named: str | None) -> None:
    file = adapter / "adapter_config.json"
    write_json(file, read_json(file) | named)


def test_a_base_of_the_hub_is_loaded_at_the_commit_that_its_adapter_names(
    base, recipe, adapter, hub_of, monkeypatch
):
    hub = hub_of(base / "checkpoint", "someone/base", COMMIT)
    found = models.base_under(adapter, "someone/base")
    hub.damages = 1
    with pytest.raises(UserError, match=r"model\.safetensors arrived damaged"):
        models.load_tuned(found, adapter, recipe)
    models.load_tuned(found, adapter, recipe)
    models.load_processor(found, recipe)
    assert any(f"/resolve/{COMMIT}/config.json" in request for request in hub.requests)
    assert not [request for request in hub.requests if "main" in request]
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    models.load_tuned(models.base_under(adapter, "someone/base"), adapter, recipe)
    assert hub.requests == []


@pytest.mark.parametrize(
    "named",
    [
        {"base_model_name_or_path": "someone/other"},
        {"revision": None},
        {"revision": "main"},
    ],
)
def test_a_base_that_its_adapter_does_not_pin_is_the_one_that_was_named(adapter, named):
    rename_base(adapter, **named)
    assert models.base_under(adapter, "someone/base") == Path("someone/base")


def test_a_folder_is_a_base_whatever_the_adapter_names(base, adapter):
    rename_base(adapter, base_model_name_or_path=str(base))
    assert models.base_under(adapter, str(base)) == base


def test_a_commit_that_is_gone_is_one_line_that_names_the_adapter(base, adapter, hub_of):
    hub_of(base / "checkpoint", "someone/base", "b" * 40)
    says = rf"^{adapter}: adapter_config\.json: revision: .* at {COMMIT}: there is no such commit"
    with pytest.raises(UserError, match=says):
        models.base_under(adapter, "someone/base")
