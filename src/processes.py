"""Several processes that work on one thing: started, told apart, and ended together.

Each has a GPU of its own; where there is none, all share the CPU.
"""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, get_error_handler
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from transformers.utils import logging as transformers_logging

from src import gpus
from src.errors import UserError, refusal
from src.files import read_json, whole

# Others wait so long for one that downloads or measures.
PATIENCE = timedelta(hours=12)
Batch = TypeVar("Batch")
RUN_ID = "vlm-recipes"  # by which a process knows that `spread` started it
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where a launcher reads what its process raised


def spread(count: int, work: Callable[[], None]) -> None:
    """Do `work` in `count` processes: here if it is one, else in as many that run this command.

    A process that a launcher started (torchrun, accelerate, Slurm) takes part in the run that it
    was started for, whatever `count` is.

    Raises:
        UserError: there are fewer GPUs, or torch cannot use them; or what one of the processes
            raised.
    """
    gpus.check()
    if "RANK" in os.environ:
        _take_part(work)
        return
    visible = torch.cuda.device_count()
    if 0 < visible < count:
        raise UserError(
            f"processes is {count} and this machine has {visible} GPUs; lower it in "
            "recipes.RECIPE.SCALE of params.yaml, or start on several machines with torchrun"
        )
    if count == 1 and visible < 2:
        with gpus.held(1, gpus.names(visible)) if visible else nullcontext():
            work()
    else:
        _launch(count, gpus.names(visible))


def _launch(count: int, visible: list[str]) -> None:
    """This very command in `count` processes, on GPUs that no other run holds."""
    threads = max(1, (os.cpu_count() or 1) // count)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with (
        gpus.held(count, visible) if visible else nullcontext() as held,
        tempfile.TemporaryDirectory(prefix="processes-") as logs,
    ):
        if held:
            os.environ[gpus.VISIBLE] = ",".join(held)
        launched = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=RUN_ID,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs, local_ranks_filter={0}),
        )
        logging.disable(logging.ERROR)  # the launcher's own account of a failure
        try:
            elastic_launch(launched, sys.executable)(*sys.orig_argv[1:])
        except ChildFailedError as error:
            _explain(error, Path(logs))
        except SignalException as error:
            sys.exit(128 + error.sigval)
        finally:
            logging.disable(logging.NOTSET)


def _explain(failed: ChildFailedError, logs: Path) -> NoReturn:
    """Raise what a process raised: a UserError before what others said when it was gone."""
    files = sorted(logs.rglob("error.json"), key=lambda file: file.stat().st_mtime_ns)
    said = [read_json(file)["message"] for file in files]
    name = f"{UserError.__name__}: "
    for message in said:
        if message["message"].startswith(name):
            raise UserError(message["message"].removeprefix(name)) from None
    # One that was killed comes before those who lost it, and may have said so sooner; the launcher
    # itself ends with SIGTERM whoever is left.
    ended = {rank: failure for rank, failure in failed.failures.items() if failure.exitcode < 0}
    killed = [rank for rank, failure in ended.items() if failure.exitcode != -signal.SIGTERM]
    if said and not killed:
        sys.exit(said[0]["extraInfo"]["py_callstack"])
    rank, failure = (killed[0], ended[killed[0]]) if killed else failed.get_first_failure()
    raise UserError(f"process {rank} ended: {failure.message}") from None


def _take_part(work: Callable[[], None]) -> None:
    cuda = torch.cuda.is_available()
    # Gloo beside NCCL for what lies in memory, such as the whole weights of a sharded model.
    backend = "cuda:nccl,cpu:gloo" if cuda else None
    state = PartialState(cpu=not cuda, backend=backend, timeout=PATIENCE)
    if not state.is_main_process:
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
    try:
        work()
    except Exception as error:
        _record(refusal(error) or error)
        if os.environ.get("TORCHELASTIC_RUN_ID") == RUN_ID:
            # `spread` says it, once. At once, or it would wait for others who wait for it.
            os._exit(1)
        raise
    state.destroy_process_group()


def _record(error: Exception) -> None:
    """Tell the launcher, in one piece: it reads, and may end this process meanwhile."""
    if ERROR_FILE in os.environ:
        with whole(Path(os.environ[ERROR_FILE])) as beside:
            os.environ[ERROR_FILE] = str(beside)
            get_error_handler().record_exception(error)


def is_first() -> bool:
    """Whether this process writes files and shows progress; so is one that works alone."""
    return PartialState().is_main_process


def number() -> int:
    """How many processes work together."""
    return PartialState().num_processes


def wait_for_all() -> None:
    """Until every process is here."""
    PartialState().wait_for_everyone()


def share(batches: Sequence[Batch]) -> Sequence[Batch]:
    """Which batches of a work are this process's.

    Whole ones, those that one process alone would make, so that what is computed of a record hangs
    on the same neighbours however many there are.
    """
    state = PartialState()
    return batches[state.process_index :: state.num_processes]


def gathered(part: Any) -> list[Any]:
    """What each process made, in their order, in every one of them; it must pickle."""
    return gather_object([part])
