"""Single examples of a recipe: its gallery of heatmaps, its best and its worst answers."""

from typing import Any

import pandas as pd

from src.report.inputs import DataInputs, RecipeInputs, read_picture
from src.report.pictures import SIDE, Thumbnail, strip, thumbnail

SHOWN = 6
MAPS = ("picture", "gradcam", "occlusion")
SHEET = 460  # pixels, of the widest sheet of frames
Example = dict[str, Any]


def gallery(inputs: RecipeInputs, recipe: str) -> list[Example]:
    """Each example with its picture and its heatmaps, wrong answers last.

    `words` are those of its text that have heatmaps, each with its own.
    """

    def pictures(entry: Example, side: int = SIDE) -> dict[str, Thumbnail]:
        folder = inputs.gallery_folder
        named = [name for name in MAPS if entry.get(name)]
        return {n: thumbnail(read_picture(folder / entry[n], recipe), side) for n in named}

    def example(entry: Example) -> Example:
        side = SHEET if entry.get("frames") else SIDE
        words = [
            {"word": word["word"], "pictures": pictures(word, side)}
            for word in entry.get("words", [])
        ]
        return _unknown() | entry | {"pictures": pictures(entry, side), "words": words}

    return sorted(map(example, inputs.gallery), key=lambda e: e["correct"] is False)


def _unknown() -> Example:
    """What an entry of the gallery may lack."""
    names = ("label", "question", "predicted", "probability", "correct")
    of_texts = ("frames", "generated", "reference", "of_class", "more_words")
    return dict.fromkeys((*names, *of_texts))


def best_and_worst(inputs: RecipeInputs, data: DataInputs) -> dict[str, list[Example]]:
    """The tuned model's most confident right and wrong answers, or those of a free text.

    Returns:
        Groups of examples by their heading, empty groups left out.
    """
    rows = inputs.predictions["tuned"].sort_values("id")
    if "probability" in rows:
        rows = rows.sort_values(["probability", "id"], ascending=[False, True])
    if "correct" in rows:
        right = rows["correct"].astype(bool)
        groups = {"Most confident and right": rows[right], "Most confident and wrong": rows[~right]}
    else:
        groups = {"Most confident" if "probability" in rows else "The first answers": rows}
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


def _example(row: Example, frames: list[bytes] | None) -> Example:
    values = {k: None if _absent(v) else v for k, v in row.items()}
    # Where classes are scored, an answer is a class, whatever else was written.
    named = "probabilities" in values
    order = ("label", "answer", "reference") if named else ("answer", "reference", "label")
    truth = next((values[k] for k in order if values.get(k)), None)
    answer = values.get("predicted") or values["generated"]
    return values | {
        "truth": truth,
        "answer": answer,
        "text": values["generated"] if values["generated"] != answer else None,
        # That of a text that explains a class.
        "text_truth": values.get("answer") if named else None,
        "film": bool(frames) and len(frames) > 1,
        "thumbnail": _shown(frames) if frames else None,
    }


def _shown(frames: list[bytes]) -> Thumbnail:
    return strip(frames) if len(frames) > 1 else thumbnail(frames[0])


def _absent(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))
