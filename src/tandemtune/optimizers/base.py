"""The two faces of an optimizer: what a recipe says about it (`Optimizer`), and the ask/tell search that comes of it (`AskTell`).

Optimizers see vectors (or texts) and numbers only. Losses are minimised; NaN and infinity count as worst.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from tandemtune.plugins import Member, members

State = Mapping[str, Any]
"""Plain data: numpy arrays, numbers, strings, None, and lists of them; holds the random generator's state too."""

Gradients = NDArray[np.float32] | NDArray[np.float64]


Uses = Literal["sampler", "estimator", "gradient", "text", "none"]
"""What an optimizer does with what it is told.

``sampler`` keeps its best candidate; ``estimator`` moves a point by what its neighbours' losses say; ``gradient`` follows
gradients that it is given; ``text`` keeps its best text; ``none`` leaves everything as it is.
"""
Text = tuple[int, ...]
"""A prompt as token ids."""


@dataclass(frozen=True)
class Space:
    """What one optimizer searches in.

    Args:
        d: number of coordinates.
        seed: of its random stream.
        start: where it begins [d]; None for the origin of a subspace.
        lr: learning rate, the recipe's or the tunable's default.
        generations: how many there will be, where that is known.
        steps: length of the learning rate's schedule.
        directions: (groups, directions in a group) where coordinates are coefficients of seeded directions over all weights.
        texts: prompts to begin with, for an optimizer of texts.
        mutate: (text, random generator) -> another text.
        told: whether the search's incumbent is told with every generation, so that nobody has to score it as a candidate.
    """

    d: int
    seed: int
    start: NDArray[Any] | None = None
    lr: float = 1e-3
    generations: int | None = None
    steps: int = 0
    directions: tuple[int, int] | None = None
    texts: tuple[Text, ...] = ()
    mutate: Callable[[Text, np.random.Generator], Text] | None = None
    told: bool = False


@dataclass(frozen=True)
class Incumbent:
    """The point that a search compares a generation with: the starting point, and then the candidate that was taken last.

    Args:
        loss: its loss, scored beside theirs.
        taken: number of the candidate that takes its place; None where it stays.
    """

    loss: float
    taken: int | None = None


class Optimizer(Member):
    """Base of what a recipe's ``[method.optimizer]`` may be: options, what it needs, and how it is started.

    Attributes:
        uses: see `Uses`.
        lr_default: learning rate where neither recipe nor tunable names one.
        lr_weights: the same for a search among all weights of a model.
    """

    noun: ClassVar[str] = "optimizer"
    uses: ClassVar[Uses] = "sampler"
    lr_default: ClassVar[float] = 1e-3
    lr_weights: ClassVar[float] = 1e-4

    def start(self, space: Space) -> AskTell[Any]:
        """A fresh optimizer in a space."""
        raise NotImplementedError

    def problems(self, recipe: Any) -> Iterator[str]:
        """Generations of unknown size, an objective without gradient for who follows one."""
        if self.searches and self.candidates < 1:
            yield (
                f"[method] optimizer: {self.kind} does not say how many candidates a generation has: call that option popsize, or "
                f"override `candidates` in {type(self).__name__}"
            )
        objective, task = recipe.method.objective, recipe.task
        if self.uses == "gradient" and not objective.differentiable:
            answers = "texts" if task.writes else "labels"
            fitting = [name for name, one in members("objective").items() if one.differentiable and answers in one.of]
            if answers == "texts" and task.answer is None:  # nothing whose likelihood could be followed
                fitting = []
            wanted = f"{' or '.join(fitting)}, or " if fitting else ""
            yield (
                f"[method] objective: {objective.kind!r} has no gradient for {self.kind} to follow: choose {wanted}a method that searches "
                "without gradients, for example c-lora"
            )

    @property
    def searches(self) -> bool:
        """Whether it is told losses of candidates."""
        return self.uses in ("sampler", "estimator", "text")

    @property
    def keeps_best(self) -> bool:
        """Whether its result is its best candidate, so that the incumbent is scored beside each generation."""
        return self.uses in ("sampler", "text")

    @property
    def vectors(self) -> bool:
        """Whether it searches vectors by their losses, so that a subspace makes sense."""
        return self.uses in ("sampler", "estimator")

    @property
    def candidates(self) -> int:
        """Candidates in one generation: the option popsize, where an optimizer has one; others override this."""
        return int(getattr(self, "popsize", 0))

    @property
    def step_size(self) -> float:
        """Standard deviation of the first steps, in units of z: the option sigma, where an optimizer has one."""
        return float(getattr(self, "sigma", 1.0))

    @property
    def lr_given(self) -> float | None:
        """The recipe's learning rate: the option lr, where an optimizer has one."""
        found: float | None = getattr(self, "lr", None)
        return found


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
Even = Annotated[int, Field(ge=2, le=10_000, multiple_of=2)]
LearningRate = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class Proposed(Protocol):
    """What can be proposed: an array of vectors or a list of texts."""

    def copy(self) -> Self: ...

    def __len__(self) -> int: ...


C = TypeVar("C", bound=Proposed)


class AskTell(ABC, Generic[C]):
    """Base of the optimizers: hands out copies, enforces the order of ask and tell, checks what it is told.

    A subclass says how to propose (`_propose`), how to learn (`_learn`), and what its state is (`_save`, `_load`): plain data
    with the random generator in it, so that another process goes on to the bit. An optimizer whose result is a point that it
    moves, not a candidate, has it as `point` [d]; one that follows gradients also has the learning rate of its next step as `lr`.

    Attributes:
        wants_gradient: whether `tell` must be given gradients.
        wants_incumbent: whether `tell` must be given the search's incumbent.
    """

    wants_gradient: ClassVar[bool] = False
    wants_incumbent: bool = False
    _asked: C | None = None
    _incumbent: Incumbent | None = None

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
        return self._handed_out(self._asked)

    def tell(
        self, losses: ArrayLike, gradients: Gradients | None = None, *, incumbent: Incumbent | None = None
    ) -> None:
        """Report the losses of the last proposal.

        Args:
            losses: [P], lower is better; NaN and infinity count as worst.
            gradients: [P, d], for the optimizers that want them; the others take no notice.
            incumbent: what they were compared with, for the optimizers that want it; the others take no notice.

        Raises:
            RuntimeError: nothing was asked.
            ValueError: the number of losses is wrong, or gradients are wanted and missing or of another shape, or the incumbent is
                wanted and missing.
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
        if self.wants_incumbent and incumbent is None:
            raise ValueError(f"{type(self).__name__} does not score its best point itself: tell(losses, incumbent=...)")
        self._incumbent = incumbent
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

    def _handed_out(self, asked: C) -> C:
        """A proposal as `ask` returns it: a copy."""
        return asked.copy()

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
