"""Where the time of a search goes: host time by what the host does, and the kernels of a device."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.label_words import LabelWordEvaluator
from tandemtune.models.layers import LayerStack
from tandemtune.optimizers.base import AskTell
from tandemtune.runs.journal import Journal
from tandemtune.search.loop import Search
from tandemtune.search.schedule import Phase
from tandemtune.search.turns import GenerationTurn

WATCHED: dict[str, tuple[tuple[type, str], ...]] = {
    "ask and tell": ((AskTell, "ask"), (AskTell, "tell")),
    "projection": ((Phase, "up"),),
    "states that enter a layer": ((Engine, "_prefix"),),
    "chunks and results": ((Engine, "population_logits"),),
    "model's own code": ((LayerStack, "logits"), (LayerStack, "hidden")),
    "losses and waiting for the device": ((LabelWordEvaluator, "evaluate"),),
    "dev": ((LabelWordEvaluator, "measure"),),
    "journal": ((Journal, "append"),),
    "checkpoints and clock": ((Search, "_checkpoint"), (Search, "_tick")),
    "rest of a turn": ((GenerationTurn, "run"),),
}


class Stopwatch:
    """Seconds that the host spends in some methods, each without those that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._open: list[tuple[str, float]] = []

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time counted under a name."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._begin(name)
            try:
                return function(*args, **kwargs)
            finally:
                self._end()

        return call

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count until the context ends."""
        with ExitStack() as stack:
            for name, places in WATCHED.items():
                for owner, method in places:
                    own = getattr(owner, method)
                    setattr(owner, method, self.wrapped(name, own))
                    stack.callback(setattr, owner, method, own)
            yield

    def _begin(self, name: str) -> None:
        now = time.perf_counter()
        if self._open:
            outer, since = self._open[-1]
            self.seconds[outer] += now - since
        self._open.append((name, now))
        self.calls[name] += 1

    def _end(self) -> None:
        now = time.perf_counter()
        name, since = self._open.pop()
        self.seconds[name] += now - since
        if self._open:
            self._open[-1] = (self._open[-1][0], now)


def kernels(call: Callable[[], Any], most: int = 14) -> dict[str, Any]:
    """What a device does in a call: its busy share, and the kernels that take the most time.

    Args:
        call: what is profiled.
        most: how many kernels are named.
    """
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    begin = time.perf_counter()
    with profile(activities=activities) as found:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    wall = time.perf_counter() - begin
    rows = sorted(found.key_averages(), key=_on_device, reverse=True)
    on_host = sorted(found.key_averages(), key=lambda row: row.self_cpu_time_total, reverse=True)
    device = [row for row in rows if "cuda" in str(getattr(row, "device_type", "")).lower()]
    busy = sum(_on_device(row) for row in device) / 1e6
    return {
        "wall_s": wall,
        "busy_s": busy,
        "kernels": [(row.key[:90], row.count, _on_device(row) / 1e3) for row in device[:most]],
        "host": [(row.key[:60], row.count, row.self_cpu_time_total / 1e3) for row in on_host[:most]],
    }


def lines(found: dict[str, Any]) -> Sequence[str]:
    """A profile as text."""
    text = [f"  busy {found['busy_s']:.3f} s of {found['wall_s']:.3f} s (the profiler's own work included)"]
    text += [f"  device {ms:9.2f} ms {count:6d} x {name}" for name, count, ms in found["kernels"]]
    text += [f"  host   {ms:9.2f} ms {count:6d} x {name}" for name, count, ms in found["host"]]
    return text


def _on_device(row: Any) -> float:
    """Microseconds of a row's own kernels."""
    for name in ("self_device_time_total", "self_cuda_time_total"):
        if hasattr(row, name):
            return float(getattr(row, name))
    return 0.0
