"""From a scorer and few-shot rows to what a search works with, and what is checked before it begins."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import copy

import torch

from tandemtune.answers import answers_of
from tandemtune.errors import ModelError
from tandemtune.problem import Problem, Scorer
from tandemtune.runs.records import StretchFacts
from tandemtune.tasks.wording import counted
from tandemtune.types import Split
from tandemtune.wiring.races import race_notes
from tandemtune.wiring.scorer import learning_rate
from tandemtune.wiring.task import hidden_columns


def make_problem(scorer: Scorer, *splits: Split) -> Problem:
    """The evaluator of a scorer over few-shot rows; of several stretches the last one's, whose objective the result is judged by.

    Args:
        scorer: of the whole recipe.
        splits: the rows; one for each search, where they have been drawn before.
    """
    answers, recipes = answers_of(scorer.task), scorer.config.stretches
    if len(recipes) == 1:
        return answers.problem(scorer, splits[0])
    made: list[Problem] = []
    for number, config in enumerate(recipes):
        known = dict(enumerate(scorer.facts.stretches)).get(number)
        own = copy(scorer)
        lr = learning_rate(config, scorer.vocabulary)
        own.config = config
        own.facts = scorer.facts.model_copy(update={"lr": lr, "calibrated": known.calibrated if known else None})
        split = splits[number] if len(splits) > 1 else splits[0]
        made.append(answers.problem(own, split, made[-1] if made else None))
    found = tuple(
        StretchFacts(name=one.scorer.config.method.name, lr=one.facts.lr, calibrated=one.facts.calibrated)
        for one in made
    )
    last = found[-1]
    scorer.facts = made[0].facts.model_copy(update={"calibrated": last.calibrated, "stretches": found})
    return Problem(scorer, made[-1].split, made[-1].evaluator, grader=made[-1].grader, several=tuple(made))


def check_rows(problem: Problem) -> None:
    """Read the test rows as the model will, and note what a user should know of all rows before they are searched on.

    Raises:
        UsageError: a test row cannot be used; it would show only when the search is over.
    """
    scorer, split = problem.scorer, problem.split
    task, section = scorer.task, scorer.config.task
    scorer.config.method.readout.check_rows(len(split.train) + len(split.dev), len(scorer.task.labels))
    parts = {"train": split.train, "dev": split.dev}
    if task.has_test:
        parts["test"] = tuple(task.test(section.test_rows, section.seed))
    found = [
        *scorer.facts.notes,
        *task.notes(),
        *task.report(split).notes(),
        *_template_notes(scorer),
        *hidden_columns(scorer.config, split.train),
    ]
    method = scorer.config.method
    judges = ["guard to none"] if method.guard != "none" else []
    if method.readout.form is not None and method.readout.keep != "tuned":
        judges.append("readout.keep to tuned")
    if judges and method.optimizer.uses != "none" and len(split.dev) == 1:
        found.append(
            "one dev row: a gain on it has no standard error, so the point that the search begins with is kept, whatever is found; raise "
            f"dev_shots, or set {' and '.join(judges)}"
        )
    where = "in the middle" if section.truncate == "middle" else f"at the {section.truncate}"
    for name, rows in parts.items():
        lost = scorer.cut(rows)
        if lost:
            found.append(
                f"{name}: {len(lost):,} of the {counted(len(rows), 'row')} that are used {'is' if len(lost) == 1 else 'are'} "
                f"longer than {scorer.limit} tokens and cut {where}, by {sum(lost) / len(lost):.0f} tokens on average"
            )
    scorer.note(notes=(*found, *race_notes(problem)))


def _template_notes(scorer: Scorer) -> Iterator[str]:
    """Templates that could not be used, and that fewer can be read together than were asked for."""
    judged, section, decided = scorer.facts.templates, scorer.config.task, scorer.facts.together
    for one in judged:
        if one.refused:
            yield f"template {one.template!r} was passed over: {one.refused}"
    found = len(scorer.task.wordings) if decided is None else len(decided.losses)
    wanted = section.most_together if decided is None else min(section.most_together, len(judged))
    if found < wanted:
        of = f"{found} of {counted(len(judged), 'template')} can be read together: those that the model can use"
        why = (
            f"{of} and that name the same columns as the best one" if judged else "there is one template to choose from"
        )
        yield f"together = {section.together}, but {why}"


def check_start(problem: Problem, test: bool = True) -> None:
    """Refuse what would show only after a run has begun.

    Args:
        problem: what it works with.
        test: whether its test rows will be scored.

    Raises:
        ModelError: the model gives no numbers on the training rows, or cannot do what the recipe's proposer needs.
        UsageError: a reward function does not work.
    """
    scorer = problem.scorer
    config, backbone = scorer.config, scorer.backbone
    backbone.check_reading(scorer.engine.stack, scorer.plain_prompt(problem.split.train[0]))
    mutates = config.alternates and config.method.tunable.takes_words and config.alternate.proposer.asks_model
    optimizers = [one.method.optimizer for one in config.stretches]
    if (mutates or any(one.uses == "text" for one in optimizers)) and not backbone.fills_gaps:
        instead = "choose another [alternate] proposer than mutation" if mutates else "choose another model or method"
        raise ModelError(
            f"{backbone.name} has no mask token and no sentinel, so it cannot say how likely a word is inside a text: {instead}"
        )
    for one in problem.stretches:
        answers_of(scorer.task).try_out(one, test)
        _check_numbers(one)


def _check_numbers(problem: Problem) -> None:
    """Refuse a model that gives none on the training rows."""
    scorer = problem.scorer
    config, backbone = scorer.config, scorer.backbone
    if config.method.optimizer.uses == "none":
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
