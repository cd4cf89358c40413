"""One recipe's heatmaps: the gallery, and the scores that say what the maps are worth."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pytorch_grad_cam.utils.image import show_cam_on_image
from tqdm import tqdm

from src.explain import maps, scores
from src.files import whole, write_json
from src.inference.generate import base_of
from src.inference.predict import predictions_file
from src.metrics.intervals import interval
from src.models import load_tuned
from src.records import read_split
from src.schema import Evaluate, Explain, Params, Recipe
from src.training.load import load_collator

SHOWN_SIDE = 224


def run(recipe: Recipe, params: Params) -> None:
    """Write `reports/gradcam/RECIPE` and `metrics/RECIPE/gradcam.json`."""
    frame = pd.read_parquet(predictions_file(recipe, "tuned"))
    chosen = pick(frame, params.explain, params.seed)
    records = _records(recipe, chosen)
    found, covered = _maps(recipe, records, list(chosen["predicted"]), params)
    regions = [record["regions"] for record in records]
    numbers = _scores(found, covered, regions, params.evaluate, params.seed)
    write_json(Path("metrics") / recipe.name / "gradcam.json", numbers)
    shown = gallery(chosen["correct"].to_numpy(bool), params.explain.gallery)
    with whole(Path("reports/gradcam") / recipe.name) as folder:
        folder.mkdir(parents=True)
        entries = [
            _show(folder, number, records[i], chosen.iloc[i], found, i)
            for number, i in enumerate(shown)
        ]
        write_json(folder / "gallery.json", entries)


def pick(frame: pd.DataFrame, explain: Explain, seed: int) -> pd.DataFrame:
    """A seeded sample of the test examples, in their order."""
    rng = np.random.default_rng(seed)
    count = min(explain.pictures, len(frame))
    return frame.iloc[np.sort(rng.choice(len(frame), count, replace=False))].reset_index(drop=True)


def gallery(correct: np.ndarray, count: int) -> list[int]:
    """Positions of `count` examples, half right and half wrong where there are as many."""
    right, wrong = np.flatnonzero(correct), np.flatnonzero(~correct)
    wrong_count = min(len(wrong), max(count // 2, count - len(right)))
    return [*_spread(right, count - wrong_count), *_spread(wrong, wrong_count)]


def _spread(positions: np.ndarray, count: int) -> list[int]:
    """Up to `count` of the positions, evenly: the split lists one class after the other."""
    count = min(count, len(positions))
    return positions[np.linspace(0, len(positions) - 1, count).round().astype(int)].tolist()


def _records(recipe: Recipe, chosen: pd.DataFrame) -> list[dict[str, Any]]:
    split = read_split(Path("data/prepared") / recipe.data / "test.parquet")
    place = {identity: i for i, identity in enumerate(split["id"])}
    return [split[place[identity]] for identity in chosen["id"]]


def _maps(
    recipe: Recipe, records: list[dict[str, Any]], answers: list[str], params: Params
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Maps (pictures, cells, cells) by name, and what covering their hottest cells costs."""
    explain, batch_size = params.explain, params.evaluate.batch_size
    base = Path("models/base") / recipe.base
    model = load_tuned(base, Path("models/adapters") / recipe.name, recipe)
    collator = load_collator(recipe, answers=True)
    rng = np.random.default_rng(params.seed)
    found: dict[str, list[np.ndarray]] = {}
    covered: dict[str, list[np.ndarray]] = {}
    for start in tqdm(range(0, len(records), batch_size), desc="explain", unit="batch"):
        part = slice(start, start + batch_size)
        explained = maps.AnswerLikelihood(model, collator, records[part], answers[part])
        cells = explain.cells
        batch = {
            "gradcam": maps.gradcam(explained, cells),
            "occlusion": maps.occlusion(explained, cells, batch_size),
            "edges": maps.edges(explained.images, cells),
            "random": rng.random((len(explained.images), cells, cells)),
        }
        with scores.randomised(collator.family.vision(base_of(model)), params.seed):
            batch["randomised"] = maps.gradcam(explained, cells)
            batch["randomised_occlusion"] = maps.occlusion(explained, cells, batch_size)
        drops = _drops(explained, batch, explain.deleted, batch_size)
        for name, values in batch.items():
            found.setdefault(name, []).append(values)
            covered.setdefault(name, []).append(drops[name])
    return _joined(found), _joined(covered)


def _joined(batches: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate(values) for name, values in batches.items()}


def _drops(
    explained: maps.AnswerLikelihood, batch: dict[str, np.ndarray], share: float, batch_size: int
) -> dict[str, np.ndarray]:
    """Nats that an answer loses when a map's hottest cells are covered, by map."""
    chosen = [scores.hottest(values, share) for values in batch.values()]
    covers = np.stack([np.zeros_like(chosen[0]), *chosen], 1)
    left = maps.likelihood_without(explained, covers, batch_size)
    return {name: left[:, 0] - left[:, i] for i, name in enumerate(batch, start=1)}


def _scores(
    found: dict[str, np.ndarray],
    covered: dict[str, np.ndarray],
    regions: list[Any],
    evaluate: Evaluate,
    seed: int,
) -> dict[str, Any]:
    names = ("gradcam", "occlusion", "edges", "randomised", "random")

    def bounds(values: np.ndarray) -> dict[str, float]:
        low, high = interval(
            lambda x: np.mean(x, axis=-1),
            values,
            resamples=evaluate.bootstrap,
            confidence=evaluate.confidence,
            seed=seed,
        )
        return {"low": round(low, 6), "high": round(high, 6)}

    numbers: dict[str, Any] = {
        "n": len(regions),
        "deletion": {name: round(float(covered[name].mean()), 6) for name in names},
        "deletion_interval": {name: bounds(covered[name]) for name in names},
        "randomisation": {
            name: round(float(scores.rank_correlation(found[name], found[other]).mean()), 6)
            for name, other in (("gradcam", "randomised"), ("occlusion", "randomised_occlusion"))
        },
    }
    if all(regions):
        hits = {name: scores.pointing_hits(found[name], regions) for name in names}
        hits["random"] = scores.region_share(found["random"].shape[1], regions)
        numbers["pointing"] = {name: round(float(h.mean()), 6) for name, h in hits.items()}
    return numbers


def _show(
    folder: Path,
    number: int,
    record: dict[str, Any],
    prediction: pd.Series,
    found: dict[str, np.ndarray],
    position: int,
) -> dict[str, Any]:
    """Save one picture and its overlays; returns its entry in the gallery."""
    picture = record["image"].resize((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BICUBIC)
    files = {"picture": f"{number:02d}_picture.png"}
    picture.save(folder / files["picture"])
    for name in ("gradcam", "occlusion"):
        files[name] = f"{number:02d}_{name}.png"
        overlay(picture, found[name][position]).save(folder / files[name])
    columns = ("id", "question", "predicted", "probability", "correct")
    entry = {c: getattr(prediction[c], "item", lambda c=c: prediction[c])() for c in columns}
    return entry | {"label": prediction["label" if "label" in prediction else "answer"]} | files


def overlay(picture: Image.Image, cells: np.ndarray) -> Image.Image:
    """A map laid over its picture; what speaks against the answer stays cold."""
    hot = np.clip(cells, 0, None)
    scaled = hot / hot.max() if hot.max() > 0 else hot
    smooth = Image.fromarray(scaled.astype(np.float32)).resize(
        picture.size, Image.Resampling.BICUBIC
    )
    heat = np.clip(np.asarray(smooth), 0, 1)
    rgb = np.asarray(picture, np.float32) / 255
    return Image.fromarray(show_cam_on_image(rgb, heat, use_rgb=True, image_weight=0.55))
