import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from src.errors import UserError
from src.metrics import answer
from src.metrics.answer import correct, gains, plots, summarise
from src.metrics.bertscore import bertscore_f1
from src.schema import Evaluate

EVALUATE = Evaluate(
    bootstrap=200,
    confidence=0.95,
    calibration_bins=10,
    bertscore="all-MiniLM-L6-v2",
    audit_minimum=20,
    batch_size=8,
)
BERTSCORE = "bertscore_f1_all_minilm_l6_v2"
COLOURS = ["red", "green", "blue"]


@pytest.fixture(autouse=True)
def likeness(request, monkeypatch) -> None:
    """Instead of BERTScore, which takes its time: the share of a text's letters."""
    if "real_bertscore" in request.fixturenames:
        return

    def share(texts, references, model: str) -> np.ndarray:
        assert model == EVALUATE.bertscore
        shared = [len(set(t) & set(r[0])) / 26 for t, r in zip(texts, references, strict=True)]
        return np.array(shared)

    monkeypatch.setattr(answer, "bertscore_f1", share)


@pytest.fixture
def real_bertscore() -> None:
    pass


def predictions(rows: list[tuple[str | None, list[str], str, float]]) -> pd.DataFrame:
    """A frame as the stages write it, from kind, references, text and probability."""
    frame = pd.DataFrame(rows, columns=["kind", "answers", "generated", "probability"])
    frame["id"] = [f"picture {i}" for i in range(len(rows))]
    frame["question"] = "what is it?"
    frame["answer"] = [references[0] for references in frame["answers"]]
    frame["predicted"] = frame["generated"]
    frame["correct"] = correct(frame)
    return frame


FIVE = predictions(
    [
        ("color", ["red"], "Red.", 0.75),
        ("color", ["red"], "blue", 0.25),
        ("count", ["2"], "two", 0.75),
        ("count", ["3"], "", 0.25),
        (None, ["yes", *["no"] * 4, *["yes"] * 2, *["maybe"] * 3], "yes", 0.5),
    ]
)


def many(seed: int, right: float, n: int = 120) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        said = i if generator.random() < right else i + 1
        rows.append(("color", [COLOURS[i % 3]], COLOURS[said % 3], generator.random()))
    return predictions(rows)


def test_by_hand() -> None:
    found = summarise(FIVE, None, EVALUATE, 17)
    assert list(found) == [
        *("n", "n_groups", "exact_match", "vqa_accuracy", BERTSCORE, "empty_rate"),
        *("ece", "aurc", "majority"),
        "interval",
    ]
    assert found["n"] == 5
    assert found["exact_match"] == 0.6
    # Of ten people three said yes: two agree with each of these, three with each of the others.
    assert found["vqa_accuracy"] == round((3 * 2 / 3 + 7 * 1) / 10, 6)
    assert found["empty_rate"] == 0.2
    assert found["ece"] == round((2 * 0.25 + 2 * 0.25 + 1 * 0.5) / 5, 6)
    assert found["aurc"] == round((0 + 0 + 0 + 1 / 4 + 2 / 5) / 5, 6)
    # Always red is right twice, 2 or 3 once, and yes once.
    assert found["majority"] == 0.8
    assert list(found["interval"]) == ["exact_match", "vqa_accuracy", BERTSCORE]


def test_bertscore_is_that_of_the_model_named(real_bertscore) -> None:
    found = summarise(FIVE, None, EVALUATE, 17)
    expected = bertscore_f1(FIVE["generated"].tolist(), FIVE["answers"], EVALUATE.bertscore)
    assert found[BERTSCORE] == round(expected.mean(), 6)
    assert 0 < found["interval"][BERTSCORE]["low"] < found[BERTSCORE]


@pytest.mark.parametrize("votes", [["cup"], ["cup", "mug"], ["cup"] * 9, ["mug"] * 11])
def test_without_ten_references_there_is_no_accuracy_among_people(votes: list[str]) -> None:
    few = predictions([("other", votes, "cup", 0.5)])
    assert "vqa_accuracy" not in summarise(few, None, EVALUATE, 17)
    assert "vqa_accuracy" not in gains(few, few, None, EVALUATE, 17)
    both = pd.concat([few, FIVE], ignore_index=True)
    found = summarise(both, None, EVALUATE, 17)
    assert found["vqa_accuracy"] == summarise(FIVE, None, EVALUATE, 17)["vqa_accuracy"]


def test_majority_knows_the_kind_of_a_question() -> None:
    rows = [("color", ["red"]), ("color", ["red"]), ("count", ["The 2"]), ("count", ["two"])]
    frame = predictions([(*row, "", 0.5) for row in rows])
    assert summarise(frame, None, EVALUATE, 17)["majority"] == 1
    assert summarise(frame.drop(columns="kind"), None, EVALUATE, 17)["majority"] == 0.5
    assert summarise(frame.assign(kind=None), None, EVALUATE, 17)["majority"] == 0.5


def test_the_same_numbers_after_a_round_trip_through_parquet(tmp_path: Path) -> None:
    FIVE.to_parquet(tmp_path / "predictions.parquet", index=False)
    again = pd.read_parquet(tmp_path / "predictions.parquet")
    assert summarise(again, None, EVALUATE, 17) == summarise(FIVE, None, EVALUATE, 17)
    assert gains(FIVE, again, None, EVALUATE, 17) == gains(FIVE, FIVE, None, EVALUATE, 17)
    for name, table in plots(again, again, None, EVALUATE).items():
        pd.testing.assert_frame_equal(table, plots(FIVE, FIVE, None, EVALUATE)[name])


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for inner in value.values() for n in numbers(inner)]
    return [value]


@pytest.mark.parametrize(
    "frame",
    [FIVE, FIVE.iloc[:1], FIVE.iloc[4:], FIVE.assign(generated="", correct=False), many(0, 0.3)],
    ids=["five", "one", "several references", "all empty", "many"],
)
def test_every_number_is_a_rounded_share_that_json_can_hold(frame: pd.DataFrame) -> None:
    found = summarise(frame, None, EVALUATE, 17)
    gain = gains(frame, frame, None, EVALUATE, 17)
    assert json.loads(json.dumps(found | gain, allow_nan=False)) == found | gain
    assert all(g["value"] == 0 and g["low"] <= 0 <= g["high"] for g in gain.values())
    shares = numbers({k: v for k, v in found.items() if k not in ("n", "n_groups")})
    assert all(0 <= n <= 1 and n == round(n, 6) for n in shares)
    for metric, bounds in found["interval"].items():
        assert bounds["low"] <= found[metric] <= bounds["high"]


def test_the_gain_is_the_difference_of_the_two_files() -> None:
    base, tuned = many(2, 0.1), many(3, 0.8)
    gain = gains(base, tuned.sample(frac=1, random_state=0), None, EVALUATE, 17)
    before, after = (summarise(f, None, EVALUATE, 17) for f in (base, tuned))
    assert list(gain) == ["exact_match", BERTSCORE]
    for metric, found in gain.items():
        assert found["value"] == pytest.approx(after[metric] - before[metric], abs=2e-6)
        assert 0 < found["low"] < found["value"] < found["high"]


def test_other_references_are_refused() -> None:
    changed = FIVE.assign(answers=[*FIVE["answers"][:2], ["4"], *FIVE["answers"][3:]])
    with pytest.raises(UserError, match="'picture 2' has other references in the base"):
        gains(FIVE, changed, None, EVALUATE, 17)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (FIVE.iloc[:0], "empty"),
        (FIVE.assign(probability=[0.5, np.nan, 0.5, 0.5, 0.5]), "'picture 1': the probability nan"),
        (FIVE.assign(probability=[0.5, 0.5, 1.5, 0.5, 0.5]), "'picture 2': the probability 1.5"),
        (FIVE.assign(answers=[["a"], [], ["b"], [], ["c"]]), "'picture 1' has no reference"),
    ],
)
def test_broken_predictions_are_refused(frame: pd.DataFrame, says: str) -> None:
    with pytest.raises(UserError, match=says):
        summarise(frame, None, EVALUATE, 17)


def test_an_example_without_a_reference_is_not_right() -> None:
    frame = pd.DataFrame({"answers": [[], ["red"]], "generated": ["red", "the red"]})
    assert correct(frame).tolist() == [False, True]


def test_properties_and_doubts_are_audited() -> None:
    frame = many(4, 0.5).assign(sharpness=np.arange(120), doubt=["", "blurred"] * 60)
    found = summarise(frame, None, EVALUATE, 17)
    assert found["doubted"] == 0.5
    assert found["exact_match_undoubted"] == round(frame["correct"][::2].mean(), 6)
    assert found["largest_gap"] > 0
    assert found["largest_gap_chance"] > 0
    assert list(found["interval"]) == ["exact_match", BERTSCORE, "largest_gap"]


def test_the_tables_behind_the_plots() -> None:
    found = plots(FIVE.assign(generated="green"), FIVE.drop(columns="correct"), None, EVALUATE)
    assert sorted(found) == ["audit", "classes", "confusion", "coverage", "reliability"]
    assert found["confusion"].values.tolist() == [
        ["red", "red"],
        ["red", "(another)"],
        ["2", "2"],
        ["3", "(another)"],
        ["yes", "yes"],
    ]
    assert found["classes"].values.tolist() == [
        ["base", "(no kind)", 0, 1],
        ["base", "color", 0, 2],
        ["base", "count", 0, 2],
        ["tuned", "(no kind)", 1, 1],
        ["tuned", "color", 0.5, 2],
        ["tuned", "count", 0.5, 2],
    ]
    assert list(found["classes"]) == ["model", "label", "score", "support"]
    assert list(found["reliability"]) == ["model", "bin", "confidence", "accuracy", "count"]
    assert found["audit"]["group"].tolist() == ["color", "count"] * 2


def test_confusion_shows_the_twelve_most_frequent_references() -> None:
    rows = [(None, [f"word{i:02}"], f"word{i:02}", 0.5) for i in range(14) for _ in range(i + 1)]
    frame = predictions(rows)
    confusion = plots(frame, frame, None, EVALUATE)["confusion"]
    kept = [f"word{i:02}" for i in range(2, 14)]
    assert sorted(confusion["actual"].unique()) == ["(other)", *kept]
    assert (confusion["actual"] == "(other)").sum() == 1 + 2
    assert (confusion["actual"] == confusion["predicted"]).all()


def test_a_wrong_answer_stands_on_no_diagonal_however_rare_both_are() -> None:
    rows = [(None, [f"word{i:02}"], f"word{i:02}", 0.5) for i in range(12)]
    rare = [(None, ["yak"], "zebu", 0.5), (None, ["yeti"], "yak", 0.5), (None, ["yurt"], "yurt", 1)]
    confusion = plots(predictions(rows + rare), predictions(rows + rare), None, EVALUATE)
    wrong = [["(other)", "(another)"]] * 2
    assert confusion["confusion"].values.tolist()[12:] == [*wrong, ["(other)", "(other)"]]


def test_an_answer_right_by_another_reference_stands_on_the_diagonal() -> None:
    frame = predictions([(None, ["sofa", "couch"], "Couch", 0.5), (None, ["the"], "chair", 0.5)])
    confusion = plots(frame, frame, None, EVALUATE)["confusion"]
    assert confusion.values.tolist() == [["sofa", "sofa"], ["(empty)", "(another)"]]
