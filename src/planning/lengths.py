"""How many tokens an example is, without a tokenizer."""

from dataclasses import dataclass

from transformers import PreTrainedConfig

from src import tasks
from src.errors import UserError
from src.planning.activations import Shape
from src.schema import Data, Recipe

CHARACTERS = 3.5  # of English to a token; byte-pair encodings of large models have about four
TEMPLATE = 24  # tokens that a chat puts around the words
ASKED = 80  # characters of a question or hypothesis that a record brings

UNKNOWN_LABELS = ["some class"] * 10  # where the names of folders will say what there is


@dataclass(frozen=True)
class Lengths:
    """Tokens of a recipe's examples; those of pictures are exact, the others by their characters.

    An answer is taken to be as long as one may be written (`generation.max_new_tokens`).
    """

    visual: int
    prompt: int  # with the visual ones
    answer: int
    labels: int  # how many answers are scored one by one; 0: none
    label: int  # tokens of the longest of them, end token included
    patches: int  # that the vision tower reads

    def shape(self, batch: int) -> Shape:
        """A batch of examples of the usual length."""
        return Shape(batch, self.prompt, self.answer)

    def longest(self, batch: int, max_length: int) -> Shape:
        """A batch of the longest that training lets in, which is refused where it is longer."""
        return Shape(batch, max(max_length - self.answer, self.prompt), self.answer)


def lengths(recipe: Recipe, data: Data, configuration: PreTrainedConfig) -> Lengths:
    """The lengths of a recipe on its data. Raises UserError as `visual_tokens` does."""
    visual, patches = visual_tokens(configuration, data)
    labels = data.labels or UNKNOWN_LABELS
    choices = tasks.load(recipe, labels).choices or []
    words = [recipe.prompt.system or "", *(recipe.prompt.pool or [recipe.prompt.question])]
    filled = dict.fromkeys(("question", "hypothesis"), "x" * ASKED) | {"labels": ", ".join(labels)}
    longest = max(words[1:], key=len).format(**filled)
    text = TEMPLATE + text_tokens(words[0]) + text_tokens(longest)
    answer = recipe.generation.max_new_tokens
    label = max((text_tokens(label) + 1 for label in choices), default=0)
    return Lengths(visual, visual + text, answer, len(choices), label, patches)


def text_tokens(text: str) -> int:
    """About how many tokens a text is."""
    return -int(-len(text) // CHARACTERS)


def visual_tokens(configuration: PreTrainedConfig, data: Data) -> tuple[int, int]:
    """Tokens that a picture or a video is to the language model, and patches to the vision tower.

    Qwen2-VL merges 2 x 2 patches of 14 pixels, and two frames of a video, into one token (Wang et
    al. 2024, section 2.1); LLaVA-1.5 has a token a patch of its own size of picture; BLIP-2 has its
    queries, however many patches there are.

    Raises:
        UserError: it is of none of these architectures.
    """
    vision = getattr(configuration, "vision_config", None)
    match configuration.model_type:
        case "qwen2_vl":
            merge, size = vision.spatial_merge_size, vision.patch_size
            side = max(1, round(data.image_size / size / merge))
            steps = data.frames // vision.temporal_patch_size if data.frames else 1
            tokens = side**2 * steps
            return tokens, tokens * merge**2
        case "llava":
            patches = (vision.image_size // vision.patch_size) ** 2
            return patches, patches + 1  # and CLIP's class token
        case "blip-2":
            patches = (vision.image_size // vision.patch_size) ** 2
            return configuration.num_query_tokens, patches + 1
        case other:
            raise UserError(
                f"a model of type {other} cannot be planned: how many tokens a picture is to it is "
                "not known; say it in src/planning/lengths.py"
            )


def patch_bytes(configuration: PreTrainedConfig) -> int:
    """Bytes of a patch's pixels, in fp32, as processors make them."""
    vision = configuration.vision_config
    return 4 * 3 * vision.patch_size**2 * getattr(vision, "temporal_patch_size", 1)
