"""Features and label logits of the labelled rows as kernels, and what each row counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from tandemtune.devices import exact
from tandemtune.errors import DataError

Prior = Literal["balanced", "train"] | Sequence[float]
"""How often each label is assumed to come up: equally often, as often as in the labelled rows, or as these shares say."""
LabelView = Literal["logits", "log-probabilities"]
CONSTANT = 1e-6
"""Features that differ from their mean by less than this share of their size differ by rounding alone."""


@dataclass(frozen=True)
class Scaled:
    """A view with mean zero whose rows are one long on average.

    Args:
        rows: the labelled rows [..., N, h].
        mean: what was taken off [..., 1, h].
        size: what they were divided by [..., 1, 1]; infinite for a view that is the same in all rows.
    """

    rows: Tensor
    mean: Tensor
    size: Tensor

    @classmethod
    def of(cls, view: Tensor) -> Scaled:
        """Scale a view [..., N, h]."""
        whole = exact(view)
        mean = whole.mean(dim=-2, keepdim=True)
        centred = whole - mean
        size = centred.norm(dim=-1, keepdim=True).mean(dim=-2, keepdim=True)
        same = size <= CONSTANT * whole.norm(dim=-1, keepdim=True).mean(dim=-2, keepdim=True)
        size = size.masked_fill(same, torch.inf)
        return cls(centred / size, mean, size)

    @property
    def kernel(self) -> Tensor:
        """Inner products of all rows [..., N, N]."""
        return self.rows @ self.rows.mT


class NotFiniteError(DataError):
    """What a readout is to be solved on holds numbers that are not finite, as at a point that a search has lost itself at."""


class Design:
    """The labelled rows of one readout, or of one for each candidate of a population.

    Args:
        features: views [..., N, h] of the rows; they may differ in h. Empty where only label logits are read.
        logits: label logits [..., N, C], as linear in what enters the output embedding as the model has them.
        labels: the rows' labels [N].
        prior: how often each label is assumed to come up.
        names: the labels' names, for errors.

    Raises:
        NotFiniteError: numbers that are not finite, of one readout; of several `broken` says which ones have some.
        DataError: no row has one of the labels, or shapes, labels or prior cannot be used.
    """

    def __init__(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        labels: Tensor,
        prior: Prior = "balanced",
        names: Sequence[str] | None = None,
    ) -> None:
        words = exact(logits)
        self.labels = labels.to(words.device, torch.long)
        self.classes = logits.shape[-1]
        for view in (*features, logits):
            if view.shape[:-1] != (*logits.shape[:-2], len(labels)):
                raise DataError(
                    f"a view has the shape {tuple(view.shape)}, expected {len(labels)} rows, one for each label, and in front of "
                    f"them {list(logits.shape[:-2])} as the label logits have"
                )
        self.weights = row_weights(self.labels, self.classes, prior, names)
        views = [functional.log_softmax(words, dim=-1), *(exact(view) for view in features)]
        self.broken = torch.stack([~view.isfinite().flatten(-2).all(dim=-1) for view in views]).any(dim=0)
        if self.broken.ndim == 0 and self.broken:
            raise NotFiniteError("features or label logits hold numbers that are not finite: compute them in float32")
        self.features = tuple(Scaled.of(self._whole(view)) for view in views[1:])
        self.logits = self._whole(words)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.labels)

    @cached_property
    def one_hot(self) -> Tensor:
        """The labels as a matrix [N, C]."""
        return functional.one_hot(self.labels, self.classes).double()

    @cached_property
    def label_views(self) -> dict[LabelView, Scaled]:
        """The label logits as a view, in the two forms that label logits have."""
        return {
            "logits": Scaled.of(centred(self.logits)),
            "log-probabilities": Scaled.of(functional.log_softmax(self.logits, dim=-1)),
        }

    @cached_property
    def feature_kernels(self) -> tuple[Tensor, ...]:
        """Inner products [..., N, N] of the rows in each view."""
        return tuple(view.kernel for view in self.features)

    @cached_property
    def targets(self) -> Tensor:
        """What predictions are compared with [N, C]: the labels, as if beside the rows of each label one more had been seen whose
        label nobody knows (in the manner of Platt 1999). Few rows that are told apart perfectly do not prove that all others
        will be."""
        counts = self.one_hot.sum(dim=0)[self.labels][:, None]
        return (counts * self.one_hot + 1 / self.classes) / (counts + 1)

    def loss(self, logits: Tensor) -> Tensor:
        """Mean cross-entropy [...] of label logits [..., N, C] of the rows with `targets`, each row counted as the prior says;
        NaN for a candidate whose features are no numbers."""
        return self.losses(logits).mean(dim=-1).masked_fill(self.broken, torch.nan)

    def losses(self, logits: Tensor) -> Tensor:
        """What each row [..., N] adds to `loss`, times N."""
        log_p = functional.log_softmax(logits, dim=-1)
        return -(log_p * self.targets).sum(dim=-1) * self.weights

    def _whole(self, view: Tensor) -> Tensor:
        """The view with zeros in place of a candidate that is broken."""
        return view.masked_fill(self.broken[..., None, None], 0.0)


def centred(logits: Tensor) -> Tensor:
    """Logits [..., C] without the mean of each row, which softmax does not see."""
    return logits - logits.mean(dim=-1, keepdim=True)


def row_weights(labels: Tensor, classes: int, prior: Prior, names: Sequence[str] | None = None) -> Tensor:
    """What each row counts, so that labels come up as often as assumed.

    Args:
        labels: [N], from 0 to `classes` - 1.
        classes: how many labels there are.
        prior: "balanced", "train" or a share for each label.
        names: the labels' names, for errors.

    Returns:
        Weights [N] with mean 1, float64.

    Raises:
        DataError: a label without a row, or a prior that is none.
    """
    if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise DataError(f"a readout needs labelled rows, with labels from 0 to {classes - 1}")
    counts = torch.bincount(labels, minlength=classes).double()
    if (counts == 0).any():
        missing = [str(names[i]) if names else str(i) for i in (counts == 0).nonzero().flatten().tolist()]
        raise DataError(
            f"no labelled row for {', '.join(map(repr, missing))}: a readout needs at least one row of each label"
        )
    if prior == "train":
        return torch.ones(len(labels), dtype=torch.float64, device=labels.device)
    return (assumed_shares(labels, classes, prior) / counts * len(labels))[labels]


def assumed_shares(labels: Tensor, classes: int, prior: Prior) -> Tensor:
    """How often each label is assumed to come up: shares [C] that add up to 1, float64.

    Args:
        labels: of the labelled rows [N], from 0 to `classes` - 1.
        classes: how many labels there are.
        prior: "balanced", "train" or a share for each label.

    Raises:
        DataError: a prior that is none.
    """
    if prior == "train":
        return torch.bincount(labels, minlength=classes).double() / len(labels)
    if prior == "balanced":
        return torch.full((classes,), 1 / classes, dtype=torch.float64, device=labels.device)
    if isinstance(prior, str):
        raise DataError(f"prior {prior!r}: expected balanced, train or a share for each label")
    check_shares(prior, classes)
    return torch.tensor(list(prior), dtype=torch.float64, device=labels.device)


def check_shares(prior: Sequence[float], classes: int) -> None:
    """Refuse shares of labels that are none.

    Args:
        prior: a share for each label.
        classes: how many labels there are.

    Raises:
        DataError: too few or too many, or they do not add up to 1.
    """
    if len(prior) != classes or min(prior) <= 0 or abs(math.fsum(prior) - 1) > 1e-6:
        raise DataError(
            f"prior {list(prior)}: expected {classes} shares above 0 that add up to 1, in the order of the labels"
        )
