import subprocess

import pytest

from src.ablation.snapshot import digest, take
from src.errors import UserError

FILES = {
    "params.yaml": "rate: 1\nother: 1\nseed: 1\n",
    "dvc.yaml": """
stages:
  fetch: {cmd: bring, deps: [src/fetch.py], params: [seed], outs: [data]}
  train: {cmd: learn, deps: [src/train, data], params: [rate], outs: [adapter]}
  evaluate: {cmd: measure, deps: [adapter], outs: [numbers]}
  report: {cmd: show, deps: [src/report.py, numbers], params: [other], outs: [page]}
""",
    "dvc.lock": """
schema: '2.0'
stages:
  fetch:
    cmd: bring
    outs: [{path: data, md5: aaaa1111111111111111111111111111}]
  train:
    cmd: learn
    outs: [{path: adapter, md5: bbbb2222222222222222222222222222}]
""",
    "src/fetch.py": "1",
    "src/train/loop.py": "1",
    "src/report.py": "1",
}


@pytest.fixture
def root(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "."]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def digested(root, **overrides):
    return digest(take(root), "evaluate", overrides)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("params.yaml", "rate: 1", "rate: 2"),
        ("params.yaml", "seed: 1", "seed: 2"),
        ("src/fetch.py", "1", "2"),
        ("src/train/loop.py", "1", "2"),
        ("dvc.yaml", "cmd: learn", "cmd: learn more"),
        ("dvc.lock", "aaaa", "cccc"),  # other data were brought
    ],
)
def test_what_a_stage_on_the_way_hangs_on_changes_the_digest(root, file, old, new):
    before = digested(root)
    (root / file).write_text(FILES[file].replace(old, new))
    assert digested(root) != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("params.yaml", "other: 1", "other: 2"),
        ("src/report.py", "1", "2"),
        ("dvc.yaml", "cmd: show", "cmd: show more"),
        ("dvc.lock", "bbbb", "cccc"),  # what the stages make of it is theirs
    ],
)
def test_what_comes_after_or_beside_does_not(root, file, old, new):
    before = digested(root)
    (root / file).write_text(FILES[file].replace(old, new))
    assert digested(root) == before


def test_an_override_gives_the_digest_that_the_same_edit_gives(root):
    before, changed = digested(root), digested(root, rate=2)
    assert changed != before
    (root / "params.yaml").write_text(FILES["params.yaml"].replace("rate: 1", "rate: 2"))
    assert digested(root) == changed
    assert digested(root, other=2) == changed


def test_a_file_that_was_touched_and_is_the_same_is_no_change(root):
    head = take(root)
    (root / "src/fetch.py").write_text("2")
    assert take(root).tree != head.tree
    (root / "src/fetch.py").write_text("1")
    assert take(root) == head


def test_a_folder_without_a_commit_is_one_line(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    with pytest.raises(UserError) as fault:
        take(tmp_path)
    assert str(fault.value).startswith("git rev-parse HEAD: ")
