"""Label words as answers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import tandemtune.answers.snippets as snippets
from tandemtune import scoring
from tandemtune.answers.base import Answers, Point, PredictedTable
from tandemtune.config.schema import RunConfig, TaskSection
from tandemtune.devices import exact
from tandemtune.errors import ConfigError
from tandemtune.evaluators.batch import Batch
from tandemtune.evaluators.features import PassReading
from tandemtune.evaluators.label_words import KLPenalty, LabelWordEvaluator, calibrate
from tandemtune.mentor import Misread
from tandemtune.models.backbone import Backbone
from tandemtune.models.layers import LayerStack
from tandemtune.problem import DrawnRows, Problem, Scorer, content_free, digest
from tandemtune.proposers.base import Standing
from tandemtune.readout import ranking
from tandemtune.readout.design import NotFiniteError, assumed_shares
from tandemtune.readout.solving import leave_one_out_logits, solve_readout
from tandemtune.runs.records import Assessment, Result, TemplateScore
from tandemtune.scoring import Reached
from tandemtune.tasks.base import Task
from tandemtune.tasks.fewshot import subsample
from tandemtune.tasks.files import examples_of, labels_of, texts_of
from tandemtune.tasks.table import Table
from tandemtune.tasks.verbalizers import Verbalizer, resolve
from tandemtune.types import Example, Split

RESAMPLES, WORST, BINS = 1000, 10, 10


class LabelAnswers(Answers):
    """The likelihoods of a few words at one place."""

    def check(self, section: TaskSection, task: Task, split: Split) -> None:
        """Weights of labels that there are not."""
        _class_weights(section, task, split)

    def verbalizer(self, backbone: Backbone, task: Task) -> Verbalizer:
        """The words of all labels."""
        return resolve(backbone.tokenizer, task.template, task.words, alone=backbone.kind == "seq2seq")

    def stack(self, backbone: Backbone, verbalizer: Verbalizer) -> LayerStack:
        """It ends in the logits of the label words."""
        return backbone.stack(verbalizer)

    def judged(
        self, backbone: Backbone, task: Task, rows: Sequence[Example], config: RunConfig
    ) -> tuple[TemplateScore, PassReading | None]:
        """By the leave-one-out loss of a readout, the recipe's where it has one."""
        section, readout = config.task, config.method.readout
        found = ranking.judged(backbone, task, rows, section.max_tokens, section.truncate, readout)
        return found.score, found.reading

    def problem(self, scorer: Scorer, split: Split, beside: Problem | None = None) -> Problem:
        """Losses over label logits."""
        section, method = scorer.config.task, scorer.config.method
        scored = subsample(split.train, section.scored_rows, section.seed)
        if beside is None:
            train, reading, dev = scorer.population_batch(scored), scorer.batch(scored), scorer.batch(split.dev)
        else:
            train, reading, dev = beside.labelled.train, beside.labelled.reading, beside.labelled.dev
        member, labels = method.readout, scorer.task.labels
        drawn = DrawnRows(scorer, *scorer.encoded(split.train))
        some = method.subsample is not None and method.subsample < len(split.train)
        solved_on = scorer.batch([*split.train, *split.dev]) if method.judge == "readout" else None
        evaluator = scorer.evaluator(
            scorer.engine,
            train,
            method.objective.loss(scorer.task),
            scorer.task.score,
            reading,
            dev=dev,
            step_rows=drawn.for_step,
            drawn_rows=drawn.for_generation if some else None,
            class_weights=_class_weights(section, scorer.task, split),
            assumed=_assumed(scorer, split),
            train_readout=leave_one_out_logits(member, scorer.engine, scorer.parameters.initial(), train, labels)
            if method.score == "readout"
            else None,
            dev_readout=None if solved_on is None else _dev_readout(scorer, solved_on, len(split.train)),
            solved_on=solved_on,
        )
        if beside is None:
            scorer.parameters.settle(scorer.engine.stack, [group.ids for group in train.groups])
        if method.objective.calibrate == "auto" and scorer.facts.calibrated is None:
            scorer.note(calibrated=_better_calibrated(scorer, evaluator))
        if scorer.calibrates:
            evaluator.empty = content_free(scorer, apart=True)
        if method.objective.kl_penalty:
            split = split if split.unlabelled else replace(split, unlabelled=tuple(scorer.unlabelled(split)))
            evaluator.kl = _kl_penalty(scorer, split)
        scorer.note(
            train_rows=len(split.train),
            train_tokens=train.tokens,
            dev_rows=len(dev),
            dev_tokens=dev.tokens,
            rows_sha256=digest(scorer.population_batch(split.train), dev),
            calibrated=scorer.calibrates if method.objective.calibrate else None,
        )
        return Problem(scorer, split, evaluator)

    def reached(
        self, problem: Problem, point: Point | None, examples: Sequence[Example] | None, before: Reached | None = None
    ) -> Reached:
        """By label words, and by a readout where the recipe has one."""
        return scoring.reached(problem, point, examples)

    def standing(self, problem: Problem, point: Point) -> Standing:
        """Which labels are taken for which, and rows that are got wrong."""
        scorer, evaluator = problem.scorer, problem.labelled
        section, task = scorer.config.task, scorer.task
        rows = subsample(problem.split.train, section.scored_rows, section.seed)
        logits = evaluator.measure_on(evaluator.reading, point).logits
        said, gold = logits.argmax(dim=-1).tolist(), evaluator.reading.labels.tolist()
        count = len(task.labels)
        confusion = np.zeros((count, count), dtype=int)
        np.add.at(confusion, (gold, said), 1)
        wrong = [
            Misread(
                " / ".join(row.fields[name] for name in task.template.fields), task.labels[true], task.labels[guess]
            )
            for row, true, guess in zip(rows, gold, said, strict=True)
            if true != guess
        ]
        shares = torch.softmax(exact(logits), dim=-1).mean(dim=0).tolist()
        return Standing(
            tuple(map(tuple, confusion.tolist())), tuple(shares), tuple(wrong[: scorer.config.mentor.show_rows])
        )

    def majority(self, problem: Problem, examples: Sequence[Example] | None) -> float | None:
        """Always the class that is most frequent among the test rows."""
        return scoring.majority(problem, examples)

    def given(self, scorer: Scorer, point: Point, examples: Sequence[Example]) -> list[tuple[str, dict[str, float]]]:
        """The most likely label of each row, and the probabilities of all."""
        logits = scorer.label_logits(scorer.batch(examples), point)
        labels = scorer.task.labels
        rows = scorer.probabilities(logits)
        return [(labels[row.index(max(row))], dict(zip(labels, row, strict=True))) for row in rows]

    def table(self, model: Any, table: Table) -> PredictedTable:
        """Labels and probabilities behind all columns; a label column that was there is called gold."""
        task = model.scorer.task
        texts = texts_of(table, model.fields, optional=task.optional)
        answers = iter(model.answers([example for example in texts if example is not None]))
        given = [None if example is None else next(answers) for example in texts]
        column = table.column(task.label_column)
        known = [None] * len(given) if column is None else labels_of(table, column, task.labels)
        both = [
            (answer.label, gold)
            for answer, gold in zip(given, known, strict=True)
            if answer is not None and gold is not None
        ]
        score = None
        if both:
            score = task.score([task.label_index(a) for a, _ in both], [task.label_index(g) for _, g in both])
        made = table if column is None else table.renamed(column, "gold")
        for name in ("label", "probabilities"):  # columns of the user's
            made = made.renamed(name, f"{name} (given)")
        made = made.with_column("label", ["" if answer is None else answer.label for answer in given])
        rounded = [
            None if answer is None else {label: round(p, 6) for label, p in answer.probabilities.items()}
            for answer in given
        ]
        made = made.with_column("probabilities", rounded)
        return PredictedTable(made, given.count(None), len(both), score, task.metric)

    def assessment(self, model: Any, table: Table) -> Assessment:
        """Score with an interval, confusion matrix, the most confident errors."""
        task = model.scorer.task
        examples = examples_of(
            table, fields=model.fields, label=task.label_column, labels=task.labels, optional=task.optional
        )
        answers = model.answers(examples)
        gold = np.array(task.gold(examples))
        said = np.array([task.label_index(answer.label) for answer in answers])
        right = [answer.probabilities[str(example.label)] for answer, example in zip(answers, examples, strict=True)]
        matrix = np.zeros((len(task.labels), len(task.labels)), dtype=int)
        np.add.at(matrix, (gold, said), 1)
        generator = np.random.default_rng(0)
        draws = [generator.integers(0, len(gold), len(gold)) for _ in range(RESAMPLES)]
        resampled = [task.score(said[draw].tolist(), gold[draw].tolist()) for draw in draws]
        wrong = sorted((p, i) for i, p in enumerate(right) if gold[i] != said[i])[:WORST]
        chances = np.array([[answer.probabilities[label] for label in task.labels] for answer in answers])
        return Assessment(
            metric=task.metric,
            score=task.score(said.tolist(), gold.tolist()),
            interval=(float(np.quantile(resampled, 0.025)), float(np.quantile(resampled, 0.975))),
            loss=float(np.mean([-math.log(max(p, 1e-300)) for p in right])),
            brier=float(((chances - np.eye(len(task.labels))[gold]) ** 2).sum(axis=1).mean()),
            calibration_error=calibration_error(chances.max(axis=1), gold == said),
            rows=len(gold),
            labels=tuple(task.labels),
            confusion=tuple(tuple(map(int, row)) for row in matrix),
            worst=tuple((dict(examples[i].fields), str(examples[i].label), answers[i].label, p) for p, i in wrong),
        )

    def told(self, scorer: Scorer, bias: Mapping[str, float]) -> dict[str, Any]:
        """The label words, their tokens, and what becomes of their logits."""
        words = scorer.verbalizer
        return {
            "label_words": {label: list(found) for label, found in scorer.task.words.items()},
            "label_tokens": {
                label: [words.token_ids[position] for position in members]
                for label, members in zip(words.labels, words.members, strict=True)
            },
            "label_bias": dict(bias),
            "temperature": scorer.temperature,
        }

    def how_to_ask(self, scorer: Scorer) -> list[str]:
        """The label words, and where they stand."""
        words = ", ".join(f"{label}: {' / '.join(found)}" for label, found in scorer.task.words.items())
        return [
            f"- label words: {words}",
            f"- `{self.told_in}` holds both, the tokens of the label words, and what is added to the logit of each label",
        ]

    def code(self, kind: str, example: Mapping[str, str]) -> list[str]:
        """A function that scores the labels of a text."""
        return [
            "def scores(fields):",
            *(f"    {line}" for line in snippets.first_logits(kind)),
            '    found = {label: float(logits[tokens].mean()) for label, tokens in told["label_tokens"].items()}',
            *snippets.BIASED,
            "",
            "",
            f"found = scores({json.dumps(dict(example), ensure_ascii=False)})",
            "print(max(found, key=found.get), found)",
        ]

    def card_lines(self, problem: Problem, result: Result) -> list[str]:
        """The label words, and what has to be done to their probabilities."""
        task = problem.scorer.task
        words = ", ".join(f"{label}: {' / '.join(found)}" for label, found in task.words.items())
        return [f"- label words: {words}"]


def _class_weights(section: TaskSection, task: Task, split: Split) -> Tensor | None:
    """What a row of each label counts, with a mean of 1 over the training rows where they are balanced."""
    given = section.class_weights
    if given is None:
        return None
    if given != "balanced":
        lacking = [label for label in task.labels if label not in given]
        if lacking or len(given) != len(task.labels):
            raise ConfigError(
                [f"[task] class_weights: expected one for each of {', '.join(task.labels)}, got {', '.join(given)}"]
            )
        return torch.tensor([float(given[label]) for label in task.labels])
    counts = [sum(row.label == label for row in split.train) for label in task.labels]
    return torch.tensor([len(split.train) / (len(counts) * count) if count else 0.0 for count in counts])


def _assumed(scorer: Scorer, split: Split) -> Tensor | None:
    """How often each label is assumed to come up by the readout [C]; None where [task] class_weights, or an objective that is no mean
    over rows, says what rows count."""
    member, section = scorer.config.method.readout, scorer.config.task
    if member.form is None or section.class_weights is not None or not scorer.config.method.objective.by_rows:
        return None
    labels = torch.tensor(scorer.task.gold([*split.train, *split.dev]))
    return assumed_shares(labels, len(scorer.task.labels), member.prior)


def _dev_readout(scorer: Scorer, batch: Batch, cut: int) -> Callable[[Point], Tensor]:
    """Label logits [N, C] of the dev rows at a point, each by a readout of all other labelled rows; NaN where the model gives no
    numbers. `cut` rows stand before them."""
    member = scorer.config.method.readout

    def logits(point: Point) -> Tensor:
        try:
            found = solve_readout(member, scorer.engine, batch, point, scorer.task.labels)
            return found.without[cut:].float().to(batch.labels.device)
        except NotFiniteError:
            gold = batch.labels[cut:]
            return torch.full((len(gold), len(scorer.task.labels)), torch.nan, device=gold.device)

    return logits


def _better_calibrated(scorer: Scorer, evaluator: LabelWordEvaluator) -> bool:
    """Whether the point that a search begins with has a lower dev loss after contextual calibration."""
    origin, engine, dev = scorer.parameters.initial(), scorer.engine, evaluator.dev
    logits, empty = engine.logits(dev, origin), engine.logits(content_free(scorer), origin)
    return evaluator.judged(calibrate(logits, empty), dev).loss < evaluator.judged(logits, dev).loss


def _kl_penalty(scorer: Scorer, split: Split) -> KLPenalty:
    """What holds candidates near the untuned model."""
    batch = scorer.population_batch(split.unlabelled)
    untuned = scorer.engine.logits(batch, scorer.parameters.initial())
    return KLPenalty(batch, untuned, scorer.config.method.objective.kl_penalty)


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Expected calibration error: the mean distance between confidence and accuracy over bins of equally many rows (Nixon et al.,
    arXiv 1904.01685).

    Args:
        confidence: probability of the predicted label of each row [N].
        right: whether it is the true one [N].
    """
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(BINS, len(order)))
    return float(sum(abs(confidence[part].mean() - right[part].mean()) * len(part) for part in parts) / len(order))
