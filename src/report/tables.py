"""Rows of the page's tables, from the numbers that the stages wrote."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from src.report import words
from src.report.charts import strip
from src.report.inputs import MODELS, DataInputs, RecipeInputs

Row = dict[str, Any]
SHADES = 10
REJECTED_SHOWN = 50


def metric_rows(inputs: RecipeInputs) -> list[Row]:
    """One row a metric that base and tuned share, in the order of the file."""
    tuned = inputs.metrics["tuned"]
    shared = [m for m in tuned if m in inputs.metrics["base"] and m not in words.NOT_METRICS]
    return [metric_row(metric, inputs) for metric in shared]


def metric_row(metric: str, inputs: RecipeInputs) -> Row:
    """Base against tuned: texts of values, intervals and gain, and their strip."""
    base, tuned = (inputs.metrics[m] for m in MODELS)
    guesses = words.guesses(metric, tuned)
    numbers = {m: _with_interval(metric, inputs.metrics[m]) for m in MODELS}
    difference = tuned.get("gain", {}).get(metric)
    top = max(1.0, *(high for _, _, high in numbers.values()))
    note, gain = words.NOTES.get(metric), None
    if words.is_of_correct(metric):
        counts = [words.count(one["n_correct"]) for one in (base, tuned)]
        note = f"of {counts[0]} examples with the base and of {counts[1]} tuned, not the same ones"
    else:
        change = difference["value"] if difference else tuned[metric] - base[metric]
        gain = words.gain(metric, change)
    return {
        "name": words.name_of(metric),
        "note": note,
        "lower": words.lower_is_better(metric),
        "guesses": {words.GUESSES[k]: words.value(k, v) for k, v in guesses.items()},
        "n": words.count(tuned["n"]),
        "strip": strip(numbers, list(guesses.values()), top),
        "top": f"{top:.1f}" if top > 1 else None,
        "effect": words.effect(metric, difference) if difference else "",
        "gain": gain,
        "gain_interval": _interval_text(words.gain, metric, difference) if difference else None,
    } | {
        m: {
            "value": words.value(metric, number),
            "interval": _interval_text(words.value, metric, {"low": low, "high": high})
            if metric in inputs.metrics[m].get("interval", {})
            else None,
        }
        for m, (number, low, high) in numbers.items()
    }


def _with_interval(metric: str, metrics: Mapping[str, Any]) -> tuple[float, float, float]:
    interval = metrics.get("interval", {}).get(metric, {})
    number = metrics[metric]
    return number, interval.get("low", number), interval.get("high", number)


def _interval_text(
    form: Callable[[str, float], str], metric: str, bounds: Mapping[str, float]
) -> str:
    return f"{form(metric, bounds['low'])} to {form(metric, bounds['high'])}"


def confusion(rows: pd.DataFrame | None, labels: list[str] | None) -> Row | None:
    """Counts and row shares of predicted classes by actual class; None without classes."""
    if rows is None:
        return None
    seen = sorted(set(rows["actual"]) | set(rows["predicted"]))
    known = labels or []
    columns = [*known, *(c for c in seen if c not in known)]
    counts = pd.crosstab(rows["actual"], rows["predicted"])
    counts = counts.reindex(index=columns, columns=columns, fill_value=0)

    def cell(actual: str, predicted: str, total: int) -> Row:
        number = int(counts.loc[actual, predicted])
        share = number / total if total else 0.0
        return {
            "count": number,
            "share": f"{share:.0%}",
            "right": actual == predicted,
            "shade": max(1, round(share * SHADES)) if number else 0,
        }

    totals = {c: int(counts.loc[c].sum()) for c in columns}
    return {
        "columns": columns,
        "rows": [
            {"label": a, "total": totals[a], "cells": [cell(a, p, totals[a]) for p in columns]}
            for a in columns
            if totals[a]
        ],
        "mistakes": _mistakes(rows),
    }


def _mistakes(rows: pd.DataFrame) -> str:
    """The most frequent confusion, in words."""
    wrong = rows[rows["actual"] != rows["predicted"]]
    if wrong.empty:
        return "No example was given a wrong class."
    pairs = wrong.value_counts(["actual", "predicted"]).reset_index()
    first = pairs.sort_values(["count", "actual", "predicted"], ascending=[False, True, True])
    actual, predicted, number = first.iloc[0][["actual", "predicted", "count"]]
    return f"Most often mistaken: {actual} taken for {predicted}, {number} times."


CLASS_SCORES = ("precision", "recall", "f1")


def class_table(rows: pd.DataFrame | None) -> Row | None:
    """The scores of each class or kind of question, base beside tuned: their names and rows."""
    if rows is None or rows.empty:
        return None
    scores = [k for k in CLASS_SCORES if k in rows] or ["score"]
    by_model = {m: rows[rows["model"] == m].set_index("label") for m in MODELS}

    def row(label: str) -> Row:
        numbers = {m: by_model[m].loc[label] for m in MODELS}
        last = {m: float(n[scores[-1]]) for m, n in numbers.items()}
        texts = {k: {m: words.value(k, float(n[k])) for m, n in numbers.items()} for k in scores}
        return {
            "label": label,
            "support": int(numbers["tuned"]["support"]),
            "strip": strip({m: (v, v, v) for m, v in last.items()}),
            "scores": texts,
        }

    shared = [label for label in by_model["tuned"].index if label in by_model["base"].index]
    return {"scores": scores, "rows": [row(label) for label in shared]}


def audit_groups(rows: pd.DataFrame | None) -> list[Row]:
    """Score and interval of each group, base beside tuned, in tables by property."""
    if rows is None or rows.empty:
        return []
    by_model = {m: rows[rows["model"] == m].set_index(["property", "group"]) for m in MODELS}

    def row(key: tuple[str, str]) -> Row:
        found = {m: by_model[m].loc[key] for m in MODELS if key in by_model[m].index}
        bounds = {m: tuple(float(r[k]) for k in ("score", "low", "high")) for m, r in found.items()}
        texts = {
            m: {
                "value": words.value("accuracy", score),
                "interval": _interval_text(words.value, "accuracy", {"low": low, "high": high}),
            }
            for m, (score, low, high) in bounds.items()
        }
        count = words.count(int(found["tuned"]["n"]))
        return {"group": key[1], "n": count, "strip": strip(bounds)} | texts

    keys = [key for key in by_model["tuned"].index if key in by_model["base"].index]
    return [
        {"property": name, "rows": [row(key) for key in keys if key[0] == name]}
        for name in dict.fromkeys(key[0] for key in keys)
    ]


def doubts(inputs: RecipeInputs) -> Row | None:
    """How many test examples are doubtful and why, and how the tuned model does on them.

    None where nothing was doubted; of what is neither right nor wrong, it is not said how.
    """
    rows = inputs.predictions["tuned"]
    if "doubt" not in rows or not (doubtful := rows["doubt"] != "").any():
        return None
    reasons = rows.loc[doubtful, "doubt"].str.split("; ").explode().str.partition(":")[0]

    def right(chosen: pd.Series) -> str | None:
        if "correct" not in rows or not chosen.any():
            return None
        return words.value("accuracy", float(rows.loc[chosen, "correct"].astype(float).mean()))

    return {
        "n": words.count(int(doubtful.sum())),
        "of": words.count(len(rows)),
        "reasons": reasons.value_counts().sort_index().to_dict(),
        "doubted": right(doubtful),
        "rest": right(~doubtful),
    }


def heatmap_rows(gradcam: Mapping[str, Any] | None) -> list[Row]:
    """One row a kind of map, Grad-CAM first: its three scores, as texts, where it has them."""
    if gradcam is None:
        return []
    drops, intervals = gradcam["deletion"], gradcam["deletion_interval"]
    top = max(*drops.values(), *(i["high"] for i in intervals.values()))

    def row(kind: str) -> Row:
        low, high = (intervals[kind][k] for k in ("low", "high"))
        pointing, correlation = (
            (gradcam.get(score) or {}).get(kind) for score in ("pointing", "randomisation")
        )
        return {
            "name": words.HEATMAPS.get(kind, kind),
            "own": kind == "gradcam",
            "deletion": words.nats(drops[kind]),
            "interval": f"{words.nats(low)} to {words.nats(high)}",
            "pointing": None if pointing is None else words.value("accuracy", pointing),
            "randomisation": None if correlation is None else words.nats(correlation),
            "strip": strip(
                {"tuned" if kind == "gradcam" else "base": (drops[kind], low, high)}, top=top
            ),
            "top": words.nats(top),
        }

    order = [*words.HEATMAPS, *(m for m in drops if m not in words.HEATMAPS)]
    return [row(kind) for kind in order if kind in drops]


def invalid_answers(inputs: RecipeInputs, most: int = 12) -> list[Row] | None:
    """Texts that name no class, and how often each model wrote them; None without classes."""
    if any("generated_label" not in p for p in inputs.predictions.values()):
        return None
    texts = {
        m: p.loc[p["generated_label"].isna(), "generated"] for m, p in inputs.predictions.items()
    }
    counts = pd.DataFrame({m: t.value_counts() for m, t in texts.items()}).fillna(0).astype(int)
    rows = [{"text": text, "base": n["base"], "tuned": n["tuned"]} for text, n in counts.iterrows()]
    return sorted(rows, key=lambda r: (-r["tuned"], -r["base"], r["text"]))[:most]


def split_table(summary: Mapping[str, Any]) -> Row:
    """Examples of each class, or of each kind of question, in each split."""
    splits = summary["splits"]
    by = "labels" if summary.get("labels") else "kinds"
    counts = {name: split.get(by, {}) for name, split in splits.items()}
    named = [*(summary.get("labels") or []), *(k for split in counts.values() for k in split)]
    return {
        "by": "Class" if by == "labels" else "Question",
        "splits": list(splits),
        "rows": [
            {"label": c, "counts": [words.count(split.get(c, 0)) for split in counts.values()]}
            for c in dict.fromkeys(named)
        ],
        "totals": [words.count(s["n"]) for s in splits.values()],
    }


def answer_table(summary: Mapping[str, Any]) -> list[Row]:
    """The most frequent answers to each kind of question, and how uneven they are."""
    return [
        {
            "kind": kind,
            "distinct": words.count(found["distinct"]),
            "majority": words.value("majority", found["majority"]),
            "answers": ", ".join(f"{answer} ({n})" for answer, n in found["most_frequent"].items()),
        }
        for kind, found in (summary.get("answers") or {}).items()
    ]


def rejected(data: DataInputs) -> Row:
    """How many files were left out and why, and the first of them."""
    shown = data.rejected.head(REJECTED_SHOWN)
    kinds = data.rejected["reason"].map(lambda reason: reason.partition(":")[0])
    return {
        "n": len(data.rejected),
        "reasons": kinds.value_counts().sort_index().to_dict(),
        "files": shown[["file", "reason"]].to_dict("records"),
    }


def flat(block: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested keys and values as dotted keys and texts."""
    pairs: list[tuple[str, str]] = []
    for key, value in block.items():
        if isinstance(value, Mapping):
            pairs += flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", "none" if value is None else str(value)))
    return pairs
