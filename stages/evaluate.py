"""Predict and measure with a recipe's tuned model: `python -m stages.evaluate RECIPE`."""

from functools import partial
from pathlib import Path

import pandas as pd
import typer
from accelerate.utils.memory import clear_device_cache

from src import config, metrics, recorded
from src.errors import one_line
from src.features import opened
from src.files import whole, write_json
from src.inference.predict import predict, predictions_file, save
from src.models import load_tuned
from src.processes import is_first, spread
from src.records import read_labels
from src.schema import Params, Recipe


def predict_and_measure(params: Params, chosen: Recipe, before: str) -> None:
    adapter = Path("models/adapters") / chosen.name
    measure = metrics.load(chosen.task)
    if is_first():
        measure.ready(params.evaluate)
    features = opened(Path("data/features") / chosen.name, chosen)
    model = load_tuned(Path("models/base") / chosen.base, adapter, chosen, vision=features is None)
    tuned = predict(model, chosen, params.evaluate.batch_size, params.seed, features)
    if not is_first():
        return
    save(tuned, predictions_file(chosen, "tuned"))
    # A model that scores texts may need its room.
    del model
    clear_device_cache(garbage_collection=True)
    base = pd.read_parquet(predictions_file(chosen, "base"))
    labels = read_labels(chosen.data)
    numbers = measure.summarise(tuned, labels, params.evaluate, params.seed)
    numbers["gain"] = measure.gains(base, tuned, labels, params.evaluate, params.seed)
    folder = Path("metrics") / chosen.name
    for name, table in measure.plots(base, tuned, labels, params.evaluate).items():
        with whole(folder / f"{name}.csv") as beside:
            table.to_csv(beside, index=False)
    write_json(folder / "tuned.json", numbers)
    recorded.check(before, f"evaluate@{chosen.name}")


@one_line
def main(recipe: str) -> None:
    before = config.text()
    params = config.load()
    chosen = config.pick(params.recipes, recipe, "recipes")
    spread(chosen.train.processes, partial(predict_and_measure, params, chosen, before))


if __name__ == "__main__":
    typer.run(main)
