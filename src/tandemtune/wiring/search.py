"""The search of a recipe over a run's folder."""

from __future__ import annotations

from typing import Any

from tandemtune.callbacks import Callback
from tandemtune.evaluators.base import Evaluator
from tandemtune.problem import Problem
from tandemtune.proposers.base import Source
from tandemtune.runs.store import RunFolder
from tandemtune.search.loop import Limits, Search
from tandemtune.search.turns import Acceptance, Rules
from tandemtune.search.words import WordReader
from tandemtune.wiring.phases import make_phase
from tandemtune.wiring.stages import make_stages, planned


def make_search(
    problem: Problem, evaluator: Evaluator, folder: RunFolder, source: Source | None, callback: Callback
) -> Search:
    """The search of a recipe over a run's folder, its candidates scored by an evaluator of the problem or around it."""
    scorer, config = problem.scorer, problem.scorer.config
    method, section = config.method, config.alternate
    mentor = config.mentor
    return Search(
        evaluator,
        make_stages(config),
        scorer.parameters.initial(),
        lambda origin, stage: make_phase(problem, origin, stage),
        folder,
        method.name,
        Rules(
            method.dev_every,
            method.elites,
            method.l2_penalty,
            method.ema,
            method.optimizer.step_size,
            method.guard != "none",
        ),
        Limits(
            method.budget if config.bounded_by_budget else None,
            method.patience,
            config.run.max_forward_tokens,
            config.run.max_seconds,
            mentor.max_failures if mentor.on_failure == "stop" else None,
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
        ),
        not config.keeps_moments,
        problem.searched if section.actions and section.proposer.steers else (),
    )


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
