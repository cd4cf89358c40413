"""Steps and operations, against the trainer and PyTorch's own count."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import Trainer, TrainingArguments

from src import config, cpu
from src.models import load_config
from src.planning import duration
from src.planning.lengths import Lengths
from src.planning.published import Examples
from src.planning.skeleton import skeleton
from src.training.collator import foretell
from tests.conftest import ROOT


class Numbers(Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"x": torch.ones(1)}


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def forward(self, x):
        return {"loss": self.line(x).mean()}


@pytest.mark.parametrize(
    ("examples", "batch", "accumulation", "epochs", "most"),
    [(10, 4, 1, 2.0, None), (10, 1, 4, 3.0, None), (9, 2, 2, 1.5, None), (40, 4, 1, 1.0, 3)],
)
def test_steps_are_those_of_the_trainer(
    examples, batch, accumulation, epochs, most, tmp_path, params
):
    training = params.recipes["emotion_qwen2vl"].train.model_copy(
        update={
            "batch_size": batch,
            "gradient_accumulation": accumulation,
            "epochs": epochs,
            "max_steps": most,
        }
    )
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs,
        max_steps=most or -1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(Line(), arguments, train_dataset=Numbers(examples))
    trainer.train()
    assert trainer.state.global_step == duration.optimizer_steps(training, examples)


def test_operations_are_those_that_pytorch_counts(
    architecture, questions, faces, monkeypatch, unspared
):
    # The counter knows PyTorch's own products alone.
    monkeypatch.setattr(cpu, "optimize", lambda *_, **__: None)
    quantization = architecture.recipe.quantization.model_copy(update={"bits": 16})
    recipe = architecture.recipe.model_copy(update={"quantization": quantization})
    architecture = replace(architecture, recipe=recipe)
    batch = architecture.collator(questions, answers=True)([faces[3]] * 4)
    apart = "decoder_input_ids" in batch
    answer = int((batch["labels"][0] != -100).sum())
    prompt = batch["input_ids"].shape[1] - (0 if apart else answer)
    made = skeleton(load_config(architecture.base), architecture.recipe)
    one = duration.work(
        made,
        load_config(architecture.base),
        architecture.recipe,
        Lengths(0, prompt, answer, 0, 0, patches=0),
    )
    model = architecture.tuned().train()
    with FlopCounterMode(model, display=False) as counter:
        foretell(model, batch).logits.sum().backward()
    counted = sum(
        sum(ops.values())
        for name, ops in counter.get_flop_counts().items()
        if name.endswith("language_model")
    )
    # The head of Qwen2-VL and LLaVA stands beside their language model.
    head = one.head if hasattr(made.language_model, "lm_head") else 0
    expected = 4 * duration.training_operations(replace(one, head=head), False)
    assert expected == pytest.approx(counted, rel=0.12)


def test_splits_are_those_of_prepare():
    full = config.at_scale(ROOT / "params.yaml", "full")
    faces = duration.splits(Examples(758, test=75), full.data["autism_faces"])
    assert (faces.train, faces.validation, faces.test) == (682, 76, 75)
    fer = duration.splits(Examples(35_887), full.data["fer"])
    assert (fer.train, fer.validation, fer.test) == pytest.approx((28_710, 3589, 3589), abs=5)
    limited = full.data["abo"].model_copy(update={"limit": 100})
    abo = duration.splits(Examples(5600, pictures=1000), limited)
    assert sum(vars(abo).values()) == 560


def test_checkpointing_is_half_as_much_again_but_for_head_and_tower():
    shape = {"tower": 5, "features": 0, "token": 1, "layers": 2, "moved": 1}
    one = duration.Work(text=100, adapter=4, head=10, encoder=False, **shape)
    assert duration.training_operations(one, False) == 229
    assert duration.training_operations(one, True) == 329


def test_a_tower_whose_features_are_kept_is_paid_once(base, recipe):
    configuration, lengths = load_config(base), Lengths(4, 60, 5, 6, 3, patches=16)
    made = skeleton(configuration, recipe)
    kept, live = (
        duration.work(
            made, configuration, recipe.model_copy(update={"vision_features": way}), lengths
        )
        for way in ("cached", "live")
    )
    assert (kept.tower, kept.features) == (0, live.tower)
    assert live.tower > 0 and live.features == 0
    saved = duration.training_operations(live, False) - duration.training_operations(kept, False)
    assert saved == live.tower
    assert duration.encoding_seconds(kept, 10) == 10 * duration.encoding_seconds(kept, 1) > 0
    assert duration.encoding_seconds(live, 10) == 0
