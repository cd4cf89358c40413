import subprocess
import sys

import pytest

from src import config
from stages import report
from tests.report import fake_tree


@pytest.fixture
def repository(tmp_path, monkeypatch):
    text = config.PARAMS.read_text(encoding="utf-8")
    fake_tree.write_tree(tmp_path, config.load())
    (tmp_path / config.PARAMS).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_writes_one_page_with_every_recipe(repository):
    report.main()
    page = (repository / report.PAGE).read_text(encoding="utf-8")
    for recipe in config.load().recipes:
        assert f"<code>{recipe}</code></h2>" in page
    assert {p.name for p in (repository / "reports").iterdir()} == {"gradcam", "index.html"}


def test_a_missing_input_is_one_line_and_leaves_no_page(repository):
    (repository / "metrics" / fake_tree.CLASSES / "loss.csv").unlink()
    with pytest.raises(SystemExit) as stopped:
        report.main()
    assert str(stopped.value).startswith("error: metrics/emotion_qwen2vl/loss.csv: not found; run")
    assert "\n" not in str(stopped.value)
    assert not (repository / report.PAGE).exists()


def test_half_a_surrogate_pair_is_written(repository):
    gallery = repository / "reports/gradcam" / fake_tree.CLASSES / "gallery.json"
    gallery.write_text(gallery.read_text().replace('"test-0000"', '"\\ud800"'))
    report.main()
    assert b"of example ?" in (repository / report.PAGE).read_bytes()


def test_imports_no_torch():
    script = "import stages.report, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
