"""Hinge loss over the label words."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from tandemtune.objectives.base import LossFunction, Objective
from tandemtune.plugins import register
from tandemtune.tasks.base import Task

MARGIN = 2.0


def hinge(logits: Tensor, labels: Tensor, margin: float = MARGIN) -> Tensor:
    """Sum over the wrong labels of ``max(0, margin - (gold logit - wrong logit))``, mean over rows.

    Args:
        logits: label logits [P, N, C], float32.
        labels: gold labels [N].
        margin: by which the gold logit should be above each other one.

    Returns:
        Mean loss of each candidate [P].
    """
    gold = labels.view(1, -1, 1).expand(len(logits), -1, 1)
    short = functional.relu(margin - logits.gather(2, gold) + logits)
    return short.scatter(2, gold, 0.0).sum(dim=2).mean(dim=1)


@register
class Hinge(Objective):
    """Margins between the gold label and the others."""

    kind: ClassVar[str] = "hinge"
    summary: ClassVar[str] = "margins between the gold label's logit and the others"
    source: ClassVar[str] = "arXiv 2201.03514"
    differentiable: ClassVar[bool] = True

    margin: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=MARGIN, description="by which the gold label's logit should be above each other one"
    )

    def loss(self, task: Task) -> LossFunction:
        """The same for all tasks."""
        return partial(hinge, margin=self.margin)
