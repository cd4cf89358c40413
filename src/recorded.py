"""What DVC records of `params.yaml` for a stage is what the stage has read.

DVC reads the file when the stage has ended. A value that was edited in the meantime would stand in
`dvc.lock` beside a result of the one before, and nothing would ever make that anew.
"""

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from src import config
from src.errors import UserError

STAGES = Path("dvc.yaml")


def check(before: str, stage: str) -> None:
    """See that no key that `stage` names in `dvc.yaml` has changed since the file's text `before`.

    Raises:
        UserError: the first that has, as DVC knows it.
    """
    after = config.text()
    if after == before:
        return
    old, new = config.parsed(before), config.parsed(after)
    for key in keys(stage, old):
        if changed := _difference(key, _value(old, key), _value(new, key)):
            raise UserError(
                f"{config.PARAMS} changed while this ran: {changed}; put it back and run again"
            )


def keys(stage: str, values: dict[str, Any]) -> list[str]:
    """The keys of `params.yaml` that a stage such as train@vqa_blip2 names, filled in by values."""
    kind, _, item = stage.partition("@")
    stages = YAML(typ="safe", pure=True).load(STAGES)["stages"]
    block = stages[kind]
    known = {"key": item, "scale": values["scale"]}
    if "foreach" in block:
        section = block["foreach"].strip("${}")
        known |= {f"item.{name}": value for name, value in values[section][item].items()}
        block = block["do"]
    return [re.sub(r"\$\{(.+?)\}", lambda found: known[found[1]], key) for key in block["params"]]


def _value(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _difference(key: str, old: Any, new: Any) -> str | None:
    """The first key at or below `key` whose value is another."""
    if old == new:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old | new:
            if found := _difference(f"{key}.{name}", old.get(name), new.get(name)):
                return found
    return key
