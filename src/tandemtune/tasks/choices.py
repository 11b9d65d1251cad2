"""A task whose labels stand for whole answers of any number of tokens: the same phrases for all rows, or texts of each row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from tandemtune.tasks.base import Task
from tandemtune.types import Example


@dataclass(frozen=True)
class ChoiceTask(Task):
    """A task with a few whole answers to choose from.

    Args:
        in_row: whether `words` name, for each label, the column of a row that holds its answer; else they are the answers.
        longest: tokens of the longest answer that is taken.
    """

    answers: ClassVar[str] = "choices"

    in_row: bool = False
    longest: int = 64

    @classmethod
    def of(cls, task: Task, *, in_row: bool, longest: int) -> ChoiceTask:
        """The same task with whole answers.

        Args:
            task: a task with label words, which become answers or the columns of answers.
            in_row: see above.
            longest: see above.
        """
        given: dict[str, Any] = {field.name: getattr(task, field.name) for field in fields(task) if field.init}
        return cls(**given, in_row=in_row, longest=longest)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns of texts that an unlabelled row needs: those of the answers, too, where each row has its own."""
        return tuple(dict.fromkeys((*super().inputs, *self._columns)))

    @property
    def needed(self) -> tuple[tuple[str, str], ...]:
        """The label, and each answer of a row that has its own."""
        return (*super().needed, *(("answer", column) for column in self._columns))

    @property
    def _columns(self) -> tuple[str, ...]:
        """Columns of the answers, where each row has its own."""
        return tuple(column for several in self.words.values() for column in several) if self.in_row else ()

    @property
    def first_pieces(self) -> Mapping[str, tuple[str, ...]]:
        """None: answers are read whole."""
        return {}

    @property
    def answer_room(self) -> int:
        """Tokens of the longest answer."""
        return self.longest

    def choices(self, example: Example) -> tuple[str, ...]:
        """The answers to choose from in one row, label by label."""
        phrases = (phrase for several in self.words.values() for phrase in several)
        return tuple(example.fields[phrase].strip() for phrase in phrases) if self.in_row else tuple(phrases)

    def whose(self, example: Example) -> str:
        """Whose answers those of a row are, for messages; "" where all rows have the same."""
        return self.row_named(example) if self.in_row else ""

    def read_answers(self, example: Example, most: int) -> tuple[str, ...]:
        """All of them."""
        return self.choices(example)

    def answer_to(self, example: Example) -> str:
        """The first answer of the row's label."""
        return self.choices(example)[self.members()[self.label_index(str(example.label))][0]]

    def members(self) -> tuple[tuple[int, ...], ...]:
        """For each label, the places of its answers in `choices`."""
        found, first = [], 0
        for several in self.words.values():
            found.append(tuple(range(first, first + len(several))))
            first += len(several)
        return tuple(found)
