"""What one turn does: a generation of candidates, a gradient step (`proposals` has those of others). Each has one shape: ``run(state) -> record``.

`run` makes the record (or takes it from the journal), moves the state's incumbent, and leaves counting, looking at dev and
stages to the loop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandemtune.evaluators.base import Evaluator, PointGradient
from tandemtune.evaluators.candidates import picked, with_incumbent
from tandemtune.optimizers.base import AskTell, Incumbent
from tandemtune.runs.records import (
    Costs,
    Evaluation,
    GenerationRecord,
    Loss,
    StepRecord,
    TurnRecord,
    from_loss,
    to_loss,
)
from tandemtune.search.guard import Guard
from tandemtune.search.replay import Replay
from tandemtune.search.schedule import Phase, Stage
from tandemtune.search.state import SearchState
from tandemtune.search.words import WordReader
from tandemtune.tunables.base import Point


class Turn(Protocol):
    """One turn of whoever's turn it is."""

    def run(self, state: SearchState) -> TurnRecord:
        """Do it, or take it from the journal, and move the incumbent."""
        ...


@dataclass(frozen=True)
class Rules:
    """How turns are judged.

    Args:
        dev_every: turns between evaluations on dev.
        elites: best candidates of a generation that are scored again, on all training rows, before one is accepted.
        l2_penalty: times the mean square of z / sigma (or of the distance / sigma): what a candidate pays for being far from where the stage began.
        ema: decay of the exponential moving average of the incumbents that dev is asked about; 0 for the incumbent itself.
        sigma: unit of z.
        guard: whether a point is kept for a gain on dev beyond its standard error only.
        goes_back: whether the search begins again at the kept point when another one was not kept.
        dev_alone: entrants of a race are compared by dev rows alone, which a readout judges, and training rows label words.
    """

    dev_every: int = 5
    elites: int = 0
    l2_penalty: float = 0.0
    ema: float = 0.0
    sigma: float = 1.0
    guard: bool = False
    goes_back: bool = False
    dev_alone: bool = False


@dataclass(frozen=True)
class Desk:
    """What all turns work with."""

    evaluator: Evaluator
    replay: Replay
    rules: Rules
    reader: WordReader | None = None

    @cached_property
    def guard(self) -> Guard:
        """Who looks at dev."""
        return Guard(self.evaluator, self.rules.guard)

    def measured(self, point: Point) -> tuple[Evaluation, tuple[float, ...] | None]:
        """A point on the training rows, with the mean probability of each label if whoever proposes is told."""
        return (self.evaluator.measure(point), None) if self.reader is None else self.reader.measure(point)

    def measured_on_both(self, point: Point) -> tuple[Evaluation, Evaluation, tuple[float, ...] | None, Costs]:
        """The same on the training and on the dev rows, the probabilities, and what all of it has cost."""
        train, probabilities = self.measured(point)
        costs = self.evaluator.cost_to_measure()
        dev = self.evaluator.measure(point, "dev")
        return train, dev, probabilities, costs + self.evaluator.cost_to_measure("dev")

    def notes(self, state: SearchState, stage: Stage, moved: Point) -> tuple[dict[str, Any], Costs]:
        """An evaluation on dev and a reading as words for the record, when it is time for them, and what they cost."""
        dev, gain, words, costs = None, None, None, Costs()
        if (state.step + 1) % self.rules.dev_every == 0 or stage.over(state.step + 1, state.stage_step + 1):
            dev, gain = self.guard.look(state, moved)
            costs += self.evaluator.cost_to_measure("dev")
        if self.reader is not None and state.stage_step + 1 in stage.snapshots:
            words, spent = self.reader.read(moved, state.tried)
            costs += spent
        return {"dev": dev, "gain": gain, "words": words}, costs


@dataclass(frozen=True)
class _Scored:
    """Losses of a generation; the incumbent's where one is kept; the best ones again on all rows, where that is wanted."""

    losses: tuple[Loss, ...]
    incumbent: Loss = None
    elites: tuple[tuple[int, Loss], ...] | None = None
    incumbent_again: Loss = None


@dataclass(frozen=True)
class _Move:
    """Where a generation leads."""

    best: int
    accepted: bool
    incumbent: dict[int, Tensor]
    train_loss: float


@dataclass(frozen=True)
class _Told:
    """A generation that the optimizer has been told of: its sweep and blocks, its losses, where it leads, and what scoring it has cost
    (nothing where that is recorded)."""

    sweep: int
    blocks: tuple[int, ...]
    scored: _Scored
    move: _Move
    costs: Costs


class GenerationTurn:
    """Candidates are asked for, scored and told; the incumbent becomes the best one if that is better, or the optimizer's point.

    Args:
        desk: what turns work with.
        phase: the optimizers, and whose turn it is.
        stage: the present stage.
    """

    def __init__(self, desk: Desk, phase: Phase, stage: Stage) -> None:
        self._desk, self._phase, self._stage = desk, phase, stage

    def run(self, state: SearchState) -> GenerationRecord:
        """Score a generation, or take its losses from the journal; tell them, and move the incumbent."""
        _, turn = self._phase.turn(state.stage_step)
        found = self._told(state, self._recorded(state), self._kept(state, turn))
        blocks, scored, move = found.blocks, found.scored, found.move
        averaged = self._averaged(state, blocks, move.incumbent)

        def make() -> GenerationRecord:
            judged = move.incumbent if averaged is None else averaged
            notes, costs = self._desk.notes(state, self._stage, judged)
            return GenerationRecord(
                event="generation",
                step=state.step + 1,
                phase=self._phase.name,
                sweep=found.sweep,
                layer=blocks[0] if len(blocks) == 1 else None,
                **vars(scored),
                best=scored.losses[move.best],
                accepted=move.accepted,
                train_loss=to_loss(move.train_loss),
                costs=state.costs + costs + found.costs,
                text=self._phase.shown(self._phase.optimizer(blocks)),
                **notes,
            )

        record = self._desk.replay.record(state.records, GenerationRecord, make)
        state.incumbent, state.train_loss, state.averaged = move.incumbent, move.train_loss, averaged
        return record

    def advance(self, state: SearchState, *, entering: bool) -> Costs:
        """A generation without a record of its own: it moves the state's incumbent, and nothing is looked at.

        Args:
            state: of one search among several.
            entering: whether another search has had the last generation, so that no hidden states of this one are kept.

        Returns:
            What it has cost.
        """
        _, turn = self._phase.turn(state.stage_step)
        found = self._told(state, None, 0 if entering else self._phase.below(turn))
        state.incumbent, state.train_loss = found.move.incumbent, found.move.train_loss
        return found.costs

    def _told(self, state: SearchState, recorded: _Scored | None, kept: int) -> _Told:
        """Ask, score (unless that is recorded), tell, and see where it leads; `kept` is the block whose hidden states are."""
        sweep, blocks = self._phase.turn(state.stage_step)
        optimizer = self._phase.optimizer(blocks)
        asked = optimizer.ask()
        vectors = self._phase.up(blocks, asked)
        penalties = self._penalties(blocks, asked)
        scored, costs = (recorded, Costs()) if recorded else self._scored(state, blocks, vectors, penalties, kept)
        losses = np.array([from_loss(loss) for loss in scored.losses], dtype=np.float64)
        if self._phase.keeps_best:
            there = from_loss(scored.incumbent) + state.penalty.get(blocks[0], 0.0)
            move = self._keep_best(state, blocks, vectors, scored, losses, penalties)
            optimizer.tell(losses + penalties, incumbent=Incumbent(there, move.best if move.accepted else None))
        else:
            optimizer.tell(losses + penalties)
            move = self._follow(state, blocks, losses, optimizer)
        return _Told(sweep, blocks, scored, move, costs)

    def _recorded(self, state: SearchState) -> _Scored | None:
        if not self._desk.replay.knows(state.records):
            return None
        record = self._desk.replay.record(state.records, GenerationRecord, _impossible)
        return _Scored(record.losses, record.incumbent, record.elites, record.incumbent_again)

    def _scored(
        self,
        state: SearchState,
        blocks: tuple[int, ...],
        vectors: Mapping[int, Tensor],
        penalties: NDArray[np.float64],
        kept: int,
    ) -> tuple[_Scored, Costs]:
        """Losses, and what they have cost. Where a best candidate is kept, the incumbent is scored as one more of them."""
        evaluator = self._desk.evaluator
        together = with_incumbent(vectors, state.incumbent) if self._phase.keeps_best else vectors
        found = [*map(to_loss, evaluator.evaluate(state.incumbent, together, state.step))]
        costs = evaluator.cost(blocks, len(found), state.step, kept)
        if not self._phase.keeps_best:
            return _Scored(tuple(found)), costs
        *losses, incumbent = found
        if not self._desk.rules.elites:
            return _Scored(tuple(losses), incumbent), costs
        known = np.array([from_loss(loss) for loss in losses])
        chosen = np.argsort(known + penalties, kind="stable")[: self._desk.rules.elites].tolist()
        best = picked(together, [*chosen, len(losses)])
        *elites, again = map(to_loss, evaluator.evaluate(state.incumbent, best))
        costs += evaluator.cost(blocks, len(elites) + 1)
        return _Scored(tuple(losses), incumbent, tuple(zip(chosen, elites, strict=True)), again), costs

    def _keep_best(
        self,
        state: SearchState,
        blocks: tuple[int, ...],
        vectors: Mapping[int, Tensor],
        scored: _Scored,
        losses: NDArray[np.float64],
        penalties: NDArray[np.float64],
    ) -> _Move:
        """The best candidate, if it is better than the incumbent on the same rows."""
        again = {index: from_loss(loss) for index, loss in scored.elites or ()}
        judged = np.array([again.get(i, math.inf) for i in range(len(losses))]) if again else losses
        best = int(np.argmin(judged + penalties))
        there = from_loss(scored.incumbent_again if again else scored.incumbent)
        accepted = bool((judged + penalties)[best] < there + state.penalty.get(blocks[0], 0.0))
        incumbent, train_loss = state.incumbent, there
        if accepted:
            incumbent = {**state.incumbent, **_one(vectors, best)}
            train_loss = again.get(best, float(losses[best]))
            state.penalty = {**state.penalty, blocks[0]: float(penalties[best])}
        if len(blocks) == 1:
            state.credit(blocks[0], there - train_loss)
        return _Move(best, accepted, incumbent, train_loss)

    def _follow(
        self, state: SearchState, blocks: tuple[int, ...], losses: NDArray[np.float64], optimizer: AskTell[Any]
    ) -> _Move:
        """The point that the optimizer has moved."""
        moved = self._phase.up(blocks, optimizer.point[np.newaxis])  # type: ignore[attr-defined]
        finite = losses[np.isfinite(losses)]
        train_loss = float(np.mean(finite)) if len(finite) else math.inf
        return _Move(int(np.argmin(losses)), True, {**state.incumbent, **_only(moved)}, train_loss)

    def _penalties(self, blocks: tuple[int, ...], asked: Any) -> NDArray[np.float64]:
        """What candidates [P, d] pay for being far from where the stage began: z = 0, or its point where there is no subspace."""
        rules = self._desk.rules
        if not rules.l2_penalty:
            return np.zeros(len(asked))
        away = asked if self._phase.projections else asked - self._phase.beginning(blocks)
        return np.asarray(rules.l2_penalty * np.mean(np.square(away / rules.sigma), axis=1))

    def _averaged(
        self, state: SearchState, blocks: tuple[int, ...], moved: Mapping[int, Tensor]
    ) -> dict[int, Tensor] | None:
        """The moving average of the incumbents, of which only the blocks of this turn have changed."""
        decay = self._desk.rules.ema
        if not decay:
            return None
        before = state.averaged or dict(state.origin)
        return {**before, **{b: torch.lerp(moved[b], before[b], decay) for b in blocks}}

    def _kept(self, state: SearchState, blocks: tuple[int, ...]) -> int:
        """The block whose hidden states are surely kept: after going back that which no other one changes."""
        back = state.since and state.since == state.stage_step
        return min(self._phase.blocks) if back else self._phase.below(blocks)


class GradientTurn:
    """The gradient of some rows is followed. It is taken anew when recorded turns are walked through, and has to agree.

    Args:
        desk: what turns work with.
        phase: the only optimizer, of all blocks.
        stage: the present stage.
    """

    def __init__(self, desk: Desk, phase: Phase, stage: Stage) -> None:
        self._desk, self._phase, self._stage = desk, phase, stage

    def run(self, state: SearchState) -> StepRecord:
        """Take a gradient, tell it, and move to the optimizer's point."""
        rate = self._phase.lr
        moved, found = descend(self._desk.evaluator, self._phase, state.incumbent, state.step)
        norm = float(_joined(list(found.blocks.values())).norm())

        def make() -> StepRecord:
            notes, costs = self._desk.notes(state, self._stage, moved)
            return StepRecord(
                event="step",
                step=state.step + 1,
                phase=self._phase.name,
                loss=to_loss(found.loss),
                gradient_norm=to_loss(norm),
                lr=rate,
                costs=state.costs + found.costs + costs,
                **notes,
            )

        record = self._desk.replay.record(state.records, StepRecord, make)
        self._desk.replay.check_again(state.records, record.loss, to_loss(found.loss))
        state.incumbent, state.train_loss = moved, found.loss
        return record


def descend(evaluator: Evaluator, phase: Phase, point: Point, step: int) -> tuple[dict[int, Tensor], PointGradient]:
    """One gradient step of a phase: the point that it leads to, and the gradient.

    Args:
        evaluator: takes the gradient.
        phase: its only optimizer is told the gradient.
        point: where the phase stands.
        step: number of the step, which decides its rows.
    """
    _, blocks = phase.turn(0)
    optimizer: Any = phase.optimizer(blocks)
    found = evaluator.gradient({**point, **_only(phase.up(blocks, optimizer.ask()))}, blocks, step)
    flat = _joined([found.blocks[block] for block in blocks])
    optimizer.tell(np.array([found.loss]), flat.numpy()[np.newaxis])
    return {**point, **_only(phase.up(blocks, optimizer.point[np.newaxis]))}, found


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    """Vectors end to end; one alone as it is, which may be as large as the model."""
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))


def _only(vectors: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The only candidate of a generation of one; one block alone, which may be as large as the model, is not copied."""
    return {block: v[0].to("cpu", copy=len(vectors) > 1) for block, v in vectors.items()}


def _one(vectors: Mapping[int, Tensor], index: int) -> dict[int, Tensor]:
    """One candidate as a point, where points are kept: in the processor's memory."""
    return {block: v[index].to("cpu", copy=True) for block, v in vectors.items()}


def _impossible() -> GenerationRecord:
    raise AssertionError("a record that is known is not made")
