import random

import pytest
import torch
from PIL import Image, ImageDraw

from src.drawing import clips
from src.families import qwen2_vl
from src.training.prompts import as_tensor


def test_pictures_as_a_tensor_are_the_processors_own(processor, faces):
    images = [face["image"] for face in faces[:3]]
    expected = processor.image_processor(images=images, return_tensors="pt")
    found = qwen2_vl.visual_inputs(processor, qwen2_vl.pixels(processor, images))
    assert torch.equal(found["pixel_values"], expected["pixel_values"])
    assert torch.equal(found["image_grid_thw"], expected["image_grid_thw"])


def test_gradients_reach_the_pixels(processor, faces):
    pixels = qwen2_vl.pixels(processor, [faces[0]["image"]]).requires_grad_(True)
    qwen2_vl.visual_inputs(processor, pixels)["pixel_values"].sum().backward()
    # Every pixel stands in two frames, since a still picture is doubled.
    assert (pixels.grad == 2).all()


def test_a_map_has_the_places_of_the_picture(processor):
    """Light one patch after the other and look where the map has it."""
    side = processor.image_processor.patch_size
    for row, column in ((0, 0), (0, 3), (1, 2), (3, 1)):
        image = Image.new("RGB", (56, 56))
        corner = (column * side, row * side)
        ImageDraw.Draw(image).rectangle(
            (*corner, corner[0] + side - 1, corner[1] + side - 1), fill="white"
        )
        pixels = qwen2_vl.pixels(processor, [image, image])
        tokens = qwen2_vl.visual_inputs(processor, pixels)["pixel_values"].mean(1, keepdim=True)
        maps = qwen2_vl.cam_maps(processor, tokens, tuple(pixels.shape[-2:]))
        assert maps.shape == (2, 1, 4, 4)
        for one in maps[:, 0]:
            assert divmod(one.argmax().item(), 4) == (row, column)


def drawn(frames, seed):
    rng = random.Random(seed)
    return list(clips.draw(rng, clips.random_scene(rng), 56, frames))


@pytest.mark.parametrize(("frames", "steps"), [(8, 4), (7, 4), (2, 1), (1, 1)])
def test_film_strips_become_the_processors_own_inputs(processor, frames, steps):
    videos = [drawn(frames, seed) for seed in (1, 2)]
    expected = processor.video_processor(
        videos=[as_tensor(v) for v in videos],
        do_rescale=False,
        do_resize=False,
        return_tensors="pt",
    )
    strips = qwen2_vl.pixels(processor, videos)
    assert strips.shape == (2, 6, 56, steps * 56)
    found = qwen2_vl.visual_inputs(processor, strips, steps)
    assert found.keys() == {"pixel_values_videos", "video_grid_thw"}
    for name, value in found.items():
        assert torch.equal(value, expected[name])


def test_gradients_reach_every_pixel_of_a_film_strip_once(processor):
    strips = qwen2_vl.pixels(processor, [drawn(8, 1)]).requires_grad_(True)
    qwen2_vl.visual_inputs(processor, strips, 4)["pixel_values_videos"].sum().backward()
    assert (strips.grad == 1).all()


@pytest.mark.parametrize(("frame", "row", "column"), [(0, 0, 0), (3, 1, 2), (6, 3, 0), (7, 2, 3)])
def test_a_map_of_a_film_strip_has_the_step_and_place(processor, frame, row, column):
    video = [Image.new("RGB", (56, 56)) for _ in range(8)]
    corner = column * 14, row * 14
    ImageDraw.Draw(video[frame]).rectangle((*corner, corner[0] + 13, corner[1] + 13), fill="white")
    strips = qwen2_vl.pixels(processor, [video, video])
    tokens = qwen2_vl.visual_inputs(processor, strips, 4)["pixel_values_videos"]
    size = tuple(strips.shape[-2:])
    maps = qwen2_vl.cam_maps(processor, tokens.mean(1, keepdim=True), size, 4)
    assert maps.shape == (2, 1, 4, 16)
    for one in maps[:, 0]:
        assert divmod(one.argmax().item(), 16) == (row, frame // 2 * 4 + column)


def test_a_system_message_stands_in_the_prompt_where_there_is_one(processor):
    with_one = qwen2_vl.render(processor, "Be kind.", "What is it?")
    assert with_one.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n")
    assert "You are a helpful assistant." in qwen2_vl.render(processor, None, "What is it?")
