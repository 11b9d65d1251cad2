"""An objective: candidates in, losses out, on one training set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandemtune.objective.batch import Batch
from tandemtune.objective.engine import Engine
from tandemtune.objective.losses import LossFunction
from tandemtune.tunables.base import Point

Score = Callable[[Sequence[int], Sequence[int]], float]


@dataclass(frozen=True)
class Measurement:
    """One point on one set of rows.

    Args:
        loss: mean loss (the objective's own).
        score: the task's metric.
        logits: label logits [N, C].
    """

    loss: float
    score: float
    logits: Tensor


class Objective:
    """Losses of candidates on the training batch, and measurements on any batch.

    Args:
        engine: the evaluation engine.
        train: the training prompts.
        loss: what is minimised.
        score: the task's metric: (predictions, gold) -> number.
        reading: the training prompts in the groups that suit a single point; None for those of `train`.
    """

    def __init__(
        self, engine: Engine, train: Batch, loss: LossFunction, score: Score, reading: Batch | None = None
    ) -> None:
        self.engine = engine
        self.train = train
        self.reading = reading or train
        self.loss = loss
        self.score = score

    def evaluate(self, point: Point, candidates: Mapping[int, Tensor]) -> NDArray[np.float64]:
        """Training losses of candidates that differ from `point` in some blocks.

        Args:
            point: the incumbent.
            candidates: block -> vectors [P, dim].

        Returns:
            Losses [P]; NaN where the model gave none.
        """
        logits = self.engine.population_logits(self.train, point, candidates)
        return self.loss(logits, self.train.labels).double().cpu().numpy()

    def gradient(self, batch: Batch, point: Point, blocks: Sequence[int]) -> tuple[float, dict[int, Tensor]]:
        """Loss of one point on some rows, and its gradient.

        Args:
            batch: the rows.
            point: where to differentiate.
            blocks: the blocks whose gradient is wanted.

        Returns:
            The mean loss, and block -> gradient [dim].
        """
        leaves = {block: point[block].clone().requires_grad_() for block in blocks}
        total = 0.0
        for group in batch.groups:
            logits = self.engine.gradient_logits(group, {**point, **leaves})
            share = len(group.rows) / len(batch)
            loss = self.loss(logits.unsqueeze(0), batch.labels[group.rows])[0] * share
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total, {block: _gradient_of(leaf) for block, leaf in leaves.items()}

    def measure(self, batch: Batch, point: Point) -> Measurement:
        """Loss, metric and logits of one point on a labelled batch."""
        logits = self.engine.logits(batch, point)
        loss = float(self.loss(logits.unsqueeze(0), batch.labels)[0])
        return Measurement(loss, self.score_of(logits, batch), logits)

    def score_of(self, logits: Tensor, batch: Batch) -> float:
        """The task's metric of label logits [N, C]."""
        return self.score(logits.argmax(dim=-1).tolist(), batch.labels.tolist())

    def cost(self, block: int, count: int) -> int:
        """Token-layers of one generation: every candidate from its first layer on, and one layer for the kept states."""
        depth = len(self.engine.stack) - max(0, self.engine.tunable.first_layer([block]))
        return self.train.tokens * (count * depth + 1)


def _gradient_of(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def calibrate(logits: Tensor, content_free: Tensor) -> Tensor:
    """Contextual calibration (Zhao et al., arXiv 2102.09690): divide by the label distribution of empty inputs.

    Args:
        logits: label logits [N, C].
        content_free: label logits of inputs without content [M, C].

    Returns:
        Log probabilities up to a constant [N, C].
    """
    prior = torch.softmax(content_free, dim=-1).mean(dim=0)
    return torch.log_softmax(logits, dim=-1) - prior.log()


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's correlation: how alike two sets of losses [P] rank the same candidates (ties by position)."""
    ranks = [values.argsort(kind="stable").argsort(kind="stable") for values in (one, other)]
    return float(np.asarray(np.corrcoef(ranks))[0, 1])
