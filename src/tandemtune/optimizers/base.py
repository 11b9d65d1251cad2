"""The ask/tell interface of all optimizers, and what they share: order, shapes, losses that are no numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

State = Mapping[str, Any]
"""Plain data: numpy arrays, numbers, strings, None, and lists of them; holds the random generator's state too."""

Gradients = NDArray[np.float32] | NDArray[np.float64]


class Optimizer(Protocol):
    """Minimises a function that it never sees.

    Attributes:
        wants_gradient: whether `tell` must be given gradients.
    """

    wants_gradient: ClassVar[bool]

    def ask(self) -> NDArray[np.float64]:
        """Propose candidates.

        Returns:
            Vectors [P, d]; P is the same every time.

        Raises:
            RuntimeError: the last proposal has not been answered by `tell`.
        """
        ...

    def tell(self, losses: NDArray[np.float64], gradients: Gradients | None = None) -> None:
        """Report the losses of the last proposal.

        Args:
            losses: [P], lower is better; NaN and infinity count as worst.
            gradients: [P, d] of the losses; derivative-free optimizers take no notice of them.

        Raises:
            RuntimeError: nothing was asked.
            ValueError: the number of losses is wrong, or gradients are wanted and missing or of another shape.
        """
        ...

    def state(self) -> State:
        """Everything that is needed to go on, to the bit, in another process."""
        ...

    def restore(self, state: State) -> None:
        """Go on from a state that `state` returned."""
        ...


@runtime_checkable
class Moving(Protocol):
    """An optimizer whose result is a point that it moves, and no candidate of its own."""

    @property
    def point(self) -> NDArray[Any]:
        """The current point [d], a copy."""
        ...


class Batch(Protocol):
    """What can be proposed: an array of vectors or a list of texts."""

    def copy(self) -> Self: ...

    def __len__(self) -> int: ...


C = TypeVar("C", bound=Batch)


class AskTell(ABC, Generic[C]):
    """Base of the optimizers: hands out copies, enforces the order of ask and tell, checks what it is told.

    A subclass says how to propose (`_propose`), how to learn (`_learn`), and what its state is (`_save`, `_load`).
    """

    wants_gradient: ClassVar[bool] = False
    _asked: C | None = None

    def ask(self) -> C:
        """Propose candidates.

        Returns:
            Vectors [P, d], or P texts.

        Raises:
            RuntimeError: the last proposal has not been answered by `tell`.
        """
        if self._asked is not None:
            raise RuntimeError("ask() was called twice: tell() the losses of the last generation first")
        self._asked = self._propose()
        return self._asked.copy()

    def tell(self, losses: ArrayLike, gradients: Gradients | None = None) -> None:
        """Report the losses of the last proposal.

        Args:
            losses: [P], lower is better; NaN and infinity count as worst.
            gradients: [P, d], for the optimizers that want them; the others take no notice.

        Raises:
            RuntimeError: nothing was asked.
            ValueError: the number of losses is wrong, or gradients are wanted and missing or of another shape.
        """
        if self._asked is None:
            raise RuntimeError("tell() was called before ask(): there are no candidates to judge")
        losses = np.asarray(losses, dtype=np.float64)
        if losses.shape != (len(self._asked),):
            raise ValueError(f"expected losses of shape ({len(self._asked)},), got {losses.shape}")
        if self.wants_gradient:
            if gradients is None:
                raise ValueError(f"{type(self).__name__} follows gradients: tell(losses, gradients)")
            if np.shape(gradients) != (shape := np.asarray(self._asked).shape):
                raise ValueError(f"expected gradients of shape {shape}, got {np.shape(gradients)}")
        asked, self._asked = self._asked, None
        self._learn(asked, np.where(np.isfinite(losses), losses, np.inf), gradients)

    def state(self) -> State:
        """Everything that is needed to go on, to the bit, in another process; a snapshot of its own."""
        return {**self._save(), "asked": None if self._asked is None else self._asked.copy()}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned, to the bit.

        Raises:
            ValueError: the state belongs to another kind of optimizer or to one of another size.
        """
        self._load(state)
        self._asked = None if state["asked"] is None else self._as_batch(state["asked"])

    @abstractmethod
    def _propose(self) -> C: ...

    @abstractmethod
    def _learn(self, asked: C, losses: NDArray[np.float64], gradients: Gradients | None) -> None:
        """Learn from fresh losses [P] that are finite or +inf (worst), and checked gradients of the caller's."""

    @abstractmethod
    def _save(self) -> dict[str, Any]: ...

    @abstractmethod
    def _load(self, state: State) -> None: ...

    @abstractmethod
    def _as_batch(self, asked: Any) -> C:
        """A proposal out of a state, as a copy."""


class VectorAskTell(AskTell[NDArray[np.float64]]):
    """Base of the optimizers over R^d."""

    def _as_batch(self, asked: Any) -> NDArray[np.float64]:
        return np.array(asked, dtype=np.float64)


def check_kind(mine: str, state: State) -> None:
    """Refuse a state that another kind of optimizer saved.

    Args:
        mine: this optimizer's kind, with its sizes, as it saves it under "kind".
        state: the state that is to be restored.

    Raises:
        ValueError: the kinds differ.
    """
    theirs = state.get("kind", "another kind of optimizer")
    if theirs != mine:
        raise ValueError(f"this optimizer is {mine}, the state was saved by {theirs}")


def start_point(start: ArrayLike | None, d: int) -> NDArray[np.float64]:
    """The point to start from, as a copy.

    Args:
        start: [d], or None for zeros.
        d: number of coordinates.

    Returns:
        Vector [d].

    Raises:
        ValueError: the point has another shape or holds NaN or infinity.
    """
    if start is None:
        return np.zeros(d)
    point = np.array(start, dtype=np.float64)
    if point.shape != (d,):
        raise ValueError(f"expected a starting point of shape ({d},), got {point.shape}")
    if not np.isfinite(point).all():
        raise ValueError("the starting point holds NaN or infinity")
    return point
