"""What is known of a trained recipe: files, numbers, parameters and the revisions of its data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from src import config
from src.errors import UserError
from src.files import read_json
from src.models import RECIPE
from src.schema import Base, Data, Params, Recipe

ADAPTER = ("adapter_model.safetensors", "adapter_config.json")
HIDDEN = "(a path of the publisher's machine)"
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """A recipe with what its stages left behind."""

    recipe: Recipe
    data: Data
    base: Base
    params: Params
    manifest: dict[str, Any]  # of the base: its Hub id and commit, or the folder it was built in
    knowledge: dict[str, Any]  # recipe.json: what the adapter was trained for
    summary: dict[str, Any]  # of the prepared data
    metrics: dict[str, Numbers]  # base and tuned
    revisions: dict[str, dict[str, Any]]  # DVC's hash of each output up to the training
    changes: list[str]  # what is other now than when it was trained and measured

    @property
    def adapter(self) -> Path:
        """The folder of its adapter."""
        return Path("models/adapters") / self.recipe.name

    @property
    def base_folder(self) -> Path:
        """The folder that the build stage wrote."""
        return Path("models/base") / self.base.name

    @property
    def built(self) -> bool:
        """Whether its base was made here, so that nobody else has it."""
        return self.manifest["revision"] is None

    @property
    def drawn(self) -> bool:
        """Whether it was trained on drawings."""
        return self.kind == "drawn"

    @property
    def own(self) -> bool:
        """Whether it was trained on files of the publisher's own."""
        return self.kind == "folder"

    @property
    def kind(self) -> str:
        """Where its data came from, as `Source` calls it."""
        return self.summary["source"]["source"]


def gather(params: Params, name: str) -> Trained:
    """Read what the stages of a recipe wrote.

    Raises:
        UserError: it is not trained or not measured; names the file and the stage that writes it.
    """
    recipe = config.pick(params.recipes, name, "recipes")
    adapter, metrics = Path("models/adapters") / name, Path("metrics") / name
    base = Path("models/base") / recipe.base
    summary = Path("data/prepared") / recipe.data / "summary.json"
    for file in (*ADAPTER, RECIPE):
        _there(adapter / file, f"train@{name}")
    knowledge = read_json(adapter / RECIPE)
    read = {
        "manifest": (base / "manifest.json", f"build@{recipe.base}"),
        "summary": (summary, f"prepare@{recipe.data}"),
        "base": (metrics / "base.json", f"baseline@{name}"),
        "tuned": (metrics / "tuned.json", f"evaluate@{name}"),
    }
    found = {key: read_json(_there(file, stage)) for key, (file, stage) in read.items()}
    changed, revisions = _of_dvc(name)
    data = params.data[recipe.data]
    return Trained(
        recipe=recipe,
        data=data,
        base=params.base[recipe.base],
        params=params,
        manifest=found["manifest"],
        knowledge=knowledge,
        summary=found["summary"],
        metrics={"base": found["base"], "tuned": found["tuned"]},
        revisions=revisions,
        changes=list(dict.fromkeys([*_other_than_trained(knowledge, recipe, data), *changed])),
    )


def record(trained: Trained) -> dict[str, Any]:
    """The exact parameters as resolved at their scale, and the revisions of data and base.

    What names a path of this machine is left out.
    """
    manifest = trained.manifest | ({"id": trained.base.name} if trained.built else {})
    return without_paths(
        {
            "scale": trained.params.scale,
            "seed": trained.params.seed,
            "recipe": trained.recipe.model_dump(),
            "data": trained.data.model_dump(),
            "base": trained.base.model_dump(),
            "evaluate": trained.params.evaluate.model_dump(),
            "source": trained.summary["source"],
            "splits": {name: split["n"] for name, split in trained.summary["splits"].items()},
            "manifest": manifest,
            "revisions": trained.revisions,
            "changed_since": trained.changes,
        }
    )


def without_paths(value: Any) -> Any:
    """The same with each path of this machine hidden: folders of the user's own, and homes."""
    if isinstance(value, dict):
        hidden = {"folder": HIDDEN} if isinstance(value.get("folder"), str) else {}
        return {key: without_paths(inner) for key, inner in (value | hidden).items()}
    if isinstance(value, list | tuple):
        return [without_paths(inner) for inner in value]
    private = isinstance(value, str) and value.startswith(("/", "~"))
    return HIDDEN if private else value


def _there(file: Path, stage: str) -> Path:
    if not file.is_file():
        raise UserError(
            f"{file}: not there; make it with `dvc repro {stage}` or bring it with `dvc pull`"
        )
    return file


def _other_than_trained(knowledge: dict[str, Any], recipe: Recipe, data: Data) -> list[str]:
    """The keys of params.yaml that are other than in the adapter's own record."""
    now = recipe.model_dump()
    keys = [
        f"recipes.{recipe.name}.{key}"
        for key, value in knowledge["recipe"].items()
        if now[key] != value
    ]
    sizes = {"image_size": data.image_size, "frames": data.frames}
    return keys + [f"data.{data.name}.{k}" for k, v in sizes.items() if knowledge[k] != v]


def _of_dvc(name: str) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """What `dvc repro evaluate@NAME` would find changed, and the hashes up to the training."""
    try:
        with Repo() as repo:
            status = repo.status(targets=[f"evaluate@{name}"], with_deps=True)
            chain = repo.stage.collect(f"train@{name}", with_deps=True)
            outs = sorted((o for stage in chain for o in stage.outs), key=lambda o: o.def_path)
    except DvcException as error:
        why = str(error).partition("\n")[0]
        raise UserError(f"DVC cannot tell what {name} was trained from: {why}") from None
    hashes = {
        out.def_path: {"md5": out.hash_info.value, "bytes": out.meta.size, "files": out.meta.nfiles}
        for out in outs
    }
    return _changed(status), hashes


def _changed(status: dict[str, list[Any]]) -> list[str]:
    """Files and keys that are other than in dvc.lock; what is only not here is not changed."""
    found = []
    for stage, entries in status.items():
        for entry in entries:
            if not isinstance(entry, dict):
                found.append(f"{entry} of {stage}")
                continue
            for path, what in (pair for files in entry.values() for pair in files.items()):
                if isinstance(what, dict):
                    found += what
                elif what not in ("deleted", "not in cache"):
                    found.append(path)
    return found
