"""Where a search stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandemtune.mentor.steering import scaled
from tandemtune.runs.records import (
    Actions,
    Costs,
    Evaluation,
    Gain,
    HandOverRecord,
    JournalRecord,
    PromptRecord,
    StartRecord,
    from_loss,
)


@dataclass
class SearchState:
    """Where a search stands; with the optimizers' states this is all that a checkpoint holds.

    Args:
        incumbent: the point that candidates are compared with, or that gradients are taken at.
        best: the point with the lowest dev loss so far: the result.
        origin: the point where the present stage began.
        train_loss: the incumbent's training loss when it was last measured.
        dev: the last evaluation on dev.
        best_dev: the evaluation of `best` on dev.
        best_step: turn after which `best` was found.
        best_record: number of the journal's record that found it; 0 is the starting point.
        moved: whether a turn or a proposal found it, so that it is not the point where the first search began.
        step: turns of the optimizers so far.
        costs: spent so far, for everything but the final scores.
        stale: evaluations on dev since the last better one.
        evaluated: records up to the last evaluation on dev.
        records: records that led here.
        stage: number of the present stage.
        stage_step: turns of the present stage.
        since: those after which it went back to the kept point the last time; 0 where it never did.
        stretch: number of the present search, from 0, where a run has several.
        best_stretch: that which found `best`.
        candidates_before: candidates that were scored before the present search began.
        penalty: by block, what the incumbent pays for being far from where the stage began.
        averaged: the exponential moving average of the incumbents; None where none is kept.
        tried: prompts of words that were scored, in order.
        failures: times in a row that nobody proposed anything usable.
        spent: what asking for proposals has cost.
        anchor: the words' vectors that the prompt was last trained from; None for those that the run began with.
        layers: the blocks that somebody has chosen for the present round; all if empty.
        scale: size of the steps that somebody has chosen.
        gains: by block: its turns, by how much they lowered the training loss, and the same since the last proposal; where somebody steers.
    """

    incumbent: dict[int, Tensor]
    best: dict[int, Tensor]
    origin: dict[int, Tensor]
    train_loss: float
    dev: Evaluation
    best_dev: Evaluation
    best_step: int = 0
    best_record: int = 0
    moved: bool = False
    step: int = 0
    costs: Costs = field(default_factory=Costs)
    stale: int = 0
    evaluated: int = 1
    records: int = 1
    stage: int = 0
    stage_step: int = 0
    since: int = 0
    stretch: int = 0
    best_stretch: int = 0
    candidates_before: int = 0
    penalty: dict[int, float] = field(default_factory=dict)
    averaged: dict[int, Tensor] | None = None
    tried: list[PromptRecord] = field(default_factory=list)
    failures: int = 0
    spent: dict[str, float] = field(default_factory=dict)
    anchor: Tensor | None = None
    layers: tuple[int, ...] = ()
    scale: float = 1.0
    gains: dict[int, tuple[int, float, float]] = field(default_factory=dict)

    @classmethod
    def beginning(cls, origin: Mapping[int, Tensor], start: StartRecord) -> SearchState:
        """The state before the first turn."""
        point = dict(origin)
        tried = [start.words] if start.words else []
        return cls(
            point,
            dict(point),
            dict(point),
            from_loss(start.train_loss),
            start.dev,
            start.dev,
            costs=start.costs,
            tried=list(tried),
        )

    @property
    def judged(self) -> dict[int, Tensor]:
        """The point that dev is asked about: the moving average where one is kept, else the incumbent."""
        return self.incumbent if self.averaged is None else self.averaged

    def take(self, record: JournalRecord) -> None:
        """Count a record, and keep the judged point if the record's evaluation on dev is the best so far, or its gain enough."""
        self.records += 1
        if record.dev is None:
            return
        self._look(record.dev, getattr(record, "gain", None))

    def _look(self, dev: Evaluation, gain: Gain | None) -> None:
        self.dev, self.evaluated = dev, self.records
        self.stale += 1
        if from_loss(dev.loss) < from_loss(self.best_dev.loss) if gain is None else gain.kept:
            self.best, self.best_dev, self.best_step, self.stale = dict(self.judged), dev, self.step, 0
            self.best_record, self.best_stretch, self.moved = self.records - 1, self.stretch, True

    def go_back(self) -> None:
        """The stage begins again at the kept point."""
        self.incumbent, self.origin, self.since = dict(self.best), dict(self.best), self.stage_step
        self.penalty, self.averaged = {}, None
        self.train_loss = math.inf  # not known before the next generation

    def choose(self, last: Evaluation | None, gain: Gain | None) -> None:
        """Take what was seen of the point where a search or a stage ended, before something else goes on."""
        if last is not None:
            self._look(last, gain)

    def hand_over(self, record: HandOverRecord, point: Mapping[int, Tensor]) -> None:
        """Another search begins at the best point so far; nothing else of the search before is carried on.

        Args:
            record: what is known of it by the objective that follows.
            point: the best point, as the next search takes it.
        """
        self.records += 1
        self.incumbent, self.best, self.costs = dict(point), dict(point), record.costs
        self.train_loss, self.dev, self.best_dev = from_loss(record.train_loss), record.dev, record.dev
        self.evaluated, self.stale = self.records, 0
        self.stretch, self.candidates_before = self.stretch + 1, record.costs.candidates
        self.enter_next_stage()

    def credit(self, block: int, gain: float) -> None:
        """Count a turn of a block, and by how much it lowered the training loss."""
        turns, whole, lately = self.gains.get(block, (0, 0.0, 0.0))
        gain = gain if math.isfinite(gain) else 0.0
        self.gains[block] = turns + 1, whole + gain, lately + gain

    def steer(self, actions: Actions, origin: Mapping[int, Tensor]) -> None:
        """Take what somebody has decided about the next round.

        Args:
            actions: what was decided.
            origin: the layers as they are in the pretrained model.
        """
        self.layers = actions.layers
        self.scale = scaled(self.scale, actions.steps)
        self.gains = {block: (turns, gain, 0.0) for block, (turns, gain, _) in self.gains.items()}
        if actions.restart != "no":
            self.incumbent = dict(self.best) if actions.restart == "best" else {**self.incumbent, **origin}
            self.train_loss = math.inf  # not known before the next generation

    def enter_next_stage(self) -> None:
        """The next stage begins at the incumbent."""
        self.stage += 1
        self.stage_step = self.since = 0
        self.origin = dict(self.incumbent)
        self.penalty, self.averaged = {}, None

    def plain(self) -> dict[str, Any]:
        """The state as plain data and arrays."""
        return {
            **vars(self),
            **{name: _arrays(getattr(self, name)) for name in _POINTS},
            "averaged": None if self.averaged is None else _arrays(self.averaged),
            "penalty": {str(block): penalty for block, penalty in self.penalty.items()},
            "layers": list(self.layers),
            "gains": {str(block): list(gained) for block, gained in self.gains.items()},
            "dev": self.dev.plain(),
            "best_dev": self.best_dev.plain(),
            "costs": self.costs.plain(),
            "tried": [entry.plain() for entry in self.tried],
            "anchor": None if self.anchor is None else self.anchor.numpy(),
        }

    @classmethod
    def from_plain(cls, saved: Mapping[str, Any], where: str) -> SearchState:
        """The state that `plain` gave.

        Args:
            saved: what it gave.
            where: the file, for messages.
        """
        return cls(
            **{
                **saved,
                **{name: _tensors(saved[name]) for name in _POINTS},
                "moved": saved.get("moved", saved["best_record"] > 0),
                "averaged": None if saved["averaged"] is None else _tensors(saved["averaged"]),
                "penalty": {int(block): penalty for block, penalty in saved["penalty"].items()},
                "layers": tuple(saved.get("layers", ())),
                "gains": {int(b): (int(n), g, lately) for b, (n, g, lately) in saved.get("gains", {}).items()},
                "dev": Evaluation.read(saved["dev"], where),
                "best_dev": Evaluation.read(saved["best_dev"], where),
                "costs": Costs.read(saved["costs"], where),
                "tried": [PromptRecord.read(entry, where) for entry in saved["tried"]],
                "anchor": None if saved.get("anchor") is None else torch.from_numpy(saved["anchor"]),
            }
        )


_POINTS = ("incumbent", "best", "origin")


def _arrays(point: Mapping[int, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {str(block): vector.numpy() for block, vector in point.items()}


def _tensors(arrays: Mapping[str, NDArray[np.float32]]) -> dict[int, Tensor]:
    return {int(block): torch.from_numpy(array) for block, array in arrays.items()}
