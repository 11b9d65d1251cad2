"""A journal as points of curves, for the pages of runs and of comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tandemtune.errors import RunError
from tandemtune.runs.journal import read_lines
from tandemtune.runs.records import (
    Costs,
    EndRecord,
    Evaluation,
    GenerationRecord,
    HandOverRecord,
    JournalRecord,
    Loss,
    ProposalRecord,
    RaceRecord,
    StartRecord,
    StepRecord,
)
from tandemtune.runs.store import RunFolder

BAND = (0.1, 0.9)
"""Quantiles of a population's losses between which the band of the loss curve lies."""


@dataclass(frozen=True, slots=True)
class Spot:
    """One line of a journal, as curves need it; None is what was not measured there.

    Args:
        step: generations and gradient steps so far.
        work: candidates or gradient steps so far, see `unit_of`.
        tokens: tokens through the whole model so far, forwards.
        backward: the same backwards.
        seconds: of search so far.
        batch: loss on the rows of a gradient step.
        train: loss on all training rows.
        band: between which losses most of a population lies.
        words: loss of the nearest words instead of the point.
        dev: evaluation on the dev rows.
        mark: what else happened here, or nothing.
        kept: whether a guard kept the point for its gain on dev; None without a guard.
        yardstick: number of the objective that its losses are of, from 0: losses of two are no one curve.
        stretch: name of the method that searches.
    """

    step: int
    work: int
    tokens: float | None
    backward: float | None
    seconds: float | None
    batch: Loss = None
    train: Loss = None
    band: tuple[float, float] | None = None
    words: Loss = None
    dev: Evaluation | None = None
    mark: str = ""
    kept: bool | None = None
    yardstick: int = 0
    stretch: str = ""


def trail(folder: RunFolder, records: Sequence[JournalRecord], objectives: Sequence[Any] = ()) -> list[Spot]:
    """A journal's records as points of curves.

    Args:
        folder: the run; its depth and its clock are read.
        records: its journal.
        objectives: what each of its stretches minimises, in any form that can be compared.

    Returns:
        A spot for each record.
    """
    facts = folder.read_facts()
    depth = facts.depth if facts is not None and facts.depth > 0 else None
    clock, unit = _clock(folder), unit_of(records)
    spots: list[Spot] = []
    step, costs, phase, yardstick = 0, Costs(), "", 0
    seconds: float | None = 0.0
    for record in records:
        mark = ""
        match record:
            case StartRecord():
                costs, phase = record.costs, record.phase
            case GenerationRecord() | StepRecord():
                step, costs, seconds = record.step, record.costs, clock.get(record.step)
                if record.phase != phase:
                    phase, mark = record.phase, f"switch to {record.phase}"
            case HandOverRecord():
                costs, phase, mark = record.costs, record.phase, f"{record.phase} takes over"
                before, after = objectives[record.stretch - 2 : record.stretch] or (0, 1)
                yardstick += before != after
            case ProposalRecord():
                costs = record.costs
                mark = f"restart {record.round}" if record.taken is not None else ""
            case RaceRecord():
                step, costs, seconds = record.step, record.costs, clock.get(record.step)
                won = len(record.kept) == 1 and record.entrants[record.kept[0]].name != "continuing"
                mark = f"restart {record.round}" if won else ""
            case EndRecord():
                costs = record.costs or costs
        words = None if isinstance(record, ProposalRecord) else getattr(record, "words", None)
        spots.append(
            Spot(
                step=step,
                work={"candidates": costs.candidates, "gradient steps": costs.gradient_steps, "steps": step}[unit],
                tokens=costs.forward / depth if depth else None,
                backward=costs.backward / depth if depth else None,
                seconds=seconds,
                batch=record.loss if isinstance(record, StepRecord) else None,
                train=_train(record),
                band=_band(record),
                words=words.loss if words is not None else None,
                dev=record.dev,
                mark=mark,
                kept=None if (gain := getattr(record, "gain", None)) is None else gain.kept,
                yardstick=yardstick,
                stretch=phase,
            )
        )
    return spots


def unit_of(records: Iterable[JournalRecord]) -> str:
    """What the work of a run is counted in: "candidates", "gradient steps", or "steps" where both occur."""
    kinds = {type(record) for record in records}
    if StepRecord in kinds:
        return "steps" if GenerationRecord in kinds else "gradient steps"
    return "candidates"


def best_spot(spots: Sequence[Spot]) -> Spot | None:
    """Where the lowest dev loss was seen first, or the last gain that a guard kept, as the search chooses; None if nothing was
    looked at. Of several objectives the last one's losses count."""
    spots = [spot for spot in spots if spot.yardstick == spots[-1].yardstick]
    guarded = [spot for spot in spots if spot.kept is not None]
    if guarded:
        return next((spot for spot in reversed(guarded) if spot.kept), next(s for s in spots if s.dev is not None))
    looked = [spot for spot in spots if spot.dev is not None and spot.dev.loss is not None]
    if looked:
        return min(looked, key=lambda spot: math.inf if spot.dev is None or spot.dev.loss is None else spot.dev.loss)
    return next((spot for spot in spots if spot.dev is not None), None)


def ticks(folder: RunFolder) -> list[tuple[int, float, float]]:
    """(step, seconds, peak memory in megabytes) as noted; a damaged clock is no reason not to report."""
    try:
        lines = read_lines(folder.clock)
        found = [(int(line["step"]), float(line["seconds"]), float(line["peak_rss_mb"])) for line in lines]
    except (RunError, KeyError, TypeError, ValueError):
        return []
    return [tick for tick in found if math.isfinite(tick[1])]


def _clock(folder: RunFolder) -> dict[int, float]:
    """Seconds after each step."""
    found: dict[int, float] = {}
    for step, seconds, _ in ticks(folder):
        found.setdefault(step, seconds)
    return found


def _train(record: JournalRecord) -> Loss:
    """Loss on all training rows after a record, where it was measured."""
    match record:
        case StartRecord() | GenerationRecord() | RaceRecord() | HandOverRecord():
            return record.train_loss
        case StepRecord():
            return record.words.soft_loss if record.words is not None else None
        case ProposalRecord() if record.taken is not None:
            return record.drafts[record.taken].loss
    return None


def _band(record: JournalRecord) -> tuple[float, float] | None:
    """Where most losses of a generation's candidates lie."""
    if not isinstance(record, GenerationRecord):
        return None
    losses = sorted(loss for loss in record.losses if loss is not None)
    if len(losses) < 2:
        return None
    low, high = (losses[round(share * (len(losses) - 1))] for share in BAND)
    return low, high
