"""The `evaluate` modules: against published numbers, and on texts that break others."""

import json
import os
import time
from functools import cache
from pathlib import Path
from shutil import which

import evaluate
import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from src.metrics.bertscore import bertscore_f1
from src.metrics.modules import meteor as meteor_module
from src.metrics.modules.bleu import corpus_bleu, statistics
from src.metrics.modules.coco import bleu, cider, rouge_l
from src.metrics.modules.meteor import meteor
from src.metrics.modules.rouge import F1, PRECISION, RECALL, rouge

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "real" / "metrics"
MODULES = ROOT / "src" / "metrics" / "modules"
JAVA = which("java") is not None
needs_java = pytest.mark.skipif(not JAVA, reason="METEOR needs Java")
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/real is not there")
# Texts that a protocol by lines, words or bars trips over.
ODD = [
    "two\nlines\r\nof\u2028text",
    "a ||| b",
    "tab\there",
    "猫 😀 \u200b\x00\ud800",
    "  ",
    "",
    ".",
]


@cache
def load(name: str) -> evaluate.Metric:
    return evaluate.load(str(MODULES / f"{name}.py"))


def computed(name: str, predictions: list[str], references: list[list[str]], **options) -> dict:
    return load(name).compute(predictions=predictions, references=references, **options)


def expected() -> dict:
    return json.loads((REAL / "expected.json").read_text()) if REAL.is_dir() else {}


def lines(name: str) -> list[str]:
    return (REAL / name).read_text().splitlines()


def agrees(found: dict[str, float], published: dict[str, float]) -> None:
    # The numbers of nlg-eval are asserted there to five decimals, some of them cut to six.
    assert published
    for name, number in published.items():
        assert found[name] == pytest.approx(number, abs=5e-6), name


def published(case: dict, java: bool) -> dict[str, float]:
    """The numbers of a case: METEOR's alone, or the others."""
    return {k: v for k, v in case.items() if k not in ("hyp", "refs") and (k == "METEOR") == java}


@needs_real
def test_the_corpus_of_nlg_eval() -> None:
    case = expected()["nlg-eval"]["corpus examples/hyp.txt vs ref1.txt,ref2.txt"]
    references = zip(lines("nlg-eval/ref1.txt"), lines("nlg-eval/ref2.txt"), strict=True)
    texts = lines("nlg-eval/hyp.txt"), [list(pair) for pair in references]
    agrees(computed("coco", *texts), published(case, java=False))
    if JAVA:
        agrees({"METEOR": computed("meteor", *texts)["meteor_corpus"]}, published(case, java=True))


@needs_real
@pytest.mark.parametrize("number", range(3))
def test_the_single_texts_of_nlg_eval(number: int) -> None:
    case = expected()["nlg-eval"]["single"][number]
    agrees(computed("coco", [case["hyp"]], [case["refs"]]), published(case, java=False))


@pytest.fixture(scope="module")
def in_one_run() -> dict[str, np.ndarray]:
    """METEOR of several groups of texts at once, because Java takes seconds to start."""
    texts = [*ODD, "a dog runs"]
    cases = expected().get("nlg-eval", {}).get("single", [])
    groups = {
        "single": [(case["hyp"], case["refs"]) for case in cases],
        "odd": [(text, [text, "something else"]) for text in texts],
        "shifted": list(zip(texts, [[t] for t in (*texts[1:], texts[0])], strict=True)),
        "several": [("a dog", r) for r in (["a dog"], ["x", "a dog", "y"], ["x", "a dog"])],
    }
    rows = [row for group in groups.values() for row in group]
    scores = iter(meteor(*zip(*rows, strict=True))[1])
    return {name: np.array([next(scores) for _ in group]) for name, group in groups.items()}


@needs_java
@needs_real
def test_the_single_texts_of_nlg_eval_by_meteor(in_one_run) -> None:
    cases = expected()["nlg-eval"]["single"]
    for case, score in zip(cases, in_one_run["single"], strict=True):
        agrees({"METEOR": score}, published(case, java=True))


def triple(found: dict[str, float], kind: str) -> list[float]:
    return [found[f"{kind}_recall"], found[f"{kind}_precision"], found[kind]]


@needs_real
@pytest.mark.parametrize(
    ("case", "line", "stem"),
    [
        ("target.txt/prediction.txt line 0", 0, False),
        ("line 1", 1, False),
        ("line 1 with stemming", 1, True),
    ],
)
def test_the_files_of_rouge_score(case: str, line: int, stem: bool) -> None:
    prediction, target = (lines(f"rouge/{n}.txt")[line] for n in ("prediction", "target"))
    found = computed("rouge", [prediction], [[target]], stem=stem)
    for kind, numbers in expected()["rouge"][case].items():
        assert triple(found, kind) == pytest.approx(numbers, abs=5e-6), kind


def flat(text: str) -> str:
    return text.replace("\n", " ")


@needs_real
def test_the_texts_inside_the_tests_of_rouge_score() -> None:
    checked = 0
    for case in expected()["rouge"]["inline"]:
        hyp, ref = case.pop("hyp"), case.pop("ref")
        found = computed("rouge", [hyp], [[ref]])
        for kind, numbers in case.items():
            checked += 1
            if kind == "any":
                assert set(found.values()) == {0}
            elif kind == "rougeLsum_f_stemmed":
                stemmed = computed("rouge", [hyp], [[ref]], stem=True)
                assert stemmed["rougeLsum"] == pytest.approx(numbers)
            elif kind == "rougeLsum_f_newlines_replaced_by_space":
                joined = computed("rouge", [flat(hyp)], [[flat(ref)]])
                assert joined["rougeLsum"] == pytest.approx(numbers)
            else:
                assert triple(found, kind) == pytest.approx(numbers, abs=5e-5), kind
    assert checked == 9


def test_rouge_is_that_of_the_best_reference_by_f1() -> None:
    found = rouge(["a b c"], [["a", "a b x x", "c b a"]])
    assert found["rouge1"][0].tolist() == [1, 1, 1]
    assert found["rougeL"][0, F1] == pytest.approx(4 / 7)
    assert found["rougeL"][0, RECALL] == pytest.approx(2 / 4)
    assert found["rougeL"][0, PRECISION] == pytest.approx(2 / 3)


WORDS = st.lists(st.sampled_from([*"abcdefg", "A", ".", "猫", "x-y"]), max_size=9).map(" ".join)
EXAMPLE = st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3))


def by_sacrebleu(predictions: list[str], references: list[list[str]]) -> float:
    most = max(len(several) for several in references)
    streams = [[s[k] if k < len(s) else None for s in references] for k in range(most)]
    return sacrebleu.corpus_bleu(predictions, streams).score / 100


@settings(max_examples=60, deadline=None)
@given(st.lists(EXAMPLE, min_size=1, max_size=8), st.integers(0, 1000))
def test_a_resample_has_the_bleu_that_sacrebleu_gives_its_texts(examples, seed: int) -> None:
    predictions, references = (list(column) for column in zip(*examples, strict=True))
    columns = statistics(predictions, references)
    drawn = np.random.default_rng(seed).integers(0, len(examples), (5, len(examples)))
    found = corpus_bleu(*(column[drawn] for column in columns))
    again = [by_sacrebleu([predictions[i] for i in d], [references[i] for i in d]) for d in drawn]
    assert found.shape == (5,)
    assert found.tolist() == pytest.approx(again, abs=1e-9)
    one = computed("bleu", predictions, references)["bleu4"]
    assert one == pytest.approx(by_sacrebleu(predictions, references), abs=1e-9)


def test_bleu_of_long_texts_is_not_just_zero() -> None:
    texts = ["the red ball rolls to the left side", "A dog sleeps, and then it wakes up."]
    references = [["the red ball rolls to the right side"], ["a dog sleeps and then wakes up", "x"]]
    found = corpus_bleu(*statistics(texts, references))
    assert 0.3 < found < 0.9
    assert found == pytest.approx(by_sacrebleu(texts, references))


def test_cider_weighs_what_is_rare_among_the_references() -> None:
    references = [["a red circle"], ["a red circle"], ["a blue circle"], ["a dog"]]
    common, rare, same, _ = cider(["a circle", "red", "a blue circle", ""], references)
    assert rare > common > 0
    assert same == pytest.approx(7.5)  # three words have no sequence of four
    assert cider(["a", "b"], [[""], [" "]]).tolist() == [0, 0]


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_text_scores_0_and_moves_no_other(empty: str) -> None:
    texts, references = (
        ["a red ball", empty, "a dog runs far"],
        [["a red ball"], ["x", ""], ["a dog"]],
    )
    kept = [0, 2]
    for name, scores in [
        ("rouge", rouge(texts, references)["rouge1"][:, F1]),
        ("rouge_l", rouge_l(texts, references)),
        ("cider", cider(texts, references)),
        ("bertscore", bertscore_f1(texts, references, "all-MiniLM-L6-v2")),
    ]:
        assert scores[1] == 0, name
        assert (scores[kept] > 0).all(), name
    assert bleu([empty], [["a b"]])[3] == pytest.approx(0)
    assert corpus_bleu(*statistics([empty], [["a b"]])) == 0


def test_a_module_gives_the_numbers_of_its_function() -> None:
    texts, references = ["a red ball", ""], [["the red ball", "a ball"], ["a dog"]]
    expected = bertscore_f1(texts, references, "all-MiniLM-L6-v2").mean()
    found = computed("bertscore", texts, references)
    assert found == {"bertscore_f1_all_minilm_l6_v2": pytest.approx(expected)}
    assert computed("coco", texts, references)["CIDEr"] == cider(texts, references).mean()


@needs_java
def test_odd_texts_keep_their_places_in_meteor(in_one_run) -> None:
    same, shifted = in_one_run["odd"], in_one_run["shifted"]
    assert same.tolist() == pytest.approx([1, 1, 1, 1, 0, 0, 1, 1])
    # Of another text's reference, hardly any text is like it.
    assert shifted.max() < 0.6


@needs_java
def test_the_best_reference_counts_in_meteor(in_one_run) -> None:
    assert in_one_run["several"].tolist() == pytest.approx([1, 1, 1])


@pytest.mark.slow
@needs_java
def test_meteor_is_what_pycocoevalcap_makes_of_it() -> None:
    from pycocoevalcap.meteor.meteor import Meteor

    texts = ["this is a good test", "", "Le test est en français.", "two dogs, running fast!"]
    references = [["this is a test", "a check"], ["a b"], ["Le test"], ["dogs run", "a dog", "x y"]]
    by_number = (dict(enumerate(column)) for column in (references, [[t] for t in texts]))
    total, scores = Meteor().compute_score(*by_number)
    assert computed("meteor", texts, references) == {
        "meteor": pytest.approx(np.mean(scores)),
        "meteor_corpus": pytest.approx(total),
    }
    assert meteor(texts, references)[1].tolist() == pytest.approx(scores)


def stand_in(folder: Path, script: str) -> str:
    """A PATH with a program of the name java."""
    (folder / "java").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "java").chmod(0o755)
    return f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            "echo Unable to find a runtime >&2; exit 1",
            "Java failed, saying 'Unable to find a runtime'",
        ),
        ("kill -9 $$", "Java failed"),
        ("exec sleep 60", "Java did not end within 1 s"),
        ("echo 'Segment 1 score:\t0.5'", "Java scored 1 of 2 texts"),
        ("printf 'Segment 1 score: 0\\nSegment 3 score: 0\\nFinal score: 0\\n'", "scored 2 of 2"),
    ],
)
def test_a_broken_java_costs_one_line_and_meteor(
    script, says, tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.setenv("PATH", stand_in(tmp_path, script))
    monkeypatch.setattr(meteor_module, "STARTS", 0.6)
    started = time.perf_counter()
    assert meteor(["a", "b"], [["a"], ["b"]]) is None
    assert time.perf_counter() - started < 20
    (line,) = caplog.messages
    assert line.startswith("METEOR is left out: ")
    assert says in line
    assert "\n" not in line


def test_without_java_one_line_says_so(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert computed("meteor", ["a"], [["a"]]) == {}
    assert caplog.messages == ["METEOR is left out: Java is not installed"]


def test_a_java_that_hangs_is_ended(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", stand_in(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60"))
    monkeypatch.setattr(meteor_module, "STARTS", 3)
    assert meteor(["a"], [["a"]]) is None
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
