"""What publishers say of models and data before they are here: the one place of such numbers."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, PreTrainedConfig

from src import families
from src.errors import UserError
from src.files import read_json
from src.schema import Base, HubBase, Source
from src.training.pretrain import corpus

CONFIGURATIONS = Path(__file__).parent / "configurations"
# Bytes of a weight in the files of the Hub: what each model's page states as its tensor type.
STORED = {
    "Qwen/Qwen2-VL-7B-Instruct": 2,
    "llava-hf/llava-1.5-7b-hf": 2,
    "Salesforce/blip2-opt-2.7b": 4,
    "Salesforce/blip2-opt-6.7b": 4,
    "Salesforce/blip2-flan-t5-xl": 4,
    "Salesforce/blip2-flan-t5-xxl": 4,
}
# Bytes of the models behind BERTScore, of which the second lies in a package.
BERTSCORE = {"roberta-large": 1_421_700_479, "all-MiniLM-L6-v2": 0}


@dataclass(frozen=True)
class Examples:
    """How many examples a data set gives; None for a split that prepare makes of the others."""

    train: int
    validation: int | None = None
    test: int | None = None
    pictures: int | None = None  # or videos, all together; None: one an example
    note: str = "as published"


# By where a data set comes from: the name on Kaggle or the Hub, or the address.
EXAMPLES = {
    "fatmamtalaat/autistic-children-emotions-dr-fatma-m-talaat": Examples(758, test=75),
    "ananthu017/emotion-detection-fer": Examples(35_887),
    # Of its 147,702 products a main picture each; questions to a picture as in the drawn products.
    "https://amazon-berkeley-objects.s3.amazonaws.com": Examples(
        827_131, pictures=147_702, note="by 5.6 questions a picture, which is a guess"
    ),
}
PAIRS_A_PICTURE = 13  # of e-SNLI-VE's training split; its other two are read whole
ESNLIVE_HELD_OUT = {"validation": 14_339, "test": 14_740}  # on 1,000 pictures each


def examples(source: Source) -> Examples | None:
    """What a source brings, or None where nobody knows before it is here."""
    if source.folder:
        return None
    if source.drawn:
        return Examples(source.drawn.train, test=source.drawn.test, note="pictures drawn")
    if source.esnlive:
        pictures = source.esnlive.rows // PAIRS_A_PICTURE + 2000
        return Examples(source.esnlive.rows, pictures=pictures, **ESNLIVE_HELD_OUT)
    if source.webvid:
        return Examples(source.webvid.clips, note="if every address still answers")
    named = source.kaggle.dataset if source.kaggle else source.abo.url if source.abo else None
    return EXAMPLES.get(named)


def data_bytes(source: Source) -> int | None:
    """What a source downloads, or None where nobody knows before."""
    if source.folder or source.drawn:
        return 0
    return source.abo.listings.size + source.abo.images.size if source.abo else None


def configuration(base: Base, folder: Path) -> PreTrainedConfig:
    """The configuration of a base, without a network.

    What the build stage left in `folder` comes first, then the Hub's cache, then the one that lies
    in `configurations`, which holds what the published one has other than transformers' defaults.

    Raises:
        UserError: it is in none of them.
    """
    if not isinstance(base.model, HubBase):
        built, _ = families.load(base.family).build(base.model, corpus(base.model, 0), seed=0)
        return built.config
    revision = (manifest(base, folder) or {}).get("revision") or base.model.revision
    cached = try_to_load_from_cache(base.model.id, "config.json", revision=revision or "main")
    if isinstance(cached, str):
        return AutoConfig.from_pretrained(Path(cached).parent)
    file = CONFIGURATIONS / f"{base.model.id.replace('/', '--')}.json"
    if not file.is_file():
        raise UserError(
            f"params.yaml: base.{base.name}: the configuration of {base.model.id} is not here; "
            f"bring it with `dvc repro build@{base.name}`, or put its config.json at {file}"
        )
    values = read_json(file)
    return AutoConfig.for_model(values.pop("model_type"), **values)


def manifest(base: Base, folder: Path) -> dict | None:
    """What the build stage wrote of this very model, if it did."""
    file = folder / "manifest.json"
    found = read_json(file) if file.is_file() else {}
    return found if isinstance(base.model, HubBase) and found.get("id") == base.model.id else None


def weight_bytes(base: Base, folder: Path, parameters: int) -> tuple[int | None, str]:
    """The bytes of a base's weights that are still to be downloaded, and how that is known."""
    if not isinstance(base.model, HubBase):
        return 0, "built here"
    found = manifest(base, folder)
    if found:
        repository, revision = found["id"], found["revision"]
        lacking = {
            file: size
            for file, size in found["bytes"].items()
            if not isinstance(try_to_load_from_cache(repository, file, revision=revision), str)
        }
        every = len(found["bytes"])
        here = f"{every - len(lacking)} of {every} files here"
        return sum(lacking.values()), f"by its manifest; {here}"
    stored = STORED.get(base.model.id)
    if stored is None:
        return None, f"until `dvc repro build@{base.name}` has run"
    return parameters * stored, f"{stored} bytes a weight, as published"
