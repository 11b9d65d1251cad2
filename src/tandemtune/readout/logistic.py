"""Penalised multinomial logistic regression between kernels and label logits: few Newton steps (Rasmussen & Williams 2006,
algorithm 3.3, with an offset and weighted rows), and what it would say to each row without that row.

The latter takes one Newton step from the solution of all rows (approximate leave-one-out; Rad & Maleki, arXiv 1801.10243).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

STEPS, CLOSE, HALVINGS = 50, 1e-10, 12


@dataclass(frozen=True)
class Solution:
    """The coefficients of one kernel.

    Args:
        alpha: [..., N, C]; the rows' logits are ``offset + kernel @ alpha``.
        without: logits [..., N, C] of each row by all others, nearly.
    """

    alpha: Tensor
    without: Tensor


def solve(kernel: Tensor, offset: Tensor, one_hot: Tensor, weights: Tensor) -> Solution:
    """Maximise ``sum_i weights_i log p(y_i) - 1/2 sum_c alpha_c' K alpha_c``.

    Args:
        kernel: [..., N, N]; a smaller one is a stronger penalty.
        offset: logits to start from [..., N, C].
        one_hot: labels [N, C].
        weights: what each row counts [N].
    """
    alpha = torch.zeros_like(offset).expand(*kernel.shape[:-2], *offset.shape[-2:]).clone()
    counts = weights[:, None]
    value = _objective(kernel, offset, one_hot, counts, alpha)
    for _ in range(STEPS):
        curve = _Curvature.at(kernel, offset + kernel @ alpha, counts)
        wanted = curve.newton(kernel, alpha, counts * one_hot)
        step = torch.ones_like(value)
        for _ in range(HALVINGS):  # a whole step may overshoot where the offset is far off
            tried = alpha + step[..., None, None] * (wanted - alpha)
            reached = _objective(kernel, offset, one_hot, counts, tried)
            worse = reached < value - 1e-12 * value.abs()
            if not worse.any():
                break
            step = torch.where(worse, step / 2, step)
        moved = torch.where((reached >= value)[..., None, None], tried, alpha)
        done = (moved - alpha).abs().max() < CLOSE
        alpha, value = moved, torch.maximum(reached, value)
        if done:
            break
    logits = offset + kernel @ alpha
    return Solution(alpha, _without(kernel, logits, counts * one_hot, counts))


def solve_bias(variance: float, offset: Tensor, one_hot: Tensor, weights: Tensor) -> Solution:
    """As `solve` with the kernel of a bias alone, `variance` everywhere: among the biases of C labels, and not among rows.

    Args:
        variance: of each label's bias.
        offset: logits to start from [..., N, C].
        one_hot: labels [N, C].
        weights: what each row counts [N].
    """
    counts = weights[:, None]
    free = torch.eye(offset.shape[-1], dtype=offset.dtype, device=offset.device) / variance
    bias = torch.zeros_like(offset[..., 0, :])

    def value(bias: Tensor) -> Tensor:
        log_p = functional.log_softmax(offset + bias[..., None, :], dim=-1)
        return (counts * one_hot * log_p).sum(dim=(-2, -1)) - bias.square().sum(dim=-1) / (2 * variance)

    def curve(p: Tensor) -> Tensor:
        weighted = counts * p
        return torch.diag_embed(weighted.sum(dim=-2)) - weighted.mT @ p + free

    best = value(bias)
    for _ in range(STEPS):
        p = functional.softmax(offset + bias[..., None, :], dim=-1)
        slope = (counts * (one_hot - p)).sum(dim=-2) - bias / variance
        step = torch.linalg.solve(curve(p), slope)
        for _ in range(HALVINGS):  # a whole step may overshoot where the offset is far off
            reached = value(bias + step)
            worse = reached < best - 1e-12 * best.abs()
            if not worse.any():
                break
            step = torch.where(worse[..., None], step / 2, step)
        step = torch.where((reached >= best)[..., None], step, torch.zeros_like(step))
        bias, best = bias + step, torch.maximum(reached, best)
        if step.abs().max() < CLOSE:
            break
    logits = offset + bias[..., None, :]
    p = functional.softmax(logits, dim=-1)
    spread = torch.linalg.inv(curve(p))[..., None, :, :]  # what is left uncertain of the logits, the same for all rows
    pull = counts * (one_hot - p)
    return Solution(pull, logits - _moved(spread, p, counts, pull))


def _objective(kernel: Tensor, offset: Tensor, one_hot: Tensor, counts: Tensor, alpha: Tensor) -> Tensor:
    rise = kernel @ alpha
    log_p = functional.log_softmax(offset + rise, dim=-1)
    return (counts * one_hot * log_p).sum(dim=(-2, -1)) - (alpha * rise).sum(dim=(-2, -1)) / 2


@dataclass(frozen=True)
class _Curvature:
    """The likelihood's curvature W at some logits, through ``(K + W^-1)^-1 = E - E R M^-1 R' E``.

    Args:
        p: probabilities [..., N, C].
        counts: what each row counts [N, 1].
        e: the blocks of E [..., C, N, N].
        m: Cholesky factor of the blocks' sum [..., N, N].
    """

    p: Tensor
    counts: Tensor
    e: Tensor
    m: Tensor

    @classmethod
    def at(cls, kernel: Tensor, logits: Tensor, counts: Tensor) -> _Curvature:
        p = functional.softmax(logits, dim=-1)
        roots = (counts * p).sqrt().mT[..., None]  # [..., C, N, 1]
        inner = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
        inner = inner + roots * kernel[..., None, :, :] * roots.mT
        e = roots * torch.cholesky_solve(torch.diag_embed(roots[..., 0]), torch.linalg.cholesky(inner))
        return cls(p, counts, e, torch.linalg.cholesky(e.sum(dim=-3)))

    def times(self, vectors: Tensor) -> Tensor:
        """W times vectors [..., N, C]."""
        weighted = self.counts * self.p * vectors
        return weighted - self.p * weighted.sum(dim=-1, keepdim=True)

    def newton(self, kernel: Tensor, alpha: Tensor, target: Tensor) -> Tensor:
        """Where one Newton step leads, from coefficients [..., N, C]."""
        b = self.times(kernel @ alpha) + target - self.counts * self.p
        c = (self.e @ (kernel @ b).mT[..., None])[..., 0]  # [..., C, N]
        shared = torch.cholesky_solve(c.sum(dim=-2)[..., None], self.m)
        back = (self.e @ shared[..., None, :, :])[..., 0]
        return b - (c - back).mT


def _without(kernel: Tensor, logits: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Logits of each row after the Newton step that takes it out."""
    curve = _Curvature.at(kernel, logits, counts)
    ek = curve.e @ kernel[..., None, :, :]  # [..., C, N, N]
    own = kernel.diagonal(dim1=-2, dim2=-1)[..., None, :] - (kernel[..., None, :, :] * ek.mT).sum(dim=-1)
    half = torch.linalg.solve_triangular(curve.m[..., None, :, :], ek, upper=False)
    shared = torch.einsum("...ckn,...dkn->...ncd", half, half)
    spread = torch.diag_embed(own.mT) + shared  # what is left uncertain of each row's logits [..., N, C, C]
    return logits - _moved(spread, curve.p, counts, target - counts * curve.p)


def _moved(spread: Tensor, p: Tensor, counts: Tensor, pull: Tensor) -> Tensor:
    """How far each row moves its own logits [..., N, C], by one Newton step.

    Args:
        spread: what is left uncertain of its logits [..., N, C, C].
        p: its probabilities [..., N, C].
        counts: what it counts [N, 1].
        pull: the slope of its likelihood [..., N, C].
    """
    w = counts[..., None] * (torch.diag_embed(p) - p[..., :, None] * p[..., None, :])
    eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    moved: Tensor = torch.linalg.solve(eye - spread @ w, spread @ pull[..., None])[..., 0]
    return moved
