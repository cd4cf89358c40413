import torch
from PIL import Image, ImageDraw

from src.families import qwen2_vl


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


def test_a_system_message_stands_in_the_prompt_where_there_is_one(processor):
    with_one = qwen2_vl.render(processor, "Be kind.", "What is it?")
    assert with_one.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n")
    assert "You are a helpful assistant." in qwen2_vl.render(processor, None, "What is it?")
