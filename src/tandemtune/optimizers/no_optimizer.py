"""Nobody: for methods that tune nothing."""

from __future__ import annotations

from typing import Any, ClassVar

from tandemtune.optimizers.base import AskTell, Optimizer, Space, Uses
from tandemtune.plugins import register


@register
class NoOptimizer(Optimizer):
    """Leaves everything as it is."""

    kind: ClassVar[str] = "none"
    summary: ClassVar[str] = "leaves everything as it is"
    uses: ClassVar[Uses] = "none"

    def start(self, space: Space) -> AskTell[Any]:
        """There is nothing to start."""
        raise ValueError("nothing is tuned, so no optimizer is started")
