"""Least squares on the labels: Gaussian-process regression on one-hot targets (Rasmussen & Williams 2006, section 6.5), whose
leave-one-out predictions are exact and cost nothing more (eq. 5.10 to 5.12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def solve(kernel: Tensor, weights: Tensor, targets: Tensor, noise: float) -> Tensor:
    """Coefficients ``(K + noise / weights)^-1 targets``.

    Args:
        kernel: between the labelled rows [..., N, N].
        weights: what each row counts [N].
        targets: [N, C].
        noise: variance of what a row of weight 1 says, above 0.

    Returns:
        [..., N, C]; a new row's prediction is its kernel with the labelled ones times these.
    """
    roots = weights.sqrt()[:, None]
    return roots * torch.cholesky_solve(_wide(roots * targets, kernel), _factor(kernel, roots, noise))


def leave_one_out(kernel: Tensor, weights: Tensor, targets: Tensor, noise: float) -> Tensor:
    """Predictions [..., N, C] of each row by all others, arguments as for `solve`."""
    roots = weights.sqrt()[:, None]
    inverse = torch.cholesky_inverse(_factor(kernel, roots, noise))
    diagonal = inverse.diagonal(dim1=-2, dim2=-1)[..., None]
    return targets - inverse @ (roots * targets) / (roots * diagonal)


def leave_one_out_for_each(kernel: Tensor, weights: Tensor, targets: Tensor, noises: Sequence[float]) -> Tensor:
    """The same for many noises at the price of one decomposition: [..., len(noises), N, C]."""
    roots = weights.sqrt()[:, None]
    values, vectors = torch.linalg.eigh(roots * kernel * roots.mT)
    noise = torch.tensor(list(noises), dtype=kernel.dtype, device=kernel.device)
    shrunk = 1 / (values.clamp_min(0.0)[..., None, :] + noise[:, None])
    turned = vectors.mT @ (roots * targets)
    alpha = vectors[..., None, :, :] @ (shrunk[..., None] * turned[..., None, :, :])
    diagonal = shrunk @ vectors.square().mT
    found: Tensor = targets - alpha / (roots * diagonal[..., None])
    return found


@dataclass(frozen=True)
class Wide:
    """Fewer rows than features: everything is said by the kernel between rows.

    Args:
        kernel: [..., N, N].
        weights: what each row counts [N].
    """

    kernel: Tensor
    weights: Tensor

    def solve(self, targets: Tensor, noise: float) -> Tensor:
        """As the function `solve`."""
        return solve(self.kernel, self.weights, targets, noise)

    def leave_one_out(self, targets: Tensor, noise: float) -> Tensor:
        """As the function `leave_one_out`."""
        return leave_one_out(self.kernel, self.weights, targets, noise)

    def leave_one_out_for_each(self, targets: Tensor, noises: Sequence[float]) -> Tensor:
        """As the function `leave_one_out_for_each`."""
        return leave_one_out_for_each(self.kernel, self.weights, targets, noises)


@dataclass(frozen=True)
class Tall:
    """The same answers for more rows than features, without a matrix between rows: all of it costs N D^2.

    With the roots of the weights S, ``S K S = U diag(values) U'``, where U has one column for each feature.

    Args:
        roots: of the weights [N, 1].
        u: [..., N, D], with orthonormal columns (zeros for features that say nothing new).
        values: [..., D].
    """

    roots: Tensor
    u: Tensor
    values: Tensor

    @classmethod
    def of(cls, rows: Tensor, weights: Tensor) -> Tall:
        """Decompose.

        Args:
            rows: features [..., N, D] whose inner products are the kernel.
            weights: what each row counts [N].
        """
        roots = weights.sqrt()[:, None]
        weighted = roots * rows
        values, vectors = torch.linalg.eigh(weighted.mT @ weighted)
        kept = values > values[..., -1:] * rows.shape[-1] * torch.finfo(rows.dtype).eps
        inverse = torch.where(kept, values.clamp_min(torch.finfo(rows.dtype).tiny).rsqrt(), 0.0)
        return cls(roots, weighted @ (vectors * inverse[..., None, :]), torch.where(kept, values, 0.0))

    def solve(self, targets: Tensor, noise: float) -> Tensor:
        """As the function `solve`."""
        turned = self.u.mT @ (self.roots * targets)
        part = (self.values / (self.values + noise))[..., None]
        return self.roots * (self.roots * targets - self.u @ (part * turned)) / noise

    def leave_one_out(self, targets: Tensor, noise: float) -> Tensor:
        """As the function `leave_one_out`."""
        part = self.values / (self.values + noise)
        diagonal = (1 - (self.u.square() * part[..., None, :]).sum(dim=-1, keepdim=True)) / noise
        return targets - self.solve(targets, noise) / (self.roots.square() * diagonal)

    def leave_one_out_for_each(self, targets: Tensor, noises: Sequence[float]) -> Tensor:
        """As the function `leave_one_out_for_each`."""
        return torch.stack([self.leave_one_out(targets, noise) for noise in noises], dim=-3)


def _factor(kernel: Tensor, roots: Tensor, noise: float) -> Tensor:
    """Cholesky factor of ``S K S + noise``, where S holds the roots of the rows' weights."""
    eye = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    factor: Tensor = torch.linalg.cholesky(roots * kernel * roots.mT + noise * eye)
    return factor


def _wide(targets: Tensor, kernel: Tensor) -> Tensor:
    return targets.expand(*kernel.shape[:-2], *targets.shape)
