"""A task whose labels stand for whole answers of any number of tokens: the same phrases for all rows, or texts of each row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from tandemtune.errors import DataError
from tandemtune.tasks.base import Task
from tandemtune.tasks.table import Source
from tandemtune.tasks.wording import show
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
    def optional(self) -> tuple[str, ...]:
        """Columns of the answers: where they are elements of a list, some rows may have fewer of them than others."""
        return self._columns

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

    def choices(self, example: Example) -> tuple[str | None, ...]:
        """The answers to choose from in one row, label by label; None for one that the row lacks."""
        phrases = (phrase for several in self.words.values() for phrase in several)
        if not self.in_row:
            return tuple(phrases)
        return tuple(example.fields[name].strip() if name in example.fields else None for name in phrases)

    def missing(self, example: Example) -> tuple[bool, ...]:
        """For each label, whether a row lacks an answer of it, so that it is never chosen there.

        Raises:
            DataError: fewer than two labels are left, or not the right one.
        """
        there = self.choices(example)
        found = tuple(any(there[place] is None for place in places) for places in self.members())
        if found.count(False) < 2:
            raise DataError(
                f"{self.row_named(example)} has {found.count(False)} of {len(found)} answers to choose from, expected two at least: add one, or "
                "delete the row"
            )
        if example.label is not None and found[self.label_index(example.label)]:
            raise DataError(
                f"{self.row_named(example)} lacks the answer of its label, {show(example.label)}: correct the label, or delete the row"
            )
        return found

    def _read(self, source: Source) -> list[Example]:
        rows = super()._read(source)
        for name in self._columns if source == self.train_source else ():
            if all(name not in row.fields for row in rows):
                raise DataError(
                    f"{rows[0].at}, field {show(name)}: neither this row nor any other has so many, expected a list of at least "
                    f"{int(name.rpartition('.')[2]) + 1} in some: correct [task] labels"
                )
        return rows

    def whose(self, example: Example) -> str:
        """Whose answers those of a row are, for messages; "" where all rows have the same."""
        return self.row_named(example) if self.in_row else ""

    def read_answers(self, example: Example, most: int) -> tuple[str, ...]:
        """All of them; the first in place of one that the row lacks."""
        there = self.choices(example)
        first = next((text for text in there if text is not None), "")
        return tuple(first if text is None else text for text in there)

    def answer_to(self, example: Example) -> str:
        """The first answer of the row's label."""
        return self.read_answers(example, 1)[self.members()[self.label_index(str(example.label))][0]]

    def members(self) -> tuple[tuple[int, ...], ...]:
        """For each label, the places of its answers in `choices`."""
        found, first = [], 0
        for several in self.words.values():
            found.append(tuple(range(first, first + len(several))))
            first += len(several)
        return tuple(found)
