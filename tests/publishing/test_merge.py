import pytest
import torch
from transformers import AutoModelForImageTextToText

from src.errors import UserError
from src.models import load_tuned
from src.publishing import merge


@pytest.fixture
def saved(architecture, tmp_path):
    architecture.tuned().save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def written(model, inputs):
    return model.generate(**inputs, max_new_tokens=12, do_sample=False)


def test_a_merged_model_answers_as_the_adapter_on_the_unquantized_base(
    architecture, saved, faces, questions, tmp_path
):
    out = tmp_path / "merged"
    merge.export(architecture.base, saved, architecture.recipe, out)
    plain = AutoModelForImageTextToText.from_pretrained(out).eval()
    recipe = architecture.recipe.model_copy(update={"quantization": merge.UNQUANTIZED})
    adapted = load_tuned(architecture.base, saved, recipe)
    collated = architecture.collator(questions, answers=True)(faces[:4])
    inputs = {k: v for k, v in collated.items() if k != "labels"}
    with torch.no_grad():
        ours, theirs = adapted(**collated).logits, plain(**collated).logits
    tolerance = 1e-4 * ours.abs().max().item()
    real = (collated if architecture.encoder_decoder else inputs)["attention_mask"].bool()
    if not architecture.encoder_decoder:  # what stands at padding is nobody's
        ours, theirs = ours[real], theirs[real]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    prompts = architecture.collator(questions, answers=False)(faces[:4])
    assert torch.equal(written(adapted, prompts), written(plain, prompts))
    # A merge that left the adapter out would agree with the untuned base instead.
    untuned = AutoModelForImageTextToText.from_pretrained(architecture.base / "checkpoint").eval()
    with torch.no_grad():
        assert not torch.allclose(plain(**inputs).logits, untuned(**inputs).logits, atol=1e-2)


def test_a_merged_model_holds_no_quantization_and_no_adapter(architecture, saved, tmp_path):
    merge.export(architecture.base, saved, architecture.recipe, tmp_path / "merged")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert "model.safetensors" in names
    assert not {"adapter_config.json", "adapter_model.safetensors"} & names
    config = (tmp_path / "merged/config.json").read_text()
    assert "quantization_config" not in config
    assert str(tmp_path) not in config
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert {weight.dtype for weight in plain.parameters()} == {torch.float32}


def test_merging_needs_no_room_on_a_gpu(architecture, saved, monkeypatch, tmp_path):
    """The GPU that trained it in 4 bits may not hold it whole."""
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: taken.append("GPU") or 0)
    merge.export(architecture.base, saved, architecture.recipe, tmp_path / "merged")
    assert not taken


def test_a_second_head_is_refused(params, tmp_path):
    recipe = params.recipes["esnlive_qwen2vl"]
    with pytest.raises(UserError, match="second head, which no class of transformers has"):
        merge.export(tmp_path, tmp_path, recipe, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
