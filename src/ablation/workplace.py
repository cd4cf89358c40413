"""Where experiments run: a clone below `.dvc/tmp`, so that the workspace is never touched.

`dvc exp run`, with `--temp` or in the queue too, writes each experiment's parameters into the
workspace for a moment and then resets it: what is killed or edited in that moment is lost, and an
edit between two experiments changes the second. In a clone of one snapshot neither can happen. It
shares the objects of Git and the cache of DVC, so it costs links, and what another run of a stage
has made is taken from the run cache.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from dvc.repo import Repo

from src.ablation.snapshot import Snapshot, git, identity
from src.errors import UserError
from src.files import REPOSITORY
from src.overrides import override

FOLDER = Path(".dvc/tmp/ablations")
PATIENCE = 20  # seconds for stages to end after SIGTERM


class Workplace:
    """Runs one experiment after the other in a clone of a snapshot."""

    def __init__(self, snapshot: Snapshot, lock: TextIO) -> None:
        self.snapshot = snapshot
        self._lock = lock
        self._folder = snapshot.root / FOLDER
        self._clone = self._folder / "clone"
        self._new_clone()

    def run(self, experiment: str, stage: str, overrides: Mapping[str, Any]) -> bool:
        """Run the pipeline up to `stage` and bring the experiment into the repository.

        Returns:
            Whether it succeeded; what it said stands in `log(experiment)` either way.
        """
        self._reset()
        override(self._clone / "params.yaml", overrides)
        command = [sys.executable, "-m", "dvc", "exp", "run", "--name", experiment, stage]
        if self._call(command, self.log(experiment)) != 0:
            return False
        ref = experiments(self._clone).get(experiment)
        if ref is None:
            return False
        git(self.snapshot.root, "fetch", "--quiet", str(self._clone), f"+{ref}:{ref}")
        return True

    def log(self, experiment: str) -> Path:
        """Everything that an experiment printed."""
        return self._folder / "logs" / f"{experiment}.log"

    def close(self) -> None:
        """Take the clone away."""
        shutil.rmtree(self._clone, ignore_errors=True)

    def _new_clone(self) -> None:
        # Whatever a killed run left, locks and half-written outputs among it, goes.
        self.close()
        root, clone = self.snapshot.root, self._clone
        git(root, "init", "--quiet", str(clone))
        _share_objects(root, clone / ".git")
        for key, value in identity(root).items():
            git(clone, "config", key, value)
        self._reset()
        _share_cache(root, clone)

    def _reset(self) -> None:
        git(self._clone, "checkout", "--quiet", "--force", "--detach", self.snapshot.head)
        git(self._clone, "read-tree", "-u", "--reset", self.snapshot.tree)
        git(self._clone, "clean", "--quiet", "-d", "--force")

    def _call(self, command: list[str], log: Path) -> int:
        log.parent.mkdir(parents=True, exist_ok=True)
        # The stages' `python` is the one that runs this, whatever the caller's PATH says.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self._clone,
                env={**os.environ, "PATH": path, REPOSITORY: str(self.snapshot.root)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[self._lock.fileno()],
            )
            self._lock.truncate(0)
            self._lock.write(str(process.pid))
            self._lock.flush()
            try:
                return process.wait()
            except BaseException:
                _end(process)
                raise


@contextmanager
def workplace(snapshot: Snapshot) -> Iterator[Workplace]:
    """A workplace of its own, one at a time in a repository.

    Raises:
        UserError: another one is in use.
    """
    folder = snapshot.root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            # Handed on to DVC, so that a DVC that outlives this process still holds it.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                "an ablation runs here already; wait for it, or end it; where its command was "
                f"killed: kill -- -{lock.read()}"
            ) from None
        place = Workplace(snapshot, lock)
        try:
            yield place
        finally:
            place.close()


def experiments(folder: Path) -> dict[str, str]:
    """The full name in Git of each experiment by its own."""
    refs = git(folder, "for-each-ref", "--format=%(refname)", "refs/exps").splitlines()
    return {ref.rpartition("/")[2]: ref for ref in refs}


def _share_objects(root: Path, own: Path) -> None:
    """As `git clone --shared` does, which cannot share those of a shallow clone."""
    objects, shallow = (
        root / git(root, "rev-parse", "--git-path", name) for name in ("objects", "shallow")
    )
    (own / "objects/info/alternates").write_text(f"{objects}\n")
    if shallow.is_file():
        shutil.copy(shallow, own / "shallow")


def _share_cache(root: Path, clone: Path) -> None:
    own = root / ".dvc/config.local"
    if own.is_file():
        shutil.copy(own, clone / ".dvc/config.local")
    with Repo(str(root)) as repo:
        cache = repo.cache.local_cache_dir
    with Repo(str(clone)) as repo, repo.config.edit("local") as settings:
        links = ["reflink", "hardlink", "symlink", "copy"]
        settings.setdefault("cache", {}).update({"dir": cache, "type": links})


def _end(process: subprocess.Popen[bytes]) -> None:
    """End DVC and the stage that it runs."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(PATIENCE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
