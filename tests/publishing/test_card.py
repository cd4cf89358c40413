import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from src import config
from src.files import write_json
from src.publishing import card
from src.publishing.trained import gather
from tests.publishing.workspace import COMMIT, HUB_BASE, change_source, edit, edit_data

NAME = "emotion_qwen2vl"


def shown(address="someone/model", licence=None, merged=False):
    return card.of(gather(config.load(), NAME), address, licence, merged)


@pytest.fixture
def hub_base(here):
    manifest = {"id": HUB_BASE, "revision": COMMIT}
    write_json(here / "models/base/qwen2_vl/manifest.json", manifest)
    return here


def test_machines_read_every_number_with_base_gain_and_intervals(hub_base):
    trained = gather(config.load(), NAME)
    tuned, base = trained.metrics["tuned"], trained.metrics["base"]
    read = ModelCard(str(shown())).data.to_dict()
    assert read["base_model"] == HUB_BASE
    assert (read["library_name"], read["base_model_relation"]) == ("peft", "adapter")
    assert read["pipeline_tag"] == "image-text-to-text"
    name, results = model_index_to_eval_results(read["model-index"])
    assert name == "model"
    assert {r.metric_type: r.metric_value for r in results} == {m: tuned[m] for m in tuned["gain"]}
    accuracy = next(r for r in results if r.metric_type == "accuracy")
    assert accuracy.metric_args["interval"] == tuned["interval"]["accuracy"]
    assert accuracy.metric_args["gain"] == tuned["gain"]["accuracy"]
    assert accuracy.metric_args["base"] == base["accuracy"]
    assert accuracy.dataset_split == "test"


def test_people_read_base_tuned_and_gain_with_their_intervals(hub_base):
    text = shown().text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    row = next(line for line in text.splitlines() if line.startswith("| Accuracy |"))
    tuned = gather(config.load(), NAME).metrics["tuned"]
    accuracy, own, gain = (
        tuned["accuracy"],
        tuned["interval"]["accuracy"],
        tuned["gain"]["accuracy"],
    )
    assert f"{accuracy:.1%} ({own['low']:.1%} to {own['high']:.1%})".replace("%", " %") in row
    points = [f"{100 * gain[key]:+.1f} pp" for key in ("value", "low", "high")]
    assert "{} ({} to {})".format(*points) in row
    assert f"On {tuned['n']} test examples" in text
    chance, most = (f"{tuned[key]:.1%}".replace("%", " %") for key in ("chance", "majority"))
    assert f"Accuracy of guessing: chance {chance}, always the most frequent {most}." in text
    assert f"[{HUB_BASE}](https://huggingface.co/{HUB_BASE}) at commit `{COMMIT}`" in text
    assert f"--adapter someone/model --base {HUB_BASE}" in text
    assert "and loads the base at the commit above:" in text


def test_a_recipe_about_faces_says_what_it_must_not_be_used_for(hub_base):
    text = shown().text
    assert "**Not for diagnosis, and not for judging a person.**" in text
    for must_not in ("diagnose or screen anybody", "judge, rank, hire", "decide anything about"):
        assert must_not in text


def test_a_recipe_about_products_does_not(hub_base):
    edit(hub_base, NAME, doubt=None)
    assert "diagnos" not in shown().text


def test_drawings_are_called_drawings_and_other_data_by_source_and_licence(hub_base):
    assert "nothing about real ones" in shown().text
    assert "unknown (see the Kaggle page)" not in shown().text
    change_source(hub_base, "autism_faces", source="kaggle", dataset="someone/faces", version=3)
    text = shown().text
    assert "nothing about real ones" not in text
    assert "source kaggle, dataset someone/faces, version 3" in text
    assert "Data: unknown (see the Kaggle page)." in text
    data = shown().data.to_dict()
    assert "datasets" not in data, "that field is for data sets of the Hub"
    assert data["model-index"][0]["results"][0]["dataset"]["revision"] == "3"


def test_files_of_ones_own_do_not_bear_the_name_and_licence_of_what_is_published(hub_base):
    change_source(hub_base, "autism_faces", source="folder", folder="/home/me/faces", files=120)
    card = shown()
    text, read = str(card), card.data.to_dict()
    assert "`autism_faces`" not in text
    assert "Kaggle" not in text
    assert "The publisher's own pictures, in 120 files." in text
    assert "Data: their owner names no licence." in text
    results = read["model-index"][0]["results"]
    assert {result["dataset"]["name"] for result in results} == {"the publisher's own pictures"}
    edit_data(hub_base, "autism_faces", own_licence="CC BY 4.0")
    assert "Data: CC BY 4.0." in shown().text


def test_what_changed_since_the_training_stands_in_the_card(hub_base):
    assert "these have changed" in shown().text, "the manifest did"
    edit(hub_base, NAME, precision={"tiny": "bf16", "full": "bf16"})
    assert f"recipes.{NAME}.precision" in shown().text


def test_a_merged_model_says_that_its_numbers_are_of_the_quantized_base(hub_base):
    read = shown(merged=True)
    assert "was not measured" in read.text
    data = read.data.to_dict()
    assert "model-index" not in data
    assert (data["library_name"], data["base_model_relation"]) == ("transformers", "merge")
    edit(hub_base, NAME, quantization={"bits": 16, "type": "nf4", "double": True})
    assert "model-index" in shown(merged=True).data.to_dict()


def test_a_licence_that_is_named_stands_in_both_parts(hub_base):
    read = shown(licence="cc-by-4.0")
    assert read.data.to_dict()["license"] == "cc-by-4.0"
    assert "Published under cc-by-4.0." in read.text
    assert shown().data.to_dict()["license"] == "other"
