import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from src.errors import UserError
from src.metrics import classify, texts
from src.metrics.entail_explain import correct, gains, plots, summarise
from src.metrics.texts import headline
from src.schema import Evaluate

LABELS = ["entailment", "not entailment"]
EVALUATE = Evaluate(
    bootstrap=200,
    confidence=0.95,
    calibration_bins=10,
    bertscore="all-MiniLM-L6-v2",
    audit_minimum=20,
    batch_size=8,
)
TEXT = ["rouge1", "rougeL", "bleu4", "meteor", "cider", "bertscore_f1_all_minilm_l6_v2"]
OF_RIGHT = [f"{name}_correct" for name in TEXT]
RATES = ["empty_rate", "repetitive_rate", "truncated_rate"]
SHARED = ["ece", "brier", "aurc", "chance", "majority", "accuracy", "macro_f1"]


@pytest.fixture(autouse=True)
def likeness(monkeypatch) -> None:
    """Instead of METEOR and BERTScore, which take their time: the share of a text's letters."""

    def shared(predicted, references, *_):
        return np.array(
            [len(set(t) & set(r[0])) / 26 for t, r in zip(predicted, references, strict=True)]
        )

    monkeypatch.setattr(texts, "bertscore_f1", lambda p, r, model: shared(p, r))
    monkeypatch.setattr(texts, "meteor", lambda p, r: (0.5, shared(p, r)))
    texts._headline.cache_clear()
    yield
    texts._headline.cache_clear()


def predictions(rows: list[tuple[str, float, list[str], str]]) -> pd.DataFrame:
    """A frame as the stages write it: label, probability of entailment, references, text."""
    frame = pd.DataFrame(rows, columns=["label", "first", "answers", "generated"])
    frame["id"] = [f"picture {i}" for i in range(len(rows))]
    frame["question"] = "does it show this?"
    frame["probabilities"] = [[p, 1 - p] for p in frame.pop("first")]
    frame["predicted"] = [LABELS[np.argmax(p)] for p in frame["probabilities"]]
    frame["probability"] = [max(p) for p in frame["probabilities"]]
    frame["answer"] = [references[0] for references in frame["answers"]]
    frame["ended"] = True
    frame["correct"] = correct(frame)
    return frame


FOUR = predictions(
    [
        (LABELS[0], 0.75, ["a man plays a guitar on a stage"], "a man plays a guitar on a stage"),
        (LABELS[0], 0.25, ["a dog is an animal"], "a dog is an animal"),
        (LABELS[1], 0.25, ["the shirt is red, not blue", "red is not blue"], "red is not green"),
        (LABELS[1], 0.25, ["a cat sleeps"], ""),
    ]
)
WRONG = FOUR.assign(predicted=FOUR["label"].map(dict(zip(LABELS, LABELS[::-1], strict=True))))


def many(seed: int, right: float, n: int = 200) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        sure = (
            generator.uniform(0.5, 1) if generator.random() < right else generator.uniform(0, 0.5)
        )
        reason = "because a {} dog runs in the park".format
        colour = ("brown", "white", "yellow")[i % 3]
        said = colour if generator.random() < right else "tall cat or"
        first = sure if i % 2 == 0 else 1 - sure
        rows.append((LABELS[i % 2], first, [reason(colour)], reason(said)))
    return predictions(rows)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for inner in value.values() for n in numbers(inner)]
    return [value]


def test_by_hand() -> None:
    found = summarise(FOUR.assign(ended=[True, True, False, True]), LABELS, EVALUATE, 17)
    assert list(found) == [
        *("n", "n_groups", "n_correct", "accuracy", "macro_f1", *TEXT, *OF_RIGHT, *RATES),
        *("distinct_1", "distinct_2", "identical_rate", "brier", "ece", "aurc"),
        *("chance", "majority", "interval"),
    ]
    assert (found["n"], found["n_correct"]) == (4, 3)
    assert found["accuracy"] == 0.75
    assert found["macro_f1"] == round((2 / 3 + 4 / 5) / 2, 6)
    assert found["rouge1"] == round((1 + 1 + 0.75 + 0) / 4, 6)
    assert found["rouge1_correct"] == round((1 + 0.75 + 0) / 3, 6)
    assert found["empty_rate"] == found["truncated_rate"] == 0.25
    assert found["chance"] == found["majority"] == 0.5
    assert list(found["interval"]) == ["accuracy", "macro_f1", *TEXT, *OF_RIGHT, *RATES]


def test_the_numbers_of_the_class_are_those_of_a_task_that_names_one() -> None:
    frame = many(1, 0.6)
    alone = classify.summarise(frame.assign(generated_label=None), LABELS, EVALUATE, 17)
    found = summarise(frame, LABELS, EVALUATE, 17)
    assert {name: found[name] for name in SHARED} == {name: alone[name] for name in SHARED}
    assert found["interval"]["macro_f1"] == alone["interval"]["macro_f1"]


def test_explanations_of_right_classes_keep_the_weights_of_all() -> None:
    cider = headline(FOUR, EVALUATE.bertscore)["cider"][1][0]
    found = summarise(FOUR, LABELS, EVALUATE, 17)
    assert found["cider"] == round(cider.mean(), 6)
    assert found["cider_correct"] == round(cider[[0, 2, 3]].mean(), 6)
    alone = headline(FOUR.iloc[[0, 2, 3]], EVALUATE.bertscore)["cider"][1][0]
    assert found["cider_correct"] != pytest.approx(alone.mean(), abs=1e-3)


def test_the_keys_are_shared_where_no_class_is_right() -> None:
    right, wrong = (summarise(frame, LABELS, EVALUATE, 17) for frame in (FOUR, WRONG))
    assert list(right) == list(wrong)
    assert list(right["interval"]) == list(wrong["interval"])
    assert wrong["n_correct"] == wrong["accuracy"] == 0
    assert wrong["rouge1"] == right["rouge1"]
    for name in OF_RIGHT:
        assert wrong[name] == 0
        # Of none, nothing is known.
        assert wrong["interval"][name] == {"low": 0, "high": 10 if "cider" in name else 1}


def test_the_same_numbers_after_a_round_trip_through_parquet(tmp_path: Path) -> None:
    FOUR.to_parquet(tmp_path / "predictions.parquet", index=False)
    again = pd.read_parquet(tmp_path / "predictions.parquet")
    assert summarise(again, LABELS, EVALUATE, 17) == summarise(FOUR, LABELS, EVALUATE, 17)
    assert gains(FOUR, again, LABELS, EVALUATE, 17) == gains(FOUR, FOUR, LABELS, EVALUATE, 17)


@pytest.mark.parametrize(
    "frame",
    [FOUR, FOUR.iloc[:1], FOUR.iloc[1:2], WRONG, FOUR.assign(generated=""), many(1, 0.3)],
    ids=["four", "one right", "one wrong", "all wrong", "all empty", "many"],
)
def test_every_number_is_a_rounded_share_that_json_can_hold(frame: pd.DataFrame) -> None:
    found = summarise(frame, LABELS, EVALUATE, 17)
    gain = gains(frame, frame, LABELS, EVALUATE, 17)
    assert json.loads(json.dumps(found | gain, allow_nan=False)) == found | gain
    assert all(g["value"] == 0 and g["low"] <= 0 <= g["high"] for g in gain.values())
    beyond = ("n", "n_groups", "n_correct", "cider", "cider_correct", "interval")
    shares = [n for name, n in found.items() if name not in beyond]
    assert all(0 <= n <= 1 and n == round(n, 6) for n in shares)
    for metric, bounds in found["interval"].items():
        assert bounds["low"] <= found[metric] <= bounds["high"]


def test_the_gain_is_the_difference_of_the_two_files() -> None:
    base, tuned = many(2, 0.3), many(3, 0.9)
    gain = gains(base, tuned.sample(frac=1, random_state=0), LABELS, EVALUATE, 17)
    before, after = (summarise(f, LABELS, EVALUATE, 17) for f in (base, tuned))
    assert list(gain) == ["accuracy", "macro_f1", *TEXT]
    for metric, found in gain.items():
        assert found["value"] == pytest.approx(after[metric] - before[metric], abs=2e-6)
        assert 0 < found["low"] < found["value"] < found["high"], metric


def test_other_examples_labels_and_references_are_refused() -> None:
    with pytest.raises(UserError, match="'picture 3' first; evaluate both on the same split"):
        gains(FOUR, FOUR.iloc[:3], LABELS, EVALUATE, 17)
    changed = FOUR.assign(label=[LABELS[1], *FOUR["label"][1:]])
    with pytest.raises(UserError, match="'picture 0' has one label in the base"):
        gains(FOUR, changed, LABELS, EVALUATE, 17)
    changed = FOUR.assign(answers=[["x"], *FOUR["answers"][1:]])
    with pytest.raises(UserError, match="'picture 0' has other references in the base"):
        gains(FOUR, changed, LABELS, EVALUATE, 17)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (FOUR.iloc[:0], "empty"),
        (FOUR.assign(answers=[["a"], [], ["b"], ["c"]]), "'picture 1' has no reference"),
        (FOUR.assign(probability=[0.5, np.nan, 0.5, 0.5]), "'picture 1': the probability nan"),
        (FOUR.assign(probabilities=[[0.5, 0.1]] * 4), "'picture 0': its label probabilities"),
        (FOUR.assign(label="neutral"), "'neutral' is none of the labels"),
    ],
)
def test_broken_predictions_are_refused(frame: pd.DataFrame, says: str) -> None:
    with pytest.raises(UserError, match=says):
        summarise(frame, LABELS, EVALUATE, 17)


def test_a_right_answer_is_the_most_probable_class() -> None:
    assert correct(FOUR).tolist() == [True, False, True, True]


def test_properties_and_doubts_are_audited() -> None:
    frame = many(4, 0.5).assign(brightness=np.arange(200) / 200, doubt=["", "too dark"] * 100)
    found = summarise(frame, LABELS, EVALUATE, 17)
    assert found["doubted"] == 0.5
    assert found["accuracy_undoubted"] == correct(frame)[::2].mean()
    assert found["largest_gap"] > 0
    assert list(found["interval"])[-1] == "largest_gap"


def test_the_tables_behind_the_plots() -> None:
    found = plots(WRONG, FOUR.drop(columns="correct"), LABELS, EVALUATE)
    assert sorted(found) == ["audit", "classes", "confusion", "coverage", "reliability"]
    assert found["confusion"].to_dict("list") == {
        "actual": FOUR["label"].tolist(),
        "predicted": FOUR["predicted"].tolist(),
    }
    assert found["classes"]["label"].tolist() == LABELS * 2
    tuned = found["classes"][found["classes"]["model"] == "tuned"]
    assert tuned["score"].tolist() == [round(2 / 3, 6), 0.8]
