"""METEOR 1.5 for English: words matched as they are, by stem, synonym and paraphrase.

Denkowski and Lavie (2014), https://aclanthology.org/W14-3348. Tokens are METEOR's own: `-norm`
lowers the case and separates marks. It is the Java program inside pycocoevalcap, called on files
and not in pycocoevalcap's way, line by line: there a line end inside a text shifts every later
score, and a program that hangs is waited for without end.
"""

import logging
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import evaluate
import numpy as np

from .common import info, one_line

# Seconds that Java may take: to start, where much else runs beside it, and for each text.
STARTS, EACH = 600, 0.2
_SEGMENT = re.compile(r"^Segment (\d+) score:\s+(\S+)$", re.MULTILINE)
_FINAL = re.compile(r"^Final score:\s+(\S+)$", re.MULTILINE)


def meteor(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, np.ndarray] | None:
    """METEOR of all texts together, and of each (n,) against its best reference; in 0 to 1.

    None where Java is missing, fails or does not end: one line of the log, on stderr, says so.
    """
    java = shutil.which("java")
    if java is None:
        return _without("Java is not installed")
    with tempfile.TemporaryDirectory(prefix="meteor-") as folder:
        try:
            said = _run(java, Path(folder), predictions, references)
        except subprocess.TimeoutExpired as error:
            return _without(f"Java did not end within {error.timeout:.0f} s")
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            return _without(f"Java failed, saying {one_line(said)[:200]!r}")
    scores = {int(number): float(score) for number, score in _SEGMENT.findall(said)}
    final = _FINAL.search(said)
    if final is None or sorted(scores) != list(range(1, len(predictions) + 1)):
        return _without(f"Java scored {len(scores)} of {len(predictions)} texts")
    return float(final[1]), np.array([scores[number] for number in sorted(scores)])


def _run(
    java: str, folder: Path, predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> str:
    most = max(len(several) for several in references)
    # Each text has as many references there; the best counts, so one may stand there twice.
    equal = [[*several, *[several[-1]] * (most - len(several))] for several in references]
    _write(folder / "texts", predictions)
    _write(folder / "references", [reference for several in equal for reference in several])
    options = ["-r", str(most), "-l", "en", "-norm"]
    ran = subprocess.run(
        [java, "-Xmx2G", "-jar", _jar(), "texts", "references", *options],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=STARTS + EACH * len(predictions),
        check=True,
    )
    return ran.stdout


def _write(path: Path, texts: Sequence[str]) -> None:
    lines = "".join(f"{one_line(text)}\n" for text in texts)
    path.write_bytes(lines.encode("utf-8", errors="replace"))


def _jar() -> Path:
    return Path(find_spec("pycocoevalcap.meteor.meteor").origin).with_name("meteor-1.5.jar")


def _without(reason: str) -> None:
    logging.getLogger(__name__).warning("METEOR is left out: %s", reason)


class Meteor(evaluate.Metric):
    """`meteor`, the mean over the texts, and `meteor_corpus`, of their matches added up.

    Empty where Java is missing.
    """

    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__, "https://aclanthology.org/W14-3348")

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        found = meteor(predictions, references)
        if found is None:
            return {}
        return {"meteor": float(found[1].mean()), "meteor_corpus": found[0]}
