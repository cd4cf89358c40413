import numpy as np
import pandas as pd
import pytest
import sacrebleu

from src.metrics import texts
from src.metrics.intervals import bounds, paired_gain, values
from src.metrics.texts import (
    among,
    common,
    distinct,
    diversity,
    headline,
    identical_rate,
    is_repetitive,
    rates,
)
from src.schema import Evaluate

SMALL = "all-MiniLM-L6-v2"
BERTSCORE = "bertscore_f1_all_minilm_l6_v2"
EVALUATE = Evaluate(
    bootstrap=200,
    confidence=0.95,
    calibration_bins=10,
    bertscore=SMALL,
    audit_minimum=20,
    batch_size=8,
)
KEYS = ["rouge1", "rougeL", "bleu4", "meteor", "cider", BERTSCORE]
LINES = [
    ("a red circle moves left", ["a red circle moves left", "the circle goes left"]),
    ("a blue square moves up", ["a red square moves up"]),
    ("", ["a green triangle grows"]),
    ("a dog", ["the yellow circle shrinks very slowly"]),
]


def predictions(rows: list[tuple[str, list[str]]], ended: bool = True) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["generated", "answers"]).assign(ended=ended)


FRAME = predictions(LINES)


@pytest.fixture(autouse=True)
def called(monkeypatch) -> list[str]:
    """Instead of METEOR and BERTScore, which take their time: the length of a text."""
    names = []

    def meteor(predicted, references):
        names.append("meteor")
        return 0.5, np.array([len(text) / 100 for text in predicted])

    def likeness(predicted, references, model: str) -> np.ndarray:
        assert model == SMALL
        names.append("bertscore")
        return np.array([len(text) / 50 for text in predicted])

    monkeypatch.setattr(texts, "meteor", meteor)
    monkeypatch.setattr(texts, "bertscore_f1", likeness)
    texts._headline.cache_clear()
    yield names
    texts._headline.cache_clear()


def test_the_metrics_that_carry_an_interval() -> None:
    metrics = headline(FRAME, SMALL)
    found = values(metrics)
    assert list(found) == KEYS
    assert all(column.shape == (4,) for metric in metrics.values() for column in metric.columns)
    # Of five words each, all are right in the first text and four in the second.
    assert found["rouge1"] == pytest.approx((1 + 0.8 + 0 + 0) / 4)
    assert found["rougeL"] == pytest.approx((1 + 0.8 + 0 + 0) / 4)
    streams = [[a[0] for a in FRAME["answers"]], [[*a, None][1] for a in FRAME["answers"]]]
    expected = sacrebleu.corpus_bleu(FRAME["generated"].tolist(), streams).score / 100
    assert found["bleu4"] == pytest.approx(expected)
    assert found["meteor"] == pytest.approx(np.mean([23, 22, 0, 5]) / 100)
    assert 0 < found["cider"] < 10


def test_a_reference_counts_once_however_often_it_is_given() -> None:
    repeated = FRAME.assign(answers=FRAME["answers"].map(lambda a: [*a, a[-1]]))
    assert values(headline(repeated, SMALL)) == values(headline(FRAME, SMALL))


def test_bleu_is_bootstrapped_over_all_texts_and_not_as_a_mean() -> None:
    frame = predictions(LINES * 30)
    found = bounds(headline(frame, SMALL), frame, EVALUATE, 17)["bleu4"]
    generator = np.random.default_rng(3)
    drawn = [
        sacrebleu.corpus_bleu(part["generated"].tolist(), [[a[0] for a in part["answers"]]]).score
        for part in (frame.iloc[generator.integers(0, 120, 120)] for _ in range(200))
    ]
    expected = np.quantile(drawn, [0.025, 0.975]) / 100
    assert list(found.values()) == pytest.approx(expected, abs=0.04)
    assert found["low"] < values(headline(frame, SMALL))["bleu4"] < found["high"]


def test_of_the_same_texts_nothing_is_computed_twice(called) -> None:
    first = headline(FRAME, SMALL)
    first.pop("meteor")
    assert list(headline(FRAME.assign(answers=FRAME["answers"].map(np.array)), SMALL)) == KEYS
    assert called == ["meteor", "bertscore"]
    headline(FRAME.assign(generated="other"), SMALL)
    assert called == ["meteor", "bertscore"] * 2


def test_without_java_the_other_metrics_stand(monkeypatch) -> None:
    before = headline(FRAME, SMALL)
    monkeypatch.setattr(texts, "meteor", lambda *_: None)
    after = headline(predictions(LINES[::-1]), SMALL)
    assert list(after) == [name for name in KEYS if name != "meteor"]
    assert list(common(before, after)) == list(after)
    assert list(common(after, before)) == list(after)


def test_a_part_of_the_examples_keeps_its_scores() -> None:
    metrics = headline(FRAME, SMALL)
    chosen = np.array([True, False, False, True])
    found = values(among(metrics, chosen, "_correct"))
    assert list(found) == [f"{name}_correct" for name in KEYS]
    cider = metrics["cider"][1][0]
    assert found["cider_correct"] == pytest.approx(cider[[0, 3]].mean())
    # Alone, the first text would weigh no word, as all of them are in all references.
    assert values(headline(FRAME.iloc[:1], SMALL))["cider"] == 0 < cider[0]
    two = sacrebleu.corpus_bleu(
        [LINES[0][0], LINES[3][0]],
        [["a red circle moves left", LINES[3][1][0]], [LINES[0][1][1], None]],
    )
    assert found["bleu4_correct"] == pytest.approx(two.score / 100)


def test_no_example_at_all_scores_0_and_nothing_is_known_of_them() -> None:
    metrics = among(headline(FRAME, SMALL), np.zeros(4, dtype=bool), "_correct")
    assert set(values(metrics).values()) == {0}
    found = bounds(metrics, FRAME, EVALUATE, 17)
    assert {name: b["high"] for name, b in found.items() if b["high"] != 1} == {"cider_correct": 10}
    assert {b["low"] for b in found.values()} == {0}


def test_the_gain_of_bleu_is_the_difference_of_two() -> None:
    base, tuned = (
        headline(predictions(rows * 20), SMALL)["bleu4"] for rows in (LINES, LINES[:1] * 4)
    )
    options = {"resamples": 200, "confidence": 0.95, "seed": 17}
    gain = paired_gain(base[0], base[1], tuned[1], **options)
    assert gain["value"] == pytest.approx(1 - values({"bleu4": base})["bleu4"])
    assert 0 < gain["low"] < gain["value"] < gain["high"]


def test_the_rates_of_what_goes_wrong() -> None:
    frame = predictions([("", []), (" \n", []), ("red red red", []), ("a dog", [])])
    found = values(rates(frame.assign(ended=[True, True, False, True])))
    assert found == {"empty_rate": 0.5, "repetitive_rate": 0.25, "truncated_rate": 0.25}
    assert set(values(rates(predictions(LINES[:2]))).values()) == {0}


@pytest.mark.parametrize(
    "text",
    [
        "a red circle and a red square",
        "a red circle moves left and a blue circle moves right",
        "It is very, very good, good dog.",
        "A man walks... and walks!!!",
        "a man in a red shirt and a man in a blue shirt",
        "just because a man is in a park does not mean a man is in a park alone",
        "2000000 people",
        "yes",
        "",
    ],
)
def test_a_plain_text_is_not_repetitive(text: str) -> None:
    assert not is_repetitive(text)


@pytest.mark.parametrize(
    "text",
    [
        "red red red",
        "A dog runs. A dog runs. A dog runs.",
        "I see: the man, the man, the man",
        "moves left moves left moves left and stops",
        "!!!!!!!!!!!!!!!!",
        "テストテストテストテストテストテストテストテストテストテスト",
        "a red circle moves to the left side a red circle moves to the left side",
        "a man is on stage with a man who is on stage with a man who is on stage with a man who",
    ],
)
def test_a_text_that_goes_round_in_circles_is_repetitive(text: str) -> None:
    assert is_repetitive(text)


def test_distinct_sequences_are_counted_against_all_words() -> None:
    said = ["A red dog.", "a red cat"]
    assert distinct(said, 1) == 4 / 6
    assert distinct(said, 2) == 3 / 6
    assert distinct(["", "!"], 1) == distinct([""], 2) == 0


def test_one_text_for_everything_is_seen() -> None:
    assert identical_rate(["A dog.", "a dog", "a  dog!", "a cat"]) == 0.75
    found = diversity(predictions([("a red circle moves left", [])] * 50))
    assert found == {"distinct_1": 0.02, "distinct_2": 4 / 250, "identical_rate": 1}
