import os
import subprocess
import sys
import tempfile
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from src import gpus, processes
from src.errors import UserError
from tests.conftest import ROOT


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 15])
def test_each_batch_is_asked_once_and_all_have_as_many(monkeypatch, world, count):
    shares = []
    for index in range(world):
        state = SimpleNamespace(process_index=index, num_processes=world)
        monkeypatch.setattr(processes, "PartialState", lambda state=state: state)
        shares.append(processes.share(range(count)))
    assert sorted(batch for share in shares for batch in share) == list(range(count))
    sizes = list(map(len, shares))
    assert max(sizes) - min(sizes) <= 1


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match=r"^processes is 3 and .* has 2 GPUs; .* in recipes\.R"):
        processes.spread(3, lambda: None)


@pytest.mark.parametrize("rank", [None, "0"])
def test_gpus_that_torch_cannot_use_are_no_reason_to_take_the_cpu(monkeypatch, old_driver, rank):
    """A launcher's process, which has a rank, neither."""
    monkeypatch.delenv("RANK", raising=False)
    if rank:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(UserError, match=r"too old \(found version 12040\).* driver 580 or newer"):
        processes.spread(1, lambda: pytest.fail("it ran"))


def test_a_run_holds_the_only_gpu_while_it_works(monkeypatch, tmp_path):
    """Or two experiments of a queue would share its memory."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    order, working = [], threading.Event()

    def work():
        order.append("first begins")
        working.set()
        time.sleep(3 * gpus.PAUSE)
        order.append("first ends")

    first = threading.Thread(target=processes.spread, args=(1, work))
    first.start()
    assert working.wait(10)
    processes.spread(1, lambda: order.append("second"))
    first.join()
    assert order == ["first begins", "first ends", "second"]


def test_without_a_gpu_nobody_waits(monkeypatch, tmp_path):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    processes.spread(1, lambda: processes.spread(1, lambda: None))
    assert not list(tmp_path.iterdir())


SCRIPT = """
import os, torch
from src import processes
from src.errors import one_line
if "RANK" not in os.environ:
    torch.cuda.device_count = lambda: 2
    torch.cuda.is_available = lambda: True
def work():
    print("seen", os.environ["CUDA_VISIBLE_DEVICES"], processes.number())
    if os.environ.get("FAULT"):
        raise RuntimeError("a fault of ours")
one_line(processes.spread)(1, work)
"""


@pytest.mark.slow
def test_of_several_gpus_a_run_alone_sees_as_many_as_it_needs(tmp_path):
    """Or the trainer would take them all, and so would the run beside it."""
    (tmp_path / "script.py").write_text(SCRIPT)
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "CUDA_VISIBLE_DEVICES")}
    env |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "seen 0 1" in done.stdout
    env |= {"FAULT": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("RuntimeError: a fault of ours")


FAULTS = """
import json, os, signal, time
from src import processes
from src.errors import one_line
def die(said, file):
    file.write(json.dumps(said)[:9])
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
def work():
    if os.environ["RANK"] == os.environ["FAULTY"]:
        if "HALF" in os.environ:
            json.dump = die
        raise RuntimeError("a fault of ours")
    time.sleep(100)
one_line(processes.spread)(2, work)
"""


def faulty(folder, **variables):
    (folder / "script.py").write_text(FAULTS)
    env = {k: v for k, v in os.environ.items() if k != "RANK"}
    env |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(folder / "script.py")]
    done = subprocess.run(command, env=env | variables, capture_output=True, text=True, timeout=90)
    assert done.returncode == 1
    assert not list(folder.glob("processes-*"))
    return done.stderr.rstrip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_one_process_raised_is_said_and_not_how_the_other_was_ended(tmp_path, rank):
    assert faulty(tmp_path, FAULTY=rank) == "RuntimeError: a fault of ours"


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_says_what_it_raised(tmp_path):
    """The launcher ends with a signal whoever is left, and then reads what they said."""
    said = faulty(tmp_path, FAULTY="1", HALF="1")
    assert said.startswith("error: process 1 ended: Signal 9 (SIGKILL)")
