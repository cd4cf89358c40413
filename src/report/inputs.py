"""The files that the page is made of, read and named when one is missing."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from src.config import PARAMS
from src.errors import UserError
from src.files import read_json
from src.report.words import listed
from src.schema import Params, Recipe

MODELS = ("base", "tuned")
STAGES = ("encode", "train", "baseline", "evaluate", "explain")  # of a recipe
T = TypeVar("T")


@dataclass(frozen=True)
class RecipeInputs:
    """What one recipe's stages wrote; None where its task has no such file."""

    metrics: dict[str, dict[str, Any]]
    predictions: dict[str, pd.DataFrame]
    loss: pd.DataFrame
    confusion: pd.DataFrame | None
    reliability: pd.DataFrame | None
    classes: pd.DataFrame | None
    audit: pd.DataFrame | None
    gradcam: dict[str, Any] | None
    gallery: list[dict[str, Any]]
    gallery_folder: Path


@dataclass(frozen=True)
class DataInputs:
    """What `prepare` wrote of one data set."""

    summary: dict[str, Any]
    rejected: pd.DataFrame
    test: Path

    def pictures(self, ids: list[str]) -> dict[str, list[bytes]]:
        """Encoded pictures of test examples by id: one of a picture, the frames of a video."""
        media = [c for c in ("image", "video") if c in pq.read_schema(self.test).names]
        if not ids or not media:
            return {}
        rows = pq.read_table(self.test, columns=["id", *media], filters=[("id", "in", ids)])
        found = {}
        for row in rows.to_pylist():
            frames = [row.get("image"), *(row.get("video") or [])]
            found[row["id"]] = [f["bytes"] for f in frames if f and f.get("bytes")]
        return {name: frames for name, frames in found.items() if frames}


def left_out(root: Path, params: Params) -> dict[str, str]:
    """Recipes whose results are not of the values of `params.yaml`, and why, by DVC's own record.

    Such are the others' where one recipe alone was run at another scale. Where there is no record,
    nothing is left out.
    """
    record = root / "dvc.lock"
    if not record.is_file():
        return {}
    yaml = YAML(typ="safe", pure=True)
    stages, now = yaml.load(record)["stages"], yaml.load(root / PARAMS)
    found = {}
    for name in params.recipes:
        ran = [stages.get(f"{stage}@{name}") for stage in STAGES]
        had = [item for stage in ran if stage for item in stage["params"][PARAMS.name].items()]
        if others := {key: None for key, value in had if _value(now, key) != value}:
            found[name] = f"was last run with other values of {listed([*others])}"
        elif not all(ran):
            found[name] = "was not run"
    return found


def _value(block: Any, key: str) -> Any:
    for part in key.split("."):
        block = block.get(part) if isinstance(block, dict) else None
    return block


def read_recipe(root: Path, recipe: Recipe) -> RecipeInputs:
    """Read one recipe's files; where nothing is right or wrong, without what says so.

    Raises:
        UserError: names the missing file and the stage that writes it.
    """
    metrics, name = root / "metrics" / recipe.name, recipe.name
    written_by = {"base": f"baseline@{name}", "tuned": f"evaluate@{name}"}
    numbers = {m: _read(metrics / f"{m}.json", by, read_json) for m, by in written_by.items()}

    # Answers without a probability are not, nor are captions without a label.
    judged = "ece" in numbers["tuned"]

    def table(plot: str) -> pd.DataFrame | None:
        return _read(metrics / f"{plot}.csv", f"evaluate@{name}", _csv) if judged else None

    def predictions(model: str) -> pd.DataFrame:
        path = metrics / "predictions" / f"{model}.parquet"
        found = _read(path, written_by[model], pd.read_parquet)
        return found if judged else found.drop(columns="correct", errors="ignore")

    def gallery() -> list[dict[str, Any]]:
        found = _read(folder / "gallery.json", f"explain@{name}", read_json)
        return found if judged else [entry | {"correct": None} for entry in found]

    gradcam = metrics / "gradcam.json"
    folder = root / "reports" / "gradcam" / name
    return RecipeInputs(
        metrics=numbers,
        predictions={model: predictions(model) for model in MODELS},
        loss=_read(metrics / "loss.csv", f"train@{name}", _csv),
        confusion=table("confusion"),
        classes=table("classes"),
        reliability=table("reliability"),
        audit=table("audit"),
        gradcam=read_json(gradcam) if gradcam.is_file() else None,
        gallery=gallery() if gradcam.is_file() else [],
        gallery_folder=folder,
    )


def read_data(root: Path, params: Params) -> dict[str, DataInputs]:
    """Read what `prepare` wrote of every data set that a recipe uses."""

    def one(name: str) -> DataInputs:
        folder, by = root / "data" / "prepared" / name, f"prepare@{name}"
        return DataInputs(
            summary=_read(folder / "summary.json", by, read_json),
            rejected=_read(folder / "rejected.csv", by, _csv),
            test=_read(folder / "test.parquet", by, lambda path: path),
        )

    return {name: one(name) for name in _used(params, "data")}


def read_bases(root: Path, params: Params) -> dict[str, dict[str, Any]]:
    """Read what `build` measured of every base model that a recipe uses."""
    folder = root / "metrics" / "base"
    return {
        name: _read(folder / f"{name}.json", f"build@{name}", read_json)
        for name in _used(params, "base")
    }


def read_picture(path: Path, recipe: str) -> bytes:
    """Bytes of one picture of the gallery."""
    return _read(path, f"explain@{recipe}", Path.read_bytes)


def _used(params: Params, key: str) -> list[str]:
    return list(dict.fromkeys(getattr(recipe, key) for recipe in params.recipes.values()))


def _read(path: Path, stage: str, reader: Callable[[Path], T]) -> T:
    if not path.is_file():
        raise UserError(f"{path}: not found; run `dvc repro {stage}`")
    try:
        return reader(path)
    except ValueError as error:
        raise UserError(f"{path}: {error}; run `dvc repro --force {stage}`") from None


def _csv(path: Path) -> pd.DataFrame:
    """Numbers as numbers, text as it stands: a class may be called `None` or `NA`."""
    text = ("file", "reason", "actual", "predicted", "label", "split", "model", "property", "group")
    columns = pd.read_csv(path, nrows=0).columns
    as_text = {c: str for c in columns if c in text}
    missing = {c: ["", "nan", "NaN"] for c in columns if c not in text}
    return pd.read_csv(path, dtype=as_text, keep_default_na=False, na_values=missing)
