import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from src.errors import UserError
from src.metrics.classify import correct, gains, plots, summarise
from src.schema import Evaluate

LABELS = ["cat", "dog", "cow"]
EVALUATE = Evaluate(
    bootstrap=200,
    confidence=0.95,
    calibration_bins=10,
    bertscore="all-MiniLM-L6-v2",
    audit_minimum=20,
    batch_size=8,
)
KEYS = [
    "n",
    "n_groups",
    "accuracy",
    "macro_f1",
    "generated_accuracy",
    "invalid_rate",
    "brier",
    "ece",
    "aurc",
    "chance",
    "majority",
    "interval",
]


def predictions(rows: list[tuple[str, list[float], str | None]]) -> pd.DataFrame:
    """A frame as the stages write it, from label, probabilities and the class generated."""
    frame = pd.DataFrame(rows, columns=["label", "probabilities", "generated_label"])
    frame["id"] = [f"picture {i}" for i in range(len(rows))]
    frame["predicted"] = [LABELS[np.argmax(p)] for p in frame["probabilities"]]
    frame["probability"] = [max(p) for p in frame["probabilities"]]
    frame["generated"] = frame["generated_label"].fillna("a house")
    frame["correct"] = frame["label"] == frame["predicted"]
    return frame


FOUR = predictions(
    [
        ("cat", [0.75, 0.25, 0.0], "cat"),
        ("cat", [0.25, 0.75, 0.0], None),
        ("dog", [0.25, 0.75, 0.0], "dog"),
        ("dog", [0.25, 0.75, 0.0], "cat"),
    ]
)


def many(seed: int, right: float, n: int = 200) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        scores = generator.dirichlet(np.ones(3))
        if generator.random() < right:
            scores = np.roll(np.sort(scores)[::-1], i % 3)
        said = None if generator.random() < 0.1 else LABELS[np.argmax(scores)]
        rows.append((LABELS[i % 3], scores.tolist(), said))
    return predictions(rows)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for inner in value.values() for n in numbers(inner)]
    return [value]


def test_by_hand() -> None:
    found = summarise(FOUR, LABELS, EVALUATE, 17)
    assert list(found) == KEYS
    assert found["n"] == 4
    assert found["accuracy"] == 0.75
    assert found["macro_f1"] == round((2 / 3 + 4 / 5) / 2, 6)
    assert found["generated_accuracy"] == 0.5
    assert found["invalid_rate"] == 0.25
    assert found["ece"] == 0
    assert found["brier"] == round((3 * 0.125 + 1.125) / 4 / 2, 6)
    assert found["aurc"] == round((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4, 6)
    assert found["chance"] == round(1 / 3, 6)
    assert found["majority"] == 0.5
    assert list(found["interval"]) == ["accuracy", "macro_f1", "generated_accuracy"]


def test_the_same_numbers_after_a_round_trip_through_parquet(tmp_path: Path) -> None:
    frame = many(0, 0.6)
    frame.to_parquet(tmp_path / "predictions.parquet", index=False)
    again = pd.read_parquet(tmp_path / "predictions.parquet")
    assert summarise(again, LABELS, EVALUATE, 17) == summarise(frame, LABELS, EVALUATE, 17)
    assert gains(again, again, LABELS, EVALUATE, 17) == gains(frame, frame, LABELS, EVALUATE, 17)


@pytest.mark.parametrize(
    "frame",
    [
        FOUR,
        FOUR.iloc[:1],
        FOUR.assign(generated_label=None),
        predictions([("cat", [1.0, 0.0, 0.0], "cat")] * 3),
        predictions([("cow", [1.0, 0.0, 0.0], None)] * 3),
        many(1, 0.3),
    ],
    ids=["four", "one", "all invalid", "all right", "all wrong", "many"],
)
def test_every_number_is_a_rounded_share_that_json_can_hold(frame: pd.DataFrame) -> None:
    found = summarise(frame, LABELS, EVALUATE, 17)
    gain = gains(frame, frame, LABELS, EVALUATE, 17)
    assert json.loads(json.dumps(found | gain, allow_nan=False)) == found | gain
    assert all(g["value"] == 0 and g["low"] <= 0 <= g["high"] for g in gain.values())
    shares = numbers({k: v for k, v in found.items() if k not in ("n", "n_groups")})
    assert all(0 <= n <= 1 and n == round(n, 6) for n in shares)
    for metric, bounds in found["interval"].items():
        assert bounds["low"] <= found[metric] <= bounds["high"]


def test_the_gain_is_the_difference_of_the_two_files() -> None:
    base, tuned = many(2, 0.1), many(3, 0.8)
    gain = gains(base, tuned.sample(frac=1, random_state=0), LABELS, EVALUATE, 17)
    before, after = (summarise(f, LABELS, EVALUATE, 17) for f in (base, tuned))
    assert list(gain) == ["accuracy", "macro_f1", "generated_accuracy"]
    for metric, found in gain.items():
        assert found["value"] == pytest.approx(after[metric] - before[metric], abs=2e-6)
        assert 0 < found["low"] < found["value"] < found["high"]


def test_frames_of_other_examples_are_refused() -> None:
    with pytest.raises(UserError, match="'picture 3' first; evaluate both on the same split"):
        gains(FOUR, FOUR.iloc[:3], LABELS, EVALUATE, 17)


def test_a_label_that_changed_in_between_is_refused() -> None:
    changed = FOUR.assign(label=["cat", "cat", "cat", "dog"])
    with pytest.raises(UserError, match="'picture 2' has one label in the base"):
        gains(FOUR, changed, LABELS, EVALUATE, 17)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        summarise(FOUR.iloc[:0], LABELS, EVALUATE, 17)


@pytest.mark.parametrize(
    "broken", [[np.nan] * 3, [0.5, 0.5], [0.5, 0.4, 0.0], [1.5, -0.5, 0.0], [np.inf, 0.0, 0.0]]
)
def test_broken_probabilities_are_refused(broken: list[float]) -> None:
    frame = FOUR.copy()
    frame["probabilities"] = [broken, *FOUR["probabilities"][1:]]
    with pytest.raises(UserError, match="'picture 0': its label probabilities"):
        summarise(frame, LABELS, EVALUATE, 17)


def test_half_precision_probabilities_are_accepted() -> None:
    frame = FOUR.copy()
    frame["probabilities"] = [np.array([0.334, 0.333, 0.332], dtype=np.float16)] * 4
    assert 0 < summarise(frame, LABELS, EVALUATE, 17)["brier"] < 1


def test_a_right_answer_is_the_most_probable_class() -> None:
    assert correct(FOUR).tolist() == [True, False, True, True]


def test_properties_and_doubts_are_audited() -> None:
    frame = many(4, 0.5).assign(brightness=np.arange(200) / 200, doubt=["", "too dark"] * 100)
    found = summarise(frame, LABELS, EVALUATE, 17)
    audited = ["doubted", "accuracy_undoubted", "largest_gap", "largest_gap_chance"]
    at = KEYS.index("chance")
    assert list(found) == [*KEYS[:at], *audited, *KEYS[at:]]
    assert found["accuracy_undoubted"] == correct(frame)[::2].mean()
    assert list(found["interval"])[-1] == "largest_gap"


def test_the_tables_behind_the_plots() -> None:
    base, tuned = (many(seed, right).drop(columns="correct") for seed, right in ((2, 0), (3, 0.8)))
    found = plots(base, tuned, LABELS, EVALUATE)
    assert sorted(found) == ["audit", "classes", "confusion", "coverage", "reliability"]
    assert found["confusion"].to_dict("list") == {
        "actual": tuned["label"].tolist(),
        "predicted": tuned["predicted"].tolist(),
    }
    classes = found["classes"]
    assert classes["label"].tolist() == LABELS * 2
    assert classes["score"].tolist() == classes["f1"].tolist()
    after = summarise(tuned, LABELS, EVALUATE, 17)
    assert classes["score"][classes["model"] == "tuned"].mean() == pytest.approx(after["macro_f1"])
    assert found["audit"].empty
