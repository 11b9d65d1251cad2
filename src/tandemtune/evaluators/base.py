"""The interface of evaluators: points in, losses, evaluations and gradients out. It is all that a search sees of model and data.

The same four questions fit every kind of task. Label words (`label_words`) answer them by one pass over prompts that end in an
answer, whole answers (`choices`) by one over all passages, written texts (`text`) by likelihoods or rewards; image-text models with a
pass through the text tower over cached image features. On a cluster, shards of `candidates` are sent to workers that hold the same
evaluator (`executors`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tandemtune.evaluators.engine import Engine
from tandemtune.runs.records import Costs, Evaluation
from tandemtune.tunables.base import Point

Rows = Literal["train", "dev"]
Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class PointGradient:
    """A gradient at one point.

    Args:
        loss: mean loss of the step's rows.
        blocks: block -> gradient [dim].
        costs: what taking it has cost.
    """

    loss: float
    blocks: Mapping[int, Tensor]
    costs: Costs


class OverEngine(ABC, Generic[Drawn]):
    """What evaluators over an engine have in common.

    Args:
        engine: the evaluation engine.
        drawn_rows: rows of a generation, by its number, where each is scored on some rows only; None for all.
    """

    def __init__(self, engine: Engine, drawn_rows: Callable[[int], Drawn] | None) -> None:
        self.engine = engine
        self._drawn = None if drawn_rows is None else lru_cache(maxsize=1)(drawn_rows)

    @property
    def depth(self) -> float:
        """Layers that a token goes through, by their costs."""
        return sum(self.engine.stack.costs)

    def most(self, blocks: Sequence[int], count: int) -> Costs:
        """What `evaluate` costs at most, whatever was evaluated before: what plans of a search rest on, so that a resumed run has the
        same ones. Of rows that are drawn anew for each generation, those of the first."""
        return self.cost(blocks, count, 0)

    def most_to_measure(self, rows: Rows = "train") -> Costs:
        """What `measure` costs at most."""
        return self.cost_to_measure(rows)

    def cost_to_begin(self) -> Costs:
        """Nothing. See `Evaluator.cost_to_begin`."""
        return Costs()

    @abstractmethod
    def cost(self, blocks: Sequence[int], count: int, generation: int | None = None, kept: int | None = None) -> Costs:
        """See `Evaluator.cost`."""

    @abstractmethod
    def cost_to_measure(self, rows: Rows = "train") -> Costs:
        """See `Evaluator.cost_to_measure`."""

    def drawn(self, generation: int | None) -> Drawn | None:
        """The rows that are drawn for a generation; None for all."""
        return None if generation is None or self._drawn is None else self._drawn(generation)


class Evaluator(Protocol):
    """Judges points of a tunable on one task's rows. Lower losses are better."""

    @property
    def depth(self) -> float:
        """Work of one token through the whole model, in the unit of `Costs.forward`."""
        ...

    def evaluate(
        self, point: Point, candidates: Mapping[int, Tensor], generation: int | None = None
    ) -> NDArray[np.float64]:
        """Training losses of candidates that differ from a point in some blocks.

        Args:
            point: the incumbent.
            candidates: block -> vectors [P, dim].
            generation: score on the rows that are drawn for this generation; None for all training rows.

        Returns:
            Losses [P]; NaN where there is none.
        """
        ...

    def measure(self, point: Point, rows: Rows = "train") -> Evaluation:
        """Loss and metric of one point on all rows of a split."""
        ...

    def described(self, point: Point) -> tuple[Evaluation, tuple[float, ...]]:
        """What `measure` says of a point on the training rows, and the mean probability of each label there; the same pass."""
        ...

    def dev_losses(self, point: Point) -> tuple[Evaluation, NDArray[np.float64]]:
        """What `measure` says of a point on the dev rows, and the loss of each of them [N]."""
        ...

    def gradient(self, point: Point, blocks: Sequence[int], step: int) -> PointGradient:
        """Loss of one point on the rows of a gradient step, and its gradient.

        Args:
            point: where to differentiate.
            blocks: whose gradient is wanted.
            step: number of the step, which decides the rows.
        """
        ...

    def cost(self, blocks: Sequence[int], count: int, generation: int | None = None, kept: int | None = None) -> Costs:
        """What `evaluate` costs for so many candidates; where these write, what the last ones did, so it is asked right behind.

        Args:
            blocks: what the candidates change.
            count: candidates.
            generation: as in `evaluate`.
            kept: block whose entering states are kept from the turn before; None for the candidates' lowest one.
        """
        ...

    def cost_to_begin(self) -> Costs:
        """What was written before the search, for what candidates are held near to."""
        ...

    def cost_to_measure(self, rows: Rows = "train") -> Costs:
        """What `measure` costs; where texts are written, what the last call for these rows did, so it is asked right behind."""
        ...
