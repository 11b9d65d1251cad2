"""A task that is asked in several wordings at once: each row has a prompt of each template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from tandemtune.tasks.base import Task


@dataclass(frozen=True)
class JoinedTask(Task):
    """A task with further templates beside its own, over the same columns.

    Args:
        others: the same task with each of them, and the label words that go with it.
    """

    answers: ClassVar[str] = "joined"

    others: tuple[Task, ...] = ()

    @classmethod
    def of(cls, first: Task, others: Sequence[Task]) -> JoinedTask:
        """A task, and the same one with other templates."""
        return cls(**{one.name: getattr(first, one.name) for one in fields(first) if one.init}, others=tuple(others))

    @property
    def wordings(self) -> tuple[Task, ...]:
        """The task with each of its templates, the best one first."""
        return (self, *self.others)
