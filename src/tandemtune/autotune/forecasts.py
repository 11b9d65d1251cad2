"""How long a search will take, from what a few of its candidates, one of its steps or one pass take here."""

from __future__ import annotations

import time
from collections.abc import Callable

from tandemtune import wiring
from tandemtune.autotune.chunks import few_candidates, in_population
from tandemtune.problem import Problem

SOON = 2.0
"""What took less, in seconds, is timed a second time, since a first call is slow."""


def forecast(problem: Problem) -> str | None:
    """About how long a search will take at most, in a line for people; from what a few of its candidates, one of its gradient
    steps or one pass take here. None where nothing is searched, or nothing but time ends it."""
    config = problem.scorer.config
    planned, each = wiring.planned(config), [_forecast_seconds(one) for one in problem.stretches]
    if not all(each):
        return None
    took = sum(each)
    span = f"{took:.0f} s" if took < 100 else f"{took / 60:.0f} min"
    limit = config.run.max_seconds
    if limit is not None and limit < took:
        return f"all {planned.total:,} {planned.unit} would take about {span} here; the search ends after {limit:,g} s"
    return f"the search will take about {span} here for {planned.total:,} {planned.unit}, what is proposed aside"


def _forecast_seconds(problem: Problem) -> float:
    """About how long one search will take at most; 0 where nothing is searched, or nothing but time ends it."""
    config, evaluator = problem.scorer.config, problem.evaluator
    planned, method = wiring.planned(config), config.method
    if not planned.total or not problem.searched or method.optimizer.uses == "none":
        return 0.0
    origin = problem.scorer.parameters.initial()
    if config.follows_gradient:
        found = evaluator.gradient(origin, problem.searched, 0).costs
        turn = _seconds_of(lambda: evaluator.gradient(origin, problem.searched, 0))
        rate = turn / (found.forward + 2 * found.backward)  # a step backwards is about two forwards
    elif in_population(problem.scorer):
        origin, trial = few_candidates(problem)
        (block,), count = trial, len(next(iter(trial.values())))
        rate = _seconds_of(lambda: evaluator.evaluate(origin, trial, 0)) / evaluator.cost((block,), count, 0).forward
        blocks = problem.searched
        turns = [blocks] if method.order == "together" else [(b,) for b in blocks]
        turn = rate * sum(evaluator.cost(t, method.turn_candidates, 0).forward for t in turns) / len(turns)
    else:
        seconds = _seconds_of(lambda: evaluator.measure(origin))
        rate = seconds / evaluator.cost_to_measure().forward
        turn = seconds * method.turn_candidates
    many = planned.total / (method.turn_candidates if planned.unit == "candidates" else 1)
    took = many * (turn + rate * evaluator.cost_to_measure("dev").forward / method.dev_every)
    problem.scorer.engine.forget()
    return took


def _seconds_of(call: Callable[[], object]) -> float:
    """Seconds that a call takes, the second time where that is soon."""
    times: list[float] = []
    while not times or (len(times) < 2 and times[0] < SOON):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return times[-1]
