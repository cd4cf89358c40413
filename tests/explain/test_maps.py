from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from src.explain import maps, scores
from src.explain.targets import AnswerLikelihood
from src.models import add_lora, load_base
from tests.conftest import LABELS, score


def untrained(architecture, precision):
    torch.manual_seed(0)
    recipe = architecture.recipe
    chosen = recipe.model_copy(update={"precision": precision})
    return add_lora(load_base(architecture.base, chosen), recipe.lora).eval()


@pytest.fixture(scope="module")
def model(architecture):
    return untrained(architecture, "fp32")


@pytest.fixture(scope="module")
def explained(architecture, model, questions, faces):
    collator = architecture.collator(questions, answers=True)
    return AnswerLikelihood(model, collator, faces[:3], ["Joy", "Fear", "Natural"])


def test_the_explained_number_is_the_score_of_the_answer(
    explained, architecture, model, questions, faces
):
    prompts = architecture.collator(questions, answers=False)
    found = score(model, prompts, faces[:3], LABELS, batch_size=3)
    with torch.no_grad():
        likelihood = explained(explained.pixels())[:, 0]
    expected = [found[0, 3], found[1, 2], found[2, 0]]
    np.testing.assert_allclose(likelihood, expected, rtol=1e-5, atol=1e-4)


def test_grad_cam_is_one_finite_map_a_picture_and_not_flat(explained):
    found = maps.gradcam(explained, (4, 4))
    assert found.shape == (3, 4, 4)
    assert np.isfinite(found).all()
    assert (np.ptp(found.reshape(3, -1), axis=1) > 0).all()


def test_maps_come_out_of_a_model_in_half_precision(architecture, questions, faces):
    half = untrained(architecture, "bf16")
    collator = architecture.collator(questions, answers=True)
    explained = AnswerLikelihood(half, collator, faces[:2], ["Joy", "Fear"])
    for found in (maps.gradcam(explained, (4, 4)), maps.occlusion(explained, (4, 4), batch_size=8)):
        assert found.shape == (2, 4, 4)
        assert np.isfinite(found).all()
    tower = architecture.family.vision(half.get_base_model())
    with scores.randomised(tower, scores.redrawn(tower, seed=1)):
        assert np.isfinite(maps.gradcam(explained, (4, 4))).all()


class PatchBrightness(nn.Module):
    """Stands for a model whose answer hangs on one cell of the picture alone."""

    def __init__(self, images, row, column):
        super().__init__()
        self.media, self.row, self.column = images, row, column

    def pixels(self):
        return torch.stack(
            [torch.tensor(np.asarray(i), dtype=torch.float32).permute(2, 0, 1) for i in self.media]
        )

    def forward(self, pixels):
        cell = pixels[:, :, 8 * self.row : 8 * self.row + 8, 8 * self.column : 8 * self.column + 8]
        return cell.mean((1, 2, 3))[:, None]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_occlusion_finds_the_cell_that_the_answer_hangs_on(batch_size):
    image = Image.new("RGB", (32, 32), "black")
    ImageDraw.Draw(image).rectangle((8, 16, 15, 23), fill="white")
    found = maps.occlusion(PatchBrightness([image, image], row=2, column=1), (4, 4), batch_size)
    assert found.shape == (2, 4, 4)
    for one in found:
        assert divmod(one.argmax(), 4) == (2, 1)
        assert np.count_nonzero(np.abs(one) > 1e-3) == 1


def test_edges_are_where_the_brightness_changes():
    image = Image.new("L", (32, 32))
    ImageDraw.Draw(image).rectangle((0, 0, 31, 11), fill=255)
    (found,) = maps.edges([image.convert("RGB")], (4, 4))
    assert (found.argmax(0) == 1).all()


def test_edges_of_a_video_are_those_of_the_frames_of_each_step():
    plain, edged = Image.new("RGB", (32, 32)), Image.new("RGB", (32, 32))
    ImageDraw.Draw(edged).rectangle((0, 0, 31, 11), fill="white")
    (found,) = maps.edges([[plain, plain, plain, edged, plain]], (4, 12))
    assert found[1, 4:8].min() > 0
    assert (found[:, :4] == 0).all() and (found[:, 8:] == 0).all()
    (both,) = maps.edges([[edged, edged]], (4, 4))
    np.testing.assert_allclose(both, 2 * found[:, 4:8], rtol=1e-6)


class Strip(nn.Module):
    """Stands for a model of film strips of two steps, of which it sees one row of cells."""

    def __init__(self, sees):
        super().__init__()
        self.model = nn.AvgPool2d(8)
        self.collator = SimpleNamespace(
            family=SimpleNamespace(
                cam_layer=lambda model: model,
                cam_maps=lambda processor, activations, size, steps: activations[:, :1],
            ),
            processor=None,
        )
        self.steps, self.media, self.sees = 2, [None], sees
        self.device_of = nn.Parameter(torch.zeros(1))

    def pixels(self):
        return torch.rand((1, 6, 32, 64), generator=torch.Generator().manual_seed(0))

    def forward(self, pixels):
        seen = self.model(pixels)[:, :1]
        return torch.stack([seen[:, 0, row, column] for row, column in self.sees], 1)


def test_occlusion_of_a_film_strip_covers_a_place_in_every_frame_of_a_step():
    explained = Strip([(2, 5), (0, 3)])
    found = maps.occlusions(explained, (4, 8), batch_size=5)
    assert found.shape == (2, 1, 4, 8)
    for one, place in zip(found[:, 0], explained.sees, strict=True):
        assert set(zip(*np.nonzero(np.abs(one) > 1e-6), strict=True)) == {place}


def test_grad_cam_of_one_step_does_not_run_into_the_next():
    class First(Strip):
        def forward(self, pixels):
            seen = self.model(pixels)[:, :1]
            return (seen[..., :4] ** 2).sum((1, 2, 3))[:, None]

    explained = First([])
    cam = maps.gradcam(explained, (4, 8))[0]
    expected = nn.functional.avg_pool2d(explained.pixels(), 8)[0, 0].numpy()
    expected = (expected - expected.min()) / (np.ptp(expected) + 1e-7)
    np.testing.assert_allclose(cam, expected, atol=1e-5)


def test_each_number_has_the_map_that_it_has_alone(explained):
    class Part(nn.Module):
        def __init__(self, sign):
            super().__init__()
            self.inner, self.sign = explained, sign
            for name in ("collator", "steps", "media", "model"):
                setattr(self, name, getattr(explained, name))

        def pixels(self):
            return explained.pixels()

        def forward(self, pixels):
            found = self.inner(pixels)
            return torch.cat([sign * found for sign in self.sign], 1)

    both = maps.gradcams(Part([1, -1]), (4, 4))
    assert both.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(both[0], maps.gradcam(explained, (4, 4)), atol=1e-5)
    np.testing.assert_allclose(both[1], maps.gradcam(Part([-1]), (4, 4)), atol=1e-5)
    assert not np.allclose(both[0], both[1])


def test_the_hottest_share_is_exact_and_ties_do_not_widen_it():
    chosen = scores.hottest(np.zeros((2, 5, 5)), 0.2)
    assert chosen.sum((1, 2)).tolist() == [5, 5]
    one = np.arange(16.0).reshape(1, 4, 4)
    assert scores.hottest(one, 0.25)[0].ravel().nonzero()[0].tolist() == [12, 13, 14, 15]


def test_the_pointing_game_reads_boxes_as_x_then_y():
    one = np.zeros((1, 4, 4))
    one[0, 0, 3] = 1  # top right
    assert scores.pointing_hits(one, [[{"name": "", "box": [0.75, 0, 1, 0.25]}]]).tolist() == [1]
    assert scores.pointing_hits(one, [[{"name": "", "box": [0, 0.75, 0.25, 1]}]]).tolist() == [0]
    share = scores.region_share(4, [[{"name": "", "box": [0, 0, 0.5, 0.5]}]])
    assert share.tolist() == [0.25]


def test_rank_correlation_is_one_for_a_map_and_itself_and_nought_for_a_flat_one():
    maps_ = np.random.default_rng(0).random((2, 4, 4))
    assert scores.rank_correlation(maps_, 3 * maps_ + 1).tolist() == pytest.approx([1, 1])
    assert scores.rank_correlation(maps_, -maps_).tolist() == pytest.approx([-1, -1])
    assert scores.rank_correlation(maps_, np.zeros_like(maps_)).tolist() == [0, 0]


def test_randomised_weights_differ_keep_their_spread_and_come_back():
    module = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64))
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    with scores.randomised(module, scores.redrawn(module, seed=1)):
        changed = dict(module.named_parameters())
        assert not torch.equal(changed["0.weight"], before["0.weight"])
        torch.testing.assert_close(
            changed["0.weight"].std(), before["0.weight"].std(), rtol=0.1, atol=0
        )
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())


def test_weights_come_back_when_the_memory_ends_within():
    module = nn.Linear(3, 3)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    drawn = scores.redrawn(module, seed=1)
    with pytest.raises(torch.OutOfMemoryError), scores.randomised(module, drawn):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_randomised_tower_changes_the_map_and_leaves_no_trace(explained, architecture, model):
    before = maps.gradcam(explained, (4, 4))
    tower = architecture.family.vision(model.get_base_model())
    with scores.randomised(tower, scores.redrawn(tower, seed=1)):
        other = maps.gradcam(explained, (4, 4))
    assert not np.allclose(before, other)
    assert np.array_equal(maps.gradcam(explained, (4, 4)), before)
