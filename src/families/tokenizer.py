"""A tokenizer for the models that are built here."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast


def train_tokenizer(
    corpus: Iterable[str],
    vocabulary: int,
    specials: list[str],
    eos: str,
    pad: str,
    frame: str = "$A",
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `vocabulary` entries; every text can be spelt with it.

    `frame` says where special tokens stand around a text, which is `$A`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    if around := [word for word in frame.split() if word != "$A"]:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=frame, special_tokens=[(word, tokenizer.token_to_id(word)) for word in around]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=[s for s in specials if s not in (eos, pad)],
        clean_up_tokenization_spaces=False,
    )
