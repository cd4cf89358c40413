"""The stages that predict and measure, with stand-ins for a model and its metrics."""

import weakref
from importlib import import_module
from types import SimpleNamespace

import pandas as pd
import pytest
from torch import nn


@pytest.mark.parametrize("name", ["baseline", "evaluate"])
def test_the_model_has_left_the_memory_before_metrics_are_computed(
    name, params, tmp_path, monkeypatch
):
    stage, alive = import_module(f"stages.{name}"), []
    monkeypatch.chdir(tmp_path)

    def load(*_, **__):
        model = nn.Linear(1, 1)
        model.itself = [model]  # as hooks refer to what they hang on
        alive.append(weakref.ref(model))
        return model

    def summarise(*_):
        assert alive[0]() is None
        return {"n": 1}

    measure = SimpleNamespace(
        ready=lambda *_: None, summarise=summarise, gains=lambda *_: {}, plots=lambda *_: {}
    )
    stand_ins = {
        "load_base": load,
        "load_tuned": load,
        "check_records": lambda *_: None,
        "opened": lambda *_: None,
        "predict": lambda *_: pd.DataFrame(),
        "read_labels": lambda *_: None,
    }
    for part, stand_in in stand_ins.items():
        monkeypatch.setattr(stage, part, stand_in, raising=False)
    monkeypatch.setattr(stage.metrics, "load", lambda *_: measure)
    monkeypatch.setattr(pd, "read_parquet", lambda *_: pd.DataFrame())
    monkeypatch.setattr(stage.recorded, "check", lambda *_: None)
    stage.predict_and_measure(params, params.recipes["vqa_blip2"], "")
    assert len(alive) == 1
