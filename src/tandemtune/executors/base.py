"""The two faces of an executor: what a recipe says about it (`Executor`), and the evaluator that comes of it."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from tandemtune.evaluators.base import Evaluator, PointGradient, Rows
from tandemtune.evaluators.candidates import count_of, rows_of
from tandemtune.plugins import Member
from tandemtune.runs.records import Costs, Evaluation
from tandemtune.tunables.base import Point

if TYPE_CHECKING:
    from tandemtune.evaluators.writing import Text

Tell = Callable[[str], None]
Shard = Annotated[int, Field(ge=1, le=100_000)]


class Elsewhere(Protocol):
    """Everything that another process needs to score a run's candidates. It is pickled and sent there."""

    @property
    def resources(self) -> tuple[int, str]:
        """Threads and device that it works with, so that it finds the same."""
        ...

    def evaluators(self) -> Sequence[Evaluator]:
        """The evaluators of the run's stretches, made anew; refuses other versions, weights, rows and code."""
        ...


@runtime_checkable
class Writes(Protocol):
    """An evaluator whose candidates write texts: what they cost is known by what they wrote.

    Where it `asks` somebody what the texts are worth, only the run itself does so, which counts the answers and writes them down: others
    `draft`, and it will `judge`.
    """

    @property
    def wrote(self) -> int:
        """Tokens that the last `evaluate` or `draft` wrote."""
        ...

    @property
    def asks(self) -> bool:
        """Whether what is written is judged by somebody whom only the run itself asks."""
        ...

    def draft(
        self, point: Point, candidates: Mapping[int, Tensor], generation: int | None = None
    ) -> tuple[NDArray[np.float64], list[list[Text]]]:
        """The part of `evaluate` that asks nobody: penalties [P], and what each candidate writes for each row."""
        ...

    def judge(self, texts: Sequence[Sequence[Text]], generation: int | None = None) -> NDArray[np.float64]:
        """The other part: losses [P] of what candidates have written, without penalties."""
        ...

    def note_written(self, candidates: int, tokens: int) -> None:
        """Say what a generation wrote elsewhere.

        Args:
            candidates: of the generation.
            tokens: that they wrote together.
        """
        ...


@dataclass(frozen=True)
class Answer:
    """What came of a shard.

    Args:
        losses: of its candidates [P]; only their penalties where texts have still to be judged.
        wrote: tokens that they wrote.
        seconds: that it took.
        texts: what each of them wrote for each row, if that has still to be judged.
    """

    losses: NDArray[np.float64]
    wrote: int
    seconds: float
    texts: Sequence[Sequence[Text]] | None = None


class Executor(Member):
    """Base of what a recipe's ``[run] executor`` may be."""

    noun: ClassVar[str] = "executor"
    shard: Shard | None = Field(default=None, description="candidates that are scored together")

    def opened(
        self, evaluators: Sequence[Evaluator], elsewhere: Elsewhere, tell: Tell
    ) -> AbstractContextManager[Sequence[Evaluator]]:
        """The evaluators that the stretches of a run ask, one for each: most runs have one.

        Args:
            evaluators: of this process.
            elsewhere: makes the same evaluators in other processes.
            tell: told what a person has to know.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Refuse to begin without what it needs.

        Raises:
            UsageError: says what to install.
        """


class Around:
    """An evaluator that leaves everything but the scoring of candidates to another one.

    Args:
        inner: the other one, in this process.
    """

    def __init__(self, inner: Evaluator) -> None:
        self.inner = inner

    @property
    def depth(self) -> float:
        """See `Evaluator.depth`."""
        return self.inner.depth

    @abstractmethod
    def evaluate(
        self, point: Point, candidates: Mapping[int, Tensor], generation: int | None = None
    ) -> NDArray[np.float64]:
        """Training losses [P] of candidates, see `Evaluator.evaluate`."""

    def measure(self, point: Point, rows: Rows = "train") -> Evaluation:
        """See `Evaluator.measure`."""
        return self.inner.measure(point, rows)

    def described(self, point: Point) -> tuple[Evaluation, tuple[float, ...]]:
        """See `Evaluator.described`."""
        return self.inner.described(point)

    def dev_losses(self, point: Point) -> tuple[Evaluation, NDArray[np.float64]]:
        """See `Evaluator.dev_losses`."""
        return self.inner.dev_losses(point)

    def gradient(self, point: Point, blocks: Sequence[int], step: int) -> PointGradient:
        """See `Evaluator.gradient`."""
        return self.inner.gradient(point, blocks, step)

    def cost(self, blocks: Sequence[int], count: int, generation: int | None = None, kept: int | None = None) -> Costs:
        """See `Evaluator.cost`: shards are work for many, not more work for a run."""
        return self.inner.cost(blocks, count, generation, kept)

    def cost_to_begin(self) -> Costs:
        """See `Evaluator.cost_to_begin`."""
        return self.inner.cost_to_begin()

    def cost_to_measure(self, rows: Rows = "train") -> Costs:
        """See `Evaluator.cost_to_measure`."""
        return self.inner.cost_to_measure(rows)


class Sharded(Around):
    """Scores a generation shard by shard, in this process.

    The shape of a batch decides the last bits of what comes out of it, so a generation is cut at fixed places; whoever scores the
    shards, in whatever order, finds the same.

    Args:
        inner: scores a shard.
        shard: candidates in each.
    """

    def __init__(self, inner: Evaluator, shard: int) -> None:
        super().__init__(inner)
        self.shard = shard

    def evaluate(
        self, point: Point, candidates: Mapping[int, Tensor], generation: int | None = None
    ) -> NDArray[np.float64]:
        """Training losses [P] of candidates, see `Evaluator.evaluate`."""
        parts = shards(candidates, self.shard)
        found = [scored(self.inner, point, part, generation) for part in parts]
        return together(self.inner, found, generation)


def shards(candidates: Mapping[int, Tensor], size: int) -> list[Mapping[int, Tensor]]:
    """Candidates in shards of a size; the last one may be smaller."""
    count = count_of(candidates)
    return [rows_of(candidates, first, min(first + size, count)) for first in range(0, count, size)]


def scored(evaluator: Evaluator, point: Point, candidates: Mapping[int, Tensor], generation: int | None) -> Answer:
    """What comes of candidates, whoever scores them."""
    begin = time.perf_counter()
    if isinstance(evaluator, Writes) and evaluator.asks:
        losses, texts = evaluator.draft(point, candidates, generation)
        return Answer(losses, evaluator.wrote, time.perf_counter() - begin, texts)
    losses = evaluator.evaluate(point, candidates, generation)
    return Answer(losses, evaluator.wrote if isinstance(evaluator, Writes) else 0, time.perf_counter() - begin)


def together(evaluator: Evaluator, found: Sequence[Answer], generation: int | None) -> NDArray[np.float64]:
    """Losses [P] of a generation out of its shards, judged by the run's own evaluator where that is left to it."""
    losses: NDArray[np.float64] = np.concatenate([answer.losses for answer in found])
    if isinstance(evaluator, Writes):
        evaluator.note_written(len(losses), sum(answer.wrote for answer in found))
        if evaluator.asks:
            losses = losses + evaluator.judge([each for answer in found for each in answer.texts or ()], generation)
    return losses
