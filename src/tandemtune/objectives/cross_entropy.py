"""Cross-entropy over the label words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

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
    summary: ClassVar[str] = "cross-entropy over the label words, or over the tokens of references"
    differentiable: ClassVar[bool] = True
    of: ClassVar[frozenset[str]] = frozenset({"labels", "texts"})

    def loss(self, task: Task) -> LossFunction:
        """The same for all tasks."""
        return cross_entropy

    def problems(self, recipe: Any) -> Iterator[str]:
        """Texts without references have no likelihood."""
        yield from super().problems(recipe)
        if recipe.task.writes and recipe.task.answer is None:
            yield (
                "[method] objective: ce is the likelihood of references, but [task] answer names no column of them: name one, or "
                "set objective to reward or metric"
            )
