"""Single examples of a recipe: its gallery of heatmaps, its best and its worst answers."""

from typing import Any

import pandas as pd

from src.report.inputs import DataInputs, RecipeInputs, read_picture
from src.report.pictures import Thumbnail, thumbnail

SHOWN = 6
MAPS = ("picture", "gradcam", "occlusion")
Example = dict[str, Any]


def gallery(inputs: RecipeInputs, recipe: str) -> list[Example]:
    """Each example with its picture and its heatmaps, wrong answers last."""

    def pictures(entry: Example) -> dict[str, Thumbnail]:
        folder = inputs.gallery_folder
        return {m: thumbnail(read_picture(folder / entry[m], recipe)) for m in MAPS if entry.get(m)}

    unknown = dict.fromkeys(("label", "question", "predicted", "probability", "correct"))
    rows = [unknown | entry | {"pictures": pictures(entry)} for entry in inputs.gallery]
    return sorted(rows, key=lambda e: e["correct"] is False)


def best_and_worst(inputs: RecipeInputs, data: DataInputs) -> dict[str, list[Example]]:
    """The tuned model's most confident right and wrong answers; the first ones of a free text.

    Returns:
        Groups of examples by their heading, empty groups left out.
    """
    rows = inputs.predictions["tuned"].sort_values("id")
    if "probability" in rows:
        rows = rows.sort_values(["probability", "id"], ascending=[False, True])
    sure = "Most confident and " if "probability" in rows else "Answers that are "
    if "correct" in rows:
        right = rows["correct"].astype(bool)
        groups = {f"{sure}right": rows[right], f"{sure}wrong": rows[~right]}
    else:
        groups = {"The first answers": rows}
    chosen = {title: group.head(SHOWN) for title, group in groups.items()}
    return {title: _examples(group, data) for title, group in chosen.items() if not group.empty}


def doubtful(inputs: RecipeInputs, data: DataInputs) -> list[Example]:
    """Some of the answers that are not to be relied on, each reason in turn."""
    rows = inputs.predictions["tuned"].sort_values("id")
    if "doubt" not in rows:
        return []
    rows = rows[rows["doubt"] != ""]
    turn = rows.groupby("doubt").cumcount()
    return _examples(rows.assign(turn=turn).sort_values(["turn", "id"]).head(SHOWN), data)


def _examples(rows: pd.DataFrame, data: DataInputs) -> list[Example]:
    seen = data.pictures(list(rows["id"]))
    return [_example(row, seen.get(row["id"])) for row in rows.to_dict("records")]


def common_question(inputs: RecipeInputs) -> str | None:
    """The question, where every example is asked the same one."""
    questions = inputs.predictions["tuned"]["question"].unique()
    return questions[0] if len(questions) == 1 else None


def _example(row: Example, picture: bytes | None) -> Example:
    values = {k: None if _absent(v) else v for k, v in row.items()}
    truth = next((values[k] for k in ("label", "answer", "reference") if values.get(k)), None)
    answer = values.get("predicted") or values["generated"]
    return values | {
        "truth": truth,
        "answer": answer,
        "text": values["generated"] if values["generated"] != answer else None,
        "thumbnail": thumbnail(picture) if picture else None,
    }


def _absent(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))
