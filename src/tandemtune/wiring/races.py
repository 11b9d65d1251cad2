"""What races will take of the tokens that a run has."""

from __future__ import annotations

from tandemtune.problem import Problem
from tandemtune.runs.records import Costs

MUCH = 0.5
"""Races that take more than this share of a run's tokens are told of before it begins."""


def race_notes(problem: Problem) -> list[str]:
    """That the races will use up more than half of the tokens that a run has; nothing where they do not, or no tokens are named."""
    config, evaluator = problem.scorer.config, problem.evaluator
    limit, legs, section = config.run.max_forward_tokens, config.race_legs, config.alternate
    if limit is None or not legs:
        return []
    looked = evaluator.cost_to_measure() + evaluator.cost_to_measure("dev")
    each = _of_a_leg(problem, section.race_steps) + looked
    race = each.times(sum(legs))
    tokens = section.rounds * (race.forward + race.backward) / evaluator.depth
    if tokens <= MUCH * limit:
        return []
    races = "the race" if section.rounds == 1 else f"the {section.rounds} races"
    return [
        f"{races} will use about {tokens:,.0f} of the {limit:,} tokens of max_forward_tokens ({tokens / limit:.0%}), and what is left is for all other "
        "steps: set [alternate] rounds, race_steps or proposals lower, or max_forward_tokens higher"
    ]


def _of_a_leg(problem: Problem, steps: int) -> Costs:
    """What one entrant's turns of a leg cost: gradients of so many steps, or generations of the layers that are searched, the mean over
    these, the first of them without hidden states of another turn."""
    evaluator, blocks, config = problem.evaluator, problem.searched, problem.scorer.config
    if config.follows_gradient:
        return evaluator.gradient(problem.scorer.parameters.initial(), blocks, 0).costs.times(steps)
    method = config.method
    turns = [tuple(blocks)] if method.order == "together" else [(block,) for block in blocks]
    costs = Costs()
    for turn in turns:
        costs += evaluator.cost(turn, method.turn_candidates, 0, 0)
        costs += evaluator.cost(turn, method.turn_candidates, 0).times(steps - 1)
    return Costs(forward=costs.forward // len(turns))
