"""The loop: one turn after the other, an evaluation on dev now and then, and the point that is best on dev is the result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from tandemtune.callbacks import Callback, Planned, TurnView
from tandemtune.errors import RunError
from tandemtune.mentor import Course, LayerGain
from tandemtune.proposers.base import Source
from tandemtune.runs.records import SCHEMA, Actions, Costs, EndRecord, ProposalRecord, RaceRecord, StartRecord, to_loss
from tandemtune.runs.store import RunFolder
from tandemtune.search.proposals import Acceptance, ProposalTurn
from tandemtune.search.race import Race, RaceTurn
from tandemtune.search.replay import Replay
from tandemtune.search.schedule import Phase, Stage
from tandemtune.search.state import SearchState
from tandemtune.search.stretches import Stretch, hand_over
from tandemtune.search.turns import Desk, GenerationTurn, GradientTurn, Turn
from tandemtune.search.words import WordReader
from tandemtune.system import peak_rss_mb

SAVE_SHARE = 0.02
"""Checkpoints take at most this share of the time, unless one is asked for after every generation."""
RACES = 1000
"""Races have random numbers of their own: those of a round with this much added to its number."""
BY_HAND, ALL_RIGHT = "finished by hand", "all rows right"
"""Why a search ended that somebody did not want to go on, or that had nothing to set right."""


@dataclass(frozen=True)
class Limits:
    """What ends a search before its stages do.

    Args:
        forward_tokens: tokens through the whole model, forwards and backwards.
        seconds: of search, over all processes.
        checkpoint_seconds: least time between checkpoints; 0 writes one after every turn.
        ends: why to end where the journal ends, with what has been found; empty to go on.
        generated_tokens: that may be written.
    """

    forward_tokens: int | None = None
    seconds: float | None = None
    checkpoint_seconds: float = 20.0
    ends: str = ""
    generated_tokens: int | None = None


@dataclass
class Search:
    """The stages of one run over its folder, new or resumed.

    Args:
        stretches: one after another; each of several has one stage.
        stages: what happens in which order.
        origin: the point to begin with.
        make_phase: (starting point, stage) -> the optimizer's phase.
        folder: where the journal and the checkpoint lie.
        limits: what ends the search.
        planned: how much work there will be, for those who watch.
        callback: told what happens.
        reader: reads points as words, where somebody proposes.
        source: who proposes.
        proposer: what the journal calls who proposes.
        acceptance: how proposals are taken.
        reset_moments: whether an optimizer's moments begin anew in each stage.
        proposing: what scoring the proposals of a round costs at most.
        layers: blocks among which the source chooses who has turns in the next round; empty where it does not steer.
    """

    stretches: tuple[Stretch, ...]
    stages: tuple[Stage, ...]
    origin: Mapping[int, Tensor]
    make_phase: Callable[[Mapping[int, Tensor], Stage], Phase]
    folder: RunFolder
    limits: Limits
    planned: Planned
    callback: Callback
    reader: WordReader | None = None
    source: Source | None = None
    proposer: str = ""
    acceptance: Acceptance | None = None
    reset_moments: bool = True
    layers: tuple[int, ...] = ()
    proposing: Costs = field(default_factory=Costs)
    _phase: Phase | None = field(default=None, init=False)
    _race: Race | None = field(default=None, init=False)
    _saved_at: float = field(default=0.0, init=False)
    _save_cost: float = field(default=0.0, init=False)
    _stage_began: tuple[int, float] = field(default=(0, 0.0), init=False)
    _proposal_seconds: float = field(default=0.0, init=False)

    def run(self) -> SearchState:
        """Search until a limit is reached or the stages end.

        Returns:
            Where the search ended; `best` is its result.
        """
        journal = self.folder.open_journal()
        self._spent, self._begin = self.folder.read_seconds(), time.perf_counter()
        self._saved_at = self._begin
        resumed = len(journal.records)
        if journal.torn:
            self.callback.on_progress("the journal's last line was torn by a kill; its turn is taken again")
        self._desks = [Desk(one.evaluator, Replay(journal), one.rules, self.reader) for one in self.stretches]
        self._desk = self._desks[0]
        start = self._desk.replay.record(0, StartRecord, self._start)
        state = self._restored(start, len(journal.records))
        self._desk = self._desks[state.stretch]
        self._stage_began = state.stage_step, self._seconds()
        self.callback.on_start(start, resumed, self._spent)
        while not (reason := self._stop_reason(state)):
            if why := self._hands_over(state):
                self._hand_over(state, why)
                continue
            if self._share_is_spent(state):
                self._next_stage(state)
                continue
            self._turn(state)
            self._checkpoint(state)
        end = self._desk.replay.record(state.records, EndRecord, lambda: self._end(state, reason))
        state.take(end)
        state.costs = end.costs or state.costs
        self._tick(state)
        return state

    def _start(self) -> StartRecord:
        point, evaluator = dict(self.origin), self._desk.evaluator
        train = evaluator.measure(point)
        costs = evaluator.cost_to_begin() + evaluator.cost_to_measure()
        dev = self._desk.guard.begin(point, 0)
        costs += evaluator.cost_to_measure("dev")
        words, spent = (None, Costs()) if self.reader is None else self.reader.read(point, [])
        return StartRecord(
            event="start",
            schema_=SCHEMA,
            phase=self.stretches[0].name,
            train_loss=train.loss,
            dev=dev,
            words=words,
            costs=(costs + spent).where_texts_are_written,
        )

    def _share_is_spent(self, state: SearchState) -> bool:
        """Whether a stage of several has had its share of the turns that the run can pay for, or later ones would be left without any;
        while records are walked through, whether it had then.

        By what its turns took so far: where the rounds can be paid for, each has all of its turns, and the last stage what is left, at
        least as many as a round; else all have the same part of theirs.
        """
        stage = self.stages[state.stage]
        turns = [one.steps or 0 for one in self.stages[state.stage :] if one.kind == "tune"]
        raced = any(one.kind == "race" for one in self.stages)
        several = len(self.stretches) > 1  # whose shares are their own
        if raced or several or len(turns) < 2 or stage.kind != "tune" or not state.stage_step:
            return False
        if self._desk.replay.knows(state.records):
            return self._desk.replay.proposes(state.records)
        paid = self._paid_for(state)
        if paid is None:
            return False
        rounds, last = turns[:-1], turns[-1]
        wanted = sum(rounds) + min(last, max(paid - sum(rounds), *rounds))
        return state.stage_step >= max(1, math.floor(rounds[0] * min(1.0, paid / wanted) + 1e-6))

    def _paid_for(self, state: SearchState) -> float | None:
        """Turns that the run's bounds pay for from the present stage's first one on, beside proposals as dear as the last one, or, before
        there is one, as they may be; None where nothing bounds them."""
        limits, depth, replay = self.limits, self._desk.evaluator.depth, self._desk.replay
        ahead = sum(one.kind == "propose" for one in self.stages[state.stage :])
        began = state.records - state.stage_step - 1
        before, now = replay.costs(began), state.costs
        proposed = replay.costs_of_proposal(began)
        if proposed == Costs():
            proposed = self.proposing
        bounds = (
            (limits.forward_tokens, lambda costs: (costs.forward + costs.backward) / depth),
            (limits.generated_tokens, lambda costs: float(costs.generated)),
        )
        found = [
            state.stage_step * max(0.0, limit - used(before) - ahead * used(proposed)) / (used(now) - used(before))
            for limit, used in bounds
            if limit is not None and used(now) > used(before)
        ]
        took = state.stage_step - self._stage_began[0]
        if limits.seconds is not None and took > 0:
            seconds = self._seconds()
            left = limits.seconds - seconds - ahead * self._proposal_seconds
            found.append(state.stage_step + took * max(0.0, left) / max(seconds - self._stage_began[1], 1e-9))
        return min(found, default=None)

    def _turn(self, state: SearchState) -> None:
        """One turn of whoever's turn it is, and what follows from it."""
        stage = self.stages[state.stage]
        recorded, begin = self._desk.replay.knows(state.records), self._seconds() if stage.kind == "propose" else 0.0
        record = self._turn_of(stage, state).run(state)
        state.costs = record.costs
        if isinstance(record, ProposalRecord):
            self._proposal_seconds = self._seconds() - begin
            state.take(record)
            if record.raced:
                self._race = self._raced(record, state)
            if self.layers:
                state.steer(record.actions or Actions(), {block: self.origin[block] for block in self.layers})
            self._next_stage(state)
            self.callback.on_proposal(record, self._view(state), self._seconds(), recorded)
            return
        if isinstance(record, RaceRecord):
            self._leg(state, record, recorded)
            return
        state.step += 1
        state.stage_step += 1
        if record.words is not None:
            state.tried.append(record.words)
        state.take(record)
        if recorded:
            self._stage_began = state.stage_step, self._seconds()  # walking through records takes no time
        else:
            self._tick(state)
        self.callback.on_turn(record, self._view(state), self._seconds(), recorded)
        if self._desk.rules.goes_back and record.gain is not None and not record.gain.kept:
            state.go_back()
            self._enter(state)
        if stage.over(state.step, state.stage_step) and not self._more(state):
            self._next_stage(state)

    def _more(self, state: SearchState) -> bool:
        """Whether another search follows the present one."""
        return state.stretch + 1 < len(self.stretches)

    def _hands_over(self, state: SearchState) -> str:
        """Why the present search is over and another one goes on, or nothing; while records are walked through, what was decided then."""
        if self._desk.replay.knows(state.records):
            return self._desk.replay.hand_over_reason(state.records)
        if not self._more(state):
            return ""
        over = self.stages[state.stage].over(state.step, state.stage_step)
        stretch = self.stretches[state.stretch]
        return "steps" if over else self._done(state, stretch) or self._spent_up(state, stretch.until)

    def _hand_over(self, state: SearchState, reason: str) -> None:
        """Another search begins at the best point."""
        recorded = self._desk.replay.knows(state.records)
        after = self._desks[state.stretch + 1]
        record = hand_over(state, self._desk, self.stretches[state.stretch + 1], after, reason)
        self._desk, self._phase = self._desks[state.stretch], None
        self._enter(state)
        if not recorded:
            self._tick(state)
        self.callback.on_hand_over(record, self._view(state), self._seconds(), recorded)
        self._checkpoint(state)

    def _raced(self, record: ProposalRecord, state: SearchState) -> Race:
        """The race of a round's proposals; whoever takes part begins with the optimizer's moments so far."""
        assert self.source is not None
        make = self._racers(record.round)
        return Race.of(record, state, self.source, self.origin, self._phase or make(state.incumbent), make)

    def _racers(self, number: int) -> Callable[[Mapping[int, Tensor]], Phase]:
        """A point -> the phase of one that takes part in a round's race; all of these have the same random numbers."""
        return lambda point: self.make_phase(point, replace(self.stages[-1], round=RACES + number))

    def _leg(self, state: SearchState, record: RaceRecord, recorded: bool) -> None:
        """What follows from a leg of a race; the winner's optimizer goes on."""
        assert self._race is not None
        state.step = record.step
        state.stage_step += 1
        state.take(record)
        if not recorded:
            self._tick(state)
        self.callback.on_race(record, self._view(state), self._seconds(), recorded)
        if self._race.over:
            self._next_stage(state)

    def _turn_of(self, stage: Stage, state: SearchState) -> Turn:
        if stage.kind == "propose":
            assert self.source is not None and self.acceptance is not None
            course = self._course(state) if self.layers else None
            tuned = bool(state.stage) and self.stages[state.stage - 1].kind == "tune"
            cut = tuned and state.evaluated < state.records
            return ProposalTurn(self._desk, stage, self.source, self.proposer, self.acceptance, course, cut)
        if stage.kind == "race":
            assert self._race is not None
            return RaceTurn(self._desk, self._race, stage)
        assert self._phase is not None
        return (GradientTurn if self._phase.gradient else GenerationTurn)(self._desk, self._phase, stage)

    def _course(self, state: SearchState) -> Course | None:
        """How the search has gone, for who decides about the next round; None where none follows."""
        ahead = next((one.steps for one in self.stages[state.stage :] if one.kind == "tune"), None)
        if ahead is None:
            return None
        gained = {block: state.gains.get(block, (0, 0.0, 0.0)) for block in self.layers}
        return Course(
            tuple(LayerGain(block, *found) for block, found in gained.items()),
            self.stages[state.stage].round,
            max(one.round for one in self.stages if one.kind == "propose"),
            ahead,
            state.scale,
            state.train_loss,
            state.step - state.best_step,
        )

    def _next_stage(self, state: SearchState) -> None:
        """Go to the next stage; the optimizer begins anew at the incumbent, or keeps its moments where that is wanted."""
        state.enter_next_stage()
        self._stage_began = 0, self._seconds()
        if self._race is not None and self._race.over:
            (winner,) = self._race.entrants
            self._phase, state.anchor, self._race = winner.phase, winner.anchor, None
        if state.stage == len(self.stages):
            return
        stage = self.stages[state.stage]
        if stage.kind == "tune":
            self._enter(state)
        if (stage.kind == "race" and self._race is None) or (stage.until is not None and state.step >= stage.until):
            self._next_stage(state)

    def _enter(self, state: SearchState) -> None:
        before, self._phase = self._phase, self.make_phase(state.origin, self._steered(self.stages[state.stage], state))
        if before is not None and not self.reset_moments:
            self._phase.carry_on(before)

    def _steered(self, stage: Stage, state: SearchState) -> Stage:
        """A stage as somebody has decided that it is run, from where it last went back."""
        return replace(stage, layers=state.layers, scale=state.scale, since=state.since)

    def _end(self, state: SearchState, reason: str) -> EndRecord:
        end = EndRecord(event="end", step=state.step, stop_reason=reason)
        if state.evaluated == state.records:
            return end
        dev, gain = self._desk.guard.look(state, state.judged)
        costs = self._desk.evaluator.cost_to_measure("dev").where_texts_are_written
        spent = state.costs + costs if costs.generated else None
        return end.model_copy(update={"dev": dev, "gain": gain, "costs": spent})

    def _stop_reason(self, state: SearchState) -> str:
        """Why to stop now, or "" to go on; while records are walked through, what was decided then."""
        if self._desk.replay.knows(state.records):
            return self._desk.replay.stop_reason(state.records)
        if state.stage == len(self.stages):
            return "steps"
        if not self._more(state) and (
            reason := self._done(state, self.stretches[state.stretch]) or self._spent_up(state)
        ):
            return reason
        return self.limits.ends

    def _done(self, state: SearchState, stretch: Stretch) -> str:
        """Which of a search's own bounds is reached, or nothing."""
        scored, phase = state.costs.candidates - state.candidates_before, self._phase
        if stretch.candidates is not None and phase and scored + phase.candidates > stretch.candidates:
            return "budget"
        return "patience" if stretch.patience is not None and state.stale >= stretch.patience else ""

    def _spent_up(self, state: SearchState, share: float = 1.0) -> str:
        """Which bound of the run a share of is used up, or nothing."""
        limits = self.limits
        tokens = (state.costs.forward + state.costs.backward) / self._desk.evaluator.depth
        if limits.forward_tokens is not None and tokens >= share * limits.forward_tokens:
            return "max_forward_tokens"
        if limits.generated_tokens is not None and state.costs.generated >= share * limits.generated_tokens:
            return "max_generated_tokens"
        if limits.seconds is not None and self._seconds() >= share * limits.seconds:
            return "max_seconds"
        return ""

    def _view(self, state: SearchState) -> TurnView:
        planned = self.planned
        return TurnView(
            to_loss(state.train_loss),
            state.dev,
            state.best_dev,
            state.best_step,
            state.costs,
            planned.total,
            planned.unit,
        )

    def _seconds(self) -> float:
        return self._spent + time.perf_counter() - self._begin

    def _tick(self, state: SearchState) -> None:
        self.folder.tick(step=state.step, seconds=self._seconds(), peak_rss_mb=peak_rss_mb())

    def _checkpoint(self, state: SearchState) -> None:
        begin, wanted = time.perf_counter(), self.limits.checkpoint_seconds
        pause = max(wanted, self._save_cost / SAVE_SHARE) if wanted else 0.0
        if self._desk.replay.knows(state.records) or begin - self._saved_at < pause:
            return
        optimizers = self._phase.state() if self._phase else []
        race = {} if self._race is None else {"race": self._race.state()}
        self.folder.save_checkpoint({"state": state.plain(), "optimizers": optimizers, **race})
        self._saved_at = time.perf_counter()
        self._save_cost = self._saved_at - begin

    def _restored(self, start: StartRecord, written: int) -> SearchState:
        """The state of the last checkpoint, or of the beginning."""
        saved = self.folder.load_checkpoint()
        if saved is None:
            state = SearchState.beginning(self.origin, start)
            if self.stages and self.stages[0].kind == "tune":
                self._enter(state)
            return state
        state = SearchState.from_plain(saved["state"], str(self.folder.checkpoint))
        if state.records > written:
            raise RunError(
                f"{self.folder.journal} holds {written} lines, fewer than the checkpoint was made after ({state.records}): "
                f"restore it, or delete {self.folder.checkpoint} to go on from the journal"
            )
        if saved["optimizers"] or (state.stage < len(self.stages) and self.stages[state.stage].kind == "tune"):
            before = (s for s in reversed(self.stages[: state.stage + 1]) if s.kind == "tune")
            last = next(
                before, self.stages[-1]
            )  # a race may be the first stage; its winner has the last one's optimizer
            self._phase = self.make_phase(state.origin, self._steered(last, state))
            self._phase.restore(saved["optimizers"])
        if saved.get("race"):
            self._race = Race.restored(saved["race"], self._racers(self.stages[state.stage].round))
        return state
