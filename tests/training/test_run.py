from src.training.run import checkpoint_folder, write_curve


def test_checkpoints_of_other_weights_settings_or_seeds_are_not_gone_on_from(recipe):
    first = checkpoint_folder(recipe, 1, {"base": "one"})
    assert checkpoint_folder(recipe, 1, {"base": "one"}) == first
    other = recipe.model_copy(update={"family": "another"})
    assert checkpoint_folder(other, 1, {"base": "one"}) != first
    assert checkpoint_folder(recipe, 2, {"base": "one"}) != first
    assert checkpoint_folder(recipe, 1, {"base": "two"}) != first


def test_checkpoints_lie_where_dvc_was_started(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert checkpoint_folder(recipe, 1, {}).is_relative_to(tmp_path / ".checkpoints")


def test_a_curve_has_a_row_a_loss(tmp_path):
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "eval_loss": 1.5}, {"step": 2, "train_loss": 9.0}]
    write_curve(log, tmp_path / "loss.csv")
    expected = "step,split,loss\n1,train,2.0\n2,validation,1.5\n"
    assert (tmp_path / "loss.csv").read_text() == expected
