"""Who proposes points in a run, and what a mentor is told about its task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from tandemtune.answers import answers_of
from tandemtune.answers.texts import grader_of
from tandemtune.config.schema import RunConfig
from tandemtune.errors import UsageError
from tandemtune.mentor import Brief
from tandemtune.mentor.clients import AT_ONCE, client_of, reachable
from tandemtune.mentor.trial import try_grades, try_prompts, try_wordings
from tandemtune.problem import Problem, Progress
from tandemtune.proposers.base import Asked, Source
from tandemtune.proposers.mentored import mentor_of
from tandemtune.proposers.wordings import wordings_of
from tandemtune.runs.records import JournalRecord, ProposalRecord
from tandemtune.runs.store import RunFolder
from tandemtune.tasks.catalogue import TASKS

_LIMIT = 10
"""Tokens of a prompt that a mentor is asked for where the recipe has none."""


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


def try_mentor(config: RunConfig, progress: Progress | None = None) -> Iterator[str]:
    """Ask a recipe's mentor something like what it will be asked: for prompts and decisions of rounds, for grades, else for templates.

    Returns:
        What came of it, in sentences.

    Raises:
        UsageError: the recipe names no mentor.
        TandemTuneError: it cannot be asked, or nothing that it answers can be used.
    """
    told = config.mentor
    rounds = config.alternates and config.alternate.proposer.asks_mentor
    judged = [one for one in config.stretches if one.method.objective.asks_model]
    if not (rounds or judged or told.model_fields_set):
        raise UsageError("the recipe asks nobody: add a section [mentor], or take a method such as maao")
    check_proposer(config, progress)
    if config.alternates:
        yield from config.alternate.proposer.try_out(config)
    if told.client not in AT_ONCE:
        return
    if judged:
        with closing(grader_of(judged[0])) as grader:
            yield from try_grades(grader)
    if not (rounds or judged):
        reachable(told, progress, needed=True)
        with closing(client_of(told)) as client:
            if told.spoken == "chat":
                yield from try_wordings(lambda brief: wordings_of(told, client, brief, config.task.seed))
            else:
                mentor = mentor_of(told, client, config.task.seed)
                yield from try_prompts(mentor, wanted=config.alternate.proposals, limit=_LIMIT)


def check_proposer_again(config: RunConfig, records: Sequence[JournalRecord], progress: Progress | None = None) -> None:
    """Find out, before a run goes on, whether its proposer can be asked; not where nobody will be asked any more.

    A model that grades texts is not asked: a run whose texts it does not grade ends there and goes on later.

    Args:
        config: the run's recipe.
        records: its journal.
        progress: told what goes on.

    Raises:
        TandemTuneError: a package, a key, a file or the model is missing.
    """
    asked = [record for record in records if isinstance(record, ProposalRecord)]
    last = asked[-config.mentor.max_failures :]
    given_up = len(last) == config.mentor.max_failures and all(record.failure for record in last)
    if not config.alternates or given_up or len(asked) >= config.alternate.rounds:
        return
    try:
        config.alternate.proposer.check(config, progress)
    except UsageError as error:
        raise UsageError(f"{error}; or end the run with what it has found: `tandemtune finish`") from None


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
        filled=True,
    )
