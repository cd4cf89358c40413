"""LLaVA-1.5 (https://arxiv.org/abs/2310.03744)."""

from collections.abc import Iterable

import torch
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from src.families import common
from src.families.tokenizer import train_tokenizer
from src.schema import BuiltBase

UNQUANTIZED = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
UNSAFE = ()
LEAD = "ASSISTANT:"
render, answer = common.chat, common.after_a_space
pixels, visual_inputs, cam_maps = common.pixels, common.visual_inputs, common.cam_maps

PATCH = 8
START, END, PAD, UNKNOWN, IMAGE = "<s>", "</s>", "<pad>", "<unk>", "<image>"
# That of llava-hf/llava-1.5-7b-hf, without its white space.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] if content['type'] == 'image' %}{{ '<image>\n' }}"
    "{% endfor %}"
    "{% for content in message['content'] if content['type'] == 'text' %}"
    "{{ content['text'] + ' ' }}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def complete(processor: ProcessorMixin, config: PreTrainedConfig) -> None:
    """Put into the processor what checkpoints of before it counted picture tokens lack."""
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = 1  # CLIP's class token


def answer_likelihoods(
    model: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    prefix: common.Prefix,
    tokens: torch.Tensor,
    real: torch.Tensor,
) -> torch.Tensor:
    """Log-likelihood of every answer after every prompt: see src/families/common.py."""
    return common.after_prefix(model, prefix, inputs["attention_mask"], tokens, real)


def vision(model: PreTrainedModel) -> nn.Module:
    """The vision tower."""
    return model.model.vision_tower


def cam_layer(model: PreTrainedModel) -> nn.Module:
    """The last block that the projector reads; behind it nothing has a gradient."""
    return vision(model).encoder.layers[model.config.vision_feature_layer]


def build(
    spec: BuiltBase, corpus: Iterable[str], seed: int
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A small LLaVA with random weights and a processor of its own."""
    specials = [UNKNOWN, START, END, PAD, IMAGE]
    tokenizer = train_tokenizer(
        [*corpus, "USER: ASSISTANT:"], spec.vocabulary, specials, END, PAD, f"{START} $A"
    )
    side = spec.image_size
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(_config(spec, tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


def _config(spec: BuiltBase, tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    token = tokenizer.convert_tokens_to_ids
    text, vision = spec.text, spec.vision
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=vision.hidden,
            intermediate_size=3 * vision.hidden,
            # The projector reads the last block but one.
            num_hidden_layers=vision.layers + 1,
            num_attention_heads=vision.heads,
            image_size=spec.image_size,
            patch_size=PATCH,
            projection_dim=vision.hidden,
            # Wider than the usual 0.02, at which a tower this small learns little in a minute.
            initializer_range=0.08,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=text.hidden,
            intermediate_size=3 * text.hidden,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            num_key_value_heads=text.kv_heads,
            max_position_embeddings=1024,
            initializer_range=0.05,
            bos_token_id=token(START),
            eos_token_id=token(END),
            pad_token_id=token(PAD),
            tie_word_embeddings=False,
        ),
        image_token_index=token(IMAGE),
        image_seq_length=(spec.image_size // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
