"""What is answered and measured after each epoch, and that it leaves no trace."""

import pytest
import torch
from datasets import Dataset, Features, Image, Value

from src import models, tasks
from src.metrics import entail_explain
from src.training import trainer
from src.training.each_epoch import AnswerEachEpoch
from src.training.load import collator_of

CLASSES = ["entailment", "not entailment"]
TEXTS = ("id", "question", "label", "group", "kind", "subgroup")
NUMBERS = ("width", "height", "brightness", "contrast", "sharpness", "faces")


@pytest.fixture(scope="module")
def recipe(params):
    chosen = params.recipes["esnlive_qwen2vl"]
    short = chosen.generation.model_copy(update={"max_new_tokens": 4})
    return chosen.model_copy(update={"generation": short})


@pytest.fixture(scope="module")
def records(faces):
    features = Features(
        {name: Value("string") for name in TEXTS}
        | {name: Value("float32") for name in NUMBERS}
        | {"answers": [Value("string")], "image": Image()}
    )
    rows = [
        dict.fromkeys(TEXTS)
        | dict.fromkeys(NUMBERS, 1.0)
        | {
            "id": face["id"],
            "group": face["id"],
            "image": face["image"],
            "question": "The face is happy.",
            "label": CLASSES[i % 2],
            "answers": ["It is, as one sees."],
        }
        for i, face in enumerate(faces)
    ]
    return Dataset.from_list(rows, features=features)


@pytest.fixture
def run(base, recipe, params, records, tmp_path):
    def train(folder: str, examples: Dataset | None):
        torch.manual_seed(0)
        model = models.add_lora(models.load_base(base, recipe, classes=2), recipe.lora)
        task = tasks.load(recipe, CLASSES)
        callbacks = []
        if examples is not None:
            evaluate = params.evaluate.model_copy(update={"bootstrap": 100})
            asked = collator_of(base, recipe, task, answers=False)
            callbacks = [AnswerEachEpoch(recipe, asked, examples, CLASSES, evaluate, 1)]
        settings = recipe.train.model_copy(
            update={"epochs": 2.0, "batch_size": 4, "evaluations": 1, "gradient_accumulation": 1}
        )
        widths = []
        reader = models.language_model(model)
        reader.register_forward_hook(
            lambda module, inputs, output: widths.append(len(output.last_hidden_state))
        )
        log = trainer.train(
            model, collator_of(base, recipe, task, answers=True), records, records, settings,
            tmp_path / folder, seed=1, class_weight=0.5, callbacks=callbacks,
        )  # fmt: skip
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        return log, trained, max(widths)

    return train


def test_each_epoch_is_measured_logged_and_printed(run, records, capsys):
    log, _, _ = run("a", records.select(range(6)))
    measured = [entry for entry in log if "answered_accuracy" in entry]
    assert [entry["epoch"] for entry in measured] == [1, 2]
    for entry in measured:
        for name in ("accuracy", "rougeL", "bleu4", "cider", "bertscore_f1_all_minilm_l6_v2"):
            assert isinstance(entry[f"answered_{name}"], float), name
    printed = capsys.readouterr()
    table = printed.out + printed.err
    assert "validation, 6 examples" in table
    assert "rougeL" in table
    assert table.count("accuracy") >= 2


def test_what_is_measured_changes_no_weight(run, records):
    (_, without, _), (_, measured, _) = run("a", None), run("b", records.select(range(6)))
    for name, parameter in without.items():
        assert torch.equal(parameter, measured[name]), name


def test_what_measuring_draws_changes_no_weight(run, records, monkeypatch):
    """As the scorer of texts does whose checkpoint lacks a layer."""
    _, without, _ = run("a", None)
    summarise = entail_explain.summarise
    draws = []

    def drawing(*given):
        draws.append(torch.rand(3))
        return summarise(*given)

    monkeypatch.setattr(entail_explain, "summarise", drawing)
    _, measured, _ = run("b", records.select(range(6)))
    assert len(draws) == 2
    for name, parameter in without.items():
        assert torch.equal(parameter, measured[name]), name


def test_more_examples_make_no_larger_batch(run, records):
    """So peak memory is that of a batch, whatever the split."""
    (_, _, few), (_, _, many) = (run(str(n), records.select(range(n))) for n in (4, 12))
    assert few == many == 4
