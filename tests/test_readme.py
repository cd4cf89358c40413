"""What README.md says, against what is there."""

import re

import pytest

from src.files import read_json
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("recipe", "metric", "words"),
    [
        ("emotion_qwen2vl", "accuracy", "accuracy by label scoring"),
        ("emotion_qwen2vl", "generated_accuracy", "accuracy of the generated word"),
        ("emotion_llava", "accuracy", "accuracy by label scoring"),
        ("emotion_llava", "generated_accuracy", "accuracy of the generated word"),
        ("esnlive_qwen2vl", "accuracy", "accuracy of the class"),
        ("video_qwen2vl", "label_accuracy", "motion word right"),
        ("vqa_blip2", "exact_match", "exact match"),
    ],
)
def test_the_table_shows_the_numbers_of_the_last_run(recipe, metric, words):
    metrics = ROOT / "metrics" / recipe
    base, tuned = read_json(metrics / "base.json"), read_json(metrics / "tuned.json")
    value, low, high = (100 * tuned["gain"][metric][k] for k in ("value", "low", "high"))
    row = (
        f"| `{recipe}`, {words} | {tuned['n']} | {base[metric]:.1%} | {tuned[metric]:.1%} "
        f"| {value:+.1f} points ({low:.1f} to {high:.1f}) | {tuned['majority']:.1%} |"
    )
    assert row.replace("%", " %") in README


BERTSCORE = ("bertscore_f1_all_minilm_l6_v2", "BERTScore F1 of all-MiniLM-L6-v2")


@pytest.mark.parametrize(
    ("recipe", "metric", "words"),
    [
        ("esnlive_qwen2vl", "rougeL", "ROUGE-L of the explanation"),
        ("esnlive_qwen2vl", "cider", "CIDEr of the explanation"),
        ("video_qwen2vl", "rougeL", "ROUGE-L"),
        ("video_qwen2vl", "cider", "CIDEr"),
        ("vqa_blip2", *BERTSCORE),
    ],
)
def test_the_table_shows_the_metrics_of_texts(recipe, metric, words):
    metrics = ROOT / "metrics" / recipe
    base, tuned = read_json(metrics / "base.json"), read_json(metrics / "tuned.json")
    gain = tuned["gain"][metric]
    assert (
        f"| `{recipe}`, {words} | {tuned['n']} | {base[metric]:.3f} | {tuned[metric]:.3f} "
        f"| {gain['value']:+.3f} ({gain['low']:.3f} to {gain['high']:.3f}) |"
    ) in README


def test_every_path_that_it_names_is_there():
    tree = README.partition("## What lies where")[2].partition("```\n")[2].partition("```")[0]
    folder = ROOT
    for line in tree.splitlines():
        names = re.split(r"\s{2,}", line.strip())[0].replace(",", " ").split()
        folder = ROOT / "src" if line.startswith("  ") else ROOT
        for name in names:
            made = name in ("data/", "models/", "reports/")
            assert made or (folder / name).exists(), name


def test_every_override_that_it_shows_names_a_key(params):
    from ruamel.yaml import YAML

    raw = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    overrides = re.findall(r"-S '?([\w.]+)=", README)
    assert overrides
    for override in overrides:
        block = raw
        for key in override.split("."):
            assert key in block, override
            block = block[key]


def test_every_make_target_that_it_names_is_there():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
