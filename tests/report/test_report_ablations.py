import re
import shutil
from html import unescape

import pytest

from src.errors import UserError
from src.report.page import render
from tests.report import fake_tree

MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH} not measured"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("ablated")
    fake_tree.write_tree(root, fake_tree.params())
    return root


@pytest.fixture(scope="module")
def page(tree):
    return render(fake_tree.params(), tree)


def text(page: str, name: str) -> str:
    """The part of the page below a grid's heading, without tags."""
    part = re.search(
        rf'<h3 id="a\d"><code>{name}</code></h3>(.*?)(<h3|</section>)', page, re.DOTALL
    )
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", part[1])).split())


def row(page: str, name: str, point: str) -> str:
    """What stands in the row of a point, of the first metric."""
    table = text(page, name).partition("Noise")[2]
    return table[table.index(point) :].partition("rank 8")[0]


def test_each_point_stands_with_mean_spread_difference_and_interval(page):
    found = row(page, "rank", "rank <b>4</b>")
    assert "lora.r: 4" in found and "recipes." not in found
    assert f"3 80.0 % 1.2 pp {MINUS}10.0 pp {MINUS}15.0 pp to {MINUS}5.0 pp" in found
    assert "rank 16 3 90.0 % 1.2 pp reference" in text(page, "rank")


def test_only_a_difference_larger_than_noise_is_marked_and_says_which_way(page):
    said = text(page, "rank")
    accuracy, _, error = said.partition("Calibration error")
    assert accuracy.count("▼ Larger than noise") == 1 and "▲" not in accuracy
    # Less is better of an error.
    assert error.count("▲ Larger than noise") == 1 and "▼" not in error
    assert accuracy.count("Within noise") == error.count("Within noise") == 1


def test_one_seed_alone_marks_nothing(page):
    said = text(page, "heads")
    assert "Larger than noise" not in said and "Within noise" not in said
    assert f"one 1 70.0 % {NONE} {MINUS}20.0 pp cannot be told" in said
    assert "each with seed 7." in said


def test_what_did_not_run_is_named_and_has_no_number(page):
    said = text(page, "rank")
    assert "Not run, or failed: rank 2 with seed 1, 2 and 3." in said
    assert f"rank 2 0 {NONE} {NONE} {NONE} cannot be told" in said


def test_the_rule_is_told_with_the_number_of_comparisons(page):
    assert "Together the 95% intervals of a metric hold for all 3 comparisons" in text(page, "rank")
    assert "hold for its one comparison" in text(page, "heads")


def test_each_run_stands_with_its_own_interval_and_experiment(page):
    runs = text(page, "rank").partition("Every run of")[2]
    assert runs.count("86.0 % to 94.0 %") == 3
    assert f"rank 16 1 120 90.0 % 86.0 % to 94.0 % {NONE} grid-s1-0123456789ab" in runs


def test_names_and_values_are_shown_as_they_are(page):
    assert "rank &lt;b&gt;4&lt;/b&gt;" in page and "rank <b>4</b>" not in page
    assert fake_tree.SCRIPT not in page


def test_without_ablations_the_page_has_no_such_part(tree, tmp_path):
    root = shutil.copytree(tree, tmp_path / "copy")
    shutil.rmtree(root / "metrics/ablations")
    assert "blation" not in re.sub(r"<style>.*?</style>|<pre>.*?</pre>", "", bare(root), flags=re.S)


def bare(root):
    return render(fake_tree.params(), root)


@pytest.mark.parametrize("broken", ["{", "[]", '{"name": "rank"}'])
def test_a_broken_file_is_named_with_its_command(tree, tmp_path, broken):
    root = shutil.copytree(tree, tmp_path / "copy")
    path = root / "metrics/ablations/rank.json"
    path.write_text(broken)
    with pytest.raises(UserError) as error:
        bare(root)
    expected = f"{path}: not a result of ablations; run `python -m tools.ablate rank`"
    assert str(error.value) == expected
