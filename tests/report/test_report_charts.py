import base64
import io

import pandas as pd
import pytest
from PIL import Image

from src.report import plots
from src.report.charts import Series, chart, strip, thinned
from src.report.pictures import thumbnail


@pytest.mark.parametrize("top", [0.003, 0.7, 1, 2.3, 14, 980])
def test_every_point_lies_inside_the_axes(top):
    points = [(0, 0), (3, top), (7, top / 2)]
    found = chart("", ("", ""), [Series("a", "base", points, [1, 1, 1])], x=(0, 7), y=(0, top))
    for x, y, _ in found.lines[0].dots:
        assert found.left <= x <= found.right and found.top <= y <= found.bottom
    assert 3 <= len(found.y_ticks) <= 8


def test_a_point_stands_at_its_tick():
    found = chart("", ("", ""), [Series("a", "base", [(2, 0.5)], [1])], x=(0, 10), y=(0, 1))
    assert found.lines[0].dots[0][0] == next(t.at for t in found.x_ticks if t.text == "2")
    assert found.lines[0].dots[0][1] < next(t.at for t in found.y_ticks if t.text == "0.4")


def test_thinning_keeps_the_mean():
    points = [(float(i), 2.0 * i) for i in range(1000)]
    found = thinned(points, 100)
    assert len(found) == 100
    assert found[0] == (4.5, 9.0)
    assert thinned([]) == []


def test_a_strip_is_in_per_cent_and_stays_on_its_scale():
    found = strip({"base": (0.5, 0.4, 1.7)}, [0.25], top=1)
    assert (found.marks[0].at, found.marks[0].low, found.marks[0].high) == (50, 40, 100)
    assert found.guesses == [25]


def test_overconfidence_is_weighted_by_the_count():
    rows = [("base", 0, 0.9, 0.5, 30), ("base", 1, 0.5, 0.9, 10), ("tuned", 0, 0.6, 0.8, 10)]
    columns = ["model", "bin", "confidence", "accuracy", "count"]
    plot, caption = plots.reliability(pd.DataFrame(rows, columns=columns))
    assert "Base: overconfident by 20.0 points" in plot.alt
    assert "The tuned model is underconfident by 20.0 points" in caption


def test_coverage_takes_the_most_confident_first():
    rows = pd.DataFrame({"id": list("abcd"), "probability": [0.1, 0.9, 0.8, 0.2]})
    right, wrong = [False, True, True, False], [True, False, False, True]
    plot, _ = plots.coverage(
        {"base": rows.assign(correct=wrong), "tuned": rows.assign(correct=right)}
    )
    assert plot.alt == "On the most confident half: base 0%, tuned 100%."


def test_a_loss_curve_names_its_lowest_point():
    rows = [(1, "train", 3.0), (2, "train", 1.0), (1, "validation", 2.0), (2, "validation", 2.5)]
    _, caption = plots.loss(pd.DataFrame(rows, columns=["step", "split", "loss"]))
    assert "lowest validation loss is 2.000, at step 1" in caption


def test_a_loss_curve_needs_no_validation():
    plot, _ = plots.loss(pd.DataFrame([(1, "train", 3.0)], columns=["step", "split", "loss"]))
    assert [line.name for line in plot.lines] == ["Training"]


def test_a_thumbnail_is_small_and_carries_no_metadata():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    Image.new("RGBA", (1000, 500), "red").convert("RGB").save(file, "JPEG", exif=exif)
    found = thumbnail(file.getvalue())
    assert (found.width, found.height) == (224, 112)
    assert b"SecretCamera" in file.getvalue()
    assert b"SecretCamera" not in base64.b64decode(found.uri.split(",")[1])
