"""Qwen2-VL (https://arxiv.org/abs/2409.12191)."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torchvision.transforms.functional import pil_to_tensor
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep

from src.families import common
from src.families.tokenizer import train_tokenizer
from src.schema import BuiltBase

# What a model without its tower, or without the layers of its language model, does not miss.
Qwen2VLForConditionalGeneration._keys_to_ignore_on_load_unexpected = [
    r"visual\.blocks\.",
    r"language_model\.layers\.",
]

# A 4-bit vision tower is a known cause of nonsense answers.
UNQUANTIZED = ["model.visual", "lm_head", "classifier"]
UNSAFE = ()
LEAD = ""
render = common.chat

Medium = Image.Image | list[Image.Image]  # a picture, or the frames of a video
PATCH = 14
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def complete(processor: ProcessorMixin, config: PreTrainedConfig) -> None:
    """Its checkpoints lack nothing."""


def answer(text: str) -> str:
    """The assistant's words follow its turn's newline at once."""
    return text


def pixels(processor: ProcessorMixin, media: list[Medium]) -> torch.Tensor:
    """Pictures, or videos, of one size and length, normalised as the processor does.

    Pictures are (batch, 3, height, width). A video, whose frames are of the right size already, is
    a film strip: (batch, 2 * 3, height, steps * width). The tower reads two frames in one step;
    the steps lie side by side, the frames of each in the channels.
    """
    if isinstance(media[0], Image.Image):
        own = processor.image_processor
        raw = torch.stack([pil_to_tensor(image) for image in media])
        raw = own.resize(raw, own.size, own.resample, factor=own.patch_size * own.merge_size)
        return _normalised(own, raw, own.do_rescale)
    own = processor.video_processor
    raw = torch.stack([torch.stack([pil_to_tensor(frame) for frame in video]) for video in media])
    frames = _normalised(own, raw.float() / 255, False)
    lacking = -frames.shape[1] % own.temporal_patch_size
    # The processor, too, fills the last step up with the last frame.
    frames = torch.cat([frames, frames[:, -1:].expand(-1, lacking, -1, -1, -1)], 1)
    steps = frames.unflatten(1, (-1, own.temporal_patch_size))
    return steps.permute(0, 2, 3, 4, 1, 5).flatten(1, 2).flatten(3)


def _normalised(own: Any, raw: torch.Tensor, rescale: bool) -> torch.Tensor:
    return own.rescale_and_normalize(
        raw, rescale, own.rescale_factor, own.do_normalize, own.image_mean, own.image_std
    )


def visual_inputs(
    processor: ProcessorMixin, pixels: torch.Tensor, steps: int | None = None
) -> dict[str, torch.Tensor]:
    """Model inputs from what `pixels` makes, differentiably; `steps` are those of a film strip."""
    own = processor.image_processor if steps is None else processor.video_processor
    sizes = own.patch_size, own.merge_size, own.temporal_patch_size
    if steps is None:
        patches, *grid = own.patchify(pixels, *sizes)
        names, grid = ("pixel_values", "image_grid_thw"), [1, *grid]
    else:
        frames = pixels.unflatten(1, (own.temporal_patch_size, -1)).unflatten(4, (steps, -1))
        frames = frames.permute(0, 4, 1, 2, 3, 5).flatten(1, 2).contiguous()
        patches, *grid = own.patchify(frames, *sizes)
        names = "pixel_values_videos", "video_grid_thw"
    grids = torch.tensor([grid] * len(pixels), device=pixels.device)
    return dict(zip(names, (patches.flatten(0, 1), grids), strict=True))


def answer_likelihoods(
    model: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    prefix: common.Prefix,
    tokens: torch.Tensor,
    real: torch.Tensor,
) -> torch.Tensor:
    """Log-likelihood of every answer after every prompt: see src/families/common.py."""
    # By how much positions are behind the token count, because a picture's tokens share them.
    _, deltas = model.model.get_rope_index(**inputs)

    def positions(lengths: torch.Tensor, depths: torch.Tensor) -> torch.Tensor:
        places = common.text_positions(lengths, depths) + deltas
        return places[None].expand(3, -1, -1)

    mask = inputs["attention_mask"]
    return common.after_prefix(model, prefix, mask, tokens, real, positions)


def vision(model: PreTrainedModel) -> nn.Module:
    """The vision tower."""
    return model.model.visual


@torch.inference_mode()
def features(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the language model reads of each picture or video: (batch, tokens, width)."""
    if "pixel_values_videos" in inputs:
        read = model.model.get_video_features(
            inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
        )
    else:
        read = model.model.get_image_features(
            inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
        )
    return torch.stack(read.pooler_output)


def without_vision(config: Qwen2VLConfig) -> None:
    """Leave its blocks away, in which all but some hundredths of the tower lie."""
    config.vision_config.depth = 0


def without_language(config: Qwen2VLConfig) -> None:
    """Leave the layers that read tokens away."""
    config.text_config.num_hidden_layers, config.text_config.layer_types = 0, []


def read_features(model: PreTrainedModel) -> None:
    """Take features of (batch, tokens, width) for pixels."""

    def give(features: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(pooler_output=features.flatten(0, 1))

    merged = vision(model).spatial_merge_size
    model.model.visual = common.Given(give, dtype=model.dtype, spatial_merge_size=merged)


def cam_layer(model: PreTrainedModel) -> nn.Module:
    """The last block of the vision tower: behind it, the merger's map is at chance."""
    return vision(model).blocks[-1]


def cam_maps(
    processor: ProcessorMixin, activations: torch.Tensor, size: tuple[int, int], steps: int = 1
) -> torch.Tensor:
    """Activations (tokens, channels) of what `pixels` makes as (batch, channels, rows, columns).

    `size` is its height and width, where the maps of a film strip's steps lie side by side. The
    tower lists patches step by step, in blocks of merge_size by merge_size.
    """
    own = processor.image_processor
    m = own.merge_size
    rows, columns = (side // own.patch_size // m for side in (size[0], size[1] // steps))
    blocks = activations.reshape(-1, steps, rows, columns, m, m, activations.shape[-1])
    return blocks.permute(0, 6, 2, 4, 1, 3, 5).flatten(4).flatten(2, 3)


@dataclass
class TwoHeads(CausalLMOutputWithPast):
    """What the two heads say; `class_logits` are (batch, classes) in fp32."""

    class_logits: torch.Tensor | None = None


class Qwen2VLWithClassifier(Qwen2VLForConditionalGeneration):
    """Qwen2-VL with a second head, which names a class where the first begins its explanation.

    It reads the last hidden state of the prompt's last token, which has attended to the picture and
    to the hypothesis. There are `config.num_labels` classes.
    """

    def __init__(self, config: Qwen2VLConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.text_config.hidden_size, config.num_labels)
        self.post_init()

    # The signature of the original: generate reads it to know what the model takes.
    @wraps(Qwen2VLForConditionalGeneration.forward)
    def forward(
        self, *args: Any, classify_at: torch.Tensor | None = None, **inputs: Any
    ) -> CausalLMOutputWithPast:
        """As the original; with positions (batch,) of the prompts' last tokens, both heads."""
        if classify_at is None:
            return super().forward(*args, **inputs)
        keep = inputs.pop("logits_to_keep", 0)
        read = self.model(*args, **inputs)
        hidden = read.last_hidden_state
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), classify_at]
        # In fp32, whatever autocast makes of it, or sharding, which brings weights as bf16.
        head = self.classifier
        with torch.autocast(hidden.device.type, enabled=False):
            class_logits = functional.linear(pooled.float(), head.weight.float(), head.bias.float())
        return TwoHeads(
            logits=self.lm_head(slice_logits_to_keep(hidden, keep)),
            past_key_values=read.past_key_values,
            class_logits=class_logits,
        )


WITH_CLASSIFIER = Qwen2VLWithClassifier
# Checkpoints name their weights as older versions did; transformers knows the new names by class.
register_checkpoint_conversion_mapping(
    Qwen2VLWithClassifier.__name__,
    get_checkpoint_conversion_mapping(Qwen2VLForConditionalGeneration.__name__),
    overwrite=True,
)


def build(
    spec: BuiltBase, corpus: Iterable[str], seed: int
) -> tuple[Qwen2VLForConditionalGeneration, Qwen2VLProcessor]:
    """A small Qwen2-VL with random weights and a processor of its own."""
    specials = [PAD, START, END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD]
    tokenizer = train_tokenizer(corpus, spec.vocabulary, specials, eos=END, pad=PAD)
    processor = _processor(spec, tokenizer)
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(_config(spec, tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


def _processor(spec: BuiltBase, tokenizer: PreTrainedTokenizerFast) -> Qwen2VLProcessor:
    area = spec.image_size**2
    size = {"shortest_edge": area, "longest_edge": area}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, patch_size=PATCH),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(
            size=size, patch_size=PATCH, cap_pixels_per_frame=False
        ),
        chat_template=CHAT_TEMPLATE,
    )


def _config(spec: BuiltBase, tokenizer: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    token = tokenizer.convert_tokens_to_ids
    text, vision = spec.text, spec.vision
    half = text.hidden // text.heads // 2
    height = (half - half // 4) // 2
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": text.hidden,
            "intermediate_size": 3 * text.hidden,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "num_key_value_heads": text.kv_heads,
            "max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [half // 4, height, half - half // 4 - height],
            },
            "bos_token_id": token(PAD),
            "eos_token_id": token(END),
            "pad_token_id": token(PAD),
        },
        vision_config={
            "depth": vision.layers,
            "embed_dim": vision.hidden,
            "hidden_size": text.hidden,
            "num_heads": vision.heads,
            "mlp_ratio": 3,
            "patch_size": PATCH,
        },
        image_token_id=token(IMAGE_PAD),
        video_token_id=token(VIDEO_PAD),
        vision_start_token_id=token(VISION_START),
        vision_end_token_id=token(VISION_END),
        tie_word_embeddings=True,
    )
    # Wider than the usual 0.02, at which a tower this small learns little in a minute.
    config.vision_config.initializer_range = 0.08
    config.text_config.initializer_range = 0.05
    return config
