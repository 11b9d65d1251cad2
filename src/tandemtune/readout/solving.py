"""Readouts solved at a point: strength and views by the leave-one-out loss, and candidates scored by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from tandemtune.evaluators.batch import Batch
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.features import PassReading, read, read_population
from tandemtune.evaluators.views import View
from tandemtune.readout.design import Design
from tandemtune.readout.fitting import FORMS, Form, choose, leave_one_out, solve
from tandemtune.readout.members import ReadoutMember, SolvedReadout
from tandemtune.tunables.base import Point

_Found = TypeVar("_Found")


def solve_readout(
    member: ReadoutMember, engine: Engine, batch: Batch, point: Point, labels: Sequence[str]
) -> SolvedReadout:
    """Solve a readout at one point, its strength by the leave-one-out loss.

    Args:
        member: what the recipe says; not ``none``.
        engine: the model.
        batch: the labelled rows.
        point: the setting of what is tuned; empty for the pretrained model.
        labels: names of the labels, for errors.

    Raises:
        DataError: a label has no row, or features are no numbers.
    """
    reading = read(engine, batch, point, member.seen(engine.further_views))
    choices = member.choices(engine.further_views)
    return clearly_better(solved_with(member, views, reading, batch.labels, labels) for views in choices)


def solved_with(
    member: ReadoutMember, views: tuple[View, ...], reading: PassReading, gold: Tensor, labels: Sequence[str]
) -> tuple[SolvedReadout, Tensor]:
    """Solve a readout that reads some views.

    Args:
        member: what the recipe says; not ``none``.
        views: what is read of each row.
        reading: what the model tells of the labelled rows.
        gold: their labels [N].
        labels: names of the labels, for errors.

    Returns:
        The readout, and the leave-one-out loss of each row [N].

    Raises:
        DataError: a label has no row, or features are no numbers.
    """
    design = Design([reading.views[view] for view in views], reading.logits, gold, member.prior, labels)
    settings = choose(design, form_of(member))
    without = leave_one_out(design, settings)
    solved = SolvedReadout(member, views, settings, solve(design, settings), without, settings.loss)
    return solved, design.losses(without)


def clearly_better(found: Iterable[tuple[_Found, Tensor]]) -> _Found:
    """The first of some readouts, or a later one whose leave-one-out loss is lower than that of what was taken before by more than
    its standard error over rows.

    Args:
        found: readouts (or what stands for them) with the loss of each row [N], the simplest first.
    """
    best: tuple[_Found, Tensor] | None = None
    for one, losses in found:
        gains = losses if best is None else best[1] - losses
        if best is None or gains.mean() > gains.std() / math.sqrt(len(gains)):
            best = one, losses
    assert best is not None
    return best[0]


def leave_one_out_logits(
    member: ReadoutMember, engine: Engine, start: Point, rows: Batch, labels: Sequence[str]
) -> Callable[[Batch, Point, Mapping[int, Tensor]], Tensor]:
    """A way to score candidates: each row by a readout of all others, solved anew at each candidate (variable projection).

    Args:
        member: what the recipe says; not ``none``.
        engine: the model.
        start: the point whose leave-one-out loss chooses views, strength and scale, once for all candidates.
        rows: the labelled rows that they are chosen on.
        labels: names of the labels, for errors.

    Returns:
        (labelled rows, incumbent, candidates) -> label logits [P, N, C].
    """
    chosen: list[SolvedReadout] = []

    def logits(batch: Batch, point: Point, candidates: Mapping[int, Tensor]) -> Tensor:
        if not chosen:
            chosen.append(solve_readout(member, engine, rows, start, labels))
        views, settings = chosen[0].views, chosen[0].settings
        assert settings is not None  # of one that was solved here
        reading = read_population(engine, batch, point, candidates, views)
        design = Design([reading.views[view] for view in views], reading.logits, batch.labels, member.prior, labels)
        found = leave_one_out(design, settings).masked_fill(design.broken[..., None, None], torch.nan)
        return found.float().to(reading.logits.device)

    return logits


def form_of(member: ReadoutMember) -> Form:
    """What a readout is made of."""
    if member.form is None:
        raise ValueError("there is no readout to solve")
    return FORMS[member.form]
