"""A reward function of the user's, in a process of its own: it may print, be slow, hang or die, and the run stays what it was.

Its signature is the one that users of `trl` have (docs/generation.md says what differs): ``(prompts, completions, **columns) -> list of numbers``. References come in
the column ``references``. The process is started once and asked as often as needed.
"""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import tandemtune
from tandemtune import plugins
from tandemtune.errors import RewardError, UsageError
from tandemtune.rewards.base import Length, Reward, Written, checked, counted, one_each

STARTING = 120.0
"""Seconds that a process may take to import what a function needs, where one call may not take longer."""
IMPORTING = "TANDEMTUNE_IMPORTS_REWARD"
"""Environment variable that is set while a function's file is imported, to where it lies."""
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""What a function is given beside the columns of the rows, whatever these are called."""
_ALIVE: weakref.WeakValueDictionary[tuple[int, str, float], OwnFunction] = weakref.WeakValueDictionary()


class OwnFunction:
    """A function behind a pipe.

    Args:
        address: where it lies.
        seconds: time limit of one call; to import the function may take as long, and `STARTING` at least.
    """

    def __init__(self, address: str, seconds: float) -> None:
        self.address, self.seconds = plugins.absolute(address), seconds
        self._held: list[subprocess.Popen[str]] = []
        self._said: queue.Queue[str] = queue.Queue()
        self._lock = threading.Lock()
        weakref.finalize(
            self, _end, self._held
        )  # when nobody can ask any more, at the latest at the end of the program

    def __call__(self, written: Written) -> list[float | None]:
        """Rewards [N] of texts; None where the function does not apply.

        Raises:
            RewardError: the function failed, took too long or gave something else than a number for each text; shows the row.
        """
        with self._lock:
            return self._judged(written)

    def _judged(self, written: Written) -> list[float | None]:
        answer = self._asked(written, range(len(written)), self.seconds)
        if answer is None:
            raise RewardError(
                f"reward {self.address!r} took longer than {self.seconds:g} seconds for {len(written)} {'text' if len(written) == 1 else 'texts'}"
                f"{self._slow(written)}: make it faster, or raise [task] reward_seconds; a run that has begun is saved, resume it then",
                self.address,
            )
        if "failed" in answer:
            raise RewardError(
                f"reward {self.address!r} failed{self._failing(written, answer)}: correct it; a run that has begun is saved, resume it then",
                self.address,
            )
        found, rows = answer.get("rewards"), len(written)
        if rows > 1 and isinstance(found, list) and len(found) != rows:
            row, alone = self._alone(written, lambda said: "rewards" in said and not one_each(said["rewards"], 1))
            if row:
                raise RewardError(
                    f"reward {self.address!r} gave {counted(alone['rewards'], 1)}, when asked about {row} alone",
                    self.address,
                )
        return checked(self.address, found, written, code=self.address)

    def check(self) -> None:
        """Find out whether the function can be loaded.

        Raises:
            RewardError: it cannot.
        """
        with self._lock:
            self._started()

    def close(self) -> None:
        """End the process, and what it has started."""
        _end(self._held)

    def _failing(self, written: Written, answer: dict[str, Any]) -> str:
        """What the function raised, and for which row, if it raises the very same for one alone."""
        if len(written) == 1:
            return f" for {written.told(0)}: {answer['failed']}"
        row, _ = self._alone(written, lambda said: said.get("failed") == answer["failed"])
        return f" for {row or f'{len(written)} texts together'}: {answer['failed']}"

    def _alone(self, written: Written, wanted: Callable[[dict[str, Any]], bool]) -> tuple[str, dict[str, Any]]:
        """The first row, as messages show it, whose answer is one that is wanted when it is asked about alone, and that answer; empty if
        there is none. No longer is looked for it than the limit."""
        until = time.monotonic() + self.seconds
        for row in range(len(written)):
            left = until - time.monotonic()
            said = self._asked(written, [row], left) if left > 0 else None
            if said is None:
                break
            if wanted(said):
                return written.told(row), said
        return "", {}

    def _slow(self, written: Written) -> str:
        """Which row takes too long, if one does so alone in a process in which another does not; no longer is looked for it than the
        limit, and what is done once only (a model that is loaded at the first call) does not count."""
        if len(written) == 1:
            return f", {written.told(0)}"
        each = max(self.seconds / len(written), 0.2)
        quick: list[int] = []
        for row in sorted({0, len(written) - 1}):
            if not quick and self._asked(written, [row], self.seconds) is not None:
                quick = [row] * (self._asked(written, [row], each) is not None)
                if not quick:  # as slow for any row
                    return ""
        for row in range(len(written)):
            if quick and row not in quick and self._asked(written, [row], each) is None:
                return f", most of it for {written.told(row)}"
        return ""

    def _asked(self, written: Written, rows: Sequence[int], seconds: float) -> dict[str, Any] | None:
        """The answer for some rows; None if there was none in time, when the process is ended."""
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(_question(written.of(rows)), default=str) + "\n")
            process.stdin.flush()
            said = self._said.get(timeout=seconds)
        except queue.Empty:
            self.close()
            return None
        except OSError:
            said = ""
        if not said:
            code = process.wait()
            self.close()
            return {"failed": f"its process ended with code {code}"}
        answer: dict[str, Any] = json.loads(said)
        return answer

    def _started(self) -> subprocess.Popen[str]:
        """The process, ready to be asked.

        Raises:
            RewardError: it cannot load the function.
        """
        if self._held and self._held[0].poll() is None:
            return self._held[0]
        refuse_while_imported()
        self.close()
        source = str(Path(tandemtune.__file__).parents[1])
        paths = [source, os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONIOENCODING": "utf-8"}
        process = subprocess.Popen(
            [sys.executable, "-m", "tandemtune.rewards.worker", self.address, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
            start_new_session=True,
        )
        said: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_listen, args=(process, said), daemon=True).start()
        self._held.append(process)
        self._said = said
        limit = max(STARTING, self.seconds)
        try:
            answer = said.get(timeout=limit)
            ready = json.loads(answer) if answer else {"failed": "its process ended while it was imported"}
        except queue.Empty:
            ready = {
                "failed": f"it took longer than {limit:g} seconds to import: make that faster, or raise [task] reward_seconds"
            }
        if "failed" in ready:
            self.close()
            raise RewardError(f"reward {self.address!r} cannot be loaded: {ready['failed']}", self.address)
        return process


def own_reward(address: str, seconds: float, name: str = "") -> Reward:
    """A reward of a function that lies at an address; nothing is loaded before it is asked.

    Args:
        address: ``"package.module:name"`` or ``"path/file.py:name"``.
        seconds: time limit of one call.
        name: what reports call it; that of the function if left out.
    """
    key = os.getpid(), plugins.absolute(address), seconds
    function = _ALIVE.get(key) or OwnFunction(address, seconds)
    _ALIVE[key] = function  # one process for a metric that is a reward, too
    name = name or address.rpartition(":")[2]
    summary, most = f"the function {name}", float("inf")
    return Reward(name, summary, function, lower=-most, upper=most, code=function.address)


def refuse_while_imported() -> None:
    """Refuse to begin work in a process that only wants a reward function out of the file that begins it.

    Raises:
        UsageError: says what to do.
    """
    if os.environ.get(IMPORTING):
        raise UsageError(
            "the file of the reward starts a run when it is imported, and it is imported once more for the reward's own process: put what "
            'starts runs, or judges texts, under `if __name__ == "__main__":`'
        )


def _question(written: Written) -> dict[str, Any]:
    """Texts as a function is asked about them: those of a conversation as messages."""
    talk = bool(written.questions)
    columns = dict(written.columns)
    if any(written.references) or "references" not in columns:
        columns["references"] = [list(several) for several in written.references]
    return {
        "prompts": [_asked(written.system, one) for one in written.questions] if talk else list(written.prompts),
        "completions": [[_message("assistant", text)] for text in written.completions]
        if talk
        else [*written.completions],
        "completion_ids": [list(ids) for ids in written.ids],
        "columns": columns,
        "state": _state(written.step, written.length),
    }


def _asked(system: str | None, question: str) -> list[dict[str, str]]:
    """The messages of one row, as far as they are the task's own."""
    first = [] if system is None else [_message("system", system)]
    return [*first, _message("user", question)]


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _state(step: int, length: Length) -> dict[str, float]:
    """What a function is told of how far a run is, by trl's names; without what is not known."""
    found: dict[str, float] = {"global_step": step}
    if length.turns is not None:
        found["max_steps"] = length.turns
    if length.share is not None:
        found["epoch"] = step * length.share
        if length.turns is not None:
            found["num_train_epochs"] = math.ceil(length.turns * length.share)
    return found


def _end(held: list[subprocess.Popen[str]]) -> None:
    """End processes, and what they have started."""
    while held:
        process = held.pop()
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def _listen(process: subprocess.Popen[str], said: queue.Queue[str]) -> None:
    """Hand on each line that a process says, and an empty one when it has ended."""
    assert process.stdout is not None
    with suppress(ValueError, OSError):
        for line in process.stdout:
            said.put(line)
    said.put("")
