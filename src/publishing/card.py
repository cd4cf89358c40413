"""The model card, in the Hub's format: numbers that machines read, and words for people."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from src.publishing.trained import Trained, without_paths
from src.report import words

TEMPLATE = Path(__file__).with_name("card.md.j2")


def of(trained: Trained, address: str, licence: str | None, merged: bool) -> ModelCard:
    """The card of a model that is published as `address`, `owner/name` or a path."""
    recipe, tuned = trained.recipe, trained.metrics["tuned"]
    judged_by = words.headline(tuned)
    confidence = trained.params.evaluate.confidence
    return ModelCard.from_template(
        _data(trained, address.rstrip("/").rpartition("/")[2], licence, merged),
        template_path=str(TEMPLATE),
        trained=trained,
        recipe=recipe,
        address=address,
        merged=merged,
        licence=licence,
        rows=[_row(metric, trained) for metric in tuned["gain"]],
        tuned=tuned,
        judged_by=words.name_of(judged_by or ""),
        guesses={
            words.GUESSES[key]: words.value(key, guess)
            for key, guess in words.guesses(judged_by or "", tuned).items()
        },
        confidence=words.share(confidence),
        verdict=words.verdict(judged_by, trained.metrics["base"], tuned, confidence).sentences
        if judged_by
        else [],
        gap=words.gap(trained.metrics["base"], tuned, confidence),
        faces=bool(recipe.doubt and recipe.doubt.face),
        source=without_paths(trained.summary["source"]),
        splits={name: split["n"] for name, split in trained.summary["splits"].items()},
    )


def _data(trained: Trained, name: str, licence: str | None, merged: bool) -> ModelCardData:
    dataset = trained.summary["source"].get("dataset")
    named = {"license": licence} if licence else {"license": "other", "license_name": "see-below"}
    return ModelCardData(
        **named,
        model_name=name,
        base_model=None if trained.built else trained.manifest["id"],
        base_model_relation=None if trained.built else "merge" if merged else "adapter",
        library_name="transformers" if merged else "peft",
        pipeline_tag=_task(trained),
        datasets=[dataset] if dataset and trained.kind != "kaggle" else None,
        tags=["vlm-recipes", "lora", trained.recipe.task.replace("_", "-")],
        # What is merged answers from another precision than that in which it was measured.
        eval_results=None if _unmeasured(trained, merged) else _results(trained),
    )


def _unmeasured(trained: Trained, merged: bool) -> bool:
    return merged and trained.recipe.quantization.bits == 4


def _task(trained: Trained) -> str:
    return "video-text-to-text" if trained.data.frames else "image-text-to-text"


def _results(trained: Trained) -> list[EvalResult]:
    """Every metric that has a gain, with its interval, the base's value and the gain beside it."""
    base, tuned = trained.metrics["base"], trained.metrics["tuned"]
    source = trained.summary["source"]
    revision = source.get("revision") or source.get("version")
    own = f"the publisher's own {trained.data.medium}s"
    name = own if trained.own else trained.data.name
    return [
        EvalResult(
            task_type=_task(trained),
            dataset_type=source.get("dataset") or name,
            dataset_name=f"{name} (drawings)" if trained.drawn else name,
            dataset_split="test",
            dataset_revision=str(revision) if revision else None,
            metric_type=metric,
            metric_name=words.name_of(metric),
            metric_value=tuned[metric],
            metric_args={
                "examples": tuned["n"],
                "confidence": trained.params.evaluate.confidence,
                "interval": tuned.get("interval", {}).get(metric),
                "base": base[metric],
                "base_interval": base.get("interval", {}).get(metric),
                "gain": gain,
            },
        )
        for metric, gain in tuned["gain"].items()
    ]


def _row(metric: str, trained: Trained) -> dict[str, str]:
    """A line of the table: base, tuned and gain, each with its interval."""

    def one(numbers: dict[str, Any]) -> str:
        bounds = numbers.get("interval", {}).get(metric)
        interval = f" ({_span(metric, bounds)})" if bounds else ""
        return words.value(metric, numbers[metric]) + interval

    gain = trained.metrics["tuned"]["gain"][metric]
    low, high = (words.gain(metric, gain[key]) for key in ("low", "high"))
    return {
        "name": words.name_of(metric),
        "base": one(trained.metrics["base"]),
        "tuned": one(trained.metrics["tuned"]),
        "gain": f"{words.gain(metric, gain['value'])} ({low} to {high})",
    }


def _span(metric: str, bounds: dict[str, float]) -> str:
    return f"{words.value(metric, bounds['low'])} to {words.value(metric, bounds['high'])}"
