"""A reward function of the user's, in a process of its own: it may print, be slow, hang or die, and the run stays what it was.

Its signature is the one that users of `trl` have: ``(prompts, completions, **columns) -> list of numbers``. References come in
the column ``references``. The process is started once and asked as often as needed.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import tandemtune
from tandemtune import plugins
from tandemtune.errors import UsageError
from tandemtune.rewards.base import Reward, Written, checked

STARTING = 120.0
"""Seconds that a process may take to import what a function needs."""


class OwnFunction:
    """A function behind a pipe.

    Args:
        address: where it lies.
        seconds: time limit of one call.
    """

    def __init__(self, address: str, seconds: float) -> None:
        self.address, self.seconds = plugins.absolute(address), seconds
        self._held: list[subprocess.Popen[str]] = []
        self._said: queue.Queue[str] = queue.Queue()
        weakref.finalize(
            self, _end, self._held
        )  # when nobody can ask any more, at the latest at the end of the program

    def __call__(self, written: Written) -> list[float]:
        """Rewards [N] of texts.

        Raises:
            UsageError: the function failed, took too long or gave something else than a number for each text; names the row.
        """
        everything = range(len(written))
        answer = self._asked(written, everything, self.seconds)
        if answer is None:
            raise UsageError(
                f"reward {self.address!r} took longer than {self.seconds:g} seconds for {len(written)} {'text' if len(written) == 1 else 'texts'}"
                f"{self._slow(written)}: make it faster, or raise [task] reward_seconds; a run that has begun is saved, resume it then"
            )
        if "failed" in answer:
            raise UsageError(
                f"reward {self.address!r} failed{self._failing(written, answer)}: correct it; a run that has begun is saved, resume it then"
            )
        return checked(self.address, answer.get("rewards"), len(written))

    def close(self) -> None:
        """End the process, and what it has started."""
        _end(self._held)

    def _failing(self, written: Written, answer: dict[str, Any]) -> str:
        """What the function raised, and for which row, if it does so for one alone."""
        for row in range(len(written)):
            alone = self._asked(written, [row], self.seconds)
            if alone is None or "failed" in alone:
                what = "hangs" if alone is None else alone["failed"]
                return f", row {row + 1} (completion {_cut(written.completions[row])}): {what}"
        return f" for all rows together, for none of them alone: {answer['failed']}"

    def _slow(self, written: Written) -> str:
        """Which row takes too long, if one does so alone; no longer is looked for it than the limit."""
        each = max(self.seconds / max(len(written), 1), 0.2)
        for row in range(len(written)):
            if self._asked(written, [row], each) is None:
                return f", most of it for row {row + 1} (completion {_cut(written.completions[row])})"
        return ""

    def _asked(self, written: Written, rows: Sequence[int], seconds: float) -> dict[str, Any] | None:
        """The answer for some rows; None if there was none in time, when the process is ended."""
        process = self._started()
        assert process.stdin is not None
        question = {
            "prompts": [written.prompts[row] for row in rows],
            "completions": [written.completions[row] for row in rows],
            "columns": {
                **{name: [values[row] for row in rows] for name, values in written.columns.items()},
                "references": [list(written.references[row]) for row in rows],
            },
        }
        try:
            process.stdin.write(json.dumps(question, default=str) + "\n")
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
            UsageError: it cannot load the function.
        """
        if self._held and self._held[0].poll() is None:
            return self._held[0]
        self.close()
        source = str(Path(tandemtune.__file__).parents[1])
        paths = [source, os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONIOENCODING": "utf-8"}
        process = subprocess.Popen(
            [sys.executable, "-m", "tandemtune.rewards.worker", self.address],
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
        try:
            ready = said.get(timeout=STARTING)
        except queue.Empty:
            ready = ""
        if ready.strip() != "ready":
            self.close()
            why = json.loads(ready)["failed"] if ready.strip() else "its process ended or took too long to begin"
            raise UsageError(f"reward {self.address!r} cannot be loaded: {why}")
        return process


def own_reward(address: str, seconds: float) -> Reward:
    """A reward of a function that lies at an address.

    Args:
        address: ``"package.module:name"`` or ``"path/file.py:name"``.
        seconds: time limit of one call.

    Raises:
        UsageError: there is no such function.
    """
    function = plugins.find("reward", address)
    said = (function.__doc__ or "").strip().splitlines()
    name = address.rpartition(":")[2]
    summary = said[0] if said else f"the function {name}"
    return Reward(name, summary, OwnFunction(address, seconds), lower=float("-inf"), upper=float("inf"))


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


def _cut(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
