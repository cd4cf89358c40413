"""A tuned model that answers about files of pictures or videos."""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch
from httpx2 import HTTPError
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from peft import PeftModel, get_peft_model_state_dict
from PIL import Image
from pydantic import ValidationError

from src import config, gpus, tasks
from src.decoding import decoded, decoder
from src.errors import UserError
from src.files import read_json
from src.inference.predict import answers
from src.media import Stored
from src.models import RECIPE, base_under, load_tuned
from src.schema import Generation, Recipe, composed
from src.training.collator import Collator
from src.training.load import collator_of


@dataclass(frozen=True)
class Tuned:
    """A base with its adapter, and what the recipe puts before it."""

    model: PeftModel
    collator: Collator
    recipe: Recipe
    image_size: int
    frames: int | None = None  # of a video; None: it reads pictures

    def ask(
        self,
        files: Sequence[str | Path],
        questions: Sequence[str | None] | str | None = None,
        batch_size: int = 8,
    ) -> pd.DataFrame:
        """What the model makes of files, prepared as those of its training were.

        Args:
            files: pictures or videos in any format that the data stages read.
            questions: one for each file or for all; None: the recipe's own.
            batch_size: files with the longest prompts in one forward pass; it changes rounding
                alone.

        Returns:
            One row a file, in order: `image`, `question`, `answer`, `probability` (0 to 1),
            `doubt` (why not to rely on the answer, or empty) and `error` (why there is none, or
            empty). Where the task names a class and writes why, `explanation` follows `answer`.

        Raises:
            UserError: the recipe has no question of its own and none is given.
        """
        needed = self._needs_question()
        if questions is None or isinstance(questions, str):
            self.check([questions])
            questions = [questions] * len(files)
        paths = [Path(file).absolute() for file in files]
        rows: list[dict[str, Any]] = []
        usable = []
        found = decoded(paths, decoder(self.image_size, self.frames))
        for file, question, stored in zip(files, questions, found, strict=True):
            name = os.fsencode(file).decode("utf-8", "replace")
            question = question and composed(question)  # as the texts of its training were
            row = {"image": name, "question": question or "", "answer": None}
            row |= {"explanation": None} if self.collator.task.classifies else {}
            row |= {"probability": None, "doubt": "", "error": ""}
            rows.append(row)
            if not str(file):
                row["error"] = "no file named"
            elif name != str(file):
                row["error"] = "the file's name is no UTF-8"
            elif isinstance(stored, str):
                row["error"] = stored
            elif needed and not question:
                row["error"] = "no question"
            else:
                usable.append((row, _record(f"{file} {question or ''}", question, stored)))
        if usable:
            self._answer(usable, batch_size)
        return pd.DataFrame(rows)

    def check(self, questions: Sequence[str | None]) -> None:
        """Refuse questions of which there is none, where the recipe has none of its own.

        Raises:
            UserError: says so.
        """
        if self._needs_question() and not any(questions):
            raise UserError(f"the recipe {self.recipe.name} needs a question about each file")

    def digest(self) -> str:
        """SHA-256 of what its answers hang on beside the base: adapter, labels, sizes, recipe."""
        recipe = self.recipe.model_dump(exclude={"train"})
        known = [recipe, self.collator.task.choices, self.image_size, self.frames]
        found = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
        weights = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        for name in sorted(weights):
            found.update(name.encode())
            found.update(weights[name].cpu().flatten().view(torch.uint8).numpy())
        return found.hexdigest()

    def _needs_question(self) -> bool:
        return bool({"question", "hypothesis"} & set(self.collator.task.PLACEHOLDERS))

    def _answer(self, batch: list[tuple[dict[str, Any], dict[str, Any]]], batch_size: int) -> None:
        records = [record for _, record in batch]
        frame = answers(self.model, self.collator, self.recipe, records, records, batch_size)
        for (row, _), said in zip(batch, frame.to_dict("records"), strict=True):
            row["answer"] = said["predicted"]
            if self.collator.task.classifies:
                row["explanation"] = said["generated"]
            row |= {key: said[key] for key in ("question", "probability", "doubt")}


def load(
    recipe: str,
    adapter: str | None = None,
    base: str | None = None,
    generation: Mapping[str, Any] = MappingProxyType({}),
) -> Tuned:
    """The tuned model of a recipe.

    Args:
        recipe: its name in `params.yaml`.
        adapter: a folder or the id of a repository of the Hub; None: what `dvc repro` trained.
        base: a name in `params.yaml`, a folder or the id of a repository of the Hub, which is
            taken at the commit that the adapter names; None: the recipe's own.
        generation: what is to be other than in the recipe's block of that name.

    Raises:
        UserError: one of them is not there, the adapter does not fit the base, or torch cannot use
            the GPU.
    """
    gpus.check()
    params = config.load()
    chosen = config.pick(params.recipes, recipe, "recipes")
    try:
        written = Generation.model_validate(chosen.generation.model_dump() | {**generation})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{first['loc'][0]}: {config.what_is_wrong(first)}") from None
    chosen = chosen.model_copy(update={"generation": written})
    place = adapter or Path("models/adapters") / recipe
    data = params.data[chosen.data]
    labels, size, frames = data.labels, data.image_size, data.frames
    try:
        if trained := read_recipe(place):
            # The adapter answers as it was trained, whatever params.yaml says by now.
            labels, size, frames = (trained[k] for k in ("labels", "image_size", "frames"))
            asked = Recipe.model_validate(chosen.model_dump() | trained["recipe"])
            if asked.family != chosen.family:
                raise UserError(
                    f"{place}: was trained on a {asked.family}, and the recipe {recipe} stands on "
                    f"a {chosen.family}"
                )
            chosen = asked
    except (ValueError, KeyError, TypeError) as error:
        why = str(error).partition("\n")[0]
        raise UserError(
            f"{place}: its recipe.json is damaged ({why}); bring the adapter anew, or remove that "
            "file to go by params.yaml"
        ) from None
    named = base or chosen.base
    root = Path("models/base") / named if named in params.base else base_under(place, named)
    model = load_tuned(root, place, chosen)
    task = tasks.load(chosen, labels)
    return Tuned(model, collator_of(root, chosen, task, answers=False), chosen, size, frames)


def read_recipe(adapter: str | Path) -> dict[str, Any] | None:
    """What an adapter was trained for: its `recipe`, `labels` and `image_size`.

    None where nothing stands beside it, as with adapters that were trained elsewhere, and where
    there is no such adapter, which loading it then says.

    Raises:
        UserError: the Hub does not say whether something stands there.
    """
    if Path(adapter).is_dir():
        file = Path(adapter) / RECIPE
        return read_json(file) if file.is_file() else None
    repo = str(adapter)
    try:
        return read_json(Path(hf_hub_download(repo, RECIPE)))
    except (RemoteEntryNotFoundError, RepositoryNotFoundError, HFValidationError):
        return None
    except (OSError, HTTPError) as error:
        cached = (RECIPE, "adapter_config.json")
        recipe, adapter_config = (try_to_load_from_cache(repo, name) for name in cached)
        # A file that the Hub has not leaves a mark in the cache.
        if recipe is not None or (constants.HF_HUB_OFFLINE and adapter_config is None):
            return None
        why = str(error).partition("\n")[0]
        raise UserError(
            f"{repo}: the Hub does not say what it was trained for: {why}; start again with a "
            "network, or name a folder that holds the adapter"
        ) from None


def _record(identity: str, question: str | None, stored: Stored) -> dict[str, Any]:
    """A picture or video as a row of a split; a sampled answer hangs on its identity."""
    images = [Image.open(io.BytesIO(frame)) for frame in stored.frames]
    single = len(images) == 1
    return {
        "id": identity,
        "image": images[0] if single else None,
        "video": None if single else images,
        "question": question,
        "answers": [],
        "label": None,
        "group": identity,
        "kind": None,
        "subgroup": None,
        "width": stored.width,
        "height": stored.height,
        **vars(stored.quality),
    }
