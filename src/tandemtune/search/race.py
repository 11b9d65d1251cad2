"""A race: proposals and the trained prompt take the same turns of the optimizer side by side, and after each leg the worst ones drop
out. A turn is a gradient step on the same rows, or a generation with the same random numbers.

The trained prompt reaches the last leg whatever happens on the way: a proposal has to beat it after equal steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tandemtune.proposers.base import Draft, Source, survivors
from tandemtune.runs.records import (
    Costs,
    Loss,
    PromptRecord,
    ProposalRecord,
    RaceEntry,
    RaceRecord,
    from_loss,
    to_loss,
)
from tandemtune.search.schedule import Phase, Stage
from tandemtune.search.state import SearchState
from tandemtune.search.turns import Desk, GenerationTurn, descend
from tandemtune.tunables.base import INPUT

Name = Literal["continuing", "proposed", "residual"]


@dataclass
class Entrant:
    """One that takes part.

    Args:
        name: as `RaceEntry` has it.
        draft: what was proposed; None for the trained prompt.
        point: where it stands.
        anchor: the words' vectors [dim] that it is trained from; None for those that the run began with.
        phase: its own optimizer.
        penalty: by block, what the point pays for being far from where the race began.
    """

    name: Name
    draft: Draft | None
    point: dict[int, Tensor]
    anchor: Tensor | None
    phase: Phase
    penalty: dict[int, float] = field(default_factory=dict)


@dataclass
class Race:
    """All that are still in a race.

    Args:
        entrants: the trained prompt, and proposals as they are and with what was learned.
    """

    entrants: list[Entrant]

    @classmethod
    def of(
        cls,
        record: ProposalRecord,
        state: SearchState,
        source: Source,
        origin: Mapping[int, Tensor],
        phase: Phase,
        make_phase: Callable[[Mapping[int, Tensor]], Phase],
    ) -> Race:
        """The race of a round's proposals.

        A draft of words enters twice: as it is, and with what was learned since the last words, words + (trained - last words).

        Args:
            record: the proposals.
            state: where the search stands.
            source: who proposed.
            origin: the point that the run began with.
            phase: the optimizer so far; every entrant begins with a copy of its moments, if it has any.
            make_phase: a point -> a fresh phase there.
        """
        trained = state.incumbent[INPUT]
        learned = trained - (origin[INPUT] if state.anchor is None else state.anchor)
        named: list[tuple[Name, Draft | None, Tensor, Tensor | None]] = [("continuing", None, trained, state.anchor)]
        for entry in record.drafts:
            proposed = Draft(entry.text, entry.ids, entry.seed)
            vector = source.vector(proposed, trained)
            anchor = vector if entry.ids is not None else state.anchor
            named.append(("proposed", proposed, vector, anchor))
            if entry.ids is not None:
                named.append(("residual", proposed, vector + learned, anchor))
        race = cls([])
        for name, draft, vector, anchor in named:
            if any(torch.equal(vector, other.point[INPUT]) for other in race.entrants):
                continue
            point = {**state.incumbent, INPUT: vector}
            own = make_phase(point)
            own.branch(phase)
            race.entrants.append(Entrant(name, draft, point, anchor, own))
        return race

    @property
    def over(self) -> bool:
        """Whether one is left."""
        return len(self.entrants) == 1

    def cut(self, entries: Sequence[RaceEntry], dev_alone: bool = False) -> tuple[int, ...]:
        """Who goes on, best first: a quarter of more than four, else half; the trained prompt drops out in the last leg only.

        Args:
            entries: all entrants after a leg.
            dev_alone: as in `judged`.
        """
        count = survivors(len(entries))
        ranked = sorted(range(len(entries)), key=lambda place: judged(entries[place], dev_alone))
        kept = ranked[:count]
        if count > 1 and 0 not in kept:
            kept[-1] = 0
        return tuple(kept)

    def keep(self, kept: Sequence[int]) -> None:
        """Go on with some of the entrants, the trained prompt first as always."""
        self.entrants = [self.entrants[place] for place in sorted(kept)]

    def state(self) -> list[dict[str, Any]]:
        """Everything that is needed to go on."""
        return [
            {
                "name": one.name,
                "draft": None
                if one.draft is None
                else vars(one.draft) | {"ids": one.draft.ids and list(one.draft.ids)},
                "point": {str(block): vector.numpy() for block, vector in one.point.items()},
                "anchor": None if one.anchor is None else one.anchor.numpy(),
                "origin": {str(block): vector.numpy() for block, vector in one.phase.origin.items()},
                "optimizers": one.phase.state(),
                "penalty": {str(block): paid for block, paid in one.penalty.items()},
            }
            for one in self.entrants
        ]

    @classmethod
    def restored(cls, saved: Sequence[Mapping[str, Any]], make_phase: Callable[[Mapping[int, Tensor]], Phase]) -> Race:
        """The race that `state` told of."""
        race = cls([])
        for one in saved:
            point = {int(block): torch.from_numpy(vector) for block, vector in one["point"].items()}
            said = one["draft"]
            draft = None if said is None else Draft(said["text"], said["ids"] and tuple(said["ids"]), said["seed"])
            began = one.get("origin")  # what z = 0 stands for; the point has moved since
            phase = make_phase(point if began is None else {int(b): torch.from_numpy(v) for b, v in began.items()})
            phase.restore(one["optimizers"])
            anchor = None if one["anchor"] is None else torch.from_numpy(one["anchor"])
            paid = {int(block): penalty for block, penalty in one.get("penalty", {}).items()}
            race.entrants.append(Entrant(one["name"], draft, point, anchor, phase, paid))
        return race


def judged(entry: RaceEntry, dev_alone: bool = False) -> float:
    """What entrants are compared by: the loss on the training rows and that on the dev rows, or the latter alone.

    Args:
        entry: of a leg.
        dev_alone: dev rows are judged by a readout and training rows by label words, so their losses do not add up.
    """
    dev = from_loss(entry.dev.loss)
    return dev if dev_alone else from_loss(entry.train.loss) + dev


class RaceTurn:
    """One leg: each entrant takes the stage's turns. They are taken anew when recorded legs are walked through, and their losses have
    to agree.

    Args:
        desk: what turns work with.
        race: who takes part; those who drop out are gone afterwards.
        stage: the present stage.
    """

    def __init__(self, desk: Desk, race: Race, stage: Stage) -> None:
        self._desk, self._race, self._stage = desk, race, stage

    def run(self, state: SearchState) -> RaceRecord:
        """Run the leg, drop the worst, and stand at the best."""
        before, steps = state.costs, self._stage.steps or 1
        losses: list[tuple[Loss, ...]] = []
        spent = Costs()
        for entrant in self._race.entrants:
            there, costs = (self._descended if entrant.phase.gradient else self._searched)(entrant, state, steps)
            losses.append(there)
            spent += costs
        record = self._desk.replay.record(state.records, RaceRecord, lambda: self._made(state, losses, before + spent))
        for entry, now in zip(record.entrants, losses, strict=True):
            for told, again in zip(entry.losses, now, strict=True):
                self._desk.replay.check_again(state.records, told, again)
        best = self._race.entrants[record.kept[0]]
        state.incumbent, state.train_loss = dict(best.point), from_loss(record.train_loss)
        if state.stage_step == 0:
            state.tried += _tried(record.entrants, steps, self._desk.rules.dev_alone)
        self._race.keep(record.kept)
        return record

    def _descended(self, entrant: Entrant, state: SearchState, steps: int) -> tuple[tuple[Loss, ...], Costs]:
        """Gradient steps of one entrant: the loss at each, and what they cost."""
        losses, spent = [], Costs()
        for step in range(state.step, state.step + steps):
            entrant.point, found = descend(self._desk.evaluator, entrant.phase, entrant.point, step)
            losses.append(to_loss(found.loss))
            spent += found.costs
        return tuple(losses), spent

    def _searched(self, entrant: Entrant, state: SearchState, steps: int) -> tuple[tuple[Loss, ...], Costs]:
        """Generations of one entrant: the training loss after each, and what they cost."""
        own = replace(state, incumbent=entrant.point, penalty=entrant.penalty, gains={})
        turn = GenerationTurn(self._desk, entrant.phase, self._stage)
        losses, spent = [], Costs()
        for number in range(steps):
            own.step, own.stage_step = state.step + number, state.stage_step * steps + number
            spent += turn.advance(own, entering=not number)
            losses.append(to_loss(own.train_loss))
        entrant.point, entrant.penalty = own.incumbent, own.penalty
        return tuple(losses), spent

    def _made(self, state: SearchState, losses: Sequence[tuple[Loss, ...]], costs: Costs) -> RaceRecord:
        entries = []
        for entrant, there in zip(self._race.entrants, losses, strict=True):
            train, dev, probabilities, spent = self._desk.measured_on_both(entrant.point)
            costs += spent
            text, ids = ("", None) if entrant.draft is None else (entrant.draft.text, entrant.draft.ids)
            entries.append(
                RaceEntry(
                    name=entrant.name,
                    losses=there,
                    train=train,
                    dev=dev,
                    text=text,
                    ids=ids,
                    probabilities=probabilities,
                )
            )
        kept = self._race.cut(entries, self._desk.rules.dev_alone)
        return RaceRecord(
            event="race",
            round=self._stage.round,
            step=state.step + (self._stage.steps or 1),
            phase=self._race.entrants[0].phase.name,
            entrants=tuple(entries),
            kept=kept,
            costs=costs,
            dev=entries[kept[0]].dev,
        )


def _tried(entries: Sequence[RaceEntry], steps: int, dev_alone: bool) -> list[PromptRecord]:
    """The drafts of a race as prompts that were tried, with the training loss and score that the better of a draft's entrants reached in
    its first leg."""
    best: dict[tuple[int, ...], RaceEntry] = {}
    for entry in entries:
        if entry.ids is None:
            continue
        if entry.ids not in best or judged(entry, dev_alone) < judged(best[entry.ids], dev_alone):
            best[entry.ids] = entry
    return [
        PromptRecord(
            text=entry.text,
            ids=ids,
            loss=entry.train.loss,
            score=entry.train.score,
            probabilities=entry.probabilities,
            steps=steps,
            residual=entry.name == "residual",
        )
        for ids, entry in best.items()
    ]
