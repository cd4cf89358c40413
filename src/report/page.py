"""The page: inputs read, put into words and plots, laid out by the template."""

import base64
import hashlib
import io
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from ruamel.yaml import YAML

from src.errors import UserError
from src.report import ablations, examples, plots, tables, words
from src.report.inputs import (
    DataInputs,
    RecipeInputs,
    left_out,
    read_bases,
    read_data,
    read_recipe,
)
from src.schema import BuiltBase, Params, Recipe

HERE = Path(__file__).parent
PACKAGES = (
    *("torch", "torchvision", "transformers", "peft", "trl", "bitsandbytes", "accelerate"),
    *("datasets", "numpy", "pandas", "pyarrow", "pillow", "opencv-python-headless"),
    *("scikit-learn", "scipy", "dvc", "jinja2"),
)


def render(params: Params, root: Path = Path()) -> str:
    """The whole page as one HTML text, from the files under `root`.

    Raises:
        UserError: an input is missing; names it and the stage that writes it. Or no recipe was
            run with these values.
    """
    others = left_out(root, params)
    run = {name: recipe for name, recipe in params.recipes.items() if name not in others}
    if not run:
        why = "; ".join(f"{name} {reason}" for name, reason in others.items())
        raise UserError(f"there is nothing to report: {why}; run `dvc repro`")
    params = params.model_copy(update={"recipes": run})
    data = read_data(root, params)
    bases = read_bases(root, params)
    recipes = [
        _recipe(params, recipe, read_recipe(root, recipe), data[recipe.data], bases[recipe.base])
        for recipe in params.recipes.values()
    ]
    style = (HERE / "style.css").read_text(encoding="utf-8")
    page = _environment().get_template("page.html.j2")
    return page.render(
        params=params,
        confidence=words.share(params.evaluate.confidence),
        recipes=recipes,
        left_out=others,
        ablations=ablations.sections(root),
        data={name: _data(inputs) for name, inputs in data.items()},
        bases={name: _base(numbers) for name, numbers in bases.items()},
        parameters=_yaml(params),
        versions=_versions(),
        style=Markup(style),  # our own file, and the policy's hash holds for these very bytes
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = words.count
    return environment


def _recipe(
    params: Params,
    recipe: Recipe,
    inputs: RecipeInputs,
    data: DataInputs,
    built: dict[str, Any],
) -> dict[str, Any]:
    base, tuned = inputs.metrics["base"], inputs.metrics["tuned"]
    judged = words.headline(tuned)
    confidence = params.evaluate.confidence
    return {
        "name": recipe.name,
        "facts": _facts(params, recipe, built.get("revision")),
        "built_base": isinstance(params.base[recipe.base].model, BuiltBase),
        "n": tuned["n"],
        "groups": tuned["n_groups"],
        "headline": tables.metric_row(judged, inputs) if judged else None,
        "verdict": words.verdict(judged, base, tuned, confidence) if judged else None,
        "metrics": tables.metric_rows(inputs),
        "loss": plots.loss(inputs.loss),
        "confusion": tables.confusion(inputs.confusion, data.summary.get("labels")),
        "classes": tables.class_table(inputs.classes),
        "named": "label_accuracy" in tuned,  # captions have labels
        "audit": tables.audit_groups(inputs.audit),
        "gap": words.gap(base, tuned, confidence),
        "doubts": tables.doubts(inputs),
        "calibration": list(
            filter(
                None, (plots.reliability(inputs.reliability), plots.coverage(inputs.predictions))
            )
        ),
        "heatmap_verdict": words.heatmap_verdict(inputs.gradcam) if inputs.gradcam else None,
        "heatmaps": tables.heatmap_rows(inputs.gradcam),
        "gallery": examples.gallery(inputs, recipe.name),
        "examples": examples.best_and_worst(inputs, data),
        "doubtful": examples.doubtful(inputs, data),
        "question": examples.common_question(inputs),
        "invalid": tables.invalid_answers(inputs),
    }


def _facts(params: Params, recipe: Recipe, commit: str | None) -> dict[str, str]:
    model = params.base[recipe.base].model
    lora, train, quantization = recipe.lora, recipe.train, recipe.quantization
    return {
        "Base model": f"{recipe.base}, built here"
        if isinstance(model, BuiltBase)
        else f"{model.id} at {commit}",
        "Data": recipe.data,
        "Task": recipe.task,
        "LoRA": f"rank {lora.r}, alpha {lora.alpha}, on {_targets(lora.targets)}",
        "Weights": f"{quantization.bits}-bit"
        + (f" {quantization.type.upper()}" if quantization.bits == 4 else ""),
        "Training": (f"{train.max_steps} steps" if train.max_steps else f"{train.epochs:g} epochs")
        + f", batches of {train.batch_size}"
        f" by {train.gradient_accumulation}, learning rate {train.learning_rate:g}",
    }


def _targets(targets: list[str]) -> str:
    return "every projection" if "all-linear" in targets else words.listed(targets)


def _data(inputs: DataInputs) -> dict[str, Any]:
    return {
        "summary": inputs.summary,
        "splits": tables.split_table(inputs.summary),
        "answers": tables.answer_table(inputs.summary),
        "rejected": tables.rejected(inputs),
        "source": tables.flat(inputs.summary.get("source") or {}),
    }


def _base(numbers: dict[str, Any]) -> dict[str, Any]:
    attributes = numbers.get("attributes") or {}
    rest = {k: v for k, v in numbers.items() if k != "attributes"}
    texts = {k: words.count(v) if isinstance(v, int) else v for k, v in rest.items()}
    return {
        "facts": tables.flat(texts),
        "attributes": {k: words.value("accuracy", v) for k, v in attributes.items()},
    }


def _yaml(params: Params) -> str:
    text = io.StringIO()
    yaml = YAML(typ="rt", pure=True)
    yaml.width = 88
    yaml.dump(params.model_dump(mode="json"), text)
    return text.getvalue()


def _versions() -> dict[str, str]:
    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    here = {"Python": platform.python_version(), "Platform": platform.platform()}
    return here | {package: installed(package) for package in PACKAGES}
