"""Processes that die at a chosen moment, the way a power cut or the kernel ends them."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandemtune.runs.journal import Journal
from tandemtune.runs.store import RunFolder
from tandemtune.tunables import lora, prompt

forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Moments:
    """Counts what touches the disk in this process, and kills the process at one of those moments.

    Args:
        stop: number of the moment to die at; None never.
    """

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.names: list[str] = []

    def pass_by(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) - 1 == self.stop:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(real)
        def watched(*arguments: Any, **options: Any) -> Any:
            self.pass_by(f"before {name}")
            result = real(*arguments, **options)
            self.pass_by(f"after {name}")
            return result

        setattr(owner, name, watched)

    def watch_all(self) -> None:
        for owner, name in (
            (os, "fsync"),
            (Path, "replace"),
            (Path, "rename"),
            (shutil, "rmtree"),
            (np, "savez"),
            (lora, "save_file"),
            (prompt, "save_file"),
            (Journal, "append"),
            (RunFolder, "tick"),
        ):
            self.watch(owner, name)


def forked(work: Callable[[], Any]) -> int:
    """Begin something in a process of its own; the process's number. It ends with 0, or 70 where the work fails."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def in_child(work: Callable[[], Any], stop: int | None = None, log: Path | None = None) -> int:
    """Do something in a forked process that dies at a moment; its exit code, negative for a signal."""

    def watched() -> None:
        moments = Moments(stop)
        moments.watch_all()
        work()
        if log:
            log.write_text(json.dumps(moments.names), encoding="utf-8")

    return os.waitstatus_to_exitcode(os.waitpid(forked(watched), 0)[1])


def picked(names: Sequence[str]) -> list[int]:
    """First, middle and last moment of each kind."""
    places: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        places.setdefault(name, []).append(index)
    return sorted({found[i] for found in places.values() for i in (0, len(found) // 2, -1)})


def begun(folder: Path) -> bool:
    return (folder / "recipe.json").exists()
