"""A run's evaluator in another process: made of what the run has decided and the rows that it has drawn; no data file is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tandemtune import autotune, wiring
from tandemtune.config import load_config
from tandemtune.evaluators.base import Evaluator
from tandemtune.problem import Problem
from tandemtune.runs.records import Facts
from tandemtune.types import Split


@dataclass(frozen=True)
class AnotherProcess:
    """Everything that another process needs to score a run's candidates as the run itself would.

    Args:
        recipe: the run's, as JSON has it, with its own bound on memory.
        facts: what the run has decided on its machine, as JSON has it.
        splits: its rows, as each of its stretches has them.
    """

    recipe: Mapping[str, Any]
    facts: Mapping[str, Any]
    splits: tuple[Split, ...]

    @classmethod
    def of(cls, problem: Problem) -> AnotherProcess:
        """What a run works with."""
        scorer = problem.scorer
        recipe = scorer.config.model_dump(mode="json")
        recipe["run"]["max_memory"] = scorer.engine.max_memory
        facts = problem.facts.plain()
        facts["device"] = facts["device"].partition(":")[0]  # which one it is given is another one there
        return cls(recipe, facts, tuple(one.split for one in problem.stretches))

    @property
    def resources(self) -> tuple[int, str]:
        """Threads and device."""
        return self.facts["threads"], self.facts["device"]

    def evaluators(self) -> Sequence[Evaluator]:
        """The evaluators of the run's stretches.

        Raises:
            RunError: weights, rows or code are not those of the run.
            TandemTuneError: the model cannot be loaded here.
        """
        config, facts = load_config(self.recipe), Facts.model_validate(self.facts)
        task = wiring.as_searched(config, wiring.task_of_run(config, facts))
        kind: Any = facts.kind
        scorer = wiring.make_scorer(config, task, kind, facts, rows=self.splits[0].train)
        problem = wiring.make_problem(scorer, *self.splits)
        autotune.refuse_changes(facts, problem.facts, task.name)
        autotune.settle(problem, facts)
        return [one.evaluator for one in problem.stretches]
