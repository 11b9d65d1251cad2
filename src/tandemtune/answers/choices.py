"""Whole answers to choose from: labels by the likelihood of answers of any number of tokens."""

from __future__ import annotations

from typing import ClassVar, cast

import torch

from tandemtune.answers.labels import LabelAnswers
from tandemtune.choice_scorer import ChoiceScorer
from tandemtune.evaluators.choices import ChoiceEngine
from tandemtune.models.answers import AnswerCoder
from tandemtune.models.backbone import Backbone
from tandemtune.models.layers import LayerStack
from tandemtune.models.passages import PassageStack
from tandemtune.problem import Problem, Scorer
from tandemtune.runs.records import Result
from tandemtune.tasks.base import Task
from tandemtune.tasks.choices import ChoiceTask
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.tunables.base import Parameters


class ChoiceAnswers(LabelAnswers):
    """The likelihoods of a few whole answers."""

    scorer: ClassVar[type[Scorer]] = ChoiceScorer

    def verbalizer(self, backbone: Backbone, task: Task) -> Verbalizer:
        """The tokens of each label's answers, where all rows have the same; else the marks that end a text stand for all."""
        choices = cast(ChoiceTask, task)
        coder = AnswerCoder(backbone, task.template, task.answer_room)
        if choices.in_row:
            return Verbalizer(task.labels, coder.ends, ((),) * len(task.labels))
        ids: dict[int, int] = {}
        members = []
        for several in task.words.values():
            pieces = [piece for phrase in several for piece in coder.whole(phrase)]
            members.append(tuple(dict.fromkeys(ids.setdefault(piece, len(ids)) for piece in pieces)))
        return Verbalizer(task.labels, tuple(ids), tuple(members))

    def stack(self, backbone: Backbone, verbalizer: Verbalizer) -> LayerStack:
        """It reads whole answers."""
        return backbone.passages(verbalizer)

    def engine(
        self, backbone: Backbone, task: Task, verbalizer: Verbalizer, parameters: Parameters, max_memory: float
    ) -> ChoiceEngine:
        """Mean log-probabilities of answers, and of several for a label their mean."""
        members = cast(ChoiceTask, task).members()
        averaging = torch.zeros(sum(map(len, members)), len(members))
        for label, places in enumerate(members):
            averaging[list(places), label] = 1 / len(places)
        stack = cast(PassageStack, self.stack(backbone, verbalizer))
        return ChoiceEngine(stack, parameters, averaging, max_memory)

    def card_lines(self, problem: Problem, result: Result) -> list[str]:
        """Which answers there are, and how they are scored."""
        choices = cast(ChoiceTask, problem.scorer.task)
        what = "columns of the answers" if choices.in_row else "answers"
        told = ", ".join(f"{label}: {' / '.join(found)}" for label, found in choices.words.items())
        return [f"- {what}: {told}", "- an answer's logit is the mean log-probability of its tokens, no mark behind it"]
