"""How long a recipe's search is and what it consists of, as far as the recipe alone says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tandemtune.callbacks import Planned
from tandemtune.config.schema import UNBOUNDED, RunConfig
from tandemtune.rewards.base import Length
from tandemtune.search.schedule import Stage, alternating, racing
from tandemtune.tunables.full import MOST_GENERATIONS


def most_generations(config: RunConfig) -> int:
    """How many generations a search among all weights may take."""
    method = config.method
    candidates = max(1, method.optimizer.candidates)
    return min(MOST_GENERATIONS, method.steps or MOST_GENERATIONS, method.budget // candidates)


def planned(config: RunConfig) -> Planned:
    """How much work a recipe's search will be at most."""
    method = config.method
    if method.then:
        return _in_all(config.stretches)
    if config.bounded_by_budget and not method.steps:
        return Planned(0 if method.budget >= UNBOUNDED else method.budget, "candidates")
    if config.bounded_by_budget and method.steps:
        fewer = min(method.steps, method.budget // method.turn_candidates)
        return Planned(0 if fewer >= UNBOUNDED // method.turn_candidates else fewer, "steps")
    return Planned(0 if config.turns >= UNBOUNDED else config.turns, "steps")


def _in_all(stretches: Sequence[RunConfig]) -> Planned:
    """The work of several stretches together: in candidates where all count these, else in turns."""
    each = [planned(one) for one in stretches]
    if not all(one.total for one in each):
        return Planned(0, "steps")
    if all(one.unit == "candidates" for one in each):
        return Planned(sum(one.total for one in each), "candidates")
    turns = [
        found.total if found.unit == "steps" else found.total // one.method.turn_candidates
        for found, one in zip(each, stretches, strict=True)
    ]
    return Planned(sum(turns), "steps")


def length_of(config: RunConfig, train_rows: int) -> Length:
    """How long a run is at most, for rewards.

    Args:
        config: its recipe.
        train_rows: how many there are.
    """
    turns: list[int | None] = []
    shares: set[float] = set()
    for one in config.stretches:
        method, work = one.method, planned(one)
        count = method.turn_candidates if work.unit == "candidates" else 1
        idle = method.optimizer.uses == "none" and not one.alternates
        turns.append(0 if idle else work.total // count or None)
        scored = min(train_rows, train_rows if one.follows_gradient else one.task.scored_rows or train_rows)
        some = getattr(method.optimizer, "batch_size", None) if one.follows_gradient else method.subsample
        shares.add(min(1.0, some / scored) if some and scored else 1.0)
    known = [each for each in turns if each is not None]
    return Length(sum(known) if len(known) == len(turns) else None, shares.pop() if len(shares) == 1 else None)


def outline(config: RunConfig) -> list[str]:
    """A line for each stretch of a recipe with several: who searches for what, how long."""
    found = []
    for number, (one, share) in enumerate(zip(config.stretches, config.method.shares, strict=True), 1):
        work, method = planned(one), one.method
        length = f"{work.total:,} {work.unit}" if work.total else "until its share is spent"
        bounds = (config.run.max_forward_tokens, config.run.max_generated_tokens, config.run.max_seconds)
        part = f", {share:.0%} of what [run] allows" if any(bound is not None for bound in bounds) else ""
        named = method.name if method.name == method.optimizer.kind else f"{method.name} ({method.optimizer.kind})"
        found.append(f"stretch {number}: {named}, objective {method.objective.kind}, {length}{part}")
    return found if config.method.then else []


def make_stages(config: RunConfig) -> tuple[Stage, ...]:
    """The order of a recipe's stages; none where nothing is tuned."""
    section, method = config.alternate, config.method
    if method.optimizer.uses == "none":
        return ()
    if method.then:
        each = [make_stages(one) for one in config.stretches]
        return tuple(replace(stage, stretch=number) for number, stages in enumerate(each) for stage in stages)
    if not config.alternates:
        steps = config.turns if config.follows_gradient else method.steps
        if method.tunable.all_weights and method.optimizer.searches:
            steps = min(steps or MOST_GENERATIONS, MOST_GENERATIONS)
        return (Stage("tune", steps=steps),)
    if not section.proposer.proposes:
        return (Stage("tune", steps=config.turns),)
    if section.mode == "race":
        return racing(section.rounds, section.round_steps, section.race_steps, config.turns, section.snapshots)
    return alternating(section.rounds, section.round_steps, section.final_steps, section.snapshots)
