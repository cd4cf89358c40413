"""Everything that the report reads, written small into a folder: no model, no real data."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from src import config
from src.schema import Params

SCRIPT = "<script>alert('x')</script>"
HOSTILE_FILE = f"Train/joy/{SCRIPT}.jpg"
HOSTILE_ANSWER = f'{SCRIPT}<img src=x onerror=alert(1)> "I see & I say"'
LABELS = ["Natural", "Anger", "Fear", "Joy", "Sadness", "Surprise"]
CLASSES, TEXTS = "emotion_qwen2vl", "captions"
N = 120
SUREST_WRONG = 66


def params() -> Params:
    """One recipe of classes, one of free text; independent of what else params.yaml holds."""
    given = config.load()
    recipe = given.recipes[CLASSES]
    data = given.data[recipe.data]
    recipes = {
        CLASSES: recipe,
        TEXTS: recipe.model_copy(update={"name": TEXTS, "data": "pages"}),
    }
    pages = data.model_copy(update={"name": "pages", "labels": None})
    return given.model_copy(
        update={"recipes": recipes, "data": {recipe.data: data, "pages": pages}}
    )


def write_tree(root: Path, params: Params) -> None:
    """Write every input of the report for the recipes of `params` under `root`."""
    for recipe in params.recipes.values():
        with_classes = recipe.name != TEXTS
        _write_data(root / "data/prepared" / recipe.data, with_classes)
        folder = root / "metrics" / recipe.name
        (folder / "predictions").mkdir(parents=True)
        _loss(folder / "loss.csv")
        (_write_classes if with_classes else _write_texts)(folder)
        if with_classes:
            _write_heatmaps(root, recipe.name)
        attributes = {"mouth": 0.97, "brows": 0.91, "eyes": 0.8, "skin": 1.0}
        facts = {"parameters": 1_234_567, "attributes": attributes}
        _json(root / "metrics/base" / f"{recipe.base}.json", facts)


def face(label: int, seed: int) -> bytes:
    """A PNG of a simple face."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (56, 56), tuple(int(v) for v in rng.integers(90, 230, 3)))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((6, 4, 50, 52), fill=tuple(int(v) for v in rng.integers(150, 250, 3)))
    for x in (20, 36):
        pen.ellipse((x - 3, 20, x + 3, 26), fill="black")
    pen.arc((18, 30, 38, 46), 20 * label, 180 + 20 * label, fill="black", width=3)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _write_data(folder: Path, with_classes: bool) -> None:
    folder.mkdir(parents=True)
    sizes = {"train": 1620, "validation": 180, "test": N}
    splits = {
        s: {"n": n} | ({"labels": dict.fromkeys(LABELS, n // 6)} if with_classes else {})
        for s, n in sizes.items()
    }
    summary = {
        "data": folder.name,
        "labels": LABELS if with_classes else None,
        "splits": splits,
        "rejected": {"not an image": 61, "empty file": 2},
        "near_duplicates": {"groups": 12, "pictures": 25, "dropped_from_train": 7},
        "label_conflicts": 1,
        "publisher_test": True,
        "licence": "unknown (see the Kaggle page)",
        "source": {"source": "drawn", "drawing": "faces", "files": 2160},
    }
    _json(folder / "summary.json", summary)
    files = [HOSTILE_FILE, *(f"Train/joy/broken-{i:03d}.jpg" for i in range(60))]
    rows = [(f, "not an image") for f in files] + [(f"Test/{i}.png", "empty file") for i in "ab"]
    pd.DataFrame(rows, columns=["file", "reason"]).to_csv(folder / "rejected.csv", index=False)
    ids = [f"test-{i:04d}" for i in range(N)]
    columns = {"id": ids}
    if with_classes:
        columns["image"] = [{"bytes": face(i % 6, i), "path": f"{i}.jpg"} for i in range(N)]
    pd.DataFrame(columns).to_parquet(folder / "test.parquet")


def _loss(path: Path) -> None:
    train = [
        (s, "train", 0.25 + 2 * float(np.exp(-s / 40)) + 0.05 * (s % 3)) for s in range(1, 305)
    ]
    validation = [
        (s, "validation", 0.32 + 1.9 * float(np.exp(-s / 42))) for s in range(50, 305, 50)
    ]
    rows = pd.DataFrame(train + validation, columns=["step", "split", "loss"])
    rows.to_csv(path, index=False)


def _write_classes(folder: Path) -> None:
    rng = np.random.default_rng(0)
    actual = np.arange(N) % 6
    for model, right in (("base", 0.4), ("tuned", 0.85)):
        predicted = np.where(rng.random(N) < right, actual, rng.integers(0, 6, N))
        if model == "tuned":
            predicted[SUREST_WRONG] = 1
            confusion = {"actual": _names(actual), "predicted": _names(predicted)}
            pd.DataFrame(confusion).to_csv(folder / "confusion.csv", index=False)
        _predictions(folder / "predictions" / f"{model}.parquet", actual, predicted, rng)
    _json(folder / "base.json", _metrics(0.42, 0.08, 0.31))
    gains = {
        "accuracy": {"value": 0.45, "low": 0.38, "high": 0.52},
        "macro_f1": {"value": 0.47, "low": 0.39, "high": 0.55},
        "generated_accuracy": {"value": 0.47, "low": 0.39, "high": 0.55},
    }
    _json(folder / "tuned.json", _metrics(0.87, 0.01, 0.05) | {"gain": gains})
    bins = [
        (m, b, (b + 0.5) / 10, min(1, (b + 0.5) / 10 * k), n * (m == "tuned") or 12 * (b < 9))
        for m, k in (("base", 0.7), ("tuned", 1.05))
        for b, n in enumerate([0, 0, 2, 4, 5, 6, 8, 15, 25, 55])
    ]
    columns = ["model", "bin", "confidence", "accuracy", "count"]
    pd.DataFrame(bins, columns=columns).to_csv(folder / "reliability.csv", index=False)
    scores = [
        (m, c, v + i / 60, v - i / 50, v, N // 6)
        for m, v in (("base", 0.4), ("tuned", 0.86))
        for i, c in enumerate(LABELS)
    ]
    columns = ["model", "label", "precision", "recall", "f1", "support"]
    pd.DataFrame(scores, columns=columns).to_csv(folder / "classes.csv", index=False)


def _metrics(accuracy: float, invalid: float, ece: float) -> dict[str, object]:
    values = {
        "n": N,
        "accuracy": accuracy,
        "macro_f1": accuracy - 0.02,
        "generated_accuracy": accuracy - 0.03,
        "invalid_rate": invalid,
        "ece": ece,
        "brier": 1 - accuracy,
        "chance": 1 / 6,
        "majority": 0.175,
    }
    measured = ("accuracy", "macro_f1", "generated_accuracy")
    interval = {
        k: {"low": max(0, values[k] - 0.04), "high": min(1, values[k] + 0.04)} for k in measured
    }
    return values | {"interval": interval}


def _predictions(
    path: Path, actual: np.ndarray, predicted: np.ndarray, rng: np.random.Generator
) -> None:
    texts = _names(predicted)
    texts[:2], texts[SUREST_WRONG] = ["", "a yellow face with a smiling mouth"], HOSTILE_ANSWER
    probability = rng.uniform(0.4, 0.99, N)
    probability[SUREST_WRONG] = 0.999
    rows = {
        "id": [f"test-{i:04d}" for i in range(N)],
        "label": _names(actual),
        "predicted": _names(predicted),
        "probability": probability,
        "probabilities": [[1 / 6] * 6 for _ in range(N)],
        "generated": texts,
        "generated_label": [t if t in LABELS else None for t in texts],
        "correct": actual == predicted,
        "question": ["What emotion does the face show?"] * N,
    }
    pd.DataFrame(rows).to_parquet(path)


def _names(numbers: np.ndarray) -> list[str]:
    return [LABELS[i] for i in numbers]


def _write_texts(folder: Path) -> None:
    for model, score in (("base", 0.31), ("tuned", 0.33)):
        values = {"n": N, "rougeL": score, "bleu4": score / 2, "cider": 3 * score}
        interval = {k: {"low": v - 0.03, "high": v + 0.03} for k, v in values.items() if k != "n"}
        gains = {k: {"value": 0.02, "low": -0.01, "high": 0.05} for k in interval}
        extra = {"gain": gains} if model == "tuned" else {}
        _json(folder / f"{model}.json", values | {"interval": interval} | extra)
        rows = {
            "id": [f"test-{i:04d}" for i in range(N)],
            "label": ["a dog runs over a green field"] * N,
            "generated": ["a dog on a field", HOSTILE_ANSWER, *["two dogs"] * (N - 2)],
            "question": [f"What happens in video {i}?" for i in range(N)],
        }
        pd.DataFrame(rows).to_parquet(folder / "predictions" / f"{model}.parquet")


def _write_heatmaps(root: Path, recipe: str) -> None:
    drops = {"gradcam": 1.92, "occlusion": 2.4, "edges": 0.9, "random": 0.4, "randomised": 1.75}
    gradcam = {
        "n": 60,
        "deletion": drops,
        "deletion_interval": {k: {"low": v - 0.2, "high": v + 0.2} for k, v in drops.items()},
        "pointing": {"gradcam": 0.81, "occlusion": 0.9, "edges": 0.4, "randomised": 0.2},
        "randomisation": {"gradcam": 0.12, "occlusion": -0.05},
    }
    _json(root / "metrics" / recipe / "gradcam.json", gradcam)
    folder = root / "reports/gradcam" / recipe
    folder.mkdir(parents=True)
    entries = []
    for i in range(8):
        names = {k: f"{i}-{k}.png" for k in ("picture", "gradcam", "occlusion")}
        for number, name in enumerate(names.values()):
            picture = Image.open(io.BytesIO(face(i % 6, i))).resize((224, 224))
            heat = Image.linear_gradient("L").resize((224, 224)).rotate(90 * i).convert("RGB")
            picture = Image.blend(picture, heat, 0.3 * (number > 0))
            picture.save(folder / name)
        right = i % 2 == 0
        entry = {"id": f"test-{i:04d}", "label": LABELS[i % 6], "probability": 0.9 - i / 20}
        predicted = LABELS[i % 6] if right else LABELS[(i + 1) % 6]
        entries.append(entry | {"predicted": predicted, "correct": right} | names)
    _json(folder / "gallery.json", entries)


def _json(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
