"""The three plots of a recipe, each with a sentence that says what is to be seen in it."""

import math

import pandas as pd

from src.report.charts import Chart, Series, chart, thinned
from src.report.inputs import MODELS

NAMES = {"base": "Base", "tuned": "Tuned"}


def loss(rows: pd.DataFrame) -> tuple[Chart, str]:
    """Training and validation loss by step, with the lowest validation loss in words."""
    rows = rows.dropna()
    splits = {s: rows[rows["split"] == s].sort_values("step") for s in ("train", "validation")}
    points = {s: list(zip(d["step"], d["loss"], strict=True)) for s, d in splits.items()}
    lines = [
        Series("Training", "train", thinned(points["train"])),
        Series("Validation", "validation", points["validation"], [4.0] * len(splits["validation"])),
    ]
    found = " ".join(_course(s.name, p) for s, p in zip(lines, points.values(), strict=True) if p)
    caption = "Loss of the answer's tokens. "
    if points["validation"]:
        step, lowest = min(points["validation"], key=lambda p: (p[1], p[0]))
        caption += f"The lowest validation loss is {lowest:.3f}, at step {step:g}."
    drawn = [s for s in lines if s.points]
    highest = max((y for s in drawn for _, y in s.points), default=1.0)
    last = max((x for s in drawn for x, _ in s.points), default=1)
    plot = chart(found, ("Optimizer step", "Loss"), drawn, x=(0, last), y=(0, highest))
    return plot, caption


def _course(name: str, points: list[tuple[float, float]]) -> str:
    (first, before), (last, after) = points[0], points[-1]
    return f"{name} loss: {before:.3f} at step {first:g}, {after:.3f} at step {last:g}."


def reliability(rows: pd.DataFrame | None) -> tuple[Chart, str] | None:
    """Accuracy by confidence; a dot's area is the number of examples in its bin."""
    if rows is None:
        return None
    rows = rows[rows["count"] > 0]
    largest = rows["count"].max()

    def series(model: str) -> Series:
        bins = rows[rows["model"] == model].sort_values("confidence")
        points = list(zip(bins["confidence"], bins["accuracy"], strict=True))
        radii = [2 + 7 * math.sqrt(n / largest) for n in bins["count"]]
        return Series(NAMES[model], model, points, radii)

    gaps = {m: _gap(rows[rows["model"] == m]) for m in MODELS}
    alt = " ".join(f"{NAMES[m]}: {gap}." for m, gap in gaps.items())
    plot = chart(
        alt,
        ("Confidence", "Accuracy"),
        [series(m) for m in MODELS],
        x=(0, 1),
        y=(0, 1),
        diagonal=True,
    )
    caption = (
        "Accuracy by confidence. On the dotted line confidence is right; below it the model is "
        f"overconfident. The tuned model is {gaps['tuned']}."
    )
    return plot, caption


def _gap(bins: pd.DataFrame) -> str:
    total = bins["count"].sum()
    if not total:
        return "without predictions"
    gap = float(((bins["confidence"] - bins["accuracy"]) * bins["count"]).sum() / total)
    if abs(gap) < 0.005:
        return "neither over- nor underconfident on average"
    side = "overconfident" if gap > 0 else "underconfident"
    return f"{side} by {abs(gap) * 100:.1f} points on average"


def coverage(predictions: dict[str, pd.DataFrame]) -> tuple[Chart, str] | None:
    """Accuracy over the most confident share of the test, from a twentieth of it upwards."""
    if any(not {"probability", "correct"} <= set(p) for p in predictions.values()):
        return None

    def curve(rows: pd.DataFrame) -> list[tuple[float, float]]:
        ordered = rows.sort_values(["probability", "id"], ascending=[False, True])
        accuracy = ordered["correct"].astype(float).expanding().mean()
        n = len(ordered)
        points = [((i + 1) / n, a) for i, a in enumerate(accuracy)]
        return thinned(points[max(n // 20, 1) - 1 :], 100)

    curves = {m: curve(predictions[m]) for m in MODELS}
    half = {m: min(c, key=lambda p: abs(p[0] - 0.5))[1] for m, c in curves.items()}
    found = f"base {half['base']:.0%}, tuned {half['tuned']:.0%}"
    plot = chart(
        f"On the most confident half: {found}.",
        ("Share of the test answered", "Accuracy"),
        [Series(NAMES[m], m, c) for m, c in curves.items()],
        x=(0, 1),
        y=(0, 1),
    )
    caption = f"Accuracy when only the most confident answers count: on half of the test {found}."
    return plot, caption
