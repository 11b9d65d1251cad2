"""Who proposes points in a run, and what a mentor is told about its task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tandemtune.answers import answers_of
from tandemtune.config.schema import RunConfig
from tandemtune.mentor import Brief
from tandemtune.mentor.clients import reachable
from tandemtune.problem import Problem, Progress
from tandemtune.proposers.base import Asked, Source
from tandemtune.runs.store import RunFolder
from tandemtune.tasks.catalogue import TASKS


@contextmanager
def proposing(problem: Problem, conversations: Path, tell: Progress | None = None) -> Iterator[Source | None]:
    """Who proposes points in a run, ready to be asked; None where nobody proposes.

    Args:
        problem: what the run works with.
        conversations: where everything that is said to a mentor is written.
        tell: told what a person has to know.
    """
    scorer, config = problem.scorer, problem.scorer.config
    section = config.alternate
    if not config.alternates:
        yield None
        return
    asked = Asked(
        scorer.vocabulary,
        getattr(config.method.tunable, "prompt_tokens", 0),
        section.proposals,
        config.task.seed,
        scorer.backbone.likely_token,
        brief_of(problem),
        conversations,
        config.mentor,
        tell,
        lambda point: answers_of(scorer.task).standing(problem, point),
    )
    with section.proposer.open(asked) as source:
        yield source


def check_proposer(config: RunConfig, progress: Progress | None = None) -> None:
    """Find out whether a run's proposer can be asked, before anything is written; fetches a local mentor.

    Raises:
        TandemTuneError: a package, a key, a file or the model is missing.
    """
    if config.alternates:
        config.alternate.proposer.check(config, progress)
    if any(one.method.objective.asks_model for one in config.stretches):
        reachable(config.mentor, progress, needed=True)


@contextmanager
def graded(problem: Problem, folder: RunFolder) -> Iterator[None]:
    """Keep what a model that grades texts says in a run's folder, and answer from there."""
    if problem.grader is None:
        yield
        return
    with problem.grader.written_to(folder.grades):
        yield


def brief_of(problem: Problem) -> Brief:
    """What a mentor is told about a task, but for the trajectory."""
    config, task = problem.scorer.config, problem.scorer.task
    row = TASKS.get(task.name)
    return Brief(
        definition=config.alternate.definition
        or (row.summary if row else problem.scorer.definition(problem.evaluator.train)),
        labels=task.labels if task.words else (),
        label_words=tuple(word for choices in task.words.values() for word in choices),
        metric=task.metric,
        manual=config.alternate.manual,
        usage=problem.scorer.usage,
        tried=(),
        wanted=1,
        limit=max(1, getattr(config.method.tunable, "prompt_tokens", 1)),
    )
