"""One recipe's heatmaps: the gallery, and the scores that say what the maps are worth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from peft import PeftModel

from src.cpu import prepare_gradients
from src.explain import gallery, maps, scores
from src.explain.targets import Explained, WordLikelihoods, named_by_head, scored
from src.files import whole, write_json
from src.inference.batches import in_batches
from src.inference.generate import base_of
from src.inference.predict import predictions_file
from src.metrics.intervals import MEAN, groups_of, percentiles, resampling
from src.models import load_tuned
from src.records import read_split
from src.schema import Evaluate, Explain, Params, Recipe
from src.training.collator import Collator
from src.training.load import load_collator

WORDS = 12  # of a text that are explained one by one, at most


def run(recipe: Recipe, params: Params) -> None:
    """Write `reports/gradcam/RECIPE` and `metrics/RECIPE/gradcam.json`."""
    frame = pd.read_parquet(predictions_file(recipe, "tuned"))
    chosen = pick(frame, params.explain, params.seed)
    records = _records(recipe, chosen)
    base = Path("models/base") / recipe.base
    model = load_tuned(base, Path("models/adapters") / recipe.name, recipe)
    prepare_gradients(model)
    collator = load_collator(recipe, answers=True)
    found, covered = _maps(model, collator, records, chosen, params)
    regions = [record["regions"] for record in records]
    numbers = _scores(found, covered, regions, groups_of(chosen), params.evaluate, params.seed)
    write_json(Path("metrics") / recipe.name / "gradcam.json", numbers)
    shown = gallery.chosen(chosen["correct"].to_numpy(bool), params.explain.gallery)
    with whole(Path("reports/gradcam") / recipe.name) as folder:
        folder.mkdir(parents=True)
        entries = [
            gallery.save(
                folder,
                number,
                records[i].get("video") or records[i]["image"],
                chosen.iloc[i],
                {name: values[i] for name, values in found.items()},
            )
            for number, i in enumerate(shown)
        ]
        if writes_texts(frame):
            parts = [records[i] for i in shown], chosen.iloc[shown]
            extra = _word_by_word(model, collator, *parts, params, folder)
            entries = [entry | more for entry, more in zip(entries, extra, strict=True)]
        write_json(folder / "gallery.json", entries)


def writes_texts(frame: pd.DataFrame) -> bool:
    """Whether answers are texts of several words: only of those is it said whether they ended."""
    return "ended" in frame


def pick(frame: pd.DataFrame, explain: Explain, seed: int) -> pd.DataFrame:
    """A seeded sample of the test examples, in their order."""
    rng = np.random.default_rng(seed)
    count = min(explain.pictures, len(frame))
    return frame.iloc[np.sort(rng.choice(len(frame), count, replace=False))].reset_index(drop=True)


def _records(recipe: Recipe, chosen: pd.DataFrame) -> list[dict[str, Any]]:
    split = read_split(Path("data/prepared") / recipe.data / "test.parquet")
    place = {identity: i for i, identity in enumerate(split["id"])}
    return [split[place[identity]] for identity in chosen["id"]]


def _maps(
    model: PeftModel,
    collator: Collator,
    records: list[dict[str, Any]],
    rows: pd.DataFrame,
    params: Params,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Maps (examples, rows, columns) by name, and what covering their hottest cells costs."""
    explain, batch_size = params.explain, params.evaluate.batch_size
    tower = collator.family.vision(base_of(model))
    # Once for all batches: to draw a large tower takes seconds.
    other = scores.redrawn(tower, params.seed)

    def mapped(numbers: list[int]) -> list[dict[str, tuple[np.ndarray, float]]]:
        part = [records[i] for i in numbers]
        size = _in_a_pass(numbers, records, batch_size)
        explained = scored(model, collator, part, rows.iloc[numbers])
        grid = explained.grid(explain.cells)
        batch = {
            "gradcam": maps.gradcam(explained, grid),
            "occlusion": maps.occlusion(explained, grid, size),
            "edges": maps.edges(explained.media, grid),
            # Each from a generator of its own, so that no map hangs on its batch.
            "random": np.stack(
                [np.random.default_rng([params.seed, i]).random(grid) for i in numbers]
            ),
        }
        with scores.randomised(tower, other):
            batch["randomised"] = maps.gradcam(explained, grid)
            batch["randomised_occlusion"] = maps.occlusion(explained, grid, size)
        drops = _drops(explained, batch, explain.deleted, size)
        return [
            {name: (values[k], drops[name][k]) for name, values in batch.items()}
            for k in range(len(numbers))
        ]

    each = in_batches(mapped, range(len(records)), [1] * len(records), batch_size, "explain")
    found, covered = (
        {name: np.stack([own[name][k] for own in each]) for name in each[0]} for k in (0, 1)
    )
    return found, covered


def _in_a_pass(numbers: Sequence[int], records: Sequence[Any], batch_size: int) -> int:
    """Pictures in a pass, covered here and there: no more than in a batch that was halved."""
    halved = len(numbers) < min(batch_size, len(records))
    return len(numbers) if halved else batch_size


def _drops(
    explained: Explained, batch: dict[str, np.ndarray], share: float, batch_size: int
) -> dict[str, np.ndarray]:
    """Nats that an answer loses when a map's hottest cells are covered, by map."""
    chosen = [scores.hottest(values, share) for values in batch.values()]
    covers = np.stack([np.zeros_like(chosen[0]), *chosen], 1)
    left = maps.numbers_without(explained, covers, batch_size)[..., 0]
    return {name: left[:, 0] - left[:, i] for i, name in enumerate(batch, start=1)}


def _scores(
    found: dict[str, np.ndarray],
    covered: dict[str, np.ndarray],
    regions: list[Any],
    groups: np.ndarray,
    evaluate: Evaluate,
    seed: int,
) -> dict[str, Any]:
    names = ("gradcam", "occlusion", "edges", "randomised", "random")

    def bounds(values: np.ndarray) -> dict[str, float]:
        low, high = percentiles(MEAN, values, groups=groups, **resampling(evaluate, seed))
        return {"low": round(low, 6), "high": round(high, 6)}

    numbers: dict[str, Any] = {
        "n": len(regions),
        "n_groups": len(np.unique(groups)),
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


def _word_by_word(
    model: PeftModel,
    collator: Collator,
    records: Sequence[dict[str, Any]],
    rows: pd.DataFrame,
    params: Params,
    folder: Path,
) -> list[dict[str, Any]]:
    """What the gallery says of each example's text, with an overlay of each of its first words."""
    of_class, batch_size = named_by_head(model, collator), params.evaluate.batch_size

    def explained(numbers: list[int]) -> list[dict[str, Any]]:
        texts = list(rows["generated"].iloc[numbers])
        part = [records[i] for i in numbers]
        words = WordLikelihoods(model, collator, part, texts, WORDS)
        grid = words.grid(params.explain.cells)
        found = {name: np.empty((0, len(texts), *grid)) for name in gallery.MAPS}
        if words.count:
            found["gradcam"] = maps.gradcams(words, grid)
            size = _in_a_pass(numbers, records, batch_size)
            found["occlusion"] = maps.occlusions(words, grid, size)
        return [
            {
                "generated": text,
                "reference": rows["answer"].iloc[number],
                "of_class": of_class,
            }
            | gallery.save_words(
                folder,
                number,
                words.media[k],
                words.words[k],
                {name: values[:, k] for name, values in found.items()},
            )
            for k, (number, text) in enumerate(zip(numbers, texts, strict=True))
        ]

    return in_batches(explained, range(len(records)), [1] * len(records), batch_size, "words")
