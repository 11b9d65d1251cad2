"""Nobody: all rounds' steps in one go, the control of every alternation."""

from __future__ import annotations

from typing import ClassVar

from tandemtune.plugins import register
from tandemtune.proposers.base import Asked, Proposer


@register
class Nobody(Proposer):
    """All rounds' steps in one go."""

    kind: ClassVar[str] = "none"
    summary: ClassVar[str] = "nobody: all rounds' steps in one go"
    proposes: ClassVar[bool] = False

    def make(self, asked: Asked) -> None:
        """There is nobody."""
