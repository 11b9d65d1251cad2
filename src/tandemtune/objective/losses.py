"""Losses over label logits, for a whole population at once. Lower is better; all are means over the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Loss = Literal["ce", "hinge", "accuracy", "f1"]
LossFunction = Callable[[Tensor, Tensor], Tensor]
MARGIN = 2.0


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


def hinge(logits: Tensor, labels: Tensor, margin: float = MARGIN) -> Tensor:
    """Sum over the wrong labels of ``max(0, margin - (gold logit - wrong logit))``, arguments as `cross_entropy`."""
    gold = labels.view(1, -1, 1).expand(len(logits), -1, 1)
    short = functional.relu(margin - logits.gather(2, gold) + logits)
    return short.scatter(2, gold, 0.0).sum(dim=2).mean(dim=1)


def make(name: Loss, score: Callable[[list[int], list[int]], float]) -> LossFunction:
    """A loss by name.

    Args:
        name: "ce", "hinge", or a black box: "accuracy" (1 - accuracy) or "f1" (1 - F1).
        score: the F1 that "f1" is made of: (predictions, gold) -> number.
    """
    if name == "ce":
        return cross_entropy
    if name == "hinge":
        return hinge

    def black_box(logits: Tensor, labels: Tensor) -> Tensor:
        predictions = logits.argmax(dim=-1)
        if name == "accuracy":
            losses = 1.0 - (predictions == labels).float().mean(dim=1)
        else:
            gold = labels.tolist()
            losses = torch.tensor([1.0 - score(row, gold) for row in predictions.tolist()], device=logits.device)
        broken = logits.isnan().flatten(1).any(dim=1)
        return losses.masked_fill(broken, torch.nan)

    return black_box
