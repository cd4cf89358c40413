"""Numbers in words: names and formats of metrics, and what a difference says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MINUS, THIN_SPACE = "\N{MINUS SIGN}", "\N{NARROW NO-BREAK SPACE}"
NOT_METRICS = (
    *("n", "n_groups", "n_correct", "chance", "majority", "interval", "gain"),
    *("doubted", "largest_gap", "largest_gap_chance"),  # each has a section of its own
)
NAMES = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "generated_accuracy": "Accuracy of the text",
    "label_accuracy": "Label accuracy",
    "invalid_rate": "Invalid answers",
    "ece": "Calibration error",
    "brier": "Brier score",
    "exact_match": "Exact match",
    "rougeL": "ROUGE-L",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "bleu4": "BLEU-4",
    "meteor": "METEOR",
    "cider": "CIDEr",
    "bertscore_f1_all_minilm_l6_v2": "BERTScore F1 of all-MiniLM-L6-v2",
    "bertscore_f1_roberta_large": "BERTScore F1 of RoBERTa-large",
    "vqa_accuracy": "VQA accuracy",
    "empty_rate": "Empty answers",
    "repetitive_rate": "Repetitive answers",
    "truncated_rate": "Truncated answers",
    "identical_rate": "Identical answers",
    "distinct_1": "Distinct words",
    "distinct_2": "Distinct pairs of words",
    "aurc": "Area under risk and coverage",
    "accuracy_undoubted": "Accuracy without doubtful pictures",
    "label_accuracy_undoubted": "Label accuracy without doubtful pictures",
    "exact_match_undoubted": "Exact match without doubtful pictures",
}
NOTES = {
    "accuracy": "the most probable class is the true one",
    "macro_f1": "mean F1 of the classes",
    "generated_accuracy": "the written text names the true class",
    "label_accuracy": "the text names the true label and no other",
    "invalid_rate": "the written text names no class",
    "ece": "mean gap of confidence and accuracy",
    "brier": "squared error of the probabilities",
    "exact_match": "the text is a reference, normalised as in VQA",
    "vqa_accuracy": "soft accuracy of VQA v2, where ten people answered",
    "repetitive_rate": "the text goes round in circles",
    "truncated_rate": "the text is cut off before its end",
    "identical_rate": "share of the most frequent text",
    "distinct_1": "how many different ones to a word",
    "distinct_2": "how many different ones to a word",
    "aurc": "mean error when only the surer answers count",
}
CORRECT = "_correct"
GUESSES = {"chance": "chance", "majority": "always the most frequent"}


@dataclass(frozen=True)
class Verdict:
    """`kind` is better, unclear or worse; `badge` says it in two words."""

    kind: str
    badge: str
    sentences: list[str]


def name_of(metric: str) -> str:
    """A metric's name for people; an unknown one is spelled out from its key."""
    if is_of_correct(metric):
        return f"{name_of(metric.removesuffix(CORRECT))} where the class is right"
    return NAMES.get(metric, metric.replace("_", " ").capitalize())


def is_of_correct(metric: str) -> bool:
    """Whether a metric is of the examples whose class a model has right: each model has others."""
    return metric.endswith(CORRECT)


def lower_is_better(metric: str) -> bool:
    """Whether a fall of the metric is good news."""
    named = ("ece", "brier", "loss", "perplexity", "aurc")
    return metric in named or metric.endswith("_rate")


def is_share(metric: str) -> bool:
    """Whether the metric counts examples, so that per cent read best."""
    named = ("chance", "majority", "largest_gap", "score")
    endings = ("accuracy", "exact_match", "_rate", "_undoubted")
    return metric.endswith(endings) or metric in named


def guesses(metric: str, numbers: Mapping[str, Any]) -> dict[str, float]:
    """`chance` and `majority` where they are guesses of this metric, else nothing.

    They name classes or, where captions have labels, a label; else they are whole texts.
    """
    named = metric in ("accuracy", "generated_accuracy", "label_accuracy")
    whole = metric == "exact_match" and "label_accuracy" not in numbers
    known = ("chance", "majority") if named or whole else ()
    return {name: numbers[name] for name in known if name in numbers}


def value(metric: str, number: float) -> str:
    """A metric's value: per cent of a share, three decimals of anything else."""
    return _signless(number * 100, 1) + THIN_SPACE + "%" if is_share(metric) else _signless(number)


def gain(metric: str, number: float) -> str:
    """A signed difference, in percentage points (pp) of a share."""
    scaled, digits = (number * 100, 1) if is_share(metric) else (number, 3)
    text = f"{abs(scaled):.{digits}f}"
    sign = "±" if float(text) == 0 else "+" if scaled > 0 else MINUS
    return sign + text + (THIN_SPACE + "pp" if is_share(metric) else "")


def nats(number: float) -> str:
    """Two decimals with a real minus sign, for log-probabilities and correlations."""
    return _signless(number, 2)


def count(number: int) -> str:
    """Thousands apart, so that long numbers read."""
    return f"{number:,}".replace(",", THIN_SPACE)


def share(part: float) -> str:
    """Per cent with as many digits as it has: 95%, 97.5%."""
    return f"{part * 100:g}%"


def effect(metric: str, difference: Mapping[str, float]) -> str:
    """Whether a paired difference is better, worse or unclear: its interval decides."""
    sign = -1 if lower_is_better(metric) else 1
    low, high = sorted((sign * difference["low"], sign * difference["high"]))
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def headline(tuned: Mapping[str, Any]) -> str | None:
    """The metric a recipe is judged by: the first of its file that has a gain."""
    return next((m for m in tuned if m not in NOT_METRICS and m in tuned.get("gain", {})), None)


def verdict(
    metric: str, base: Mapping[str, Any], tuned: Mapping[str, Any], confidence: float
) -> Verdict:
    """Say whether fine-tuning helped by more than noise, and what else it did."""
    difference = tuned["gain"][metric]
    kind = effect(metric, difference)
    before, after = value(metric, base[metric]), value(metric, tuned[metric])
    verb = "stays at" if before == after else "rises" if tuned[metric] > base[metric] else "falls"
    path = after if before == after else f"from {before} to {after}"
    interval = f"{gain(metric, difference['low'])} to {gain(metric, difference['high'])}"
    conclusion = {
        "better": "The interval leaves out zero: this gain is larger than noise.",
        "unclear": "The interval holds zero: no gain can be told from noise.",
        "worse": "The interval leaves out zero on the wrong side: fine-tuning made it worse.",
    }[kind]
    badge = {"better": "Larger than noise", "unclear": "Within noise", "worse": "Worse than base"}
    return Verdict(
        kind,
        badge[kind],
        [
            f"{name_of(metric)} {verb} {path} on {count(tuned['n'])} test examples, a paired "
            f"difference of {gain(metric, difference['value'])} "
            f"({share(confidence)} interval {interval}).",
            conclusion,
            *_against_guessing(metric, tuned),
            *_setbacks(metric, tuned["gain"]),
        ],
    )


def _against_guessing(metric: str, tuned: Mapping[str, Any]) -> list[str]:
    found = guesses(metric, tuned)
    low = tuned.get("interval", {}).get(metric, {}).get("low")
    if not found or low is None:
        return []
    named = " and ".join(f"{GUESSES[key]} ({value(key, n)})" for key, n in found.items())
    if low > max(found.values()):
        return [f"The tuned model is clearly above {named}."]
    return [f"The tuned model is not clearly above {named}."]


def _setbacks(judged_by: str, gains: Mapping[str, Mapping[str, float]]) -> list[str]:
    worse = [name_of(m) for m, g in gains.items() if m != judged_by and effect(m, g) == "worse"]
    return [f"Worse than the base, by more than noise: {listed(worse)}."] if worse else []


def gap(base: Mapping[str, Any], tuned: Mapping[str, Any], confidence: float) -> str | None:
    """What the largest gap between two groups of the test is, and what chance would make it."""
    if "largest_gap" not in tuned:
        return None
    found = value("largest_gap", tuned["largest_gap"])
    bounds = tuned.get("interval", {}).get("largest_gap")
    interval = (
        f" ({share(confidence)} interval {value('largest_gap', bounds['low'])} to "
        f"{value('largest_gap', bounds['high'])})"
        if bounds
        else ""
    )
    chance = tuned["largest_gap_chance"]
    beyond = bounds is not None and bounds["low"] > chance
    conclusion = "which is more than chance makes" if beyond else "which chance alone may make"
    return (
        f"The largest gap between two groups of one property is {found}{interval} with the tuned "
        f"model, {conclusion}. Groups drawn at random differ by {value('largest_gap', chance)}; "
        f"with the base the gap is {value('largest_gap', base['largest_gap'])}."
    )


def heatmap_verdict(gradcam: Mapping[str, Any]) -> Verdict:
    """Say which baselines the Grad-CAM maps beat in the deletion test, outside the intervals."""
    drops, intervals = gradcam["deletion"], gradcam["deletion_interval"]
    own = intervals["gradcam"]
    groups: dict[str, list[str]] = {
        "more than": [],
        "not clearly different from": [],
        "less than": [],
    }
    for rival, phrase in RIVALS.items():
        if rival in drops:
            above = own["low"] > intervals[rival]["high"]
            below = own["high"] < intervals[rival]["low"]
            side = "more than" if above else "less than" if below else "not clearly different from"
            groups[side].append(f"{phrase} ({nats(drops[rival])})")
    beaten, rivals = len(groups["more than"]), sum(map(len, groups.values()))
    found = "; ".join(f"{side} {listed(names)}" for side, names in groups.items() if names)
    sentences = [
        f"Covering the parts that Grad-CAM marks hottest costs the answer "
        f"{nats(drops['gradcam'])} nats of log-probability ({nats(own['low'])} to "
        f"{nats(own['high'])}, {count(gradcam['n'])} examples): {found}."
    ]
    if gradcam["n_groups"] == 1:
        beaten = 0
        sentences.append("From one example, or several of one picture, noise cannot be told.")
    if not beaten:
        sentences.append("These heatmaps are not shown to explain anything.")
    kind = "worse" if not beaten else "better" if beaten == rivals else "unclear"
    return Verdict(kind, f"Beats {beaten} of {rivals} baselines", sentences)


RIVALS = {
    "edges": "the picture's edges",
    "random": "random parts",
    "randomised": "Grad-CAM of randomised weights",
}
HEATMAPS = {
    "gradcam": "Grad-CAM",
    "occlusion": "Occlusion",
    "edges": "Edges of the picture",
    "random": "Random parts",
    "randomised": "Grad-CAM of randomised weights",
}


def listed(words: list[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _signless(number: float, digits: int = 3) -> str:
    """Fixed decimals; a minus that is a minus sign, and none before a rounded zero."""
    text = f"{number:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)
