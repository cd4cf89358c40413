import subprocess
import sys
import tempfile
import threading
import time

import pytest
import torch

from src import gpus
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def locks(tmp_path, monkeypatch):
    """Those of this test, which takes none that a run on this machine wants."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_an_old_driver_is_named_in_one_line_and_hidden_gpus_are_none(monkeypatch, old_driver):
    assert gpus.fault().startswith(
        "torch cannot use this machine's 1 NVIDIA GPU: The NVIDIA driver"
    )
    assert "\n" not in gpus.fault()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert gpus.fault() is None


def test_the_driver_that_is_asked_for_is_that_of_the_pinned_cuda():
    """NVIDIA's table of driver versions has 580 for every 13.x; another CUDA needs another."""
    assert torch.version.cuda.startswith("13.")
    readme = (ROOT / "README.md").read_text()
    assert f"driver {gpus.DRIVER} or newer" in readme
    assert f"driver {gpus.DRIVER} on" in readme


def test_runs_beside_each_other_hold_different_gpus():
    with gpus.held(1, ["0", "1", "2"]) as first, gpus.held(2, ["0", "1", "2"]) as second:
        assert (first, second) == (["0"], ["1", "2"])
    with gpus.held(1, ["0", "1", "2"]) as again:
        assert again == ["0"]


def test_a_run_waits_until_enough_gpus_are_free_and_says_so_once(capsys):
    got = []

    def wait() -> None:
        with gpus.held(2, ["0", "1"]) as both:
            got.extend(both)

    waiting = threading.Thread(target=wait)
    with gpus.held(1, ["0", "1"]):
        waiting.start()
        time.sleep(3 * gpus.PAUSE)
        assert not got
    waiting.join(timeout=10)
    assert sorted(got) == ["0", "1"]
    assert capsys.readouterr().err.splitlines() == [
        "on GPU 0",
        "waits for 2 free GPUs of 0, 1: other runs hold them",
        "on GPU 0, 1" if got == ["0", "1"] else "on GPU 1, 0",
    ]


def test_who_waits_behind_another_that_waits_says_so_too(capsys):
    def wait() -> None:
        with gpus.held(1, ["0"]):
            pass

    waiting = [threading.Thread(target=wait) for _ in range(2)]
    with gpus.held(1, ["0"]):
        for one in waiting:
            one.start()
        time.sleep(3 * gpus.PAUSE)
    for one in waiting:
        one.join(timeout=10)
    said = capsys.readouterr().err.splitlines()
    assert said.count("waits for 1 free GPU of 0: other runs hold them") == 2
    assert said.count("on GPU 0") == 3


def test_a_killed_run_holds_nothing_any_more(locks):
    code = (
        f"import tempfile, time; tempfile.tempdir = {str(locks)!r}\n"
        "from src import gpus\n"
        "with gpus.held(1, ['0']): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with gpus.held(1, ["0", "1"]) as mine:
            assert mine == ["1"], "the other run holds 0"
        other.kill()
    with gpus.held(1, ["0", "1"]) as mine:
        assert mine == ["0"]


@pytest.mark.parametrize(
    ("chosen", "expected"), [(None, ["0", "1"]), ("3,5", ["3", "5"]), ("GPU-a,GPU-b", None)]
)
def test_gpus_have_the_names_that_cuda_was_given(monkeypatch, chosen, expected):
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    if chosen:
        monkeypatch.setenv(gpus.VISIBLE, chosen)
    assert gpus.names(2) == (expected or chosen.split(","))
