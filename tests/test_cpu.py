import copy
import platform
import resource
import runpy
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.activations import QuickGELUActivation

from src import cpu, models
from src.families.qwen2_vl import vision
from src.models import add_lora, load_base
from src.training.collator import foretell
from tests.conftest import small_base

ANSWERS = ["Joy", "Sadness and surprise", "Fear"]

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="it is loaded on the GPU")


def linear(model):
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


def test_layers_make_of_rows_and_gradients_what_they_made(architecture):
    layers = linear(architecture.load())
    assert any(isinstance(layer, Linear4bit) for layer in layers)
    compare(layers)


@pytest.mark.parametrize("wide", [True, False])
def test_so_do_those_prepared_for_gradients_whatever_the_processor(architecture, monkeypatch, wide):
    monkeypatch.setattr(cpu, "AVX512", wide)
    model = architecture.load()
    cpu.prepare_gradients(model)
    compare([layer for layer in linear(model) if isinstance(layer, Linear4bit)])


def compare(layers):
    torch.manual_seed(0)
    for layer in layers:
        rows = torch.randn(2, 5, layer.in_features, requires_grad=True)
        given = torch.randn(2, 5, layer.out_features)
        found, wanted = layer(rows), type(layer).forward(layer, rows)
        assert "MatMul4Bit" not in type(found.grad_fn).__name__
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        back = [torch.autograd.grad(x, rows, given)[0] for x in (found, wanted)]
        torch.testing.assert_close(*back, rtol=1e-4, atol=1e-5)


def test_where_memory_has_no_room_weights_are_unpacked_at_each_pass(
    architecture, questions, faces, monkeypatch
):
    def read():
        model = add_lora(architecture.load(), architecture.recipe.lora)
        layers = linear(model)
        said = foretell(model, batch)
        said.logits.logsumexp(-1).sum().backward()
        kept = [hasattr(layer, "unpacked") for layer in layers if isinstance(layer, Linear4bit)]
        return kept, [said.logits, *(p.grad for p in model.parameters() if p.grad is not None)]

    collator = architecture.collator(questions, answers=True)
    batch = collator.with_answers(faces[:3], ANSWERS)
    torch.manual_seed(0)
    kept, found = read()
    monkeypatch.setattr(cpu, "ROOM", 0.0)
    torch.manual_seed(0)
    not_kept, same = read()
    assert all(kept)
    assert not any(not_kept)
    assert all(torch.equal(*pair) for pair in zip(found, same, strict=True))


def test_the_room_is_that_of_a_container(base, recipe, monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(cpu, "CONTAINER", [str(limit), str(tmp_path / "other kernels'")])
    for allowed, kept in (("max", True), (str(2**40), True), ("1000000", False)):
        limit.write_text(f"{allowed}\n")
        layers = [m for m in linear(load_base(base, recipe)) if isinstance(m, Linear4bit)]
        assert all(hasattr(layer, "unpacked") is kept for layer in layers)


@pytest.mark.skipif(not cpu.ONEDNN, reason="other products")
@pytest.mark.parametrize(
    "trained",
    [False, pytest.param(True, marks=pytest.mark.skipif(cpu.AVX512, reason="one kind of product"))],
    ids=["loaded", "validated in training"],
)
@torch.no_grad()
def test_a_row_comes_out_the_same_among_few_and_many(base, recipe, trained):
    model = load_base(base, recipe)
    layer = next(m for m in linear(model) if isinstance(m, Linear4bit))
    rows = torch.randn(300, layer.in_features)
    among_many = layer(rows)
    if trained:
        cpu.prepare_gradients(model)
    # A row quite alone comes out otherwise of weights that lie for gradients.
    for count in (2 if trained else 1, 3, 5, 31, 293):
        assert torch.equal(layer(rows[7 : 7 + count]), among_many[7 : 7 + count])


def test_a_copy_computes_the_same_and_unpacks_nothing_anew(base, recipe, monkeypatch):
    model = load_base(base, recipe)
    monkeypatch.delattr(cpu, "_unpack")
    for layer, copied in zip(linear(model), linear(copy.deepcopy(model)), strict=True):
        rows = torch.randn(4, layer.in_features)
        torch.testing.assert_close(copied(rows), layer(rows))


@pytest.mark.skipif(not cpu.ONEDNN, reason="other products")
def test_weights_lie_as_they_are_read(base, recipe, monkeypatch):
    monkeypatch.setattr(cpu, "AVX512", True)
    model = load_base(base, recipe)
    layers = [m for m in linear(model) if isinstance(m, Linear4bit)]
    assert all(layer.unpacked.weight.is_mkldnn for layer in layers)
    add_lora(model, recipe.lora)
    assert not any(layer.unpacked.weight.is_mkldnn for layer in layers)
    wide = [m.unpacked.weight for m in layers if m.out_features > m.in_features]
    assert wide
    assert all(weight.T.is_contiguous() for weight in wide)


def test_without_onednn_weights_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", None)
    alone = runpy.run_path(cpu.__file__)
    assert alone["_lay_out"](weight := torch.ones(2, 3)) is weight


def _kept(kept, tensor):
    kept.append(tensor)
    return tensor


def test_gated_feed_forwards_keep_what_they_multiply_and_no_more(architecture):
    gated = [m for m in architecture.load().modules() if hasattr(m, "gate_proj")]
    if not gated:
        pytest.skip("has none")
    for layer in gated:
        rows = torch.randn(2, 5, layer.gate_proj.in_features, requires_grad=True)
        given = torch.randn_like(rows)
        kept: list[torch.Tensor] = []
        keep = partial(_kept, kept)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            found = layer(rows)
        wide = {x.data_ptr() for x in kept if x.shape[-1] == layer.gate_proj.out_features}
        wanted = type(layer).forward(layer, rows)
        assert len(wide) == 2
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            assert torch.equal(layer(rows), wanted)
        back = [torch.autograd.grad(x, rows, given)[0] for x in (found, wanted)]
        torch.testing.assert_close(*back, rtol=1e-4, atol=1e-5)


def test_norms_are_to_the_bit_what_they_were_and_so_about_are_gradients(architecture):
    norms = [m for m in architecture.load().modules() if hasattr(m, "variance_epsilon")]
    if not norms:
        pytest.skip("has none")
    torch.manual_seed(0)
    for norm in norms:
        nn.init.normal_(norm.weight)
        rows = torch.randn(2, 5, len(norm.weight), requires_grad=True)
        given = torch.randn_like(rows)
        found, wanted = norm(rows), type(norm).forward(norm, rows)
        assert type(found.grad_fn) is not type(wanted.grad_fn)
        assert torch.equal(found, wanted)
        back = [torch.autograd.grad(x, rows, given)[0] for x in (found, wanted)]
        torch.testing.assert_close(*back, rtol=1e-4, atol=1e-5)
        half = rows.detach().bfloat16()
        assert torch.equal(norm(half), type(norm).forward(norm, half))


def test_quick_gelu_is_to_the_bit_what_it_was(monkeypatch):
    monkeypatch.setattr(cpu, "PART", 32)  # whole vectors: a vector's rest is rounded otherwise
    known = QuickGELUActivation()
    cpu.optimize(made := QuickGELUActivation())
    for inputs in (torch.randn(3, 16), torch.randn(16, 4).T, torch.randn(3, 16).bfloat16()):
        assert torch.equal(made(inputs), known(inputs))
    inputs = torch.randn(3, 5, requires_grad=True)
    back = [torch.autograd.grad(layer(inputs).sum(), inputs)[0] for layer in (made, known)]
    assert torch.equal(*back)


@pytest.mark.skipif(not cpu.ONEDNN, reason="other products")
def test_a_tower_read_alone_keeps_its_weights_as_they_are_read(base, recipe):
    tower = linear(vision(load_base(base, recipe, language=False)))
    assert tower
    assert all(layer.weight.is_mkldnn for layer in tower)


def test_a_merged_adapter_counts(base, recipe):
    model = add_lora(load_base(base, recipe), recipe.lora)
    layer = next(m for m in model.modules() if isinstance(m, LoraLayer))
    nn.init.normal_(layer.lora_B["default"].weight)
    rows = torch.randn(4, layer.in_features)
    layer.eval()
    tuned, base_alone = layer(rows), layer.base_layer(rows)
    layer.merge()
    assert torch.dist(layer(rows), tuned) < 0.3 * torch.dist(base_alone, tuned)


def test_no_rows_make_none(base, recipe):
    model = load_base(base, recipe)
    for prepare in (lambda model: None, cpu.prepare_gradients):
        prepare(model)
        for layer in linear(model):
            none = torch.empty(0, layer.in_features, requires_grad=True)
            found = layer(none)
            found.sum().backward()
            assert found.shape == (0, layer.out_features)
            assert none.grad.shape == none.shape


def test_what_is_trained_later_gets_its_gradients(base, recipe):
    classifier = load_base(base, recipe, classes=3).classifier
    ones = torch.ones(2, classifier.in_features)
    trained = copy.deepcopy(classifier).requires_grad_(True)
    trained(ones).sum().backward()
    assert trained.weight.grad.abs().sum() > 0
    with torch.no_grad():
        trained.weight.zero_()
    assert torch.equal(trained(ones), trained.bias.expand(2, -1))
    assert not torch.equal(classifier(ones), trained(ones))


@pytest.mark.skipif(platform.system() != "Linux", reason="has no list of mapped files")
def test_the_file_of_the_weights_is_let_go(params, recipe, tmp_path):
    folder = small_base(params, "qwen2_vl", tmp_path)
    model = load_base(folder, recipe)
    assert str(folder) not in Path("/proc/self/maps").read_text()
    assert model.num_parameters() > 0  # it is still there


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another way to get memory")
def test_memory_that_is_freed_while_a_model_is_loaded_is_given_back(base, recipe):
    # What a process has freed before decides what it keeps, so this is a new one.
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        *before, weights = alone.submit(_given_back, base, recipe).result()
    assert max(before) < 50 * 2**20  # by default little is
    assert weights > 150 * 2**20


def _given_back(base, recipe):
    load, sizes = models._load, []
    torch.ones(2**22)  # once such a size is freed, glibc keeps the next

    def make_and_free(*args, **options):
        made = [(torch.ones(2**20), torch.ones(2**17)) for _ in range(50)]
        stays = [small for _, small in made]
        before = psutil.Process().memory_info().rss
        del made
        sizes.append(before - psutil.Process().memory_info().rss)
        del stays
        return load(*args, **options)

    models._load = make_and_free
    load_base(base, recipe)
    return sizes


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another way to get memory")
def test_freed_memory_is_used_again():
    cpu.optimize(nn.Identity())
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            torch.ones(2**22)  # 16 MiB
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults * resource.getpagesize() < 2**22
