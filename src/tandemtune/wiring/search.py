"""The search of a recipe over a run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from tandemtune.callbacks import Callback
from tandemtune.evaluators.base import Evaluator
from tandemtune.problem import Problem
from tandemtune.proposers.base import Source
from tandemtune.runs.records import Costs
from tandemtune.runs.store import RunFolder
from tandemtune.search.loop import Limits, Search
from tandemtune.search.proposals import Acceptance
from tandemtune.search.stretches import Stretch
from tandemtune.search.turns import Rules
from tandemtune.search.words import WordReader
from tandemtune.wiring.phases import make_phase
from tandemtune.wiring.stages import make_stages, planned


def make_search(
    problem: Problem, evaluators: Sequence[Evaluator], folder: RunFolder, source: Source | None, callback: Callback
) -> Search:
    """The search of a recipe over a run's folder, its candidates scored by the evaluators of the problem or around them."""
    scorer, config = problem.scorer, problem.scorer.config
    method, section = config.method, config.alternate
    mentor = config.mentor
    return Search(
        _stretches(problem, evaluators),
        make_stages(config),
        scorer.parameters.initial(),
        lambda origin, stage: make_phase(problem.stretches[stage.stretch], origin, stage),
        folder,
        Limits(
            config.run.max_forward_tokens,
            config.run.max_seconds,
            config.run.checkpoint_seconds,
            generated_tokens=config.run.max_generated_tokens,
        ),
        planned(config),
        callback,
        _reader(problem),
        source,
        section.proposer.kind,
        Acceptance(
            section.snapshots,
            section.select,
            section.accept,
            section.heat,
            mentor.max_failures,
            config.task.seed,
            section.mode == "race",
            method.tunable.takes_words,
            folder.path if mentor.on_failure == "stop" else None,
        ),
        not config.keeps_moments,
        problem.searched if section.actions and section.proposer.steers else (),
        _proposing(problem),
    )


def _proposing(problem: Problem) -> Costs:
    """What scoring the proposals of a round costs at most: each on the training and the dev rows, and the trained point on the latter."""
    config, evaluator = problem.scorer.config, problem.evaluator
    if not config.alternates:
        return Costs()
    dev = evaluator.most_to_measure("dev")
    return (evaluator.most_to_measure() + dev).times(config.alternate.proposals) + dev


def _stretches(problem: Problem, evaluators: Sequence[Evaluator]) -> tuple[Stretch, ...]:
    """The stretches of a run, each with its rules and its part of what the run may use."""
    ends = [*accumulate(problem.scorer.config.method.shares)]
    found = []
    for one, evaluator, until in zip(problem.stretches, evaluators, ends, strict=True):
        config, method = one.scorer.config, one.scorer.config.method
        rules = Rules(
            method.dev_every,
            method.elites,
            method.l2_penalty,
            method.ema,
            method.optimizer.step_size,
            method.guard != "none",
            method.refused == "go-back",
            method.judge != method.score,
        )
        budget = method.budget if config.bounded_by_budget else None
        around_zero = config.in_subspace and method.optimizer.uses == "sampler"
        ready = dict if around_zero else one.scorer.parameters.movable
        found.append(Stretch(method.name, evaluator, rules, budget, method.patience, until, ready))
    return tuple(found)


def _reader(problem: Problem) -> WordReader | None:
    scorer, config = problem.scorer, problem.scorer.config
    tunable: Any = config.method.tunable
    if not config.alternates or not tunable.takes_words:
        return None
    return WordReader(
        problem.evaluator,
        scorer.vocabulary,
        tunable.prompt_tokens,
        tunable.projection,
        tunable.words_only,
        config.alternate.proposer.informed,
    )
