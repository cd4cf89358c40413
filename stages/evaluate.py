"""Predict and measure with a recipe's tuned model: `python -m stages.evaluate RECIPE`."""

from pathlib import Path

import pandas as pd
import typer

from src import config, metrics
from src.errors import one_line
from src.files import whole, write_json
from src.inference.predict import predict, predictions_file, save
from src.models import load_tuned
from src.records import read_labels


@one_line
def main(recipe: str) -> None:
    params = config.load()
    chosen = config.pick(params.recipes, recipe, "recipes")
    adapter = Path("models/adapters") / recipe
    model = load_tuned(Path("models/base") / chosen.base, adapter, chosen)
    tuned = predict(model, chosen, params.evaluate.batch_size, params.seed)
    save(tuned, predictions_file(chosen, "tuned"))

    base = pd.read_parquet(predictions_file(chosen, "base"))
    labels = read_labels(chosen.data)
    measure = metrics.load(chosen.task)
    numbers = measure.summarise(tuned, labels, params.evaluate, params.seed)
    numbers["gain"] = measure.gains(base, tuned, labels, params.evaluate, params.seed)
    folder = Path("metrics") / recipe
    for name, table in measure.plots(base, tuned, labels, params.evaluate).items():
        with whole(folder / f"{name}.csv") as beside:
            table.to_csv(beside, index=False)
    write_json(folder / "tuned.json", numbers)


if __name__ == "__main__":
    typer.run(main)
