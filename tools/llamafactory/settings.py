"""The keys of a LLaMA-Factory training file, taken one by one.

What cannot be said here is noted with the reason, and so is each key that is left in the end.
"""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from src.errors import UserError

# Values that say what is done here anyway.
SAME: dict[str, Any] = {
    "stage": "sft",
    "finetuning_type": "lora",
    "do_train": True,
    "do_eval": True,
    "freeze_vision_tower": True,
    "freeze_multi_modal_projector": True,
    "load_best_model_at_end": True,
    "plot_loss": True,
    "use_fast_tokenizer": True,
}
OFTEN = "evaluations says how often the validation is measured and a checkpoint written"
AGAIN = "what was prepared is made anew when the data or its settings change"
REASONS = {
    **dict.fromkeys(("eval_steps", "eval_strategy", "save_steps", "save_strategy"), OFTEN),
    **dict.fromkeys(("overwrite_cache", "overwrite_output_dir", "tokenized_path"), AGAIN),
    "output_dir": "the adapter goes to models/adapters/<recipe>",
    "logging_steps": "the loss of each step is in metrics/<recipe>/loss.csv",
    "report_to": "metrics and plots lie in Git, where DVC shows them",
    "resume_from_checkpoint": "a run that was stopped goes on by itself",
    "trust_remote_code": "code from a model's repository is never run",
    "preprocessing_num_workers": "prepare uses every core",
    "per_device_eval_batch_size": "evaluate.batch_size is one for all recipes",
    "freeze_vision_tower": "LoRA is in the language model, the tower stays frozen",
    "freeze_multi_modal_projector": "LoRA is in the language model, the projector stays frozen",
    "video_fps": "frames are taken at equal intervals, however long the video is",
    "image_min_pixels": "image_size is the size of every picture",
    "video_min_pixels": "image_size is the size of every frame",
    "val_size": "it belongs to the data: validation",
    "max_samples": "it belongs to the data: limit",
    "image_max_pixels": "it belongs to the data: image_size",
    "video_max_pixels": "it belongs to the data: image_size",
    "video_maxlen": "it belongs to the data: frames",
    "top_k": "sampling is by top_p alone",
    "max_length": "max_new_tokens is the limit of an answer",
    "eval_dataset": "validation and test are split off, or named by the list's own file",
    "mask_history": "each row is its first exchange",
    "packing": "examples with pictures are not packed",
}


@dataclass
class Settings:
    """The keys of a file, their types checked as they are taken."""

    path: Path
    values: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def get(self, key: str, default: Any, kind: type) -> Any:
        """The value of a key as that type; the default where the file says nothing.

        Raises:
            UserError: it is of another type.
        """
        self.taken.add(key)
        value = self.values.get(key)
        if value is None:
            return default
        # LLaMA-Factory reads YAML 1.1, where yes is true and 1e-4 is a text that it converts.
        words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
        if kind is bool and str(value).lower() in words:
            return words[str(value).lower()]
        if kind is str and isinstance(value, str):
            return value.strip()
        if kind in (int, float) and not isinstance(value, bool):
            try:
                number = float(value)
                if math.isfinite(number) and (kind is float or number == int(number)):
                    return int(number) if number == int(number) else number
            except (TypeError, ValueError):
                pass
        wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        raise UserError(f"{self.path}: {key}: must be {wanted[kind]}, not {value!r}")

    def names(self, key: str) -> list[str]:
        """A list, or a text with commas."""
        value = self.values.get(key)
        if isinstance(value, list):
            self.taken.add(key)
            return [str(name) for name in value]
        return [n.strip() for n in self.get(key, "", str).split(",") if n.strip()]

    def given(self, key: str) -> bool:
        """Whether the file sets the key."""
        return self.values.get(key) is not None

    def note(self, key: str, reason: str) -> None:
        """Say why the value of a key is not what the recipe has."""
        self.taken.add(key)
        value = self.values[key] if self.given(key) else "not set"
        self.notes.append(f"{key}: {value}: {reason}")

    def note_rest(self) -> None:
        """Say why what was not taken cannot be said here; what is off asks for nothing."""
        for key, value in self.values.items():
            said = value == SAME[key] if key in SAME else value is False
            if key not in self.taken and value is not None and not said:
                self.note(key, REASONS.get(key, "there is no such setting here"))


def read(path: Path) -> Settings:
    """The settings of a training file.

    Raises:
        UserError: it is not there, no YAML, or no training file of LoRA adapters.
    """
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict) or "model_name_or_path" not in values:
        raise UserError(f"{path}: is no training file of LLaMA-Factory: no model_name_or_path")
    settings = Settings(path, values)
    for key, only in (("stage", "sft"), ("finetuning_type", "lora")):
        if (value := settings.get(key, only, str)) != only:
            raise UserError(f"{path}: {key}: {value}: only {only} is trained here")
    return settings


def identifier(text: str) -> str:
    """A name that DVC takes for a key."""
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_").lower() or "imported"


def free(name: str, taken: Collection[str]) -> str:
    """The name, or another one where it is taken."""
    return f"{name}_imported" if name in taken else name
