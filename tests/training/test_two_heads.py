import copy
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, Features, Image, Value
from torch.nn import functional

from src import models, tasks
from src.inference.generate import base_of, classify
from src.schema import Classifier
from src.training import losses, trainer
from src.training.collator import IGNORED, PromptPool, foretell
from src.training.load import collator_of
from tests.conftest import LABELS

CLASSES = ["entailment", "not entailment"]


@pytest.fixture(scope="module")
def recipe(params):
    return params.recipes["esnlive_qwen2vl"]


@pytest.fixture(scope="module")
def records(faces):
    """Pictures with a statement that is true of every second one."""
    features = Features(
        {name: Value("string") for name in ("id", "question", "label")}
        | {"answers": [Value("string")], "image": Image()}
    )
    rows = [
        {
            "id": face["id"],
            "image": face["image"],
            "question": f"The face shows {face['label' if i % 2 else 'id']}.",
            "label": CLASSES[(i + 1) % 2],
            "answers": [f"It shows {face['label']}."],
        }
        for i, face in enumerate(faces)
    ]
    return Dataset.from_list(rows, features=features)


@pytest.fixture(scope="module")
def task(recipe):
    return tasks.load(recipe, CLASSES)


@pytest.fixture(scope="module")
def collator(base, recipe, task):
    return collator_of(base, recipe, task, answers=True)


@pytest.fixture
def settings(recipe):
    return recipe.train.model_copy(
        update={"epochs": 2.0, "batch_size": 4, "evaluations": 2, "answered_each_epoch": 0}
    )


def two_heads(base, recipe, seed=0):
    torch.manual_seed(seed)
    return models.add_lora(models.load_base(base, recipe, classes=2), recipe.lora)


def test_the_classifier_stays_out_of_four_bits_and_in_full_precision(base, recipe):
    half = recipe.model_copy(update={"precision": "bf16"})
    model = base_of(two_heads(base, half))
    for module in model.classifier.modules():
        if isinstance(module, torch.nn.Linear):
            assert type(module) is torch.nn.Linear
            assert module.weight.dtype == torch.float32
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert any("classifier" in name for name in trained)
    assert all("lora_" in name or "classifier" in name for name in trained)
    assert not any("visual" in name for name in trained)


def test_one_forward_pass_feeds_both_heads(base, recipe, collator, records):
    model = two_heads(base, recipe).eval()
    batch = collator([records[i] for i in range(4)])
    passes = []
    handle = base_of(model).model.language_model.register_forward_hook(lambda *_: passes.append(1))
    said = foretell(model, batch, classify=True)
    handle.remove()
    assert len(passes) == 1
    assert said.class_logits.shape == (4, 2)
    alone = foretell(model, batch)
    torch.testing.assert_close(said.logits, alone.logits)


def test_the_class_is_read_before_the_explanation_and_hangs_on_picture_and_hypothesis(
    base, recipe, collator, records
):
    model = two_heads(base, recipe).eval()
    rows = [records[i] for i in range(4)]
    found = classify(model, collator, rows, batch_size=4)
    torch.testing.assert_close(
        torch.from_numpy(found), foretell(model, collator(rows), classify=True).class_logits
    )
    others = [row | {"answers": ["Something else altogether."]} for row in rows]
    again = foretell(model, collator(others), classify=True).class_logits
    torch.testing.assert_close(torch.from_numpy(found), again)
    for change in ({"image": records[5]["image"]}, {"question": "It rains."}):
        moved = classify(model, collator, [row | change for row in rows], batch_size=4)
        assert abs(moved - found).max() > 1e-4, change


def test_batch_size_changes_no_class_logit(base, recipe, collator, records):
    model = two_heads(base, recipe).eval()
    rows = [records[i] | {"question": "Really? " * (i + 1)} for i in range(5)]
    alone, together = (classify(model, collator, rows, batch_size=n) for n in (1, 5))
    torch.testing.assert_close(torch.from_numpy(alone), torch.from_numpy(together))


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_loss_is_the_weighted_sum_of_both(base, recipe, collator, records, weight):
    model = two_heads(base, recipe).eval()
    batch = collator([records[i] for i in range(6)])
    loss = losses.JointLoss()
    loss.class_weight = weight
    found = loss.compute_loss(model, batch)
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "class_labels")}
    with torch.no_grad():
        full = model(**inputs).logits
    labels = batch["labels"]
    text = functional.cross_entropy(
        full[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
    )
    classes = functional.cross_entropy(
        torch.from_numpy(classify(model, collator, [records[i] for i in range(6)], 6)),
        batch["class_labels"],
    )
    torch.testing.assert_close(found, weight * classes + (1 - weight) * text)


def test_an_example_of_a_step_weighs_the_same_in_whatever_batch_it_comes(
    base, recipe, collator, records
):
    model = two_heads(base, recipe).eval()
    step = losses.JointLoss()
    step.accelerator = SimpleNamespace(num_processes=1)
    step.own = torch.tensor(5.0)
    batches = [collator([records[i] for i in part]) for part in ((0, 1, 2, 3), (4,))]
    tokens = sum((batch["labels"] != IGNORED).sum() for batch in batches)
    found = sum(step.compute_loss(model, batch, num_items_in_batch=tokens) for batch in batches)
    together = collator([records[i] for i in range(5)])
    torch.testing.assert_close(found, losses.JointLoss().compute_loss(model, together))


def test_both_heads_learn_and_survive_saving_and_loading(
    base, recipe, collator, records, settings, tmp_path
):
    model = two_heads(base, recipe)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    log = trainer.train(
        model, collator, records, records, settings, tmp_path / "c", seed=1, class_weight=0.5
    )
    assert "eval_accuracy" in log[-2] or any("eval_accuracy" in entry for entry in log)
    for name, parameter in model.named_parameters():
        trained = "lora_" in name or "modules_to_save" in name
        assert torch.equal(parameter, before[name]) != trained, name
    model.eval()
    rows = [records[i] for i in range(12)]
    expected = classify(model, collator, rows, batch_size=4)
    with torch.no_grad():
        text = foretell(model, collator(rows)).logits
    model.save_pretrained(tmp_path / "adapter")
    loaded = models.load_tuned(base, tmp_path / "adapter", recipe)
    torch.testing.assert_close(
        torch.from_numpy(classify(loaded, collator, rows, batch_size=4)),
        torch.from_numpy(expected),
        rtol=0,
        atol=0,
    )
    with torch.no_grad():
        again = foretell(loaded, collator(rows)).logits
    torch.testing.assert_close(again, text, rtol=0, atol=0)


def test_a_head_without_its_weights_is_refused(base, recipe, tmp_path):
    from safetensors.torch import load_file, save_file

    from src.errors import UserError

    two_heads(base, recipe).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    kept = {n: w for n, w in weights.items() if not n.endswith("classifier.weight")}
    save_file(kept, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"classifier.weight. is missing"):
        models.load_tuned(base, tmp_path, recipe)


def test_a_killed_joint_training_goes_on_to_the_same_weights(
    base, recipe, collator, records, settings, tmp_path
):
    class KilledError(Exception):
        pass

    class Kill(trainer.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                raise KilledError

    def run(folder, *callbacks):
        model = two_heads(base, recipe)
        pooled = copy.copy(collator)
        pooled.pool = PromptPool(tasks.load_pool(recipe, CLASSES), seed=1)
        torch.manual_seed(3)
        trainer.train(
            model, pooled, records, records, settings, folder, seed=1,
            eval_collator=collator, class_weight=0.5, callbacks=callbacks,
        )  # fmt: skip
        return {n: p for n, p in model.named_parameters() if p.requires_grad}

    whole = run(tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tmp_path / "killed", Kill())
    resumed = run(tmp_path / "killed")
    for name, parameter in whole.items():
        assert torch.equal(parameter, resumed[name]), name


def test_a_prompt_is_drawn_for_each_example_and_epoch(base, recipe, task, records):
    pool = PromptPool(tasks.load_pool(recipe, CLASSES), seed=1)
    collator = collator_of(base, recipe, task, answers=True, pool=pool)
    rows = [records[i] for i in range(12)]

    def prompts():
        return [collator.prompt(row) for row in rows]

    first = prompts()
    assert prompts() == first
    assert len({text.replace(row["question"], "") for text, row in zip(first, rows)}) > 2  # noqa: B905
    pool.epoch = 1
    assert prompts() != first
    pool.epoch = 0
    assert prompts() == first
    fixed = collator_of(base, recipe, task, answers=True)
    asked = {fixed.prompt(row).replace(row["question"], "") for row in rows}
    assert len(asked) == 1


def test_validation_is_asked_the_fixed_prompt_and_training_the_pool(
    base, recipe, collator, records, settings, tmp_path
):
    asked_pool, asked_fixed = [], []

    class Noting(PromptPool):
        def __call__(self, record):
            asked_pool.append(self.epoch)
            return super().__call__(record)

    class Fixed(PromptPool):
        def __call__(self, record):
            asked_fixed.append(record["id"])
            return super().__call__(record)

    pooled, fixed = copy.copy(collator), copy.copy(collator)
    pooled.pool = Noting(tasks.load_pool(recipe, CLASSES), seed=1)
    fixed.pool = Fixed([collator.task], seed=1)
    trainer.train(
        two_heads(base, recipe), pooled, records, records, settings, tmp_path, seed=1,
        eval_collator=fixed, class_weight=0.5,
    )  # fmt: skip
    assert sorted(set(asked_pool)) == [0, 1]
    first, *others = Counter(asked_fixed).most_common()
    assert len(others) == 11
    assert {count for _, count in others} == {2}, "lengths, and one pass over the validation"
    assert first[1] in (2, 4), "the first also says how many tokens a picture has, where none did"


def test_without_a_second_head_the_classes_are_left_alone(base, recipe, collator, records):
    batch = collator([records[i] for i in range(2)])
    assert batch["class_labels"].tolist() == [CLASSES.index(records[i]["label"]) for i in range(2)]
    model = models.add_lora(models.load_base(base, recipe), recipe.lora)
    assert torch.isfinite(losses.AnswerLoss().compute_loss(model, batch))


def test_another_family_with_a_second_head_is_refused(params):
    from pydantic import ValidationError

    from src.schema import Params

    recipe = params.recipes["emotion_llava"].model_copy(
        update={"classifier": Classifier(weight=0.5)}
    )
    values = params.model_dump() | {"recipes": {"emotion_llava": recipe.model_dump()}}
    with pytest.raises(ValidationError, match="llava has no second head"):
        Params.model_validate(values)
    assert LABELS
