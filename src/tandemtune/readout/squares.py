"""Least squares on the labels: Gaussian-process regression on one-hot targets (Rasmussen & Williams 2006, section 6.5), whose
leave-one-out predictions are exact and cost nothing more (eq. 5.10 to 5.12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    """A kernel between weighted rows, decomposed once for all strengths.

    Args:
        values: eigenvalues [..., N] of ``S K S``, where S holds the roots of the rows' weights.
        vectors: eigenvectors [..., N, N].
        roots: diagonal of S [N].
    """

    values: Tensor
    vectors: Tensor
    roots: Tensor

    @classmethod
    def of(cls, kernel: Tensor, weights: Tensor) -> Spectrum:
        """Decompose a kernel [..., N, N] between rows that count `weights` [N]."""
        roots = weights.sqrt()
        values, vectors = torch.linalg.eigh(roots[:, None] * kernel * roots)
        return cls(values.clamp_min(0.0), vectors, roots)

    def solve(self, targets: Tensor, noise: float) -> Tensor:
        """Coefficients ``(K + noise / weights)^-1 targets``.

        Args:
            targets: [N, C].
            noise: variance of what a row of weight 1 says, above 0.

        Returns:
            [..., N, C].
        """
        return self.roots[:, None] * self._spread(targets, torch.tensor([noise], dtype=torch.float64))[..., 0, :, :]

    def leave_one_out(self, targets: Tensor, noises: Sequence[float]) -> Tensor:
        """Predictions of each row by all others.

        Args:
            targets: [N, C].
            noises: as for `solve`.

        Returns:
            [..., len(noises), N, C].
        """
        noise = torch.tensor(list(noises), dtype=torch.float64)
        alpha = self._spread(targets, noise)
        shrunk = 1 / (self.values[..., None, :] + noise.to(self.values.device)[:, None])
        diagonal = shrunk @ self.vectors.square().mT  # of (S K S + noise)^-1
        return targets - alpha / (self.roots * diagonal)[..., None]

    def _spread(self, targets: Tensor, noise: Tensor) -> Tensor:
        """``(S K S + noise)^-1 S targets`` for each noise: [..., n, N, C]."""
        turned = self.vectors.mT @ (self.roots[:, None] * targets)
        shrunk = 1 / (self.values[..., None, :] + noise.to(self.values.device)[:, None])
        return self.vectors[..., None, :, :] @ (shrunk[..., None] * turned[..., None, :, :])
