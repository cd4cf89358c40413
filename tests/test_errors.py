"""How a command ends, seen from outside."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

# As a stage begins: the collector is off until `one_line`. `taken_apart` speaks where Python goes
# through all objects at the end.
STAGE = """
import atexit, gc, sys
gc.disable()
from src.errors import UserError, one_line

class Loud:
    def __del__(self):
        print("taken apart")

loud = Loud()
atexit.register(print, "a library's own end")

@one_line
def main():
    print("said", end=" ")
    raise_if_asked()

def raise_if_asked():
    if sys.argv[1] == "mine":
        raise UserError("params.yaml: seed: is none")
    if sys.argv[1] == "bug":
        raise ValueError("a bug")
    if sys.argv[1] == "full":
        with open("/dev/full", "w") as file:
            file.write("x")
    if sys.argv[1] == "rights":
        raise PermissionError(13, "Permission denied", "models/base")
    if sys.argv[1] == "gone":
        open("nowhere/file")
    if sys.argv[1] == "status":
        sys.exit(3)

main()
"""


@pytest.fixture
def end():
    def run(how):
        command = [sys.executable, "-c", STAGE, how]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    return run


def test_a_stage_that_has_done_its_work_is_let_go_with_all_that_it_said(end):
    done = end("well")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "said a library's own end\n"


@pytest.mark.parametrize(("how", "status"), [("mine", 1), ("bug", 1), ("status", 3)])
def test_one_that_has_not_ends_as_any_other(end, how, status):
    failed = end(how)
    assert failed.returncode == status
    assert failed.stdout == "said a library's own end\ntaken apart\n"


def test_a_mistake_of_the_user_is_one_line(end):
    assert end("mine").stderr == "error: params.yaml: seed: is none\n"
    assert "Traceback" in end("bug").stderr


def test_a_refusal_of_the_machine_is_one_line_and_a_file_that_is_missing_is_none(end):
    assert end("full").stderr == (
        "error: a file to be written: No space left on device; free some room on that disk and "
        "start again\n"
    )
    assert end("rights").stderr == (
        "error: models/base: Permission denied; give yourself the rights to it and start again\n"
    )
    assert "Traceback" in end("gone").stderr
