"""The processes that make a comparison's runs, seen from the comparison: they end when their standard input is closed, by this
process or by its death."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from tandemtune import shared
from tandemtune.comparisons.ending import GRACE, STOPPED

Began = Callable[[str], None]
"""Told where a run has begun; nothing for this machine."""


class LostError(Exception):
    """The machine that a run was on is gone."""


def nothing(where: str) -> None:
    """Nobody wants to know where."""


@dataclass(frozen=True)
class Kept:
    """What a warm process is ready for.

    Args:
        name: of the model; `kind`, `dtype`, `revision` and `device` as a recipe has them.
        threads: of each run.
    """

    name: str
    kind: str | None
    dtype: str
    revision: str | None
    threads: int
    device: str


class Processes:
    """Makes runs in processes beside this one, each of which serves several (`worker.py`).

    Args:
        jobs: runs at a time.
        place: a folder for what runs have in common (`tandemtune.shared`).
        stay: whether a process makes its runs in itself, and not in forks (`worker.py`); None where forks cannot do.
    """

    def __init__(self, jobs: int, place: Path, stay: bool | None = None) -> None:
        self.stopped = False
        self.jobs = jobs
        self._stay = stay
        self._shared = place
        self._running: list[subprocess.Popen[bytes]] = []
        self._idle: list[tuple[Kept, subprocess.Popen[bytes]]] = []
        self._lock = threading.Lock()

    def run(
        self, arguments: Sequence[str], kept: Kept, log: Path, began: Began = nothing, *, alone: bool = False
    ) -> int:
        """Call the command line.

        Args:
            arguments: of the command line.
            kept: what the run needs.
            log: file for what it says to stderr.
            began: told where, when it begins.
            alone: make no other run in the same process after this one.

        Returns:
            Its exit code, negative for a signal.
        """
        began("")
        log.unlink(missing_ok=True)
        process = self._warm(kept, log)
        if process is None:
            return STOPPED
        said = b""
        with suppress(OSError):
            _write(process, {"arguments": list(arguments), "log": str(log), "alone": alone})
            said = process.stdout.readline() if process.stdout else b""
        if not said:
            code = process.wait()
            self._gone(process)
            return code or 1
        answer = json.loads(said)
        if answer["again"]:
            with self._lock:
                self._idle.append((kept, process))
        else:
            self._let_go(process)
        return int(answer["code"])

    def close(self) -> None:
        """Let those go that wait for a run."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, process in idle:
            self._let_go(process)

    def stop(self) -> None:
        """End all processes: as Ctrl-C does, then by force."""
        with self._lock:
            self.stopped = True
            running, self._idle = list(self._running), []
            for process in running:
                _close(process)
        until = time.monotonic() + GRACE + 2
        try:
            for process in running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until - time.monotonic()))
        except KeyboardInterrupt:
            pass
        for process in running:
            process.kill()

    def _warm(self, kept: Kept, log: Path) -> subprocess.Popen[bytes] | None:
        """An idle process that holds the model, or a new one in the place of one that holds another."""
        with self._lock:
            if self.stopped:
                return None
            for index, (held, process) in enumerate(self._idle):
                if held == kept:
                    del self._idle[index]
                    return process
            full = len(self._running) >= self.jobs
            unneeded = self._idle.pop(0)[1] if full and self._idle else None
        if unneeded is not None:
            self._let_go(unneeded)
        with log.open("wb") as file:
            made = self._started(kept, file)
        if made is not None:
            wanted = {**asdict(kept), "stay": self._stay}
            del wanted["threads"]
            with suppress(OSError):
                _write(made, wanted)
        return made

    def _started(self, kept: Kept, log: IO[bytes]) -> subprocess.Popen[bytes] | None:
        """A new process; None where the comparison was stopped meanwhile."""
        apart: dict[str, Any] = {"start_new_session": True}  # Ctrl-C is for this process, which stops the others once
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        with self._lock:
            if self.stopped:
                return None
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _WORKER, str(Path(__file__).parent.parent.parent)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**_environment(kept.threads), shared.FOLDER: str(self._shared)},
                **apart,
            )
            self._running.append(process)
            return process

    def _let_go(self, process: subprocess.Popen[bytes]) -> None:
        """End a process that makes no run."""
        _close(process)
        process.wait()
        self._gone(process)

    def _gone(self, process: subprocess.Popen[bytes] | None) -> None:
        """Forget a process that has ended."""
        if process is not None:
            with self._lock:
                self._running.remove(process)
                _close(process)
            if process.stdout is not None:
                process.stdout.close()


def _environment(threads: int) -> Mapping[str, str]:
    quiet = {  # as the command line sets them, which is too late where a process imports before it is asked to run
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # looks for a graphics card without touching it: a fork could not use it then
    }
    return {**quiet, **os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads)}


def _write(process: subprocess.Popen[bytes], content: Mapping[str, Any]) -> None:
    if process.stdin is not None:
        process.stdin.write(json.dumps(content).encode() + b"\n")
        process.stdin.flush()


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()


_WORKER = """
import sys
root = sys.argv.pop(1)
if root not in sys.path:
    sys.path.insert(0, root)
import tandemtune.report.live, tandemtune.report.text
from tandemtune.cli import main
from tandemtune.comparisons.worker import serve
serve(main)
"""
