"""The scorer of whole answers: a prompt goes through the model with each answer of its row behind it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, cast

from tandemtune.evaluators.choices import ChoiceBatch, ChoiceEvaluator, Question, collate_choices
from tandemtune.evaluators.label_words import LabelWordEvaluator
from tandemtune.evaluators.likelihood import stack_of
from tandemtune.models.answers import AnswerCoder, unfit
from tandemtune.problem import STRETCH, Scorer
from tandemtune.tasks.choices import ChoiceTask
from tandemtune.types import Encoded, Example


class ChoiceScorer(Scorer):
    """A model that can be asked: which of a few whole answers is likeliest, token for token on average?"""

    evaluator: ClassVar[type[LabelWordEvaluator]] = ChoiceEvaluator

    @cached_property
    def coder(self) -> AnswerCoder:
        """Turns answers into tokens."""
        return AnswerCoder(self.backbone, self.task.template, self.task.answer_room)

    @property
    def limit(self) -> int:
        """Tokens of the longest prompt that is not cut, beside the shortest answer."""
        return self.limit_beside(1)

    @property
    def has_content_free(self) -> bool:
        """Where all rows have the same answers: those of a row have nothing to do with an empty prompt."""
        return not cast(ChoiceTask, self.task).in_row

    def encoded(self, examples: Sequence[Example], plain: bool = False) -> tuple[list[Any], list[int]]:
        """Questions with room for what the parameters put into them (none if `plain`), and labels (-1 where unknown)."""
        prompts, labels = super().encoded(examples, plain)
        task = cast(ChoiceTask, self.task)
        return [
            Question(p.ids, p.answer, p.lost, self._answers(example), task.missing(example))
            for p, example in zip(prompts, examples, strict=True)
        ], labels

    def _encoded(self, example: Example) -> Encoded:
        """A prompt that leaves room for the longest of its answers."""
        limit = self.limit_beside(max(map(len, self._answers(example))))
        return self.backbone.encode(self.task.template, example.fields, limit, self.config.task.truncate)

    def apart(self, prompts: Sequence[Any], labels: Sequence[int]) -> ChoiceBatch:
        """Prompts of one length only side by side, for a population."""
        return collate_choices(prompts, labels, stack_of(self.engine))

    def together(self, prompts: Sequence[Any], labels: Sequence[int]) -> ChoiceBatch:
        """Prompts of nearly one length side by side, for one point."""
        return collate_choices(prompts, labels, stack_of(self.engine), stretch=STRETCH)

    def _answers(self, example: Example) -> tuple[tuple[int, ...], ...]:
        """Tokens of the answers of a row, without marks at their ends; those of another one in place of one that it lacks.

        Raises:
            DataError: one is empty, or longer than may be; shows the row.
        """
        task = cast(ChoiceTask, self.task)
        found = []
        for text in task.read_answers(example, 1):
            if text not in self._known:
                ids = self.coder.whole(text)
                if not ids or len(ids) > min(self.coder.most, self.room_behind):
                    raise unfit(text, len(ids), self.coder.most, self.room_behind, task.whose(example))
                self._known[text] = ids
            found.append(self._known[text])
        return tuple(found)

    @cached_property
    def _known(self) -> dict[str, tuple[int, ...]]:
        return {}
