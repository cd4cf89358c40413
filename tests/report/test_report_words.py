from types import SimpleNamespace

import pytest

from src.files import read_json
from src.report.tables import metric_rows
from src.report.words import (
    CORRECT,
    NAMES,
    NOT_METRICS,
    effect,
    gain,
    headline,
    heatmap_verdict,
    name_of,
    share,
    value,
    verdict,
)
from tests.conftest import ROOT


def judged(low, high, *, metric="accuracy", tuned=0.8, base=0.7, interval_low=0.75, **others):
    tuned_metrics = {
        "n": 100,
        metric: tuned,
        "chance": 0.25,
        "majority": 0.3,
        "interval": {metric: {"low": interval_low, "high": 0.9}},
        "gain": {metric: {"value": tuned - base, "low": low, "high": high}} | others,
    }
    found = verdict(metric, {metric: base}, tuned_metrics, 0.95)
    return found.kind, " ".join(found.sentences).replace("\u202f", " ")


def test_a_gain_whose_interval_leaves_out_zero_is_larger_than_noise():
    kind, text = judged(0.02, 0.18)
    assert kind == "better"
    assert "rises from 70.0 % to 80.0 %" in text
    assert "+10.0 pp (95% interval +2.0 pp to +18.0 pp)" in text
    assert "larger than noise" in text


def test_a_gain_whose_interval_holds_zero_is_not():
    kind, text = judged(-0.001, 0.2)
    assert kind == "unclear"
    assert "no gain can be told from noise" in text


def test_a_loss_is_called_worse():
    kind, text = judged(-0.3, -0.1, tuned=0.5)
    assert kind == "worse"
    assert "falls from 70.0 % to 50.0 %" in text and "made it worse" in text


def test_a_fall_of_an_error_is_better():
    assert effect("ece", {"low": -0.3, "high": -0.1}) == "better"
    assert effect("invalid_rate", {"low": 0.1, "high": 0.3}) == "worse"


def test_an_accuracy_no_better_than_guessing_is_said_to_be_so():
    assert "is clearly above chance (25.0 %)" in judged(0.1, 0.2, interval_low=0.31)[1]
    assert "is not clearly above chance (25.0 %)" in judged(0.1, 0.2, interval_low=0.29)[1]


@pytest.mark.parametrize(
    ("metrics", "guessed"),
    [
        (["accuracy", "macro_f1", "generated_accuracy"], ["accuracy", "generated_accuracy"]),
        (["accuracy", "rougeL", "rougeL_correct"], ["accuracy"]),
        (["exact_match", "vqa_accuracy", "exact_match_undoubted"], ["exact_match"]),
        (["exact_match", "rougeL"], ["exact_match"]),
        (["label_accuracy", "exact_match", "rougeL"], ["label_accuracy"]),
    ],
)
def test_a_guess_stands_beside_the_metrics_that_it_guesses(metrics, guessed):
    numbers = {"n": 10, "n_correct": 5, "majority": 0.2, **dict.fromkeys(metrics, 0.5)}
    rows = metric_rows(SimpleNamespace(metrics={"base": numbers, "tuned": numbers}))
    assert [row["name"] for row in rows] == [name_of(metric) for metric in metrics]
    shown = [metric for metric, row in zip(metrics, rows, strict=True) if row["guesses"]]
    assert shown == [m for m, row in zip(metrics, rows, strict=True) if row["strip"].guesses]
    assert shown == guessed


def test_other_metrics_that_got_worse_are_named():
    text = judged(0.1, 0.2, ece={"low": 0.1, "high": 0.2}, brier={"low": -0.1, "high": 0.2})[1]
    assert text.endswith("Worse than the base, by more than noise: Calibration error.")


RECIPES = sorted(path.parent.name for path in ROOT.glob("metrics/*/tuned.json"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_metric_of_the_last_run_has_a_name_for_people(recipe):
    metrics = read_json(ROOT / "metrics" / recipe / "tuned.json").keys() - NOT_METRICS
    assert {metric.removesuffix(CORRECT) for metric in metrics} <= NAMES.keys()


def test_the_headline_is_the_first_metric_with_a_gain():
    assert headline({"n": 3, "loss": 1, "rougeL": 0.2, "gain": {"rougeL": {}}}) == "rougeL"
    assert headline({"n": 3, "rougeL": 0.2}) is None


@pytest.mark.parametrize(
    ("metric", "number", "text"),
    [("accuracy", 0.8725, "87.2 %"), ("rougeL", 0.31, "0.310"), ("cider", -0.0001, "0.000")],
)
def test_values(metric, number, text):
    assert value(metric, number).replace("\u202f", " ") == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.1, "+0.100"), (-0.1, "\N{MINUS SIGN}0.100"), (-0.0001, "±0.000")],
)
def test_gains_carry_a_sign(number, text):
    assert gain("rougeL", number) == text


def heatmap(edges, random, randomised, groups=60):
    drops = {"gradcam": 1.0, "edges": edges, "random": random, "randomised": randomised}
    intervals = {k: {"low": v - 0.1, "high": v + 0.1} for k, v in drops.items()}
    numbers = {"n": 60, "n_groups": groups, "deletion": drops, "deletion_interval": intervals}
    found = heatmap_verdict(numbers)
    return found.badge, " ".join(found.sentences)


def test_heatmaps_that_beat_every_baseline():
    badge, text = heatmap(0.5, 0.2, 0.7)
    assert badge == "Beats 3 of 3 baselines"
    assert text.endswith(
        "more than the picture's edges (0.50), random parts (0.20) and Grad-CAM of "
        "randomised weights (0.70)."
    )


def test_heatmaps_of_a_single_example_beat_nothing():
    badge, text = heatmap(0.5, 0.2, 0.7, groups=1)
    assert badge == "Beats 0 of 3 baselines"
    assert "noise cannot be told. These heatmaps are not shown to explain anything." in text


def test_a_metric_of_the_right_examples_has_no_gain_and_says_how_many_they_are():
    base = {"n": 10, "n_correct": 4, "rougeL_correct": 0.2}
    tuned = {"n": 10, "n_correct": 7, "rougeL_correct": 0.3}
    (row,) = metric_rows(SimpleNamespace(metrics={"base": base, "tuned": tuned}))
    assert row["name"] == "ROUGE-L where the class is right"
    assert row["gain"] is None
    assert row["note"] == "of 4 examples with the base and of 7 tuned, not the same ones"


def test_a_confidence_keeps_its_digits():
    assert [share(part) for part in (0.95, 0.975, 0.999)] == ["95%", "97.5%", "99.9%"]


def test_heatmaps_that_beat_some():
    badge, text = heatmap(1.5, 0.2, 0.9)
    assert badge == "Beats 1 of 3 baselines"
    assert "more than random parts (0.20); not clearly different from Grad-CAM of" in text
    assert text.endswith("less than the picture's edges (1.50).")


def test_heatmaps_that_beat_none_are_said_to_explain_nothing():
    badge, text = heatmap(1.5, 1.0, 0.9)
    assert badge == "Beats 0 of 3 baselines"
    assert text.endswith("These heatmaps are not shown to explain anything.")
