"""The ask/tell interface of all optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

State = Mapping[str, Any]
"""Plain data: numpy arrays, numbers, strings, None, and lists of them; holds the random generator's state too."""


class Optimizer(Protocol):
    """Minimises a function that it never sees."""

    def ask(self) -> NDArray[np.float64]:
        """Propose candidates.

        Returns:
            Vectors [P, d].

        Raises:
            RuntimeError: the last proposal has not been answered by `tell`.
        """
        ...

    def tell(self, losses: NDArray[np.float64]) -> None:
        """Report the losses of the last proposal.

        Args:
            losses: [P], lower is better; NaN and infinity count as worst.

        Raises:
            RuntimeError: nothing was asked.
            ValueError: the number of losses is wrong.
        """
        ...

    def state(self) -> State:
        """Everything that is needed to go on, to the bit, in another process."""
        ...

    def restore(self, state: State) -> None:
        """Go on from a state that `state` returned."""
        ...
