"""From labelled rows to a readout: strength and weights of the views by the leave-one-out loss, then the solution as parameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

import tandemtune.readout.logistic as logistic
import tandemtune.readout.squares as squares
from tandemtune.devices import exact
from tandemtune.errors import DataError
from tandemtune.readout.design import Design, LabelView, Scaled, centred

FormName = Literal["bias", "affine", "logistic", "ridge", "kernel"]

NOISES = {
    "squares": (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003),
    "logistic": (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001),
}
"""Strengths that are tried by solver, strongest first: of equal losses the simpler readout is taken."""
SCALES = tuple(0.5 * 1.25**i for i in range(26))
"""Factors from predictions of one-hot labels to logits."""
CUTS = {1: 1, 2: 8, 3: 4, 4: 3}
"""In how many parts the views' weights are cut, by how many views there are; 2 for more."""
TALL = 1000
"""More labelled rows than this are solved among features where these are fewer."""
FREE = 100.0
"""Variance of the bias in logistic forms: nearly free."""


@dataclass(frozen=True)
class Form:
    """What a readout is made of.

    Args:
        solver: "squares" (on one-hot labels) or "logistic".
        features: whether features are read.
        label_view: how label logits are read as a view; None if they are not.
        starts_at_words: whether the model's own label logits are what it corrects, or only one view among others.
    """

    solver: Literal["squares", "logistic"]
    features: bool
    label_view: LabelView | None
    starts_at_words: bool

    @property
    def reads(self) -> bool:
        """Whether anything of a row is read beside what it corrects; a bias alone reads nothing."""
        return self.features or self.label_view is not None

    @property
    def linear(self) -> bool:
        """Whether it is a linear map of what enters the output embedding, and so an ordinary adapter on it."""
        return self.label_view != "log-probabilities"


FORMS: dict[FormName, Form] = {
    "bias": Form("logistic", False, None, True),
    "affine": Form("logistic", False, "logits", True),
    "logistic": Form("logistic", True, None, True),
    "ridge": Form("squares", True, "logits", False),
    "kernel": Form("squares", True, "log-probabilities", False),
}


@dataclass(frozen=True)
class Settings:
    """What is chosen by the leave-one-out loss, once for all candidates of a search.

    Args:
        form: what the readout is made of.
        shares: weight of each view in the kernel, features first, then the label logits where they are read.
        noise: strength of the penalty.
        scale: factor from predictions to logits; 1 for logistic forms.
        loss: leave-one-out loss that they were chosen by.
    """

    form: Form
    shares: tuple[float, ...]
    noise: float
    scale: float
    loss: float


@dataclass(frozen=True)
class Readout:
    """New label logits as a linear map: of features, of the model's label logits, and a bias.

    Args:
        features: maps [..., h, C], one for each view.
        labels: map [..., C, C] of the label logits, in the form of `label_view`.
        bias: [..., C].
        label_view: "log-probabilities" takes the logarithm of the softmax first, "logits" takes them as they are.
    """

    features: tuple[Tensor, ...]
    labels: Tensor
    bias: Tensor
    label_view: LabelView

    def on(self, device: torch.device) -> Readout:
        """The same readout on a device."""
        if self.bias.device == device:
            return self
        features = tuple(weight.to(device) for weight in self.features)
        return Readout(features, self.labels.to(device), self.bias.to(device), self.label_view)

    def logits(self, features: Sequence[Tensor], logits: Tensor) -> Tensor:
        """New label logits, where the model's are.

        Args:
            features: views [..., N, h], as those that the readout was solved for.
            logits: the model's label logits [..., N, C].

        Returns:
            [..., N, C], float64 (`exact`).
        """
        if len(features) != len(self.features):
            raise DataError(f"{len(features)} views of features, expected {len(self.features)}")
        words = exact(logits)
        seen = words if self.label_view == "logits" else functional.log_softmax(words, dim=-1)
        here = self.on(words.device)
        parts = (exact(view) @ weight for view, weight in zip(features, here.features, strict=True))
        return sum(parts, seen @ here.labels) + here.bias[..., None, :]

    @property
    def no_correction(self) -> str:
        """Why it is no change of the output embedding; empty where it is one."""
        if self.label_view != "logits" and self.labels.any():
            return "a readout of label log-probabilities is no change of the output embedding: take form ridge"
        if len(self.features) > 1:
            return "a readout of several views is no change of the output embedding: take the answer view alone"
        return ""

    def correction(self, rows: Tensor, bias: Tensor | None = None, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """What to add to the label words' rows of the output embedding, so that the model says what the readout says.

        The mean of the label logits stays the model's own, so that label words do not fall behind the other words.

        Args:
            rows: the output embedding's row of each label [C, h], the mean over its words.
            bias: what is added to the logit of each label [C]; None for nothing.
            scale: what the model multiplies the products with its output embedding by to make logits of them.

        Returns:
            Matrix [..., C, h] of rank C - 1 and bias [..., C], to be added to every word of a label.

        Raises:
            DataError: the readout reads more than what enters the output embedding, or is not linear in it.
        """
        if self.no_correction:
            raise DataError(self.no_correction)
        own = exact(rows)
        here = self.on(own.device)
        change = here.labels - torch.eye(here.labels.shape[-1], dtype=torch.float64, device=own.device)
        added = change.mT @ own
        if here.features:
            added = added + here.features[0].mT / scale
        shift = here.bias if bias is None else here.bias + exact(bias) @ change
        return added - added.mean(dim=-2, keepdim=True), centred(shift)


def choose(
    design: Design, form: Form, noises: Sequence[float] | None = None, shares: Sequence[tuple[float, ...]] | None = None
) -> Settings:
    """Weights of the views, strength and scale with the lowest leave-one-out loss.

    Args:
        design: the labelled rows of one point.
        form: what the readout is made of.
        noises: strengths to try, strongest first; None for a grid.
        shares: weights of the views to try; None for a grid.

    Raises:
        DataError: the form needs features and there are none, or the design is a population's.
    """
    if design.logits.ndim != 2:
        raise DataError("settings are chosen on one point: give views of the shape [rows, width]")
    best: Settings | None = None
    for weights in shares if shares is not None else grid(_views(design, form)):
        for noise, scale, loss in _tried(design, form, weights, noises or NOISES[form.solver]):
            if best is None or loss < best.loss - 1e-12:
                best = Settings(form, weights, noise, scale, loss)
    if best is None:
        raise DataError("nothing to choose from: name at least one strength and one weight of each view")
    return best


def leave_one_out(design: Design, settings: Settings) -> Tensor:
    """Logits [..., N, C] of each row by a readout of all others: exact for least squares, nearly so for logistic forms."""
    if settings.form.solver == "squares":
        system = _system(design, settings.form, settings.shares)
        return settings.scale * system.leave_one_out(_targets(design), settings.noise)
    return _logistic(design, settings.form, settings.shares, settings.noise).without


def solve(design: Design, settings: Settings) -> Readout:
    """The readout of all labelled rows."""
    form = settings.form
    if form.solver == "squares":
        alpha = _system(design, form, settings.shares).solve(_targets(design), settings.noise) * settings.scale
        strength, constant = 1.0, 1.0
    else:
        alpha = _logistic(design, form, settings.shares, settings.noise).alpha
        strength, constant = 1 / settings.noise, FREE
    used = _used(design, form)
    maps: list[Tensor] = []
    bias = constant * alpha.sum(dim=-2)
    for view, share in zip(used, settings.shares, strict=True):
        weight = strength * share / view.size * (view.rows.mT @ alpha)
        bias = bias - (view.mean @ weight)[..., 0, :]
        maps.append(weight)
    start = torch.eye(design.classes, dtype=torch.float64, device=bias.device) * float(form.starts_at_words)
    labels = start.expand(*bias.shape[:-1], -1, -1)
    if form.label_view is not None:
        labels = (
            labels + maps.pop()
        )  # of logits without their mean: its columns add up to 0, so the logits themselves do
    return Readout(tuple(maps), labels, bias, form.label_view or "logits")


def grid(views: int) -> Iterator[tuple[float, ...]]:
    """Weights of so many views that add up to 1, in equal steps."""
    cuts = CUTS.get(views, 2)
    for parts in itertools.product(range(cuts + 1), repeat=views):
        if sum(parts) == cuts or views == 0:
            yield tuple(part / cuts for part in parts)


def _tried(
    design: Design, form: Form, shares: tuple[float, ...], noises: Sequence[float]
) -> Iterator[tuple[float, float, float]]:
    """Noise, scale and leave-one-out loss of each strength."""
    if form.solver == "logistic":
        kernel = _kernel(design, form, shares) if form.reads else None
        for noise in noises if shares else noises[:1]:
            without = _logistic(design, form, shares, noise, kernel).without
            yield noise, 1.0, float(design.loss(without))
        return
    found = _system(design, form, shares).leave_one_out_for_each(_targets(design), noises)
    losses = torch.stack([design.loss(scale * found) for scale in SCALES])  # one after another: labels may be many
    values, places = losses.min(dim=0)
    for noise, value, place in zip(noises, values.tolist(), places.tolist(), strict=True):
        yield noise, SCALES[place], value


def _views(design: Design, form: Form) -> int:
    return len(_used(design, form))


def _used(design: Design, form: Form) -> list[Scaled]:
    """The views that a form reads, features first."""
    if form.features and not design.features:
        raise DataError("this form of readout reads features, but the design holds label logits only")
    own = list(design.features) if form.features else []
    return own if form.label_view is None else [*own, design.label_views[form.label_view]]


def _kernel(design: Design, form: Form, shares: tuple[float, ...]) -> Tensor:
    """The views' kernels [..., N, N], weighted, and a constant for the bias (for logistic forms it is added later)."""
    used = _used(design, form)
    if len(shares) != len(used):
        raise DataError(f"{len(shares)} weights of views, expected {len(used)}")
    kernels = list(design.feature_kernels) if form.features else []
    if form.label_view is not None:
        kernels.append(design.label_views[form.label_view].kernel)
    shape = (*design.logits.shape[:-2], design.rows, design.rows)
    total = torch.zeros(shape, dtype=torch.float64, device=design.logits.device)
    for kernel, share in zip(kernels, shares, strict=True):
        total = total + share * kernel
    return total + 1.0 if form.solver == "squares" else total


def _system(design: Design, form: Form, shares: tuple[float, ...]) -> squares.Wide | squares.Tall:
    """The least-squares system of the views, weighted, and a constant for the bias: between rows or, where there are many and fewer
    features, between features."""
    used = _used(design, form)
    width = sum(view.rows.shape[-1] for view in used) + 1
    if design.rows <= max(TALL, width):
        return squares.Wide(_kernel(design, form, shares), design.weights)
    parts = [math.sqrt(share) * view.rows for view, share in zip(used, shares, strict=True)]
    ones = torch.ones((*design.logits.shape[:-1], 1), dtype=torch.float64, device=design.logits.device)
    return squares.Tall.of(torch.cat([*parts, ones], dim=-1), design.weights)


def _targets(design: Design) -> Tensor:
    return design.one_hot - 1 / design.classes


def _logistic(
    design: Design, form: Form, shares: tuple[float, ...], noise: float, kernel: Tensor | None = None
) -> logistic.Solution:
    offset = design.logits if form.starts_at_words else torch.zeros_like(design.logits)
    if not form.reads:
        return logistic.solve_bias(FREE, offset, design.one_hot, design.weights)
    if kernel is None:
        kernel = _kernel(design, form, shares)
    return logistic.solve(kernel / noise + FREE, offset, design.one_hot, design.weights)
