"""The number format of a run: of those with 16-bit products the fastest that ranks candidates as float32 does."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tandemtune import devices, wiring
from tandemtune.config import RunConfig
from tandemtune.evaluators.label_words import rank_correlation
from tandemtune.models.backbone import Kind
from tandemtune.problem import Problem, Progress, Scorer
from tandemtune.runs.records import Facts
from tandemtune.search.schedule import Stage
from tandemtune.tasks.base import Task
from tandemtune.types import Split

FASTER = 1.2
"""Formats with 16-bit products are tried where these are at least this much faster than float32's."""
LOW_FORMATS = ("bfloat16", "mixed")
"""Formats with 16-bit products, fastest first."""
FEWEST = 4
"""Losses below which their order says nothing: of two it is right half of the time."""
RELIABLE = 0.98
"""A format is taken where its losses rank candidates at least this much like float32's (Spearman)."""


Make = Callable[[str | None], Scorer]
"""Makes a scorer in a number format; None for the one that was asked for or decided before."""


def chosen_scorer(
    config: RunConfig,
    task: Task,
    kind: Kind,
    split: Split,
    known: Facts | None,
    progress: Progress | None,
    quantized: bool,
) -> Scorer:
    """The scorer in the number format that was asked for or decided before; with "auto", decide it.

    Args:
        config: a recipe.
        task: with the template that was chosen.
        kind: of the model.
        split: the labelled rows.
        known: what an earlier process decided.
        progress: told what came of it.
        quantized: whether the model comes quantized: its layers say in which format they multiply.
    """

    def made(dtype: str | None) -> Scorer:
        return wiring.make_scorer(config, task, kind, known, progress, split.train, dtype)

    if config.model.dtype != "auto" or known is not None:
        return made(None)
    if config.model.quantize is not None:
        return made("mixed")
    if quantized or not _may_pay(config):
        return made("float32")
    return _like_float32(made, split, progress or (lambda text: None))


def _may_pay(config: RunConfig) -> bool:
    """Whether a format with 16-bit products can be tried, and would be faster."""
    method = config.method
    in_steps = method.tunable.all_weights and method.optimizer.searches  # too small for 16 bits
    graded = any(one.method.objective.asks_model for one in config.stretches)
    if in_steps or graded or method.optimizer.uses == "none":
        return False
    return mixed_is_faster(devices.find_device(config.model.device))


def _like_float32(made: Make, split: Split, tell: Progress) -> Scorer:
    """Of the formats with 16-bit products the fastest one that ranks the first candidates of a middle layer as float32 does, or,
    for a method that follows gradients, whose gradient points where float32's does; float32 if there is none."""
    scorer = made("float32")
    exact = _trials(scorer, split)
    if not all(trial.tells for trial in exact):
        tell(
            f"the first candidates have one loss, or are fewer than {FEWEST}, so that number formats cannot be told apart: float32 is used"
        )
        scorer.engine.forget()
        return scorer
    decided = {"calibrated": scorer.facts.calibrated, "stretches": scorer.facts.stretches}  # one objective for all
    del scorer
    found: dict[str, dict[str, float]] = {}
    for dtype in LOW_FORMATS:
        gc.collect()  # two models at once would double the memory
        scorer = made(dtype)
        scorer.note(**decided)
        for trial, other in zip(exact, _trials(scorer, split, exact), strict=True):
            alike = round((_cosine if trial.gradient else rank_correlation)(other.values, trial.values), 4)
            of_kind = found.setdefault("gradient_cosine" if trial.gradient else "rank_correlation", {})
            of_kind[dtype] = min(alike, of_kind.get(dtype, alike))
        if all(of_kind[dtype] >= RELIABLE for of_kind in found.values()):
            break
        del scorer
    else:
        gc.collect()
        for what, values in found.items():
            said = ", ".join(f"{dtype} {value:.3f}" for dtype, value in values.items())
            tell(f"{what.replace('_', ' ')} with float32: {said}; below {RELIABLE}, so float32 is used")
        scorer = made("float32")
        scorer.note(**decided)
    scorer.note(**found)
    scorer.engine.forget()
    return scorer


@dataclass(frozen=True)
class _Trial:
    """The first candidates of a middle block and their losses, or the first gradient."""

    candidates: dict[int, Tensor]
    values: NDArray[np.float64]
    gradient: bool = False

    @property
    def tells(self) -> bool:
        """Whether they are enough, and differ, so that another format could be seen to disagree: two losses have one order or the
        other, whatever they are."""
        return (self.gradient or len(self.values) >= FEWEST) and len(set(self.values.tolist())) > 1


def _trials(scorer: Scorer, split: Split, before: Sequence[_Trial | None] = ()) -> list[_Trial]:
    """What the first turn of each stretch would see; of the candidates that another format saw, if there was one."""
    stretches = wiring.make_problem(scorer, split).stretches
    return [_trial(one, other) for one, other in zip(stretches, before or [None] * len(stretches), strict=True)]


def _trial(problem: Problem, before: _Trial | None) -> _Trial:
    """What the first turn of a stretch would see, were it the first."""
    scorer = problem.scorer
    origin = scorer.parameters.initial()
    if scorer.config.follows_gradient:
        found = problem.evaluator.gradient(scorer.parameters.movable(origin), problem.searched, 0)
        values = torch.cat([found.blocks[block] for block in problem.searched]).double().numpy()
        return _Trial({}, values, gradient=True)
    if before is None:
        phase = wiring.make_phase(problem, origin, Stage("tune"))
        blocks = phase.turns[len(phase.turns) // 2]
        trial = dict(phase.up(blocks, phase.optimizer(blocks).ask()))
    else:
        trial = before.candidates
    return _Trial(trial, problem.evaluator.evaluate(origin, trial))


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    sizes = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / sizes if sizes else 0.0


def mixed_is_faster(device: str, repeats: int = 5) -> bool:
    """Whether this device multiplies 16-bit matrices clearly faster, conversions included."""
    x, weight = torch.ones(1024, 768, device=device), torch.ones(2048, 768, device=device)
    low = weight.to(torch.bfloat16)
    plain = _median_seconds(lambda: functional.linear(x, weight), repeats)
    mixed = _median_seconds(lambda: functional.linear(x.to(torch.bfloat16), low).float(), repeats)
    return plain > FASTER * mixed


def _median_seconds(product: Callable[[], Tensor], repeats: int) -> float:
    times: list[float] = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        product()[0, 0].item()
        times.append(time.perf_counter() - begin)
    return sorted(times[1:])[repeats // 2]
