"""Everything that the report reads, written small into a folder: no model, no real data."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from src import config
from src.schema import Params
from tests.conftest import png

SCRIPT = "<script>alert('x')</script>"
HOSTILE_FILE = f"Train/joy/{SCRIPT}.jpg"
HOSTILE_ANSWER = f'{SCRIPT}<img src=x onerror=alert(1)> "I see & I say"'
LABELS = ["Natural", "Anger", "Fear", "Joy", "Sadness", "Surprise"]
ENTAILED = ["entailment", "not entailment"]
CLASSES, TEXTS, ANSWERS = "emotion_qwen2vl", "captions", "questions"
VIDEOS, EXPLAINS = "videos", "explanations"
DOUBTS = {3: "too small: 24 x 24 pixels", 9: "too dark; no visible face", 15: "no visible face"}
N = 120
SUREST_WRONG = 66
SAID = ("a face <b>moves</b> right", "", "one two three")  # in turn, in the galleries of texts
WORDS = sum(len(SAID[i % 3].split()) for i in range(8))


def params() -> Params:
    """Recipes of each task, on pictures and videos; independent of what else params.yaml holds."""
    given = config.load()
    recipe = given.recipes[CLASSES]
    data = given.data[recipe.data]
    recipes = {
        CLASSES: recipe,
        TEXTS: recipe.model_copy(update={"name": TEXTS, "data": "pages", "task": "describe"}),
        ANSWERS: recipe.model_copy(update={"name": ANSWERS, "data": "products", "task": "answer"}),
        VIDEOS: recipe.model_copy(update={"name": VIDEOS, "data": "clips", "task": "describe"}),
        EXPLAINS: recipe.model_copy(
            update={"name": EXPLAINS, "data": "statements", "task": "entail_explain"}
        ),
    }
    names = ("pages", "products", "clips", "statements")
    others = {n: data.model_copy(update={"name": n, "labels": None}) for n in names}
    return given.model_copy(update={"recipes": recipes, "data": {recipe.data: data} | others})


def write_tree(root: Path, params: Params) -> None:
    """Write every input of the report for the recipes of `params` under `root`."""
    for recipe in params.recipes.values():
        _write_data(root / "data/prepared" / recipe.data, recipe.task)
        folder = root / "metrics" / recipe.name
        (folder / "predictions").mkdir(parents=True)
        _loss(folder / "loss.csv")
        WRITERS.get(recipe.name, OF_TASK[recipe.task])(folder)
        if recipe.name in (CLASSES, VIDEOS, EXPLAINS):
            _write_heatmaps(root, recipe.name)
        attributes = {"mouth": 0.97, "brows": 0.91, "eyes": 0.8, "skin": 1.0}
        facts = {"parameters": 1_234_567, "attributes": attributes}
        _json(root / "metrics/base" / f"{recipe.base}.json", facts)
    write_ablations(root)


def write_ablations(root: Path) -> None:
    """Two grids as `tools.ablate` leaves them: of three points, one failed, and of one seed."""
    rank = {"rank 16": (None, 0.9), "rank <b>4</b>": (True, 0.8), "rank 8": (False, 0.89)}
    points = [_ablated(name, mark, mean, [1, 2, 3]) for name, (mark, mean) in rank.items()]
    points[1]["overrides"] = {f"recipes.{CLASSES}.lora.r": 4, "data.pages.labels": [SCRIPT]}
    failed = {"runs": [], "missing": [1, 2, 3], "metrics": {}}
    for metric in ("accuracy", "ece"):
        against = dict.fromkeys(("value", "low", "high", "beyond_noise")) | {"n": 0}
        failed["metrics"][metric] = {"mean": None, "sd": None, "n": 0, "difference": against}
    points.append(_ablated("rank 2", None, 0.5, []) | failed)
    _grid(root, "rank", points, [1, 2, 3])
    alone = [_ablated("both", None, 0.9, [7]), _ablated("one", None, 0.7, [7])]
    _grid(root, "heads", alone, [7])


def _grid(root: Path, name: str, points: list[dict[str, Any]], seeds: list[int]) -> None:
    del points[0]["metrics"]["accuracy"]["difference"], points[0]["metrics"]["ece"]["difference"]
    found = {"name": name, "recipe": CLASSES, "scale": "tiny", "seeds": seeds, "points": points}
    about = {"metrics": ["accuracy", "ece"], "confidence": 0.95, "reference": points[0]["name"]}
    _json(root / f"metrics/ablations/{name}.json", found | about)


def _ablated(name: str, mark: bool | None, mean: float, seeds: list[int]) -> dict[str, Any]:
    several, gap = len(seeds) > 1, mean - 0.9
    low, high = (gap - 0.05, gap + 0.05) if several else (None, None)
    against = {"value": gap, "low": low, "high": high, "n": len(seeds), "beyond_noise": mark}
    numbers = {"mean": mean, "sd": 0.012 if several else None, "n": len(seeds)}
    one = {"value": mean, "low": mean - 0.04, "high": mean + 0.04, "base": 0.2}
    run = {"n": N, "metrics": {"accuracy": one}}
    return {
        "name": name,
        "overrides": {},
        "metrics": {m: numbers | {"difference": against} for m in ("accuracy", "ece")},
        "runs": [run | {"seed": s, "experiment": f"grid-s{s}-0123456789ab"} for s in seeds],
        "missing": [],
    }


def face(label: int, seed: int) -> bytes:
    """A PNG of a simple face."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (56, 56), tuple(int(v) for v in rng.integers(90, 230, 3)))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((6, 4, 50, 52), fill=tuple(int(v) for v in rng.integers(150, 250, 3)))
    for x in (20, 36):
        pen.ellipse((x - 3, 20, x + 3, 26), fill="black")
    pen.arc((18, 30, 38, 46), 20 * label, 180 + 20 * label, fill="black", width=3)
    return png(picture)


def clip(number: int, frames: int = 8) -> list[bytes]:
    """PNGs of a face that goes from left to right."""
    whole = Image.open(io.BytesIO(face(number % 6, number)))
    pngs = []
    for i in range(frames):
        frame = Image.new("RGB", (56, 56), "lightgray")
        frame.paste(whole.resize((24, 24)), (4 * i, 16))
        pngs.append(png(frame))
    return pngs


def _write_data(folder: Path, task: str) -> None:
    folder.mkdir(parents=True)
    with_classes = task == "classify"
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
    if task == "answer":
        for split in splits.values():
            split["kinds"] = {"color": split["n"] - 30, "yes_no": 30}
        summary["answers"] = {
            "color": {"distinct": 6, "majority": 0.2, "most_frequent": {"red": 40, "blue": 31}},
            "yes_no": {"distinct": 2, "majority": 0.5, "most_frequent": {"no": 15, "yes": 15}},
        }
    _json(folder / "summary.json", summary)
    files = [HOSTILE_FILE, *(f"Train/joy/broken-{i:03d}.jpg" for i in range(60))]
    rows = [(f, "not an image") for f in files] + [(f"Test/{i}.png", "empty file") for i in "ab"]
    pd.DataFrame(rows, columns=["file", "reason"]).to_csv(folder / "rejected.csv", index=False)
    ids = [f"test-{i:04d}" for i in range(N)]
    columns = {"id": ids}
    if with_classes or folder.name == "statements":
        columns["image"] = [{"bytes": face(i % 6, i), "path": f"{i}.jpg"} for i in range(N)]
    if folder.name == "clips":
        columns["image"] = [None] * N
        columns["video"] = [[{"bytes": f, "path": None} for f in clip(i)] for i in range(N)]
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
    _audit(folder / "audit.csv")


def _audit(path: Path) -> None:
    groups = [("brightness", "low (below 0.41)"), ("brightness", "high (0.41 and above)")]
    rows = [
        (m, *group, N // 2, s + i / 5, s + i / 5 - 0.1, s + i / 5 + 0.1)
        for m, s in (("base", 0.3), ("tuned", 0.6))
        for i, group in enumerate(groups)
    ]
    columns = ["model", "property", "group", "n", "score", "low", "high"]
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)


def _metrics(accuracy: float, invalid: float, ece: float) -> dict[str, object]:
    values = {
        "n": N,
        "n_groups": N,
        "accuracy": accuracy,
        "macro_f1": accuracy - 0.02,
        "generated_accuracy": accuracy - 0.03,
        "invalid_rate": invalid,
        "ece": ece,
        "brier": 1 - accuracy,
        "largest_gap": 0.2,
        "largest_gap_chance": 0.09,
        "chance": 1 / 6,
        "majority": 0.175,
    }
    measured = ("accuracy", "macro_f1", "generated_accuracy")
    interval = {
        k: {"low": max(0, values[k] - 0.04), "high": min(1, values[k] + 0.04)} for k in measured
    }
    interval["largest_gap"] = {"low": 0.12, "high": 0.28}
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
        "doubt": [DOUBTS.get(i, "") for i in range(N)],
    }
    pd.DataFrame(rows).to_parquet(path)


def _names(numbers: np.ndarray) -> list[str]:
    return [LABELS[i] for i in numbers]


def _write_texts(folder: Path) -> None:
    for model, score in (("base", 0.31), ("tuned", 0.33)):
        texts = {"rougeL": score, "bleu4": score / 2, "cider": 3 * score}
        values = {"n": N, "n_groups": N // 3} | texts
        interval = {k: {"low": v - 0.03, "high": v + 0.03} for k, v in texts.items()}
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


def _write_videos(folder: Path) -> None:
    """As `_write_texts`, with all the columns of the task; its captions have no label."""
    _write_texts(folder)
    for model in ("base", "tuned"):
        captions = [HOSTILE_ANSWER, "", *["a face moves right"] * (N - 2)]
        rows = {
            "id": [f"test-{i:04d}" for i in range(N)],
            "label": [None] * N,
            "answer": [f"a face moves to the right in video {i}" for i in range(N)],
            "answers": [[f"a face moves to the right in video {i}"] for i in range(N)],
            "predicted": captions,
            "generated": captions,
            "ended": [True] * N,
            "question": ["What happens in the video?"] * N,
            "probability": np.linspace(0.99, 0.2, N),
            "correct": [i > 1 for i in range(N)],
            "doubt": [DOUBTS.get(i, "") for i in range(N)],
        }
        pd.DataFrame(rows).to_parquet(folder / "predictions" / f"{model}.parquet")


def _write_explanations(folder: Path) -> None:
    """As `_write_classes`, of two classes that are each explained."""
    _write_classes(folder)
    for model in ("base", "tuned"):
        rows = {
            "id": [f"test-{i:04d}" for i in range(N)],
            "question": [f"Does the picture show this: face {i}? Explain." for i in range(N)],
            "label": [ENTAILED[i % 2] for i in range(N)],
            "predicted": [ENTAILED[i % 3 // 2] for i in range(N)],
            "probability": np.linspace(0.5, 0.99, N),
            "probabilities": [[0.5, 0.5] for _ in range(N)],
            "answer": [f"Face {i} smiles in the picture." for i in range(N)],
            "answers": [[f"Face {i} smiles in the picture."] for i in range(N)],
            "generated": [*["It smiles."] * (N - 2), "", HOSTILE_ANSWER],
            "ended": [True] * N,
            "correct": [i % 3 // 2 == i % 2 for i in range(N)],
        }
        pd.DataFrame(rows).to_parquet(folder / "predictions" / f"{model}.parquet")


def _write_answers(folder: Path) -> None:
    for model, score in (("base", 0.05), ("tuned", 0.6)):
        values = {"n": N, "n_groups": N, "exact_match": score, "ece": 0.1, "majority": 0.3}
        values |= {"bertscore_f1_all_minilm_l6_v2": score + 0.1}
        named = ("exact_match", "bertscore_f1_all_minilm_l6_v2")
        interval = {k: {"low": values[k] - 0.03, "high": values[k] + 0.03} for k in named}
        gains = {k: {"value": 0.55, "low": 0.5, "high": 0.6} for k in named}
        extra = {"gain": gains} if model == "tuned" else {}
        _json(folder / f"{model}.json", values | {"interval": interval} | extra)
        rows = {
            "id": [f"{i}.jpg#color" for i in range(N)],
            "question": [f"What color is product {i}?" for i in range(N)],
            "answer": ["red"] * N,
            "answers": [["red"]] * N,
            "predicted": [HOSTILE_ANSWER, *["red"] * (N - 1)],
            "generated": [HOSTILE_ANSWER, *["red"] * (N - 1)],
            "probability": np.linspace(0.2, 0.99, N),
            "correct": [False, *[True] * (N - 1)],
            "doubt": [""] * N,
        }
        pd.DataFrame(rows).to_parquet(folder / "predictions" / f"{model}.parquet")
    kinds = [(m, k, s, 60) for m, s in (("base", 0.1), ("tuned", 0.7)) for k in ("color", "count")]
    columns = ["model", "label", "score", "support"]
    pd.DataFrame(kinds, columns=columns).to_csv(folder / "classes.csv", index=False)
    confusion = pd.DataFrame({"actual": ["red", "blue"], "predicted": ["red", "red"]})
    confusion.to_csv(folder / "confusion.csv", index=False)
    bins = pd.DataFrame([("base", 0.5, 0.5, 0.5, N), ("tuned", 0.5, 0.5, 0.6, N)])
    bins.set_axis(["model", "bin", "confidence", "accuracy", "count"], axis=1).to_csv(
        folder / "reliability.csv", index=False
    )
    _audit(folder / "audit.csv")


def _write_heatmaps(root: Path, recipe: str) -> None:
    drops = {"gradcam": 1.92, "occlusion": 2.4, "edges": 0.9, "random": 0.4, "randomised": 1.75}
    gradcam = {
        "n": 60,
        "n_groups": 2,
        "deletion": drops,
        "deletion_interval": {k: {"low": v - 0.2, "high": v + 0.2} for k, v in drops.items()},
        "pointing": {"gradcam": 0.81, "occlusion": 0.9, "edges": 0.4, "randomised": 0.2},
        "randomisation": {"gradcam": 0.12, "occlusion": -0.05},
    }
    _json(root / "metrics" / recipe / "gradcam.json", gradcam)
    folder = root / "reports/gradcam" / recipe
    folder.mkdir(parents=True)
    _json(folder / "gallery.json", [_entry(folder, recipe, i) for i in range(8)])


def _entry(folder: Path, recipe: str, i: int) -> dict[str, object]:
    """One example of the gallery, with its pictures."""
    size, small = ((457, 227), (457, 112)) if recipe == VIDEOS else ((224, 224), (112, 112))
    right = i % 2 == 0
    entry = {"id": f"test-{i:04d}", "label": LABELS[i % 6], "probability": 0.9 - i / 20}
    entry |= {"predicted": LABELS[i % 6] if right else LABELS[(i + 1) % 6], "correct": right}
    entry |= _overlays(folder, i, f"{i}", ("picture", "gradcam", "occlusion"), size)
    if recipe == CLASSES:
        return entry
    text = SAID[i % 3]
    words = [
        {"word": word} | _overlays(folder, i, f"{i}_word{k}", ("gradcam", "occlusion"), small)
        for k, word in enumerate(text.split())
    ]
    more = {"generated": text, "reference": f"reference {i}", "words": words, "more_words": i % 2}
    if recipe == EXPLAINS:
        return entry | {"label": ENTAILED[0], "predicted": ENTAILED[i % 2], "of_class": True} | more
    return entry | {"label": "right", "predicted": text, "of_class": False, "frames": 8} | more


def _overlays(
    folder: Path, seed: int, stem: str, kinds: tuple[str, ...], size: tuple[int, int]
) -> dict[str, str]:
    """Save a picture for each kind; their names by kind."""
    names = {kind: f"{stem}-{kind}.png" for kind in kinds}
    for kind, name in names.items():
        picture = Image.open(io.BytesIO(face(seed % 6, seed))).resize(size)
        heat = Image.linear_gradient("L").resize(size).rotate(90 * seed).convert("RGB")
        Image.blend(picture, heat, 0.3 * (kind != "picture")).save(folder / name)
    return names


WRITERS = {
    CLASSES: _write_classes,
    TEXTS: _write_texts,
    ANSWERS: _write_answers,
    VIDEOS: _write_videos,
    EXPLAINS: _write_explanations,
}
OF_TASK = {
    "classify": _write_classes,
    "answer": _write_answers,
    "describe": _write_videos,
    "entail_explain": _write_explanations,
}


def _json(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
