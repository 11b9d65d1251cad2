"""Cross-entropy over the label words."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from tandemtune.objectives.base import LossFunction, Objective
from tandemtune.plugins import register
from tandemtune.tasks.base import Task


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the label words.

    Args:
        logits: label logits [P, N, C], float32.
        labels: gold labels [N].

    Returns:
        Mean loss of each candidate [P].
    """
    log_p = functional.log_softmax(logits, dim=-1)
    gold = labels.view(1, -1, 1).expand(len(logits), -1, 1)
    return -log_p.gather(2, gold).squeeze(2).mean(dim=1)


@register
class CrossEntropy(Objective):
    """Mean cross-entropy of the gold labels."""

    kind: ClassVar[str] = "ce"
    summary: ClassVar[str] = "cross-entropy over the label words"
    differentiable: ClassVar[bool] = True

    def loss(self, task: Task) -> LossFunction:
        """The same for all tasks."""
        return cross_entropy
