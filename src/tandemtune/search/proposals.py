"""Somebody proposes where to go on: who is asked, what becomes of the answer, and when a run is stopped without one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from tandemtune.errors import MentorError
from tandemtune.mentor import Course
from tandemtune.proposers.base import Draft, Proposal, Source, TriedWords
from tandemtune.runs.records import Costs, Evaluation, PromptRecord, ProposalRecord, from_loss, to_loss
from tandemtune.search.schedule import Stage
from tandemtune.search.state import SearchState
from tandemtune.search.turns import Desk
from tandemtune.search.words import WordReader
from tandemtune.tunables.base import INPUT
from tandemtune.tunables.vocabulary import Words
from tandemtune.types import seed_for


@dataclass(frozen=True)
class Acceptance:
    """How proposals are taken.

    Args:
        shown: tried prompts K that a proposer is shown.
        select: which draft, "best" (lowest dev loss) or "first".
        accept: when it replaces the trained point, compared by dev loss.
        heat: of metropolis: a loss higher by this much is taken with probability 1/e.
        max_failures: failures in a row after which nobody is asked any more.
        seed: of the run.
        raced: the drafts are trained side by side in the stage that follows, which decides; none of them is scored before.
        words: whether the search has a place for words; otherwise nobody is asked for any.
        stops: folder of a run that is interrupted by so many failures; None for one that goes on without whoever is asked.
    """

    shown: int
    select: Literal["best", "first"]
    accept: Literal["always", "if_better", "metropolis"]
    heat: float
    max_failures: int
    seed: int
    raced: bool = False
    words: bool = True
    stops: Path | None = None

    def check(self, failure: str | None, before: int) -> None:
        """Interrupt the run where that is wanted of one failure too many.

        Args:
            failure: why nobody proposed anything now; None if somebody did.
            before: failures in a row before this one.

        Raises:
            MentorError: the run ends here, without a record of the last failure, and may be resumed.
        """
        if failure is None or self.stops is None or before + 1 < self.max_failures:
            return
        raise MentorError(
            f'nothing was proposed in {before + 1} round{"s" if before else ""} in a row, and [mentor] on_failure is "stop": {failure}. '
            f"tandemtune resume {self.stops} asks again what was not answered, tandemtune finish {self.stops} ends with what has been found"
        )

    def taken(self, drafts: Sequence[PromptRecord], trained: Evaluation, round: int) -> int | None:
        """Which draft to go on from, or None for the trained point."""
        if not drafts or self.raced:
            return None
        losses = [from_loss(None if draft.dev is None else draft.dev.loss) for draft in drafts]
        chosen = 0 if self.select == "first" else int(np.argmin(losses))
        worse = losses[chosen] - from_loss(trained.loss)
        if self.accept == "always" or worse < 0:
            return chosen
        chance = np.random.default_rng(seed_for(self.seed, round, 4)).random()
        return chosen if self.accept == "metropolis" and chance < math.exp(-worse / self.heat) else None


class ProposalTurn:
    """Somebody is asked for points to go on from; all are scored, and one of them or the trained point is taken.

    Args:
        desk: what turns work with.
        stage: the present stage.
        source: who is asked.
        name: what the journal calls who is asked.
        acceptance: how proposals are taken.
        course: how the search has gone, where the source also says how the next round is run.
        cut: a bound of the run has ended the stage before, so that nobody has looked at dev where it stands.
    """

    def __init__(
        self,
        desk: Desk,
        stage: Stage,
        source: Source,
        name: str,
        acceptance: Acceptance,
        course: Course | None = None,
        cut: bool = False,
    ) -> None:
        self._desk, self._stage, self._source, self._name = desk, stage, source, name
        self._acceptance, self._course, self._cut = acceptance, course, cut

    def run(self, state: SearchState) -> ProposalRecord:
        """Ask, or take the answer from the journal, and go on from what was taken."""
        record = self._desk.replay.record(state.records, ProposalRecord, lambda: self._ask(state))
        if self._cut:
            state.choose(record.trained_dev, None)
        state.spent = dict(record.spent)
        state.failures = state.failures + 1 if record.failure else 0
        if not record.raced:
            state.tried += [entry for entry in record.drafts if entry.ids is not None]
        if record.taken is not None:
            taken = record.drafts[record.taken]
            state.incumbent = self._point(state, Draft(taken.text, taken.ids, taken.seed))
            state.train_loss = from_loss(taken.loss)
        return record

    def _ask(self, state: SearchState) -> ProposalRecord:
        asking = state.failures < self._acceptance.max_failures
        known = [_tried(entry) for entry in state.tried]
        shown = sorted({entry.words.ids: entry for entry in known}.values(), key=lambda e: -e.loss)
        shown = shown[-self._acceptance.shown :]
        costs = state.costs
        reader = self._desk.reader
        if reader is not None and reader.always_words and asking:  # their losses with the model as it is now
            for place, entry in enumerate(shown):
                shown[place] = self._scored_again(reader, entry, state)
                costs += self._desk.evaluator.cost_to_measure()
            shown.sort(key=lambda entry: -entry.loss)
        wordy = asking and self._acceptance.words
        look = getattr(self._source, "look", None)
        if look is not None and wordy and look(state.incumbent):
            costs += self._desk.evaluator.cost_to_measure()
        proposal = Proposal((), failure=None if asking else "not asked: it failed before", spent=state.spent)
        if wordy:
            proposal = self._source.propose(self._stage.round, shown, known)
        steered = None
        if asking and self._course is not None:
            steered = self._source.steer(self._stage.round, self._course)  # type: ignore[attr-defined]
            proposal = replace(proposal, spent=steered.spent or proposal.spent)
            if not self._acceptance.words:
                proposal = replace(proposal, failure=steered.failure)
        self._acceptance.check(proposal.failure, state.failures)
        drafts: list[PromptRecord] = []
        for draft in proposal.drafts:
            scored, spent = self._scored(state, draft)
            drafts.append(scored)
            costs += spent
        trained = state.dev  # looked at when the stage ended
        if self._cut:
            trained = self._desk.evaluator.measure(state.incumbent, "dev")
            costs += self._desk.evaluator.cost_to_measure("dev")
        taken = self._acceptance.taken(drafts, trained, self._stage.round)
        return ProposalRecord(
            event="proposal",
            round=self._stage.round,
            proposer=self._name,
            shown=tuple(_shown(entry) for entry in shown) if asking else (),
            refused=proposal.refused,
            failure=proposal.failure,
            spent=proposal.spent,
            trained_loss=to_loss(state.train_loss),
            trained_dev=trained,
            drafts=tuple(drafts),
            taken=taken,
            dev=None if taken is None else drafts[taken].dev,
            costs=costs + Costs(candidates=len(drafts)),
            raced=self._acceptance.raced,
            actions=None if steered is None else steered.actions,
            unsteered="" if steered is None else steered.failure or "",
        )

    def _scored_again(self, reader: WordReader, entry: TriedWords, state: SearchState) -> TriedWords:
        found, probabilities = reader.measure(reader.placed(entry.words, state.incumbent))
        return TriedWords(entry.words, from_loss(found.loss), found.score, probabilities=probabilities or ())

    def _scored(self, state: SearchState, draft: Draft) -> tuple[PromptRecord, Costs]:
        """A draft with its losses and scores on the training and the dev rows, and what they have cost; as it is where a race will
        judge it."""
        if self._acceptance.raced:
            return PromptRecord(text=draft.text, ids=draft.ids, seed=draft.seed, loss=None, score=0.0), Costs()
        train, dev, probabilities, costs = self._desk.measured_on_both(self._point(state, draft))
        scored = PromptRecord(
            text=draft.text,
            ids=draft.ids,
            seed=draft.seed,
            loss=train.loss,
            score=train.score,
            dev=dev,
            probabilities=probabilities,
        )
        return scored, costs

    def _point(self, state: SearchState, draft: Draft) -> dict[int, Tensor]:
        return {**state.incumbent, INPUT: self._source.vector(draft, state.incumbent[INPUT])}


def _tried(entry: PromptRecord) -> TriedWords:
    words = Words(entry.ids or (), entry.text, entry.distance)
    trained = entry.soft_loss if entry.distance else None
    probabilities = entry.probabilities or ()
    return TriedWords(words, from_loss(entry.loss), entry.score, trained, probabilities, entry.steps, entry.residual)


def _shown(entry: TriedWords) -> PromptRecord:
    return PromptRecord(text=entry.words.text, ids=entry.words.ids, loss=to_loss(entry.loss), score=entry.score)
