"""BLIP-2 (https://arxiv.org/abs/2301.12597) with OPT or FLAN-T5 as its language model."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    T5Config,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from src.errors import UserError
from src.families import common
from src.families.tokenizer import train_tokenizer
from src.schema import BuiltBase

# transformers keeps them so beside fp16 alone; in bf16 too the published weights lose nothing.
Blip2ForConditionalGeneration._keep_in_fp32_modules_strict = ["query_tokens", "qformer"]

# What a model without its vision side, or without the layers of its language model, does not miss.
Blip2ForConditionalGeneration._keys_to_ignore_on_load_unexpected = [
    r"vision_model\.encoder\.layers\.",
    r"qformer\.encoder\.layer\.",
    r"language_model\..*coder\.(layers|block)\.",
]

UNQUANTIZED = ["vision_model", "qformer", "language_projection", "lm_head"]
# Activations of its language models pass the range of fp16.
UNSAFE = ("fp16",)
LEAD = "Answer:"
answer = common.after_a_space
pixels, visual_inputs, cam_maps = common.pixels, common.visual_inputs, common.cam_maps

PATCH = 14
END, PAD, UNKNOWN, IMAGE = "</s>", "<pad>", "<unk>", "<image>"


def complete(processor: ProcessorMixin, config: PreTrainedConfig) -> None:
    """Put in what checkpoints of before `<image>` was a token lack.

    Their embeddings have rows to spare, in which the token finds its place.
    """
    if processor.num_query_tokens is None:
        processor.num_query_tokens = config.num_query_tokens
    if config.image_token_index is None:
        config.image_token_index = processor.tokenizer.convert_tokens_to_ids(IMAGE)


def render(processor: ProcessorMixin, system: str | None, question: str) -> str:
    """The prompt that BLIP-2 was evaluated with; its processor puts the picture in front."""
    return f"{system + ' ' if system else ''}Question: {question} {LEAD}"


def answer_likelihoods(
    model: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    prefix: common.Prefix | None,
    tokens: torch.Tensor,
    real: torch.Tensor,
) -> torch.Tensor:
    """Log-likelihood of every answer after every prompt: see src/families/common.py."""
    if prefix is None:
        return _decoded(model, inputs, tokens, real)
    # OPT reads on without the picture.
    reader = model.language_model
    return common.after_prefix(reader, prefix, inputs["attention_mask"], tokens, real)


def _decoded(
    model: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    tokens: torch.Tensor,
    real: torch.Tensor,
) -> torch.Tensor:
    """The same from an encoder that reads each prompt once."""
    count, size = len(tokens), len(inputs["input_ids"])
    start = torch.full_like(tokens[:, :1], model.config.text_config.decoder_start_token_id)
    shifted = torch.cat([start, tokens[:, :-1]], 1)
    read = model(**inputs, decoder_input_ids=start[:1].expand(size, 1), use_cache=False)
    states = read.language_model_outputs.encoder_last_hidden_state.repeat_interleave(count, 0)
    logits = model.language_model(
        encoder_outputs=(states,),
        attention_mask=inputs["attention_mask"].repeat_interleave(count, 0),
        decoder_input_ids=shifted.repeat(size, 1),
        use_cache=False,
    ).logits
    following = tokens.repeat(size, 1)[..., None]
    found = functional.log_softmax(logits.float(), -1).gather(-1, following)[..., 0]
    return (found * real.repeat(size, 1)).sum(1).view(size, count)


def vision(model: PreTrainedModel) -> nn.Module:
    """The vision tower."""
    return model.vision_model


@torch.inference_mode()
def features(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the projection makes of the Q-Former's queries: (batch, queries, width)."""
    return model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output


def without_vision(config: Blip2Config) -> None:
    """Leave the blocks of the tower and of the Q-Former away."""
    config.vision_config.num_hidden_layers = config.qformer_config.num_hidden_layers = 0


def without_language(config: Blip2Config) -> None:
    """Leave the layers that read tokens away."""
    text = config.text_config
    text.num_hidden_layers = 0
    if config.is_encoder_decoder:
        text.num_decoder_layers = 0


def read_features(model: PreTrainedModel) -> None:
    """Take features of (batch, queries, width) for pixels."""

    def see(pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(last_hidden_state=pixel_values)

    def query(*, encoder_hidden_states: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(last_hidden_state=encoder_hidden_states)

    model.vision_model, model.qformer = common.Given(see), common.Given(query)
    model.language_projection = nn.Identity()


def cam_layer(model: PreTrainedModel) -> nn.Module:
    """The last block of the vision tower: the Q-Former's maps are at chance."""
    return vision(model).encoder.layers[-1]


def build(
    spec: BuiltBase, corpus: Iterable[str], seed: int
) -> tuple[Blip2ForConditionalGeneration, Blip2Processor]:
    """A small BLIP-2 with random weights and a processor of its own.

    Raises:
        UserError: the specification names no language model or no queries.
    """
    if spec.language_model is None or spec.queries is None:
        raise UserError("a BLIP-2 needs language_model (opt or flan_t5) and queries")
    # OPT begins every text with its end token, T5 ends every text with it.
    frame = f"{END} $A" if spec.language_model == "opt" else f"$A {END}"
    specials = [PAD, END, UNKNOWN, IMAGE]
    tokenizer = train_tokenizer(
        [*corpus, f"Question: {LEAD}"], spec.vocabulary, specials, END, PAD, frame
    )
    side = {"height": spec.image_size, "width": spec.image_size}
    processor = Blip2Processor(
        BlipImageProcessor(size=side), tokenizer, num_query_tokens=spec.queries.count
    )
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(_config(spec, tokenizer))
    # All equal, as they are initialised, they would stay equal.
    nn.init.normal_(model.query_tokens, std=0.5)
    return model, processor


def _config(spec: BuiltBase, tokenizer: PreTrainedTokenizerFast) -> Blip2Config:
    vision = spec.vision
    # Wider than the usual 0.02, at which a model this small learns little in a minute.
    return Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=vision.hidden,
            intermediate_size=3 * vision.hidden,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            image_size=spec.image_size,
            patch_size=PATCH,
            initializer_range=0.08,
        ),
        qformer_config=Blip2QFormerConfig(
            vocab_size=len(tokenizer),
            hidden_size=vision.hidden,
            intermediate_size=3 * vision.hidden,
            num_hidden_layers=spec.queries.layers,
            num_attention_heads=vision.heads,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            cross_attention_frequency=1,
            initializer_range=0.05,
        ),
        text_config=_opt(spec, tokenizer) if spec.language_model == "opt" else _t5(spec, tokenizer),
        num_query_tokens=spec.queries.count,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        initializer_range=0.05,
    )


def _opt(spec: BuiltBase, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    text, token = spec.text, tokenizer.convert_tokens_to_ids
    return OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=text.hidden,
        word_embed_proj_dim=text.hidden,
        ffn_dim=3 * text.hidden,
        num_hidden_layers=text.layers,
        num_attention_heads=text.heads,
        max_position_embeddings=512,
        dropout=0.0,
        init_std=0.05,
        bos_token_id=token(END),
        eos_token_id=token(END),
        pad_token_id=token(PAD),
    )


def _t5(spec: BuiltBase, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    text, token = spec.text, tokenizer.convert_tokens_to_ids
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=text.hidden,
        d_kv=text.hidden // text.heads,
        d_ff=2 * text.hidden,
        num_layers=text.layers,
        num_heads=text.heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        eos_token_id=token(END),
        pad_token_id=token(PAD),
        decoder_start_token_id=token(PAD),
    )
