"""Least squares on the labels: Gaussian-process regression on one-hot targets (Rasmussen & Williams 2006, section 6.5), whose
leave-one-out predictions are exact and cost nothing more (eq. 5.10 to 5.12)."""

from __future__ import annotations

from collections.abc import Sequence

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


def _factor(kernel: Tensor, roots: Tensor, noise: float) -> Tensor:
    """Cholesky factor of ``S K S + noise``, where S holds the roots of the rows' weights."""
    eye = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    factor: Tensor = torch.linalg.cholesky(roots * kernel * roots.mT + noise * eye)
    return factor


def _wide(targets: Tensor, kernel: Tensor) -> Tensor:
    return targets.expand(*kernel.shape[:-2], *targets.shape)
