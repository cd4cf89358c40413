"""Predict and measure with the untuned base of a recipe: `python -m stages.baseline RECIPE`."""

from functools import partial
from pathlib import Path

import typer
from accelerate.utils.memory import clear_device_cache

from src import config, metrics, recorded
from src.errors import one_line
from src.features import opened
from src.files import write_json
from src.inference.predict import predict, predictions_file, save
from src.models import load_base
from src.processes import is_first, spread
from src.records import read_labels
from src.schema import Params, Recipe
from src.training.load import check_records


def predict_and_measure(params: Params, chosen: Recipe, before: str) -> None:
    check_records(chosen)
    measure = metrics.load(chosen.task)
    if is_first():
        measure.ready(params.evaluate)
    features = opened(Path("data/features") / chosen.name, chosen)
    base = Path("models/base") / chosen.base
    model = load_base(base, chosen, vision=features is None)
    frame = predict(model, chosen, params.evaluate.batch_size, params.seed, features)
    if not is_first():
        return
    save(frame, predictions_file(chosen, "base"))
    # A model that scores texts may need its room.
    del model
    clear_device_cache(garbage_collection=True)
    labels = read_labels(chosen.data)
    numbers = measure.summarise(frame, labels, params.evaluate, params.seed)
    write_json(Path("metrics") / chosen.name / "base.json", numbers)
    recorded.check(before, f"baseline@{chosen.name}")


@one_line
def main(recipe: str) -> None:
    before = config.text()
    params = config.load()
    chosen = config.pick(params.recipes, recipe, "recipes")
    spread(chosen.train.processes, partial(predict_and_measure, params, chosen, before))


if __name__ == "__main__":
    typer.run(main)
