import time

import numpy as np
import pandas as pd
import pytest

from src.metrics.audit import audit, largest_gap, summary, tables
from src.schema import Evaluate

EVALUATE = Evaluate(
    bootstrap=400,
    confidence=0.95,
    calibration_bins=10,
    bertscore="all-MiniLM-L6-v2",
    audit_minimum=20,
    batch_size=8,
)


def predictions(n: int, seed: int) -> pd.DataFrame:
    """Examples of which 70 % are right, whatever they are of."""
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "id": [f"{i:05}" for i in range(n)],
            "probability": generator.random(n),
            "correct": generator.random(n) < 0.7,
            "subgroup": generator.choice(["child", "adult", None], n),
            "kind": None,
            "brightness": generator.random(n).astype(np.float32),
            "contrast": 0.25,
            "sharpness": generator.random(n),
            "width": generator.integers(100, 200, n),
            "height": 150,
            "doubt": generator.choice(["", "too dark"], n),
        }
    )


def dark_is_wrong(n: int, seed: int) -> pd.DataFrame:
    """Half of the dark third are turned wrong."""
    frame = predictions(n, seed)
    dark = frame["brightness"] < 1 / 3
    turned = np.random.default_rng(seed + 1).random(n) < 0.5
    return frame.assign(correct=frame["correct"] & ~(dark & turned))


def test_groups_are_names_and_thirds_of_what_varies() -> None:
    table = audit(predictions(300, 0), EVALUATE, 17)
    properties = ["subgroup"] * 2 + ["brightness"] * 3 + ["sharpness"] * 3 + ["size"] * 3
    assert table["property"].tolist() == properties
    assert table["group"].tolist()[:2] == ["adult", "child"]
    assert (table["low"] <= table["score"]).all()
    assert (table["score"] <= table["high"]).all()


def test_by_hand() -> None:
    frame = pd.DataFrame(
        {
            "brightness": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, np.nan],
            "width": [10, 10, 10, 10, 10, 30, 30],
            "height": [90, 90, 90, 90, 90, 90, 5],
            "kind": ["color", "color", "count", None, None, "count", "count"],
            "correct": [True, False, True, True, False, False, True],
        }
    )
    table = audit(frame, EVALUATE, 17)
    assert table[["property", "group", "n", "score"]].values.tolist() == [
        ["kind", "color", 2, 0.5],
        ["kind", "count", 3, pytest.approx(2 / 3)],
        ["brightness", "low (below 0.3)", 2, 0.5],
        ["brightness", "middle (0.3 to 0.5)", 2, 1],
        ["brightness", "high (0.5 and above)", 2, 0],
        ["size", "low (below 10)", 1, 1],
        ["size", "high (10 and above)", 6, 0.5],
    ]


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([48] * 9, []),
        ([48] * 8 + [350], [("low (below 350)", 8), ("high (350 and above)", 1)]),
        ([48] + [350] * 8, [("low (below 350)", 1), ("high (350 and above)", 8)]),
        ([48, 1024], [("low (below 1024)", 1), ("high (1024 and above)", 1)]),
        ([1, 1, 1, 1, 2, 3, 4, 4, 4], [("low (below 2)", 4), ("middle (2 to 4)", 2)]),
    ],
)
def test_equal_measures_stay_together(sizes: list[int], groups: list[tuple[str, int]]) -> None:
    frame = pd.DataFrame({"width": sizes, "height": 2000, "correct": True})
    table = audit(frame, EVALUATE, 17)
    found = list(zip(table["group"], table["n"], strict=True))
    assert found[:2] == groups
    assert table["n"].sum() == (len(sizes) if groups else 0)


def test_a_planted_gap_is_found_and_stands_out_from_chance() -> None:
    gap = largest_gap(dark_is_wrong(600, 3), EVALUATE, 17)
    assert gap["property"] == "brightness"
    assert gap["worst"].startswith("low (below")
    assert 0.25 < gap["value"] < 0.5
    assert gap["chance"] < gap["low"] < gap["value"] < gap["high"]


def test_without_a_gap_the_largest_is_on_average_what_chance_gives() -> None:
    gaps = [largest_gap(predictions(300, seed), EVALUATE, seed) for seed in range(40)]
    values, chances = (np.array([gap[k] for gap in gaps]) for k in ("value", "chance"))
    error = values.std() / np.sqrt(len(values))
    assert values.mean() == pytest.approx(chances.mean(), abs=3 * error)
    assert chances.mean() > 0.05


def of_pictures(pictures: int, seed: int) -> pd.DataFrame:
    """Eight questions about each picture, which are right together or wrong together."""
    frame = predictions(pictures, seed)
    questions = frame.loc[frame.index.repeat(8)].reset_index(drop=True)
    kinds = ["color", "count"] * (4 * pictures)
    return questions.assign(group=questions["id"], id=range(8 * pictures), kind=kinds)


def test_what_chance_gives_knows_that_questions_share_a_picture() -> None:
    frames = [of_pictures(100, seed) for seed in range(40)]
    gaps = [largest_gap(frame, EVALUATE, seed) for seed, frame in enumerate(frames)]
    values, chances = (np.array([gap[k] for gap in gaps]) for k in ("value", "chance"))
    error = values.std() / np.sqrt(len(values))
    assert values.mean() == pytest.approx(chances.mean(), abs=3 * error)
    apart = [largest_gap(f.drop(columns="group"), EVALUATE, 17)["chance"] for f in frames]
    assert np.mean(apart) < 0.6 * chances.mean()


def test_a_gap_of_the_kinds_of_question_is_not_what_chance_gives() -> None:
    frame = of_pictures(100, 0)[["group", "kind"]]
    gap = largest_gap(frame.assign(correct=frame["kind"] == "color"), EVALUATE, 17)
    assert gap["value"] == 1
    assert gap["chance"] < 0.2


def test_the_interval_of_a_score_is_of_pictures() -> None:
    frame = of_pictures(100, 1)[["group", "correct", "kind"]]
    together, apart = (audit(f, EVALUATE, 17) for f in (frame, frame.drop(columns="group")))
    width, narrow = ((table["high"] - table["low"]) for table in (together, apart))
    assert (width > 1.5 * narrow).all()


def test_a_gap_is_between_the_extremes_of_one_property() -> None:
    frame = predictions(500, 4)
    table = audit(frame, EVALUATE, 17).groupby("property")["score"]
    spread = table.max() - table.min()
    gap = largest_gap(frame, EVALUATE, 17)
    assert gap["value"] == pytest.approx(spread.max())
    assert gap["property"] == spread.idxmax()


def test_equal_groups_have_no_gap_and_an_interval_around_none() -> None:
    right, kinds = [True, False] * 200, ["yes", "yes", "no", "no"] * 100
    frame = predictions(400, 5).assign(correct=right, kind=kinds)
    gap = largest_gap(frame[["correct", "kind"]], EVALUATE, 17)
    assert gap["value"] == 0
    assert gap["best"] != gap["worst"]
    assert gap["low"] < 0 < gap["high"]


@pytest.mark.parametrize("right", [True, False])
def test_where_all_are_right_or_none_a_gap_has_an_interval_all_the_same(right: bool) -> None:
    frame = predictions(400, 5).assign(correct=right, kind=["yes", "yes", "no", "no"] * 100)
    gap = largest_gap(frame[["correct", "kind"]], EVALUATE, 17)
    assert gap["value"] == 0
    assert -0.1 < gap["low"] < 0 < gap["high"] < 0.1


def test_a_small_group_is_listed_and_does_not_count() -> None:
    frame = predictions(400, 5)
    frame.loc[:18, ["subgroup", "correct"]] = "rare", False
    assert "rare" in audit(frame, EVALUATE, 17)["group"].tolist()
    assert largest_gap(frame, EVALUATE, 17)["worst"] != "rare"
    smaller = EVALUATE.model_copy(update={"audit_minimum": 19})
    assert largest_gap(frame, smaller, 17)["worst"] == "rare"


def test_the_interval_of_a_gap_is_that_of_two_means() -> None:
    frame = dark_is_wrong(3000, 6)[["correct", "brightness"]]
    found = largest_gap(frame, EVALUATE.model_copy(update={"bootstrap": 4000}), 17)
    table = audit(frame, EVALUATE, 17).set_index("group")
    variance = sum(
        table.loc[found[k], "score"] * (1 - table.loc[found[k], "score"]) / table.loc[found[k], "n"]
        for k in ("best", "worst")
    )
    half = 1.96 * np.sqrt(variance)
    expected = (found["value"] - half, found["value"] + half)
    assert (found["low"], found["high"]) == pytest.approx(expected, abs=0.005)


def test_what_a_frame_lacks_is_not_audited() -> None:
    frame = predictions(100, 7)[["id", "probability", "correct"]]
    assert audit(frame, EVALUATE, 17).empty
    assert largest_gap(frame, EVALUATE, 17) is None
    numbers, bounds = summary(frame, "accuracy", EVALUATE, 17)
    assert list(numbers) == ["ece", "aurc"]
    assert bounds == {}
    assert largest_gap(predictions(30, 7), EVALUATE, 17) is None


def test_the_same_seed_gives_the_same_audit() -> None:
    frame = predictions(200, 8)
    assert largest_gap(frame, EVALUATE, 5) == largest_gap(frame, EVALUATE, 5)
    assert largest_gap(frame, EVALUATE, 5)["chance"] != largest_gap(frame, EVALUATE, 6)["chance"]
    pd.testing.assert_frame_equal(audit(frame, EVALUATE, 5), audit(frame, EVALUATE, 5))


def test_the_summary_tells_doubted_examples_apart() -> None:
    frame = predictions(100, 9).assign(doubt=["", None, "too dark", "blurred; too dark"] * 25)
    frame["correct"] = [True, False, False, False] * 25
    numbers, bounds = summary(frame, "exact_match", EVALUATE, 17)
    assert numbers["doubted"] == 0.5
    assert numbers["exact_match_undoubted"] == 0.5
    assert list(bounds) == ["largest_gap"]
    assert bounds["largest_gap"]["low"] <= numbers["largest_gap"] <= bounds["largest_gap"]["high"]
    numbers, _ = summary(frame.assign(doubt="too dark"), "exact_match", EVALUATE, 17)
    assert numbers["doubted"] == 1
    assert "exact_match_undoubted" not in numbers


def test_each_table_holds_both_models() -> None:
    base, tuned = dark_is_wrong(300, 10), predictions(300, 10)
    found = tables(base, tuned, EVALUATE)
    assert {name: list(table) for name, table in found.items()} == {
        "reliability": ["model", "bin", "confidence", "accuracy", "count"],
        "coverage": ["model", "coverage", "accuracy", "threshold"],
        "audit": ["model", "property", "group", "n", "score", "low", "high"],
    }
    for table in found.values():
        assert table["model"].unique().tolist() == ["base", "tuned"]
    last = found["coverage"].groupby("model").last()
    assert last["accuracy"].to_dict() == pytest.approx(
        {"base": base["correct"].mean(), "tuned": tuned["correct"].mean()}
    )


def test_a_large_split_is_audited_quickly() -> None:
    frame = predictions(35_000, 11)
    started = time.process_time()
    largest_gap(frame, EVALUATE.model_copy(update={"bootstrap": 2000}), 17)
    assert time.process_time() - started < 10
