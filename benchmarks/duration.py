"""How long the engine's benchmark will take, from what a few prompts take; nobody should wait for hours without having asked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from contenders import Plan, evenly, loaded, padded, timed
from tandemtune.errors import UsageError
from tandemtune.problem import Problem

ENOUGH = 0.5
"""Prompts are added until a pass takes so many seconds."""
NAIVE_CANDIDATES, COMPARED = 2, 4
"""The plain loop costs the same for every candidate, so only so many are timed, and compared with the engine's losses."""

SHORTER = {"repeats": (2, 1), "layers": (4, 3, 2), "shots": (8, 4)}
"""What is given up, in this order, where a benchmark would take too long."""


@dataclass(frozen=True)
class Pace:
    """What a machine takes for one pass of all training prompts through the whole model.

    Args:
        exact: seconds in float32.
        engine: seconds in the engine's number format.
        padding: tokens of the padded batch, as a ratio to those of the prompts.
        depth: layers of the model.
        shots: rows of each class among those prompts.
    """

    exact: float
    engine: float
    padding: float
    depth: int
    shots: int


def pace(plan: Plan) -> Pace:
    """Load the model of a plan and time some of its prompts, in float32 and in the format that was asked for.

    Where the format is still to be chosen, it will be none that is slower than float32.
    """
    problem = loaded(plan, "float32")
    exact = _pass_seconds(problem)
    ids, _, _ = padded(problem.evaluator.train)
    padding, depth = ids.numel() / problem.evaluator.train.tokens, len(problem.scorer.engine.stack)
    del problem
    engine = exact if plan.dtype in ("auto", "float32") else _pass_seconds(loaded(plan, plan.dtype))
    return Pace(exact, engine, padding, depth, plan.shots)


def seconds(plan: Plan, found: Pace, memory: bool = False) -> float:
    """How long a benchmark will take, loading aside.

    Args:
        plan: what will be measured.
        found: what the machine takes.
        memory: whether peak memory is measured, too.
    """
    blocks = evenly(found.depth, plan.layers)
    rounds, count = plan.repeats + 1, plan.popsize
    remaining = sum(1 - block / found.depth for block in blocks) * count * rounds
    below = sum(block / found.depth for block in blocks)
    engine = remaining + below + COMPARED
    floor = remaining + count
    naive = found.padding * (2 * NAIVE_CANDIDATES * rounds + COMPARED)
    adamw = 3.0 * rounds  # forwards, and backwards twice as much
    exact = engine + naive + adamw + (found.padding + 6.0 if memory else 0.0)
    other = floor + (0.0 if plan.dtype in ("auto", "float32") else engine) + (count + 1.0 if memory else 0.0)
    return (exact * found.exact + other * found.engine) * plan.shots / found.shots


def shortened(plan: Plan, found: Pace, limit: float, memory: bool = False) -> Plan:
    """The plan with as few turns, layers and rows less as make it fit a limit in seconds.

    Raises:
        UsageError: one turn over two layers with a few rows would still take longer.
    """
    plans = list(_ever_shorter(plan))
    for shorter in plans:
        if seconds(shorter, found, memory) <= limit:
            return shorter
    least = seconds(plans[-1], found, memory)
    slow = found.engine / found.exact
    cause = f" ({plan.dtype} takes {slow:.0f} times as long as float32 here: leave the format open)" if slow > 2 else ""
    raise UsageError(
        f"{plan.model}: one turn over {len(evenly(found.depth, plans[-1].layers))} layers with {plans[-1].shots} rows of each class "
        f"would take about {least / 60:.0f} minutes, more than {limit / 60:.0f}{cause}: allow that many with --minutes, or choose "
        "a smaller --popsize or model"
    )


def _ever_shorter(plan: Plan) -> Iterator[Plan]:
    """The plan, then with ever fewer turns, layers and rows."""
    yield plan
    for name, values in SHORTER.items():
        for value in values:
            if value < (getattr(plan, name) or math.inf):  # no layers named are all layers
                changed: dict[str, Any] = {name: value}
                plan = replace(plan, **changed)
                yield plan


def _pass_seconds(problem: Problem) -> float:
    """Seconds of a pass over all training prompts, from a pass over as many as take long enough to be timed."""
    scorer, train = problem.scorer, problem.split.train
    point, count = scorer.parameters.initial(), 1
    while True:
        batch = scorer.population_batch(train[:count])
        took = timed(lambda batch=batch: scorer.engine.logits(batch, point))  # type: ignore[misc]
        if took >= ENOUGH or count >= len(train):
            return took * problem.evaluator.train.tokens / batch.tokens
        count *= 4
