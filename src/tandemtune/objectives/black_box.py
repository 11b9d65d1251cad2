"""Metrics as losses, for searches that need no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from tandemtune.objectives.base import Judge, LossFunction, Objective
from tandemtune.plugins import register
from tandemtune.rewards.base import Reward
from tandemtune.tasks.base import Task
from tandemtune.tasks.metrics import score
from tandemtune.tasks.texts import TextTask


def one_minus(metric: Callable[[list[int], list[int]], float]) -> LossFunction:
    """1 minus a metric of the most likely labels; NaN for a candidate with logits that are NaN.

    Args:
        metric: (predictions, gold) -> number.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        gold = labels.tolist()
        losses = [1.0 - metric(row, gold) for row in logits.argmax(dim=-1).tolist()]
        broken = logits.isnan().flatten(1).any(dim=1)
        return torch.tensor(losses, device=logits.device).masked_fill(broken, torch.nan)

    return loss


@register
class OneMinusAccuracy(Objective):
    """1 - accuracy."""

    kind: ClassVar[str] = "accuracy"
    summary: ClassVar[str] = "1 - accuracy"

    def loss(self, task: Task) -> LossFunction:
        """The same for all tasks."""
        return one_minus(lambda predictions, gold: score("accuracy", predictions, gold, len(task.labels)))


@register
class OneMinusF1(Objective):
    """1 - F1 of the task's positive label, or of all labels on the average."""

    kind: ClassVar[str] = "f1"
    summary: ClassVar[str] = "1 - F1 of the positive label, or macro F1 where a task has none"
    by_rows: ClassVar[bool] = False

    def loss(self, task: Task) -> LossFunction:
        """F1 of the positive label where the task has one."""
        positive = None if task.positive is None else task.label_index(task.positive)
        name = "macro_f1" if positive is None else "f1"
        return one_minus(lambda predictions, gold: score(name, predictions, gold, len(task.labels), positive))


@register
class OneMinusMetric(Objective):
    """1 - the task's own metric."""

    kind: ClassVar[str] = "metric"
    summary: ClassVar[str] = "1 - the task's own metric, whatever function that is; of texts that candidates write, too"
    of: ClassVar[frozenset[str]] = frozenset({"labels", "texts"})
    by_rows: ClassVar[bool] = False

    def loss(self, task: Task) -> LossFunction:
        """The task's metric."""
        return one_minus(task.score)

    def judge(self, task: TextTask, grader: Reward | None = None) -> Judge:
        """The task's metric of all texts together."""
        return lambda written: 1.0 - task.reward.score(written)
