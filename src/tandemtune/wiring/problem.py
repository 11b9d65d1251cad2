"""From a scorer and few-shot rows to what a search works with, and what is checked before it begins."""

from __future__ import annotations

import math

import torch

from tandemtune.answers import answers_of
from tandemtune.errors import ModelError
from tandemtune.problem import Problem, Scorer
from tandemtune.tasks.wording import counted
from tandemtune.types import Split


def make_problem(scorer: Scorer, split: Split) -> Problem:
    """The evaluator of a scorer over few-shot rows."""
    return answers_of(scorer.task).problem(scorer, split)


def check_rows(problem: Problem) -> None:
    """Read the test rows as the model will, and note what a user should know of all rows before they are searched on.

    Raises:
        UsageError: a test row cannot be used; it would show only when the search is over.
    """
    scorer, split = problem.scorer, problem.split
    task, section = scorer.task, scorer.config.task
    scorer.config.method.readout.check_rows(len(split.train) + len(split.dev))
    parts = {"train": split.train, "dev": split.dev}
    if task.has_test:
        parts["test"] = tuple(task.test(section.test_rows, section.seed))
    found = [*scorer.facts.notes, *task.notes(), *task.report(split).notes()]
    where = "in the middle" if section.truncate == "middle" else f"at the {section.truncate}"
    for name, rows in parts.items():
        lost = scorer.cut(rows)
        if lost:
            found.append(
                f"{name}: {len(lost):,} of the {counted(len(rows), 'row')} that are used {'is' if len(lost) == 1 else 'are'} "
                f"longer than {scorer.limit} tokens and cut {where}, by {sum(lost) / len(lost):.0f} tokens on average"
            )
    scorer.note(notes=tuple(found))


def check_start(problem: Problem) -> None:
    """Refuse what would show only after a run has begun.

    Raises:
        ModelError: the model gives no numbers on the training rows, or cannot do what the recipe's proposer needs.
    """
    scorer = problem.scorer
    config, backbone = scorer.config, scorer.backbone
    backbone.check_reading(scorer.engine.stack, scorer.plain_prompt(problem.split.train[0]))
    mutates = config.alternates and config.method.tunable.takes_words and config.alternate.proposer.asks_model
    optimizer = config.method.optimizer
    if (mutates or optimizer.uses == "text") and not backbone.fills_gaps:
        instead = "choose another [alternate] proposer than mutation" if mutates else "choose another model or method"
        raise ModelError(
            f"{backbone.name} has no mask token and no sentinel, so it cannot say how likely a word is inside a text: {instead}"
        )
    if optimizer.uses == "none":
        return
    if config.in_subspace and scorer.parameters.directions is None:
        _ = problem.scales
        return
    ids = problem.evaluator.train.groups[0].ids
    with scorer.parameters.applied(scorer.parameters.initial()):
        states = scorer.engine.stack.hidden(ids, len(scorer.engine.stack) - 1)
    if not (torch.isfinite(states).all() and math.isfinite(scorer.facts.lr or 0.0)):
        raise ModelError(
            f"{backbone.name} gives no usable numbers on training rows in {scorer.facts.dtype}: set [model] dtype to "
            "float32, or choose a model whose weights are whole"
        )
