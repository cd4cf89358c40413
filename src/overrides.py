"""Other values in `params.yaml`, its comments kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from src.errors import UserError
from src.files import whole


def override(path: Path, values: Mapping[str, Any]) -> None:
    """Put values under dotted keys of a file of parameters; what else stands there stays.

    Raises:
        UserError: a key that is not there.
    """
    yaml = YAML()
    yaml.width = 4096
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    root = yaml.load(path)
    for key, value in values.items():
        *above, last = key.split(".")
        block = root
        for part in above:
            block = block.get(part) if isinstance(block, dict) else None
        if not isinstance(block, dict) or last not in block:
            raise UserError(f"{path}: {key}: not there")
        block[last] = value
    with whole(path) as beside:
        yaml.dump(root, beside)
