"""Members of a test's own, in a file that another process can load."""

from __future__ import annotations

from typing import ClassVar

from tandemtune.objectives.base import LossFunction, Objective
from tandemtune.objectives.cross_entropy import cross_entropy


class Doubled(Objective):
    """Twice the cross-entropy."""

    kind: ClassVar[str] = "doubled"
    summary: ClassVar[str] = "twice the cross-entropy"
    differentiable: ClassVar[bool] = True

    weight: float = 2.0

    def loss(self, task: object) -> LossFunction:
        """The same for all tasks."""
        return lambda logits, labels: self.weight * cross_entropy(logits, labels)


def share_of_positives(predictions: list[str], gold: list[str]) -> float:
    """A metric: how often the answer is positive."""
    return predictions.count("positive") / len(predictions)
