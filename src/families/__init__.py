"""What differs by architecture, one module a family.

A module of this package defines
- `UNQUANTIZED`: names of modules that stay out of 4-bit (the vision side and the output head);
- `UNSAFE`: precisions in which the architecture overflows;
- `build(spec, corpus, seed)`: a small model and processor of the architecture;
- `complete(processor, config)`: puts in what older checkpoints lack;
- `render(processor, system, question)`: the prompt as text, up to where the answer begins; with a
  fourth argument `video` where the family reads videos;
- `LEAD` and `answer(text)`: what a prompt ends with, where the tokens of an answer depend on it,
  and the answer as it follows, without the end token;
- `answer_likelihoods(model, inputs, prefix, tokens, real)`: of many answers to each prompt, which
  has been read already, but by an encoder-decoder, for which the prefix is None;
- `pixels(processor, media)` and `visual_inputs(processor, pixels)`: pictures as a tensor, and
  from that the model's inputs, differentiably;
- `vision(model)`, `cam_layer(model)` and `cam_maps(processor, activations, size)`: the vision
  tower, the module in it that Grad-CAM reads, and that module's output as maps.

Where features of its frozen vision side may be kept for all epochs and runs, it also defines
- `features(model, inputs)`: what the language model reads of each picture or video of a batch,
  (batch, tokens, width);
- `without_vision(config)`: the configuration without what computes them;
- `without_language(config)`: the configuration without what reads them;
- `read_features(model)`: from then on, the features stand in the inputs where pixels stood.

Where the family reads videos, `pixels` lays each out as a film strip of steps, which is what the
tower reads at once, and the functions that read it take the number of `steps` as a last argument.

Where the family may have a second head (`TWO_HEADED` in src/schema.py), it also defines
- `WITH_CLASSIFIER`: the class of a model that has one beside its own, for the `num_labels` of its
  configuration; where it is told to `classify_at` a position, it also gives `class_logits`.

The language model of every family lives under the name `language_model`, which is all that LoRA
needs to know (src/models.py).
"""

from importlib import import_module
from types import ModuleType


def load(family: str) -> ModuleType:
    """The module of a family by its name."""
    return import_module(f"src.families.{family}")
