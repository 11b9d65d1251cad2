"""How a task's template is asked in a model's own form of conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tandemtune.tasks.templates import MASK, Template


@dataclass(frozen=True)
class Chat:
    """A conversation that ends in a task's template.

    Args:
        system: what the system says first; None for the form's own words.
        arguments: what else the form is given.
        questions: the templates that may be asked so.
        asked: whether the task's template is the whole conversation already, around one of these.
    """

    system: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    questions: tuple[Template, ...] = ()
    asked: bool = False

    def question_in(self, template: Template) -> Template | None:
        """The question that a whole conversation ends in; None where it is none of those that are known."""
        if not self.asked:
            return None
        whole = str(template)
        inside = [one for one in self.questions if asked_words(one).strip() in whole]
        return max(inside, key=lambda one: len(asked_words(one)), default=None)


def asked_words(template: Template) -> str:
    """What stands before the answer, as a template has it."""
    return str(Template(template.pieces[: template.pieces.index(("slot", MASK))]))
