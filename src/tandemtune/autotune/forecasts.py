"""How long a search will take, from what a few of its candidates, one of its steps or one pass take here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from tandemtune import wiring
from tandemtune.autotune.chunks import few_candidates, in_population, try_out
from tandemtune.callbacks import Planned
from tandemtune.problem import Problem
from tandemtune.runs.records import Costs

SOON = 2.0
"""What took less, in seconds, is timed a second time, since a first call is slow."""


@dataclass(frozen=True)
class _Forecast:
    """One search at most: the seconds that it takes here, its work until then, the tokens that it writes, and the setting of [run] that
    ends it before its own numbers do, or nothing."""

    seconds: float
    work: Planned
    written: float
    bound: str


def forecast(problem: Problem) -> str | None:
    """About how long a search will take at most, in a line for people; from what a few of its candidates, one of its gradient
    steps or one pass take here. None where nothing is searched, or nothing but time ends it."""
    config = problem.scorer.config
    planned, found = wiring.planned(config), [_forecast(one) for one in problem.stretches]
    each = [one for one in found if one is not None]
    if len(each) < len(found):
        return None
    took = sum(one.seconds for one in each)
    span = f"{took:.0f} s" if took < 100 else f"{took / 60:.0f} min"
    amount, every = f"{planned.total:,} {planned.unit}", "all "
    if bounds := " and ".join(dict.fromkeys(one.bound for one in each if one.bound)):
        done = ", then ".join(f"{one.work.total:,} {one.work.unit}" for one in each)
        amount, every = f"about {done} (as many as {bounds} allows)", ""
    written = math.ceil(sum(one.written for one in each))
    amount += f" and up to {written:,} written tokens" if written else ""
    limit = config.run.max_seconds
    if limit is not None and limit < took:
        return f"{every}{amount} would take about {span} here; the search ends after {limit:,g} s"
    return f"the search will take about {span} here for {amount}, what is proposed aside"


def _forecast(problem: Problem) -> _Forecast | None:
    """What one search will take at most; None where nothing is searched, or nothing but time ends it."""
    config, evaluator = problem.scorer.config, problem.evaluator
    method, run, planned = config.method, config.run, wiring.planned(config)
    limits = {"max_forward_tokens": run.max_forward_tokens, "max_generated_tokens": run.max_generated_tokens}
    unbounded = not planned.total and all(limit is None for limit in limits.values())
    if unbounded or not problem.searched or method.optimizer.uses == "none":
        return None
    seconds, rate, turn = _turn(problem)
    dev = evaluator.cost_to_measure("dev")
    counted = method.turn_candidates if planned.unit == "candidates" else 1
    turns, bound = planned.total / counted if planned.total else math.inf, ""
    spent = {
        "max_forward_tokens": (turn.forward + turn.backward + dev.forward / method.dev_every) / evaluator.depth,
        "max_generated_tokens": turn.generated + dev.generated / method.dev_every,
    }
    for name, limit in limits.items():
        if limit is not None and limit < turns * spent[name]:
            turns, bound = limit / spent[name], name
    problem.scorer.engine.forget()
    if math.isinf(turns):
        return None
    took = turns * (seconds + rate * dev.forward / method.dev_every)
    work = Planned(math.ceil(turns) * counted if bound else planned.total, planned.unit)
    return _Forecast(took, work, turns * spent["max_generated_tokens"], bound)


def _turn(problem: Problem) -> tuple[float, float, Costs]:
    """Seconds that one turn takes here, those of a token through one layer forwards, and what the turn costs."""
    config, evaluator = problem.scorer.config, problem.evaluator
    method, origin = config.method, problem.scorer.parameters.initial()
    if config.follows_gradient:
        found = evaluator.gradient(origin, problem.searched, 0).costs
        seconds = _seconds_of(lambda: evaluator.gradient(origin, problem.searched, 0))
        return seconds, seconds / (found.forward + 2 * found.backward), found  # a step backwards is about two forwards
    if not in_population(problem.scorer):
        seconds, one = _seconds_of(lambda: evaluator.measure(origin)), evaluator.cost_to_measure()
        return seconds * method.turn_candidates, seconds / one.forward, one.times(method.turn_candidates)
    origin, trial = few_candidates(problem)
    (block,), count = trial, len(next(iter(trial.values())))
    rate = _seconds_of(lambda: try_out(problem, origin, trial, 0)) / evaluator.cost((block,), count, 0).forward
    turns = [problem.searched] if method.order == "together" else [(block,) for block in problem.searched]
    costs = [evaluator.cost(blocks, method.turn_candidates, 0) for blocks in turns]
    forward, generated = (sum(getattr(one, name) for one in costs) / len(costs) for name in ("forward", "generated"))
    return rate * forward, rate, Costs(forward=round(forward), generated=round(generated))


def _seconds_of(call: Callable[[], object]) -> float:
    """Seconds that a call takes, the second time where that is soon."""
    times: list[float] = []
    while not times or (len(times) < 2 and times[0] < SOON):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return times[-1]
