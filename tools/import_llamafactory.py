"""Read a LLaMA-Factory training file: `python -m tools.import_llamafactory FILE [--name NAME]`.

What goes into params.yaml is written to stdout, each block to be put below the key of the same
name. On stderr stands what the file says and a recipe cannot say, one line a key, with the reason.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from src import config
from src.errors import UserError, one_line
from src.schema import Params
from tools.llamafactory.data import PATCH, data
from tools.llamafactory.recipe import TRAINING, base, recipe
from tools.llamafactory.settings import Settings, identifier, read

SPREAD = ("prompt", "full", "tiny")  # blocks with a line a key, where they have any
COMMENTS = {
    "reader": "LLaMA-Factory's JSON, with dataset_info.json beside it",
    "labels": "none",
    "licence": "of what is published",
    "own_licence": "of what lies in `folder`, for report and model card; null: not named",
    "test": "share held out for the test, of which LLaMA-Factory has none",
    "frames": "of a video, at equal intervals; null: the data are pictures",
    "image_size": "side in pixels, after resizing to a square",
    "folder": "a relative path counts from this repository",
    "task": "src/tasks/",
    "question": "where a row asks nothing of its own",
    "doubt": "nothing",
    "classifier": "none",
    "evaluations": "eval_strategy",
    **{ours: theirs for ours, (theirs, *_) in TRAINING.items()},
}


@one_line
def main(
    file: Annotated[Path, typer.Argument(help="A training file of LLaMA-Factory, in YAML.")],
    name: Annotated[str | None, typer.Option(help="Of the recipe; else the file's.")] = None,
) -> None:
    params, settings = config.at_scale(config.PARAMS, "full"), read(file)
    sections = _sections(settings, params, identifier(name or file.stem))
    text = "\n".join(_lines(sections, 0, settings))
    _check(file, text)
    typer.echo(f"# from {file.name}; put each block below the key of the same name in params.yaml")
    typer.echo(text)
    for note in settings.notes:
        typer.echo(note, err=True)


def _sections(settings: Settings, params: Params, name: str) -> dict[str, Any]:
    """The blocks by section and name, and a note on every key that they do not hold."""
    if name in params.recipes:
        raise UserError(f"{config.PARAMS}: recipes.{name}: is there already; give another --name")
    data_name, block = data(settings, params)
    frames = block["frames"] if block else params.data[data_name].frames
    side = block["image_size"]["full"] if block else params.data[data_name].image_size
    base_name, family, hub = base(settings, params)
    made = recipe(settings, data_name, base_name, family, bool(frames))
    tokens = (side // PATCH) ** 2 * (frames or 2) // 2
    if family == "qwen2_vl" and tokens >= made["full"]["max_length"]:
        settings.note("cutoff_len", f"{side} pixels a side are {tokens} tokens; raise max_length")
    settings.note_rest()
    sections: dict[str, Any] = {"data": {data_name: block}} if block else {}
    if hub:
        sections["base"] = {base_name: _base(params, family, hub)}
    return sections | {"recipes": {name: made}}


def _base(params: Params, family: str, hub: dict[str, Any]) -> dict[str, Any]:
    """A base block of another model of a family, with the small model of the first one's."""
    tiny = config.at_scale(config.PARAMS, "tiny").base
    model = next(b.model for b in tiny.values() if b.family == family)
    return {"family": family, "tiny": model.model_dump(exclude_none=True), "full": hub}


def _lines(block: Mapping[str, Any], depth: int, settings: Settings) -> Iterator[str]:
    for key, value in block.items():
        begin = f"{'  ' * depth}{key}:"
        if isinstance(value, dict) and (depth < 2 or (key in SPREAD and value)):
            yield begin
            yield from _lines(value, depth + 1, settings)
            continue
        comment = COMMENTS.get(key)
        if depth == 3 and comment and key in TRAINING and not settings.given(comment):
            comment += ", by LLaMA-Factory's default"
        line = f"{begin} {_flow(value)}"
        yield f"{line}  # {comment}" if comment else line


def _flow(value: Any) -> str:
    """A value in one line of YAML."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {_flow(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"
    if isinstance(value, str) and re.fullmatch(r"[a-z][a-z_]*[0-9_a-z]*", value):
        return value if value not in ("null", "true", "false") else f'"{value}"'
    return json.dumps(value, ensure_ascii=False)


def _check(file: Path, text: str) -> None:
    """See that params.yaml takes the blocks.

    Raises:
        UserError: a value of the file is none that a recipe may have.
    """
    yaml = YAML(typ="safe", pure=True)
    values = yaml.load(config.PARAMS.read_text(encoding="utf-8"))
    for section, blocks in yaml.load(text).items():
        values[section] |= blocks
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / config.PARAMS.name
        yaml.dump(values, copy)
        try:
            config.load(copy)
        except UserError as error:
            raise UserError(f"{file}: {str(error).removeprefix(f'{copy}: ')}") from None


if __name__ == "__main__":
    typer.run(main)
