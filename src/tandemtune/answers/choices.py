"""Whole answers to choose from: labels by the likelihood of answers of any number of tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch

import tandemtune.answers.snippets as snippets
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
    most_judged: ClassVar[int] = 0
    unjudged: ClassVar[str] = (
        "they are judged by label words or by texts that are written, and this task chooses among whole answers"
    )

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

    def told(self, scorer: Scorer, bias: Mapping[str, float]) -> dict[str, Any]:
        """The answers or their columns, and how they are cut into tokens behind a prompt."""
        chooser = cast(ChoiceScorer, scorer)
        return {
            "label_words": {label: list(found) for label, found in scorer.task.words.items()},
            "in_row": cast(ChoiceTask, scorer.task).in_row,
            "behind": chooser.coder.stem,
            "blank": chooser.coder.blank,
            "label_bias": dict(bias),
            "temperature": scorer.temperature,
        }

    def how_to_ask(self, scorer: Scorer) -> list[str]:
        """The answers, and how they are scored."""
        return [*_lines(scorer), f"- `{self.told_in}` holds both, and what is added to the logit of each label"]

    def code(self, kind: str, example: Mapping[str, str]) -> list[str]:
        """A function that scores the answers of a row."""
        return [
            "def scores(fields):",
            *(f"    {line}" for line in snippets.prompt_ids(kind)),
            "    found = {}",
            '    for label, several in told["label_words"].items():',
            '        if told["in_row"] and not all(name in fields for name in several):',
            "            continue  # the row has no such answer",
            '        texts = [fields[name].strip() if told["in_row"] else name for name in several]',
            "        found[label] = sum(likelihood(ids, text) for text in texts) / len(texts)",
            *snippets.BIASED,
            "",
            "",
            "def likelihood(ids, text):",
            *(f"    {line}" for line in snippets.mean_log_probability(kind)),
            "",
            "",
            f"found = scores({json.dumps(dict(example), ensure_ascii=False)})",
            "print(max(found, key=found.get), found)",
        ]

    def card_lines(self, problem: Problem, result: Result) -> list[str]:
        """Which answers there are, and how they are scored."""
        return _lines(problem.scorer)


def _lines(scorer: Scorer) -> list[str]:
    choices = cast(ChoiceTask, scorer.task)
    what = "columns of the answers" if choices.in_row else "answers"
    told = ", ".join(f"{label}: {' / '.join(found)}" for label, found in choices.words.items())
    return [f"- {what}: {told}", "- an answer's logit is the mean log-probability of its tokens, no mark behind it"]
