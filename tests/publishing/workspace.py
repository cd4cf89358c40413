"""A repository in which one recipe is trained and measured, small: what publishing reads."""

import json
import shutil
from contextlib import chdir
from pathlib import Path

import torch
from dvc.repo import Repo
from ruamel.yaml import YAML

from src import config
from src.files import read_json, write_json
from src.models import add_lora, load_base
from src.schema import Params
from src.training.run import save_adapter
from tests.conftest import ROOT, small_base

HUB_BASE, COMMIT = "Qwen/Qwen2-VL-7B-Instruct", "eed13092ef92e448dd6875b2a00151bd3f7db0ac"
DVC = """
stages:
  prepare:
    foreach: {{{data}: ""}}
    do: {{cmd: "true", params: ["data.${{key}}.labels"], outs: ["data/prepared/${{key}}"]}}
  train:
    foreach: {{{recipe}: ""}}
    do:
      cmd: "true"
      deps: [models/base/{base}, data/prepared/{data}]
      params: ["recipes.${{key}}.lora", "recipes.${{key}}.prompt"]
      outs: ["models/adapters/${{key}}"]
  evaluate:
    foreach: {{{recipe}: ""}}
    do:
      cmd: "true"
      deps: ["models/adapters/${{key}}"]
      metrics: [{{"metrics/${{key}}/tuned.json": {{cache: false}}}}]
"""


def make(root: Path, recipe: str = "emotion_qwen2vl", on_the_hub: bool = False) -> Path:
    """Train nothing, but write what training, measuring and DVC leave behind.

    The base is a small one of random weights; `on_the_hub`, its manifest names it as the Hub does
    and its checkpoint lies in `hub_base`.
    """
    params = config.load(ROOT / "params.yaml")
    chosen = params.recipes[recipe]
    data = params.data[chosen.data]
    base = small_base(params, chosen.base, root / "models/base" / chosen.base)
    _adapter(root, params, base, recipe)
    if on_the_hub:
        (base / "checkpoint").rename(root / "hub_base")
        sizes = {f.name: f.stat().st_size for f in (root / "hub_base").glob("*.safetensors")}
        manifest = {"id": HUB_BASE, "revision": COMMIT, "bytes": sizes}
        write_json(base / "manifest.json", manifest)
    else:
        checkpoint = f"models/base/{chosen.base}/checkpoint"
        write_json(base / "manifest.json", {"id": checkpoint, "revision": None})
    split = {name: {"n": n} for name, n in (("train", 90), ("validation", 10), ("test", 20))}
    source = {"source": "drawn", "drawing": "faces", "files": 120}
    summary = {"labels": data.labels, "splits": split, "source": source}
    write_json(root / "data/prepared" / chosen.data / "summary.json", summary)
    (root / "metrics/base").mkdir(parents=True)
    shutil.copytree(ROOT / "metrics" / recipe, root / "metrics" / recipe)
    write_json(root / "metrics/base" / f"{chosen.base}.json", {"parameters": 100_000})
    shutil.copy(ROOT / "params.yaml", root)
    stages = DVC.format(recipe=recipe, base=chosen.base, data=chosen.data)
    (root / "dvc.yaml").write_text(stages)
    with chdir(root), Repo.init(no_scm=True) as repo:
        repo.commit(force=True)
    return root


def edit(root: Path, recipe: str, **values: object) -> None:
    """Change keys of a recipe in params.yaml."""
    _edit(root, "recipes", recipe, values)


def edit_data(root: Path, data: str, **values: object) -> None:
    """Change keys of a data set in params.yaml."""
    _edit(root, "data", data, values)


def _edit(root: Path, section: str, name: str, values: dict[str, object]) -> None:
    yaml = YAML()
    raw = yaml.load(root / "params.yaml")
    raw[section][name].update(values)
    yaml.dump(raw, root / "params.yaml")


def change_source(root: Path, data: str, **source: object) -> None:
    """Let the prepared data say that they came from somewhere else."""
    file = root / "data/prepared" / data / "summary.json"
    file.write_text(json.dumps(read_json(file) | {"source": source}))


def _adapter(root: Path, params: Params, base: Path, name: str) -> None:
    """An adapter that changes every answer."""
    recipe = params.recipes[name]
    data = params.data[recipe.data]
    torch.manual_seed(0)
    head = len(data.labels) if recipe.classifier else 0
    model = add_lora(load_base(base, recipe, head), recipe.lora)
    for weight_name, weight in model.named_parameters():
        if "lora_B" in weight_name:
            torch.nn.init.normal_(weight, std=0.3)
    folder = root / "models/adapters" / name
    folder.mkdir(parents=True)
    save_adapter(model, recipe, data.labels, data, folder)
    (folder / "checkpoint-8").mkdir()
    shutil.copy(folder / "adapter_model.safetensors", folder / "checkpoint-8")
