import hashlib
import random
import shutil
from itertools import chain

import pytest
import torch
from bitsandbytes.optim.optimizer import Optimizer8bit
from datasets import Dataset, Features, Image, Value
from torch.nn import functional
from transformers import TrainerCallback, TrainerState

from src import models
from src.errors import UserError
from src.families import qwen2_vl
from src.inference.generate import generate
from src.training import losses, trainer
from src.training.callbacks import StopOnBadLoss
from src.training.collator import IGNORED, Collator, foretell
from src.training.pretrain import EXAM, PretrainTrainer
from src.training.run import kept_evaluation
from src.training.sampler import ByLength


@pytest.fixture
def collator(processor, task):
    return Collator(processor, qwen2_vl, task, answers=True)


@pytest.fixture(scope="module")
def records(faces):
    features = Features({"id": Value("string"), "image": Image(), "label": Value("string")})
    return Dataset.from_list(faces, features=features)


@pytest.fixture
def settings(recipe):
    return recipe.train.model_copy(
        update={"epochs": 2.0, "batch_size": 4, "evaluations": 2, "learning_rate": 0.01}
    )


def adapter(base, recipe):
    torch.manual_seed(0)
    return models.add_lora(models.load_base(base, recipe), recipe.lora)


def digest(model, folder):
    model.save_pretrained(folder)
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_the_loss_is_that_of_the_answer_tokens_over_full_logits(architecture, questions, faces):
    model = architecture.tuned().eval()
    batch = architecture.collator(questions, answers=True)(faces)
    found = losses.AnswerLoss().compute_loss(model, batch)
    labels = batch.pop("labels")
    logits = model(**batch).logits
    if not architecture.encoder_decoder:
        logits, labels = logits[:, :-1], labels[:, 1:]
    expected = functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED
    )
    torch.testing.assert_close(found, expected)


def test_logits_are_made_for_answer_positions_alone(architecture, questions, faces):
    batch = architecture.collator(questions, answers=True)(faces)
    said = foretell(architecture.tuned(), batch)
    count = int((batch["labels"] != IGNORED).sum())
    assert len(said.logits) == len(said.targets) == int(said.answered.sum()) == count


def test_too_little_memory_is_one_line_that_says_what_to_change(
    base, recipe, collator, records, settings, tmp_path
):
    def fill(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model = adapter(base, recipe)
    model.get_base_model().register_forward_pre_hook(fill)
    with pytest.raises(UserError, match="too small for a batch_size of 4; set gradient_ch"):
        trainer.train(model, collator, records, records, settings, tmp_path, seed=1)


def test_training_moves_every_adapter_weight_and_no_other(
    architecture, questions, records, settings, tmp_path
):
    model = adapter(architecture.base, architecture.recipe)
    collator = architecture.collator(questions, answers=True)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainer.train(model, collator, records, records, settings, tmp_path, seed=1)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == ("lora_" not in name), name


def test_the_adapter_is_kept_in_fp32_and_computes_in_the_precision_of_the_recipe(
    architecture, questions, records, settings, tmp_path
):
    recipe = architecture.recipe.model_copy(update={"precision": "bf16"})
    model = adapter(architecture.base, recipe)
    dtypes = set()
    for name, module in model.named_modules():
        if name.endswith("lora_A.default"):
            module.register_forward_hook(lambda m, _, out: dtypes.add((m.weight.dtype, out.dtype)))
    collator = architecture.collator(questions, answers=True)
    trainer.train(model, collator, records, records, settings, tmp_path, seed=1)
    assert dtypes == {(torch.float32, torch.bfloat16)}


def test_checkpointing_recomputes_the_language_model_and_never_differentiates_the_tower(
    base, recipe, collator, records, settings, tmp_path
):
    model = adapter(base, recipe)
    tower = qwen2_vl.vision(model.get_base_model()).blocks[0]
    layer = models.language_model(model).layers[0].self_attn
    seen, reads = [], []
    tower.register_forward_hook(lambda m, inputs, output: seen.append(output.requires_grad))
    layer.register_forward_hook(lambda m, inputs, output: reads.append(m.training))
    one_step = settings.model_copy(
        update={"gradient_checkpointing": True, "max_steps": 1, "evaluations": 1}
    )
    trainer.train(model, collator, records, records, one_step, tmp_path, seed=1)
    assert seen
    assert not any(seen)
    assert reads.count(True) == 2, "forward, and again for the backward pass"


@pytest.mark.parametrize("evaluations", [1, 2])
def test_the_log_holds_training_and_validation_losses(
    base, recipe, collator, records, settings, tmp_path, evaluations
):
    settings = settings.model_copy(update={"evaluations": evaluations})
    log = trainer.train(
        adapter(base, recipe), collator, records, records, settings, tmp_path, seed=1
    )
    validation = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert len(validation) == settings.evaluations
    assert [entry["step"] for entry in log if "loss" in entry]


def test_no_time_is_spent_on_counting_operations(
    base, recipe, collator, records, settings, tmp_path
):
    once = settings.model_copy(update={"max_steps": 1, "evaluations": 1})
    log = trainer.train(adapter(base, recipe), collator, records, records, once, tmp_path, seed=1)
    assert log[-1]["total_flos"] == 0


def test_the_best_checkpoint_is_kept(base, recipe, collator, records, settings, tmp_path):
    harmful = settings.model_copy(
        update={"learning_rate": 30.0, "schedule": "constant", "epochs": 8.0, "evaluations": 8}
    )
    model = adapter(base, recipe)
    log = trainer.train(model, collator, records, records, harmful, tmp_path, seed=1)
    found = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert found[-1] != min(found), "the last checkpoint is the best: this tests nothing"
    with torch.no_grad():
        kept = losses.AnswerLoss().compute_loss(model.eval(), collator(list(records)))
    assert kept.item() == pytest.approx(min(found), rel=1e-4)
    assert kept_evaluation(log, "loss")["loss"] == pytest.approx(kept.item(), rel=1e-4)


def test_a_best_checkpoint_that_is_gone_ends_the_run(
    base, recipe, collator, records, settings, tmp_path
):
    """Or the last weights would pass for the best: the trainer only logs it."""
    model = adapter(base, recipe)
    harmful = settings.model_copy(
        update={"learning_rate": 10.0, "schedule": "constant", "epochs": 4.0, "evaluations": 4}
    )

    class Remove(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            shutil.rmtree(state.best_model_checkpoint, ignore_errors=True)

    asked = trainer.arguments(harmful, tmp_path, model, seed=1)
    with pytest.raises(UserError, match=f"{tmp_path}: the checkpoint of the best valid") as fault:
        trainer.fit(model, collator, records, records, asked, callbacks=[Remove()])
    # What goes on from those that are left does not know of the best any more.
    with pytest.raises(UserError) as again:
        trainer.fit(adapter(base, recipe), collator, records, records, asked)
    assert str(again.value) == str(fault.value)


def test_the_measured_accuracy_is_that_of_greedy_decoding(
    architecture, questions, records, settings, tmp_path
):
    model = adapter(architecture.base, architecture.recipe)
    collator = architecture.collator(questions, answers=True)
    # Most of them the same, which is soon learnt.
    joyful = [r | {"label": "Joy" if i < 9 else r["label"]} for i, r in enumerate(records)]
    records = Dataset.from_list(joyful, features=records.features)
    rate = 0.005 if architecture.encoder_decoder else 0.02
    longer = settings.model_copy(
        update={"epochs": 20.0, "evaluations": 4, "select_by": "accuracy", "learning_rate": rate}
    )
    log = trainer.train(model, collator, records, records, longer, tmp_path, seed=1)
    measured = [entry["eval_accuracy"] for entry in log if "eval_accuracy" in entry]
    prompts = architecture.collator(questions, answers=False)
    texts = generate(model.eval(), prompts, records, EXAM, batch_size=4).texts
    right = sum(t == r["label"] for t, r in zip(texts, records, strict=True)) / len(records)
    assert right == pytest.approx(max(measured))
    assert kept_evaluation(log, "accuracy")["accuracy"] == pytest.approx(right, abs=1e-6)
    assert 0 < right < 1, "a model that is never right or never wrong tests nothing"


def test_by_accuracy_each_improvement_leaves_a_checkpoint_and_nothing_else_does(
    base, recipe, collator, records, settings, tmp_path
):
    by_accuracy = settings.model_copy(
        update={"select_by": "accuracy", "epochs": 8.0, "evaluations": 8}
    )
    model = adapter(base, recipe)
    log = trainer.train(model, collator, records, records, by_accuracy, tmp_path, seed=1)
    improved, best = [], -1.0
    for entry in log:
        if entry.get("eval_accuracy", -1.0) > best:
            best = entry["eval_accuracy"]
            improved.append(f"checkpoint-{int(entry['step'])}")
    assert 0 < len(improved) < 8, "all or none of them tests nothing"
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == set(improved)
    kept = tmp_path / f"checkpoint-{kept_evaluation(log, 'accuracy')['step']}"
    weights = (kept / "adapter_model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == digest(model, tmp_path / "adapter")


def test_measuring_validation_changes_no_weight(
    base, recipe, collator, records, settings, tmp_path
):
    digests = set()
    for evaluations in (1, 6):
        model = adapter(base, recipe)
        more = settings.model_copy(update={"evaluations": evaluations, "schedule": "constant"})
        folder = tmp_path / str(evaluations)
        arguments = trainer.arguments(more, folder, model, seed=1)
        arguments.load_best_model_at_end = False
        trainer.fit(model, collator, records, records, arguments)
        digests.add(digest(model, folder / "adapter"))
    assert len(digests) == 1


def test_an_example_that_does_not_fit_is_refused_with_the_length_it_needs(
    base, recipe, collator, records, settings, tmp_path
):
    short = settings.model_copy(update={"max_length": 20})
    needed = max(collator([record])["input_ids"].shape[1] for record in records)
    with pytest.raises(UserError, match=r"train record 0.png: .* are (\d+) tokens") as caught:
        trainer.train(adapter(base, recipe), collator, records, records, short, tmp_path, seed=1)
    assert "max_length is 20; raise it to" in str(caught.value)
    assert "train.max_length" not in str(caught.value)
    exact = settings.model_copy(update={"max_length": needed})
    trainer.check_lengths(collator, records, exact.max_length, "train")
    with pytest.raises(UserError):
        trainer.check_lengths(collator, records, needed - 1, "train")


def test_a_loss_that_is_no_number_ends_the_run(base, recipe, collator, records, settings, tmp_path):
    model = adapter(base, recipe)
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_A" in n).fill_(float("nan"))
    with pytest.raises(UserError, match="loss is nan"):
        trainer.train(model, collator, records, records, settings, tmp_path, seed=1)


def test_a_validation_loss_that_is_no_number_ends_it_too():
    state, log = TrainerState(global_step=5), {"eval_loss": float("nan"), "eval_accuracy": 0.5}
    with pytest.raises(UserError, match="the validation loss is nan at step 5"):
        StopOnBadLoss().on_log(None, state, None, log)


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    for step, state in ((5, '{"global_step": 5}'), (10, '{"global_step"'), (15, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert trainer.last_whole_checkpoint(tmp_path).name == "checkpoint-5"


def test_what_was_paged_when_it_was_written_is_not_when_it_is_read(
    base, recipe, collator, records, settings, tmp_path
):
    settings = settings.model_copy(update={"optimizer": "paged_adamw_32bit"})
    digests = []
    for part in ("whole", "resumed"):
        model = adapter(base, recipe)
        trainer.train(model, collator, records, records, settings, tmp_path, seed=1)
        digests.append(digest(model, tmp_path / part))
        first, last = sorted(tmp_path.glob("checkpoint-*"), key=lambda c: int(c.name[11:]))
        shutil.rmtree(last)
        state = torch.load(first / "optimizer.pt", weights_only=True)
        for known in state["state"].values():
            moments = known[Optimizer8bit._FSDP_WRAPPED_QUANT_STATE_KEY]
            for name in ("state1", "state2"):
                moments[name].is_paged = True  # as bitsandbytes marks what it pages on a GPU
        torch.save(state, first / "optimizer.pt")
    assert digests[0] == digests[1]


@pytest.mark.parametrize("optimizer", ["paged_adamw_32bit", "adamw_torch_fused"])
def test_a_resumed_run_logs_the_losses_of_a_whole_one(
    base, recipe, collator, records, settings, optimizer, tmp_path
):
    settings = settings.model_copy(update={"optimizer": optimizer})

    def run(folder, *callbacks):
        torch.manual_seed(0)
        model = adapter(base, recipe)
        asked = trainer.arguments(settings, folder, model, seed=1)
        asked.max_steps, asked.logging_steps, asked.eval_steps, asked.save_steps = 8, 3, 4, 4
        log = trainer.fit(model, collator, records, records, asked, callbacks=callbacks)
        return [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]

    whole = run(tmp_path / "whole")
    assert [step for step, _ in whole] == [3, 4, 6, 8]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", Stop(4))
    assert run(tmp_path / "killed") == whole


@pytest.mark.parametrize("select_by", ["loss", "accuracy"])
def test_a_resumed_run_tells_of_the_checkpoint_that_a_whole_one_keeps(
    base, recipe, collator, records, settings, tmp_path, select_by
):
    harmful = settings.model_copy(
        update={
            "select_by": select_by,
            "learning_rate": 10.0,
            "schedule": "constant",
            "epochs": 4.0,
            "evaluations": 4,
        }
    )

    def run(folder, *callbacks):
        model = adapter(base, recipe)
        more = {"callbacks": callbacks}
        log = trainer.train(model, collator, records, records, harmful, folder, seed=1, **more)
        return digest(model, folder / "adapter"), kept_evaluation(log, select_by)

    whole = run(tmp_path / "whole")
    step = whole[1]["step"]
    assert step < 12, "the last checkpoint is the best: this tests nothing"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", Stop(step))
    assert run(tmp_path / "stopped") == whole


def test_a_list_of_examples_will_do(base, recipe, collator, records, settings, tmp_path):
    # As the build stage has them.
    model = adapter(base, recipe)
    arguments = trainer.arguments(settings, tmp_path, model, seed=1)
    arguments.max_steps, arguments.eval_strategy = 1, "no"
    arguments.save_strategy, arguments.load_best_model_at_end = "no", False
    by_answers = PretrainTrainer(model, arguments, collator, train_dataset=list(records))
    assert by_answers.train().global_step == 1


class Stop(TrainerCallback):
    """Ends the run behind a step, as a kill does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_save(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_batches_by_length_come_in_another_order_each_epoch_and_again_after_a_stop(
    base, recipe, processor, task, collator, records, settings, tmp_path
):
    grouped = settings.model_copy(update={"group_by_length": True, "epochs": 4.0, "evaluations": 4})
    asked = []

    class Noting(Collator):
        def __call__(self, batch):
            asked.append([record["id"] for record in batch])
            return super().__call__(batch)

    noting = Noting(processor, qwen2_vl, task, answers=True)

    def run(folder, *callbacks):
        asked.clear()
        model = adapter(base, recipe)
        more = {"eval_collator": collator, "callbacks": callbacks}
        trainer.train(model, noting, records, records, grouped, folder, seed=1, **more)
        return digest(model, folder / "adapter")

    whole = run(tmp_path / "whole")
    epochs = [asked[i : i + 3] for i in range(0, len(asked), 3)]
    assert [sorted(chain(*epoch)) for epoch in epochs] == [sorted(records["id"])] * 4
    assert len({str(epoch) for epoch in epochs}) == 4
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", Stop(6))
    assert run(tmp_path / "stopped") == whole
    assert asked == list(chain(*epochs[2:]))


def test_batches_by_length_need_little_padding():
    rng = random.Random(0)
    lengths = [rng.randint(20, 100) for _ in range(130)]

    def padded(order) -> int:
        return sum(max(lengths[i] for i in order[at : at + 4]) * 4 for at in range(0, 130, 4))

    order = list(ByLength(1, 4, lengths=lengths))
    assert sorted(order) == list(range(130))
    assert padded(order) < 1.15 * sum(lengths) < 1.25 * sum(lengths) < padded(range(130))
