"""Several stretches of one run, one after another: each has an evaluator, rules and bounds of its own, and begins at the best point of the
one before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tandemtune.evaluators.base import Evaluator
from tandemtune.runs.records import Costs, HandOverRecord
from tandemtune.search.state import SearchState
from tandemtune.search.turns import Desk, Rules
from tandemtune.tunables.base import Point

Ready = Callable[[Point], Point]
"""A point as a search takes it over: the same model, in a setting that the optimizer can leave."""


@dataclass(frozen=True)
class Stretch:
    """One of the stretches of a run, a search by one optimizer for one objective; most runs have one.

    Args:
        name: what the journal calls its method.
        evaluator: scores candidates, takes gradients, and looks at dev.
        rules: how turns are judged.
        candidates: that may be scored; None if turns are counted instead.
        patience: evaluations on dev without a better one.
        until: share of what the run may use of tokens and seconds that is spent when it ends, with those before it.
        ready: what it makes of the point that is handed over.
    """

    name: str
    evaluator: Evaluator
    rules: Rules
    candidates: int | None = None
    patience: int | None = None
    until: float = 1.0
    ready: Ready = dict


def hand_over(state: SearchState, before: Desk, after: Stretch, desk: Desk, reason: str) -> HandOverRecord:
    """Let another search begin at the best point so far, measured by its own objective; or walk through the record of that.

    Args:
        state: where the search before has ended; moved to where the next one begins.
        before: what the turns of the search before worked with.
        after: the next search.
        desk: what its turns will work with.
        reason: why the one before has ended.

    Returns:
        The record.
    """

    def make() -> HandOverRecord:
        last, gain, costs = None, None, Costs()
        if state.evaluated < state.records:
            last, gain = before.guard.look(state, state.judged)
            costs += before.evaluator.cost_to_measure("dev")
        state.choose(last, gain)
        point = after.ready(state.best)
        train = after.evaluator.measure(point)
        costs += after.evaluator.cost_to_measure()
        dev = desk.guard.begin(point, state.best_record)
        costs += after.evaluator.cost_to_measure("dev") + after.evaluator.cost_to_begin()
        return HandOverRecord(
            event="handover",
            stretch=state.stretch + 2,
            step=state.step,
            phase=after.name,
            reason=reason,
            last=last,
            last_gain=gain,
            kept_step=state.best_step,
            train_loss=train.loss,
            dev=dev,
            costs=state.costs + costs,
        )

    recorded = before.replay.knows(state.records)
    record = before.replay.record(state.records, HandOverRecord, make)
    if recorded:
        state.choose(record.last, record.last_gain)
    state.hand_over(record, after.ready(state.best))
    return record
