"""The loop: ask, evaluate, tell, and keep the point that is best on dev."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandemtune.config import MethodSection, RunSection
from tandemtune.errors import RunError
from tandemtune.objective.batch import Batch
from tandemtune.objective.objective import Objective
from tandemtune.runs.journal import Line
from tandemtune.runs.store import RunFolder
from tandemtune.schedule import Phase
from tandemtune.system import peak_rss_mb
from tandemtune.types import Observer

SAVE_SHARE = 0.02
"""Checkpoints take at most this share of the time, unless one is asked for after every generation."""


@dataclass
class Standing:
    """Where a search stands; with the optimizers' states this is all that a checkpoint holds.

    Args:
        incumbent: the point that candidates are compared with.
        kept: the point with the lowest dev loss so far.
        train_loss: the incumbent's training loss when it was last measured.
        dev: loss and score of the last look at dev.
        kept_dev: loss and score of `kept` on dev.
        kept_step: generation after which `kept` was found; 0 is the starting point.
        step: generations done.
        candidates: candidates scored on the training rows.
        token_layers: tokens times layers they ran through, for candidates and looks at dev.
        stale: looks at dev since the last better one.
        lines: journal lines that led here.
    """

    incumbent: dict[int, Tensor]
    kept: dict[int, Tensor]
    train_loss: float
    dev: dict[str, float]
    kept_dev: dict[str, float]
    kept_step: int = 0
    step: int = 0
    candidates: int = 0
    token_layers: int = 0
    stale: int = 0
    lines: int = 1


@dataclass
class Search:
    """One phase of search over a run folder, new or resumed.

    The journal holds what was measured. A resumed search loads the last checkpoint and walks through the lines behind it:
    the optimizers propose the same candidates again and are told the recorded losses.

    Args:
        objective: scores candidates and looks at dev.
        dev: the dev rows.
        phase: who proposes what, in which order.
        method: budget and intervals.
        bounds: other bounds.
        folder: where the journal and the checkpoint lie.
        observe: told what happens.
    """

    objective: Objective
    dev: Batch
    phase: Phase
    method: MethodSection
    bounds: RunSection
    folder: RunFolder
    observe: Observer
    _saved_at: float = field(default=0.0, init=False)
    _save_cost: float = field(default=0.0, init=False)

    def run(self) -> Standing:
        """Search until a bound is reached.

        Returns:
            Where the search ended; `kept` is its result.
        """
        self.journal = self.folder.open_journal()
        self._spent = self.folder.read_seconds()
        self._begin = self._saved_at = time.perf_counter()
        resumed = len(self.journal.lines)
        if self.journal.torn:
            self.observe("progress", {"text": "the journal's last line was torn by a kill; its step is done again"})
        start = self._line(0, self._start)
        now = self._restored(start)
        self.observe("start", {"line": start, "resumed": resumed, "seconds": self._spent})
        while not (reason := self._stop_reason(now)):
            self._generation(now)
            self._checkpoint(now)
        end = self._line(now.lines, lambda: self._end(now, reason))
        self._take_look(now, end)
        self.folder.tick(step=now.step, seconds=self._seconds(now), peak_rss_mb=peak_rss_mb())
        return now

    def _line(self, index: int, make: Any) -> Line:
        """A line of the journal: the recorded one, else made, written and flushed."""
        if index >= len(self.journal.lines):
            self.journal.append(make())
        return self.journal.lines[index]

    def _start(self) -> Line:
        train = self.objective.measure(self.objective.train, self.phase.origin)
        return {
            "event": "start",
            "phase": self.phase.name,
            "train_loss": _plain(train.loss),
            "dev": self._look(self.phase.origin),
        }

    def _generation(self, now: Standing) -> None:
        """One turn of one block: ask, evaluate, tell, and take the best candidate if it beats the incumbent."""
        sweep, block = self.phase.turn(now.step)
        optimizer = self.phase.optimizer(block)
        vectors = self.phase.up(block, optimizer.ask())
        line = self._line(now.lines, lambda: self._evaluate(now, sweep, block, vectors))
        losses = _floats(line["losses"])
        optimizer.tell(losses)
        now.train_loss = _float(line["incumbent"])
        if line["accepted"]:
            best = int(np.nanargmin(losses))
            now.incumbent[block] = vectors[best].clone()
            now.train_loss = float(losses[best])
        now.step += 1
        now.candidates, now.token_layers = line["candidates"], line["token_layers"]
        self._take_look(now, line)
        seconds = self._seconds(now)
        if now.lines == len(self.journal.lines):  # not while recorded lines are walked through
            self.folder.tick(step=now.step, seconds=seconds, peak_rss_mb=peak_rss_mb())
        self.observe("generation", {"line": line, "standing": now, "seconds": seconds})

    def _evaluate(self, now: Standing, sweep: int, block: int, vectors: Tensor) -> Line:
        """Score a generation and, as its last candidate, the incumbent; look at dev when it is time."""
        together = torch.cat([vectors, now.incumbent[block].unsqueeze(0)])
        losses = self.objective.evaluate(now.incumbent, {block: together})
        incumbent, found = float(losses[-1]), losses[:-1]
        best = float(np.nanmin(found)) if np.isfinite(found).any() else math.nan
        accepted = best < incumbent or (math.isfinite(best) and not math.isfinite(incumbent))
        cost = self.objective.cost(block, len(together))
        look = None
        if (now.step + 1) % self.method.dev_every == 0:
            moved = dict(now.incumbent)
            if accepted:
                moved[block] = vectors[int(np.nanargmin(found))]
            look = self._look(moved)
            cost += self._look_cost()
        return {
            "event": "generation",
            "step": now.step + 1,
            "phase": self.phase.name,
            "sweep": sweep,
            "layer": block,
            "losses": [_plain(loss) for loss in found],
            "best": _plain(best),
            "incumbent": _plain(incumbent),
            "accepted": accepted,
            "dev": look,
            "candidates": now.candidates + len(together),
            "token_layers": now.token_layers + cost,
        }

    def _end(self, now: Standing, reason: str) -> Line:
        look = self._look(now.incumbent) if now.step % self.method.dev_every else None
        return {"event": "end", "step": now.step, "stop_reason": reason, "dev": look}

    def _take_look(self, now: Standing, line: Line) -> None:
        """Keep the incumbent if a line's look at dev is the best so far, and count the line."""
        now.lines += 1
        look = line["dev"]
        if look is None:
            return
        now.dev = look
        now.stale += 1
        if _float(look["loss"]) < _float(now.kept_dev["loss"]):
            now.kept, now.kept_dev, now.kept_step, now.stale = dict(now.incumbent), look, now.step, 0

    def _look(self, point: Mapping[int, Tensor]) -> dict[str, float | None]:
        seen = self.objective.measure(self.dev, point)
        return {"loss": _plain(seen.loss), "score": seen.score}

    def _look_cost(self) -> int:
        return self.dev.tokens * len(self.objective.engine.stack)

    def _stop_reason(self, now: Standing) -> str:
        """Why to stop now, or "" to go on; while lines are walked through, what was decided then."""
        if now.lines < len(self.journal.lines):
            return str(self.journal.lines[now.lines].get("stop_reason", ""))
        whole = now.token_layers / len(self.objective.engine.stack)
        if now.candidates + self.phase.popsize + 1 > self.method.budget:
            return "budget"
        if self.method.patience is not None and now.stale >= self.method.patience:
            return "patience"
        if self.bounds.max_forward_tokens is not None and whole >= self.bounds.max_forward_tokens:
            return "max_forward_tokens"
        if self.bounds.max_seconds is not None and self._seconds(now) >= self.bounds.max_seconds:
            return "max_seconds"
        return ""

    def _seconds(self, now: Standing) -> float:
        return self._spent + time.perf_counter() - self._begin

    def _checkpoint(self, now: Standing) -> None:
        begin = time.perf_counter()
        wanted = self.bounds.checkpoint_seconds
        pause = max(wanted, self._save_cost / SAVE_SHARE) if wanted else 0.0
        if now.lines < len(self.journal.lines) or begin - self._saved_at < pause:
            return
        standing = {**vars(now), "incumbent": _arrays(now.incumbent), "kept": _arrays(now.kept)}
        self.folder.save_checkpoint({"standing": standing, "optimizers": self.phase.state()})
        self._saved_at = time.perf_counter()
        self._save_cost = self._saved_at - begin

    def _restored(self, start: Line) -> Standing:
        """The standing of the last checkpoint, or of the beginning."""
        saved = self.folder.load_checkpoint()
        if saved is None:
            point = dict(self.phase.origin)
            return Standing(point, dict(point), _float(start["train_loss"]), start["dev"], start["dev"])
        standing = saved["standing"]
        if standing["lines"] > len(self.journal.lines):
            raise RunError(
                f"{self.journal.path} holds {len(self.journal.lines)} lines, fewer than the checkpoint was made "
                f"after ({standing['lines']}): restore it, or delete {self.folder.checkpoint} to go on from the journal"
            )
        self.phase.restore(saved["optimizers"])
        points = {name: _tensors(standing[name]) for name in ("incumbent", "kept")}
        return Standing(**{**standing, **points})


def _plain(value: float) -> float | None:
    """A number as JSON has it: null stands for NaN and infinity."""
    value = float(value)
    return value if math.isfinite(value) else None


def _float(value: float | None) -> float:
    return math.inf if value is None else value


def _floats(values: list[float | None]) -> NDArray[np.float64]:
    return np.array([_float(value) for value in values], dtype=np.float64)


def _arrays(point: Mapping[int, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {str(block): vector.numpy() for block, vector in point.items()}


def _tensors(arrays: Mapping[str, NDArray[np.float32]]) -> dict[int, Tensor]:
    return {int(block): torch.from_numpy(array) for block, array in arrays.items()}
