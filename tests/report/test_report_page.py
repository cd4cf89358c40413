import base64
import hashlib
import re
import shutil
from html import unescape
from html.parser import HTMLParser

import pytest

from src.errors import UserError
from src.files import write_json
from src.report.inputs import STAGES
from src.report.page import render
from src.report.pictures import strip, thumbnail
from src.schema import HubBase
from tests.report import fake_tree
from tests.report.fake_tree import ANSWERS, CLASSES, EXPLAINS, TEXTS, VIDEOS, N


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    fake_tree.write_tree(root, fake_tree.params())
    return root


@pytest.fixture(scope="module")
def page(original):
    return render(fake_tree.params(), original)


@pytest.fixture
def tree(original, tmp_path):
    return shutil.copytree(original, tmp_path / "copy"), fake_tree.params()


def section(page, name):
    """The part of the page under a recipe's own heading, without tags."""
    part = page.split(f"<code>{name}</code></h2>")[1].split("<h2")[0]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", part)).split())


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def tags(page):
    parser = Tags()
    parser.feed(page)
    return parser.seen


def test_starts_as_html(page):
    assert page.startswith("<!doctype html>")


def test_shows_base_tuned_gain_interval_and_guessing(page):
    text = section(page, CLASSES)
    assert "42.0 %" in text and "87.0 %" in text and "+45.0 pp" in text
    assert "+38.0 pp to +52.0 pp" in text
    assert "chance 16.7 %; always the most frequent 17.5 %" in text
    assert "this gain is larger than noise" in text


def test_says_how_many_groups_the_intervals_draw_where_examples_share_one(page):
    assert f"of which intervals draw {N // 3} groups" in section(page, TEXTS)
    assert "intervals draw" not in section(page, CLASSES)


def test_a_metric_without_an_interval_shows_its_plain_difference(page):
    text = section(page, CLASSES)
    assert "the written text names no class 8.0 % 1.0 % \N{MINUS SIGN}7.0 pp Calibration" in text


def test_a_recipe_without_classes_leaves_their_parts_out(page):
    text = section(page, TEXTS)
    assert "ROUGE-L rises from 0.310 to 0.330" in text
    assert "no gain can be told from noise" in text
    assert "CIDEr" in text and "on a scale to 1.0" in text
    assert "What happens in video 1?" in text
    assert "The lowest validation loss" in text
    for absent in (
        "Predicted",
        "Precision",
        "Reliability.",
        "Coverage.",
        "name no class",
        "chance",
    ):
        assert absent in section(page, CLASSES)
        assert absent not in text


def test_the_audit_says_whether_a_gap_is_more_than_chance(page):
    text = section(page, CLASSES)
    assert "The largest gap between two groups of one property is 20.0 % (95% interval" in text
    assert "which is more than chance makes" in text
    assert "Brightness low (below 0.41) 60 30.0 % 20.0 % to 40.0 % 60.0 %" in text


def test_doubtful_pictures_are_counted_shown_and_measured_apart(page):
    text = section(page, CLASSES)
    assert "3 of 120 test pictures are doubtful: no visible face (2), too dark (1), too" in text
    doubtful = text.split("Doubtful answers")[1].split("Heatmaps")[0]
    assert "Doubt too dark; no visible face Example test-0009" in doubtful
    assert doubtful.count("Example test-") == 3
    assert "Doubtful answers" not in section(page, ANSWERS)


def test_a_recipe_of_questions_shows_each_kind_and_compares_with_guessing(page):
    text = section(page, ANSWERS)
    assert "Exact match rises from 5.0 % to 60.0 %" in text
    assert "clearly above always the most frequent (30.0 %)" in text
    assert "BERTScore F1 of all-MiniLM-L6-v2" in text
    assert "color 60 10.0 % 70.0 %" in text
    assert "What color is product 0?" in text
    data = " ".join(unescape(re.sub(r"<[^>]*>", " ", page.split("<h2")[-3])).split())
    assert "color 6 20.0 % red (40), blue (31)" in data


def test_text_of_the_data_is_never_markup(page):
    assert not [tag for tag, _ in tags(page) if tag == "script"]
    assert not [a for _, attrs in tags(page) for a in attrs if a.startswith("on")]
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") >= 4


def test_the_policy_allows_this_style_and_nothing_else(page):
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:" in page
    assert not [tag for tag, attrs in tags(page) if "style" in attrs]


def test_lists_fifty_rejected_files_and_counts_all(page):
    assert page.count("broken-") == 5 * 49
    assert "The first 50 of 63 rejected files" in page
    assert "empty file (2), not an image (61)" in page


def test_data_without_a_rejected_file_has_a_page_too(tree):
    root, params = tree
    for rejected in root.glob("data/prepared/*/rejected.csv"):
        rejected.write_text("file,reason\n")
    assert "rejected files" not in render(params, root)


def test_names_every_parameter_and_the_versions(page):
    assert "target_modules" not in page
    assert "near_duplicate_distance: 20" in page
    assert "<dt>torch</dt><dd>2." in page and "<dt>Python</dt><dd>3." in page


@pytest.mark.filterwarnings("error")
def test_a_base_of_the_hub_stands_with_its_commit(tree):
    root, params = tree
    base = params.base["qwen2_vl"]
    model = HubBase(id="Qwen/Qwen2-VL-7B-Instruct", revision=None)
    bases = params.base | {"qwen2_vl": base.model_copy(update={"model": model})}
    record = {"parameters": 8_291_375_616, "id": model.id, "revision": "c" * 40, "ref": "main"}
    write_json(root / "metrics/base/qwen2_vl.json", record)
    shown = render(params.model_copy(update={"base": bases}), root)
    assert f"Base model {model.id} at {'c' * 40}" in section(shown, CLASSES)
    assert f"<dt>Revision</dt><dd>{'c' * 40}</dd>" in shown
    assert "<dt>Ref</dt><dd>main</dd>" in shown


def test_the_most_confident_wrong_answer_comes_first(page):
    wrong = section(page, CLASSES).split("Most confident and wrong")[1]
    first = wrong.split(f"test-{fake_tree.SUREST_WRONG:04d}")[0]
    assert "Anger 99.9 %" in first and "Truth Natural" in first
    assert "test-" not in first


def gallery(page, recipe):
    return page.split(f"<code>{recipe}</code></h2>")[1].split('<div class="gallery">')[1]


def test_a_gallery_of_texts_has_the_maps_of_each_word_under_it(page):
    text = section(page, EXPLAINS)
    assert "The maps are of the class that the second head names, and word by word" in text
    first = gallery(page, EXPLAINS).split("</figure>")[0]
    words = first.split("<li>")[1:]
    assert len(words) == 4
    for word in ("a", "face", "&lt;b&gt;moves&lt;/b&gt;", "right"):
        assert f'alt="Grad-CAM heatmap of the word {word}, example test-0000"' in first
        assert f'alt="Occlusion heatmap of the word {word}, example test-0000"' in first
    assert '<span class="text">&lt;b&gt;moves&lt;/b&gt;</span></li>' in words[2]
    assert "<ul>" in first and "On the left Grad-CAM" in first
    assert "Word by word" not in section(page, CLASSES)


def test_words_that_were_left_out_are_counted_and_an_empty_text_has_none(page):
    text = section(page, EXPLAINS)
    assert (
        "Explanation: one two three Reference: reference 5 test-0005 Word by word, the fir" in text
    )
    assert "Word by word, the first 3 of 4 On the left" in text
    assert "Explanation: (empty) Reference: reference 4 test-0004" in text


def test_a_gallery_of_videos_shows_frames_and_the_reference_for_truth(page):
    text = section(page, VIDEOS)
    assert "The maps are of the whole text, and word by word" in text
    assert "Two frames that the model reads as one share a map." in text
    shown = gallery(page, VIDEOS)
    first = shown.split("</figure>")[0]
    assert 'alt="Frames of example test-0000"' in first
    assert 'alt="Grad-CAM heatmap of example test-0000"' in first
    assert '<div class="maps film">' in first and '<ul class="film">' in first
    assert "Reference: reference 0" in text
    assert "truth" not in text.split("Heatmaps")[-1].split("Examples")[0]
    assert "film" not in gallery(page, CLASSES).split("</section>")[0]


def test_an_example_of_a_video_is_a_strip_of_its_frames(page):
    shown = page.split(f"<code>{VIDEOS}</code></h2>")[1].split("<h4>Most confident</h4>")[1]
    assert shown.split("<img src=")[1].startswith(f'"{strip(fake_tree.clip(0)).uri}"')
    assert 'alt="Frames of test example test-0000"' in shown
    assert "Truth a face moves to the right in video 1 Example" in section(page, VIDEOS)


def test_a_caption_without_a_label_is_neither_right_nor_wrong(page):
    text = section(page, VIDEOS)
    assert "ROUGE-L rises from 0.310 to 0.330" in text
    assert "3 of 120 test pictures are doubtful" in text and "too small (1). A picture" in text
    for absent in ("✓", "✗", "Judged", "Coverage.", "Reliability.", "Predicted", "Audit"):
        assert absent in section(page, CLASSES)
        assert absent not in text


def test_a_strip_goes_from_the_first_frame_to_the_last():
    one = strip(fake_tree.clip(0)[:1])
    assert (one.width, one.height) == (56, 56)
    assert strip(fake_tree.clip(0)[:2]).width == 2 * 56 + 3
    frames = fake_tree.clip(0)
    assert strip(frames).width == 4 * 56 + 3 * 3
    assert strip(frames) == strip([frames[i] for i in (0, 2, 5, 7)])


def test_an_explained_class_shows_label_prediction_and_explanation(page):
    right = section(page, EXPLAINS).split("Most confident and right")[1]
    first = right.split("Example test-")[0]
    assert "Answer not entailment" in first or "Answer entailment" in first
    assert "Explanation (empty)" in right or "Explanation It smiles." in right
    number = int(right.split("Example test-")[1][:4])
    assert f"Truth {fake_tree.ENTAILED[number % 2]} Reference Face {number} smiles" in first


def test_an_example_stands_beside_its_own_picture(page):
    wrong = page.split("<h4>Most confident and wrong</h4>")[1]
    number = fake_tree.SUREST_WRONG
    own = thumbnail(fake_tree.face(number % 6, number)).uri
    assert wrong.split("<img src=")[1].startswith(f'"{own}"')


def test_texts_that_name_no_class_are_counted_for_both_models(page):
    invalid = section(page, CLASSES).split("Generated text Base Tuned ")[1]
    assert invalid.startswith("(empty) 1 1 <script>alert('x')</script><img")
    assert invalid.endswith("a yellow face with a smiling mouth 1 1")


def test_the_confusion_matrix_counts_the_predictions(page):
    matrix = page.split('<table class="confusion">')[1].split("</table>")[0]
    counts = [int(n) for n in re.findall(r"<b>(\d+)</b>", matrix)]
    assert sum(counts) == fake_tree.N
    assert matrix.count('<td class="hit') == 6


def test_the_same_inputs_give_the_same_bytes_and_no_path(page, tree):
    root, params = tree
    again = render(params, root)
    assert again == page
    assert str(root) not in again


def test_a_class_may_be_called_none(tree):
    root, params = tree
    for file in ("confusion.csv", "classes.csv"):
        path = root / "metrics" / CLASSES / file
        path.write_text(path.read_text().replace("Natural", "NA"))
    summary = root / "data/prepared" / params.recipes[CLASSES].data / "summary.json"
    summary.write_text(summary.read_text().replace("Natural", "NA"))
    text = section(render(params, root), CLASSES)
    assert "Actual NA Anger" in text


def test_a_class_outside_the_summary_is_still_counted(tree):
    root, params = tree
    path = root / "metrics" / CLASSES / "confusion.csv"
    path.write_text(path.read_text() + "Joy,Boredom\n")
    assert "Surprise Boredom Sum" in section(render(params, root), CLASSES)


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        (f"metrics/{CLASSES}/base.json", f"baseline@{CLASSES}"),
        (f"metrics/{CLASSES}/tuned.json", f"evaluate@{CLASSES}"),
        (f"metrics/{CLASSES}/loss.csv", f"train@{CLASSES}"),
        (f"metrics/{CLASSES}/confusion.csv", f"evaluate@{CLASSES}"),
        (f"metrics/{CLASSES}/reliability.csv", f"evaluate@{CLASSES}"),
        (f"metrics/{ANSWERS}/audit.csv", f"evaluate@{ANSWERS}"),
        (f"metrics/{CLASSES}/predictions/base.parquet", f"baseline@{CLASSES}"),
        (f"metrics/{TEXTS}/predictions/tuned.parquet", f"evaluate@{TEXTS}"),
        (f"reports/gradcam/{CLASSES}/gallery.json", f"explain@{CLASSES}"),
        (f"reports/gradcam/{CLASSES}/0-gradcam.png", f"explain@{CLASSES}"),
        ("data/prepared/pages/summary.json", "prepare@pages"),
        ("data/prepared/pages/test.parquet", "prepare@pages"),
        ("metrics/base/qwen2_vl.json", "build@qwen2_vl"),
    ],
)
def test_a_missing_file_is_named_with_its_stage(tree, file, stage):
    root, params = tree
    (root / file).unlink()
    with pytest.raises(UserError) as error:
        render(params, root)
    assert str(error.value) == f"{root / file}: not found; run `dvc repro {stage}`"


def test_a_broken_file_is_named_with_its_stage(tree):
    root, params = tree
    (root / "metrics" / CLASSES / "tuned.json").write_text("{")
    with pytest.raises(UserError, match=r"tuned\.json: .*; run `dvc repro --force evaluate@"):
        render(params, root)


def record(root, params, scales):
    """The parameters and DVC's record of them, of recipes that were last run at these scales."""
    stages = {
        f"{stage}@{name}": {"params": {"params.yaml": {"scale": scale, "evaluate.bins": 10}}}
        for name, scale in scales.items()
        for stage in STAGES
    }
    # JSON is YAML.
    write_json(root / "dvc.lock", {"schema": "2.0", "stages": stages})
    write_json(root / "params.yaml", {"scale": params.scale, "evaluate": {"bins": 10}})


def test_leaves_out_a_recipe_that_was_last_run_at_another_scale_and_says_so(tree):
    root, params = tree
    record(root, params, dict.fromkeys(params.recipes, params.scale) | {TEXTS: "full"})
    shutil.rmtree(root / "metrics" / TEXTS)
    page = render(params, root)
    said = " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())
    assert f"Left out: {TEXTS} was last run with other values of scale." in said
    assert f"<code>{TEXTS}</code></h2>" not in page
    for name in params.recipes.keys() - {TEXTS}:
        assert f"<code>{name}</code></h2>" in page


def test_leaves_out_a_recipe_that_was_not_run(tree):
    root, params = tree
    record(root, params, dict.fromkeys(params.recipes.keys() - {TEXTS}, params.scale))
    assert f"<code>{TEXTS}</code> was not run." in render(params, root)


def test_leaves_out_nothing_that_was_run_with_these_values(tree, page):
    root, params = tree
    record(root, params, dict.fromkeys(params.recipes, params.scale))
    assert render(params, root) == page


def test_there_is_no_page_of_no_recipe(tree):
    root, params = tree
    record(root, params, dict.fromkeys(params.recipes, "full"))
    with pytest.raises(UserError, match=r"nothing to report: .* other values of scale"):
        render(params, root)
