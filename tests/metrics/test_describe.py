import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from src.errors import UserError
from src.files import read_json
from src.metrics import texts
from src.metrics.describe import correct, gains, plots, summarise
from src.report.words import headline
from src.schema import Evaluate
from tests.conftest import ROOT

LABELS = ["left", "right", "grows"]
EVALUATE = Evaluate(
    bootstrap=200,
    confidence=0.95,
    calibration_bins=10,
    bertscore="all-MiniLM-L6-v2",
    audit_minimum=20,
    batch_size=8,
)
TEXT = ["rouge1", "rougeL", "bleu4", "meteor", "cider", "bertscore_f1_all_minilm_l6_v2"]
RATES = ["empty_rate", "repetitive_rate", "truncated_rate"]
HEADLINE = ["label_accuracy", "exact_match", *TEXT]


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


def predictions(rows: list[tuple[str | None, list[str], str, float]]) -> pd.DataFrame:
    """A frame as the stages write it, from label, references, caption and probability."""
    frame = pd.DataFrame(rows, columns=["label", "answers", "generated", "probability"])
    frame["label"] = frame["label"].astype(object).where(frame["label"].notna(), None)
    frame["id"] = [f"clip {i}" for i in range(len(rows))]
    frame["question"] = "what happens?"
    frame["answer"] = [references[0] for references in frame["answers"]]
    frame["predicted"] = frame["generated"]
    frame["ended"] = True
    frame["kind"] = None
    frame["correct"] = correct(frame)
    return frame


FIVE = predictions(
    [
        ("left", ["a red circle moves left"], "A red circle moves left.", 0.75),
        ("left", ["a red square moves left"], "a red square moves right", 0.25),
        ("right", ["a dog moves right", "a cat goes right"], "a cat goes right", 0.75),
        ("right", ["a dog moves right"], "it moves left and right", 0.5),
        ("grows", ["a circle grows"], "", 0.25),
    ]
)
PLAIN = FIVE.assign(label=None)
PLAIN["correct"] = correct(PLAIN)
MIXED = FIVE.assign(label=["left", None, "right", None, None])
MIXED["correct"] = correct(MIXED)


def many(seed: int, right: float, n: int = 120) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        said = i if generator.random() < right else i + 1
        caption = "a {} circle moves {} slowly".format
        rows.append(
            (
                LABELS[i % 3],
                [caption("red", LABELS[i % 3])],
                caption(*(("red" if said == i else "blue"), LABELS[said % 3])),
                generator.random(),
            )
        )
    return predictions(rows)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for inner in value.values() for n in numbers(inner)]
    return [value]


def test_a_caption_is_right_that_names_its_label_and_no_other() -> None:
    assert FIVE["correct"].tolist() == [True, False, True, False, False]
    assert FIVE["correct"].dtype == bool


def test_without_a_label_a_caption_is_right_that_is_a_reference() -> None:
    assert PLAIN["correct"].tolist() == [True, False, True, False, False]
    assert MIXED["correct"].tolist() == [True, False, True, False, False]
    frame = PLAIN.assign(answers=[[]] * 5, generated="left")
    assert correct(frame).tolist() == [False] * 5
    # A label counts by itself, whatever the rest of the caption.
    other = FIVE.assign(generated="it goes LEFT")
    assert correct(other).tolist() == [True, True, False, False, False]
    assert not correct(other.assign(label=None)).any()


@pytest.mark.parametrize(
    ("label", "text", "right"),
    [
        ("left", "moves lefty", False),
        ("left", "a cleft", False),
        ("left", "a left turn", False),
        ("left turn", "a left turn", True),
        ("left", "top left", False),
        ("top left", "at the TOP  left.", True),
        ("top left", "left", False),
        ("left", "left, that is to the left", True),
        ("c++", "in c++", True),
    ],
)
def test_labels_are_named_as_whole_words_and_the_longest_counts(label, text, right) -> None:
    rows = [(name, ["x"], name, 0.5) for name in ("left", "top left", "left turn", "c++")]
    assert predictions([*rows, (label, ["x"], text, 0.5)])["correct"].iloc[-1] == right


def test_by_hand() -> None:
    frame = FIVE.assign(ended=[True, True, True, False, True])
    found = summarise(frame, LABELS, EVALUATE, 17)
    assert list(found) == [
        *("n", "n_groups", *HEADLINE, *RATES, "distinct_1", "distinct_2", "identical_rate"),
        *("ece", "aurc", "majority", "interval"),
    ]
    assert found["n"] == 5
    assert found["label_accuracy"] == 0.4
    assert found["exact_match"] == 0.4
    assert found["empty_rate"] == 0.2
    assert found["truncated_rate"] == 0.2
    assert found["repetitive_rate"] == 0
    assert found["identical_rate"] == 0.2
    assert found["distinct_1"] == round(11 / 19, 6)
    assert found["majority"] == 0.4
    assert found["rouge1"] == round((1 + 0.8 + 1 + 4 / 9 + 0) / 5, 6)
    assert list(found["interval"]) == [*HEADLINE, *RATES]


def test_without_labels_rouge_judges_and_nothing_that_hangs_on_right_or_wrong_is_measured() -> None:
    frame = PLAIN.assign(sharpness=range(5), doubt=["", "blurred", "", "", ""])
    found = summarise(frame, None, EVALUATE.model_copy(update={"audit_minimum": 1}), 17)
    gain = gains(PLAIN, PLAIN, None, EVALUATE, 17)
    assert headline(found | {"gain": gain}) == "rougeL"
    first = ["rougeL", "exact_match", *(name for name in TEXT if name != "rougeL")]
    assert list(gain) == first
    assert list(found["interval"]) == [*first, *RATES]
    assert list(found) == [
        *("n", "n_groups", *first, *RATES, "distinct_1", "distinct_2", "identical_rate"),
        *("majority", "interval"),
    ]
    # "dog moves right" is a reference of two, whatever the kind of the clip.
    assert found["majority"] == 0.4
    assert summarise(PLAIN.assign(kind=list("abcde")), None, EVALUATE, 17)["majority"] == 0.4


def test_where_some_have_labels_each_number_is_of_its_own_examples() -> None:
    found = summarise(MIXED.assign(doubt=""), LABELS, EVALUATE, 17)
    assert found["label_accuracy"] == 1
    assert found["exact_match"] == 0.4
    assert found["majority"] == 0.5
    assert found["correct_undoubted"] == 0.4
    assert gains(MIXED, MIXED, LABELS, EVALUATE, 17)["label_accuracy"]["value"] == 0
    confusion = plots(MIXED, MIXED, LABELS, EVALUATE)["confusion"]
    assert confusion.values.tolist() == [["left", "left"], ["right", "right"]]


def test_one_caption_for_every_clip_looks_bad() -> None:
    frame = many(0, 1).assign(generated="a red circle moves left slowly")
    found = summarise(frame, LABELS, EVALUATE, 17)
    assert found["identical_rate"] == 1
    assert found["distinct_2"] < 0.01
    assert found["label_accuracy"] == found["majority"] == round(1 / 3, 6)


@pytest.mark.parametrize("frame", [FIVE, PLAIN, MIXED], ids=["labels", "none", "some"])
def test_the_same_numbers_after_a_round_trip_through_parquet(frame, tmp_path: Path) -> None:
    frame.to_parquet(tmp_path / "predictions.parquet", index=False)
    again = pd.read_parquet(tmp_path / "predictions.parquet")
    assert correct(again).tolist() == frame["correct"].tolist()
    assert summarise(again, LABELS, EVALUATE, 17) == summarise(frame, LABELS, EVALUATE, 17)
    assert gains(frame, again, None, EVALUATE, 17) == gains(frame, frame, None, EVALUATE, 17)
    for name, table in plots(again, again, None, EVALUATE).items():
        pd.testing.assert_frame_equal(
            table, plots(frame, frame, None, EVALUATE)[name], check_dtype=False
        )


@pytest.mark.parametrize(
    "frame",
    [FIVE, FIVE.iloc[:1], FIVE.assign(generated=""), PLAIN, MIXED, many(0, 0.3)],
    ids=["five", "one", "all empty", "no labels", "some labels", "many"],
)
def test_every_number_is_a_rounded_share_that_json_can_hold(frame: pd.DataFrame) -> None:
    found = summarise(frame, LABELS, EVALUATE, 17)
    gain = gains(frame, frame, LABELS, EVALUATE, 17)
    assert json.loads(json.dumps(found | gain, allow_nan=False)) == found | gain
    assert all(g["value"] == 0 and g["low"] <= 0 <= g["high"] for g in gain.values())
    shares = {k: v for k, v in found.items() if k not in ("n", "n_groups", "cider", "interval")}
    assert all(0 <= n <= 1 and n == round(n, 6) for n in shares.values())
    for metric, bounds in found["interval"].items():
        assert bounds["low"] <= found[metric] <= bounds["high"]


def test_the_gain_is_the_difference_of_the_two_files() -> None:
    base, tuned = many(2, 0.1), many(3, 0.8)
    gain = gains(base, tuned.sample(frac=1, random_state=0), LABELS, EVALUATE, 17)
    before, after = (summarise(f, LABELS, EVALUATE, 17) for f in (base, tuned))
    assert list(gain) == HEADLINE
    assert list(before) == list(after)
    for metric, found in gain.items():
        assert found["value"] == pytest.approx(after[metric] - before[metric], abs=2e-6)
        assert 0 < found["low"] < found["value"] < found["high"]


@pytest.mark.parametrize("number", [0, 1], ids=["of base", "of tuned"])
def test_where_meteor_failed_in_between_the_other_gains_stand(number, monkeypatch) -> None:
    frames = many(2, 0.1), many(3, 0.8)
    both = gains(*frames, LABELS, EVALUATE, 17)
    texts._headline.cache_clear()
    works, lacks = texts.meteor, tuple(frames[number]["generated"])
    monkeypatch.setattr(texts, "meteor", lambda p, r: None if p == lacks else works(p, r))
    found = gains(*frames, LABELS, EVALUATE, 17)
    assert found == {name: gain for name, gain in both.items() if name != "meteor"}


def test_other_references_and_labels_are_refused() -> None:
    changed = FIVE.assign(answers=[*FIVE["answers"][:2], ["4"], *FIVE["answers"][3:]])
    with pytest.raises(UserError, match="'clip 2' has other references in the base"):
        gains(FIVE, changed, LABELS, EVALUATE, 17)
    changed = FIVE.assign(label=["left", None, *FIVE["label"][2:]])
    with pytest.raises(UserError, match="'clip 1' has one label in the base"):
        gains(FIVE, changed, LABELS, EVALUATE, 17)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (FIVE.iloc[:0], "empty"),
        (FIVE.assign(probability=[0.5, np.nan, 0.5, 0.5, 0.5]), "'clip 1': the probability nan"),
        (FIVE.assign(answers=[["a"], [], ["b"], [], ["c"]]), "'clip 1' has no reference"),
    ],
)
def test_broken_predictions_are_refused(frame: pd.DataFrame, says: str) -> None:
    with pytest.raises(UserError, match=says):
        summarise(frame, LABELS, EVALUATE, 17)


def test_properties_and_doubts_are_audited() -> None:
    frame = many(4, 0.5).assign(sharpness=np.arange(120), doubt=["", "blurred"] * 60)
    found = summarise(frame, LABELS, EVALUATE, 17)
    assert found["doubted"] == 0.5
    assert found["label_accuracy_undoubted"] == round(frame["correct"][::2].mean(), 6)
    assert found["largest_gap"] > 0
    assert list(found["interval"])[-1] == "largest_gap"


def test_the_tables_behind_the_plots() -> None:
    found = plots(FIVE.assign(generated="left"), FIVE.drop(columns="correct"), LABELS, EVALUATE)
    assert sorted(found) == ["audit", "classes", "confusion", "coverage", "reliability"]
    assert found["confusion"].to_dict("list") == {
        "actual": ["left", "left", "right", "right", "grows"],
        "predicted": ["left", "right", "right", "(several)", "(none)"],
    }
    assert found["classes"].values.tolist() == [
        ["base", "grows", 0, 1],
        ["base", "left", 1, 2],
        ["base", "right", 0, 2],
        ["tuned", "grows", 0, 1],
        ["tuned", "left", 0.5, 2],
        ["tuned", "right", 0.5, 2],
    ]
    assert list(found["classes"]) == ["model", "label", "score", "support"]
    assert list(found["reliability"]) == ["model", "bin", "confidence", "accuracy", "count"]


def test_without_labels_the_tables_have_their_columns_and_no_rows() -> None:
    sharp = {"sharpness": range(5)}
    found = plots(PLAIN.assign(**sharp), PLAIN.assign(**sharp), None, EVALUATE)
    whole = plots(FIVE.assign(**sharp), FIVE.assign(**sharp), LABELS, EVALUATE)
    assert all(len(table) for table in whole.values())
    assert {name: list(table) for name, table in found.items()} == {
        name: list(table) for name, table in whole.items()
    }
    assert not any(len(table) for table in found.values())


@pytest.mark.parametrize("rate", ["empty_rate", "repetitive_rate"])
def test_no_description_of_the_last_run_is_empty_or_repetitive(rate) -> None:
    assert read_json(ROOT / "metrics/video_qwen2vl/tuned.json")[rate] == 0
