"""How many candidates go through the model at a time, and whether what lies between products is compiled: what is faster here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tandemtune.errors import ModelError
from tandemtune.problem import Problem, Progress, Scorer

WORTH_COMPILING, WORTH_ON_GPU, COMPILED_FASTER, TIMED = 180.0, 60.0, 0.97, 3
"""Compiling is tried where a search will take so many seconds (fewer on a GPU, whose compiler is quicker), and kept where a
generation takes at most this share of the time; the fastest of so many timed generations counts."""
TRIED_TOKENS, TRIED_ON_GPU = 8192, 131072
"""What is timed at the start has as many candidates as make about so many tokens: a GPU has to be filled."""


def in_population(scorer: Scorer) -> bool:
    """Whether candidates are scored side by side, and random ones could be made to time it."""
    parameters = scorer.parameters
    return scorer.config.method.optimizer.searches and parameters.side_by_side and parameters.directions is None


def _populated(problem: Problem) -> Problem | None:
    """The first search of a run whose candidates are scored side by side; None where there is none."""
    return next((one for one in problem.stretches if in_population(one.scorer)), None)


def few_candidates(problem: Problem) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """A point and a few candidates of the last block around it: enough to time, cheap beside a generation. On a GPU of one a bit
    below, so that there is more to time than what a host does for a single layer."""
    on_gpu = problem.scorer.backbone.device.type == "cuda"
    parameters, block = problem.scorer.parameters, problem.searched[-1 - (len(problem.searched) // 8 if on_gpu else 0)]
    popsize = problem.scorer.config.method.optimizer.candidates
    one = sum(problem.scorer.engine.tokens_per_candidate(problem.evaluator.train, [block]))
    count = min(popsize, max(1, (TRIED_ON_GPU if on_gpu else TRIED_TOKENS) // one))
    generator = torch.Generator().manual_seed(0)
    return parameters.initial(), {block: torch.randn(count, parameters.dim(block), generator=generator) * 0.01}


def try_out(
    problem: Problem, origin: Mapping[int, Tensor], trial: Mapping[int, Tensor], generation: int | None = None
) -> None:
    """Score some candidates to see how long that takes, without asking anybody for grades: these are asked for, counted and written
    down by the run alone."""
    evaluator: Any = problem.evaluator
    if getattr(evaluator, "asks", False):
        evaluator.draft(origin, trial, generation)
    else:
        evaluator.evaluate(origin, trial, generation)


def settle_chunks(problem: Problem, known: int | None) -> None:
    """Let a search without gradient score its candidates in chunks of the size that is fastest here."""
    searched = _populated(problem)
    if searched is None or problem.scorer.config.run.executor.shard is not None:
        return  # a shard goes through as a whole, as far as memory allows
    engine = problem.scorer.engine
    if known is None:
        known = engine.choose_chunk(searched.evaluator.train, *few_candidates(searched))
        engine.forget()
    engine.chunk_tokens = known
    problem.scorer.note(chunk_tokens=known)


def settle_compiling(problem: Problem, known: float | None, progress: Progress | None) -> None:
    """Let what layers do between matrix products be compiled where that pays.

    Compiling takes about as long as some generations, so it is tried where a search will take minutes, and kept if a generation
    is faster with it. It changes the last bits, so a search in float32 is left exact unless it is wanted.
    """
    scorer, config, searched = problem.scorer, problem.scorer.config, _populated(problem)
    wanted, stack = config.model.compile, scorer.engine.stack
    if wanted == "never" or searched is None:
        return
    if known is not None:
        stack.compile(known < 1.0)
        return
    if wanted == "auto" and scorer.facts.dtype == "float32":
        return
    origin, trial = few_candidates(searched)

    def timed() -> float:
        begin = time.perf_counter()
        try_out(searched, origin, trial)
        return time.perf_counter() - begin

    worth = WORTH_ON_GPU if scorer.backbone.device.type == "cuda" else WORTH_COMPILING
    if wanted == "auto" and _planned_seconds(searched, timed(), trial) < worth:
        scorer.note(compiled=1.0)
        return
    plain = min(timed() for _ in range(TIMED))
    try:
        changed = stack.compile()
        timed()
        ratio = min(timed() for _ in range(TIMED)) / plain if changed else 1.0
    except Exception as error:  # whatever the compiler cannot do; there may be none
        if wanted == "always":
            raise ModelError(f"[model] compile: {str(error).splitlines()[0]}: set compile to never") from error
        ratio = 1.0
    if ratio > COMPILED_FASTER and wanted == "auto":
        ratio = 1.0
    stack.compile(ratio < 1.0 or wanted == "always")
    scorer.note(compiled=round(min(ratio, 0.999), 3) if wanted == "always" else round(ratio, 3))
    if progress:
        progress(
            f"compiled parts: a generation takes {ratio:.2f} of the time"
            if ratio < 1
            else "compiling does not pay here"
        )
    scorer.engine.forget()


def _planned_seconds(problem: Problem, seconds: float, trial: dict[int, Tensor]) -> float:
    """How long a search will take, from the time that a few candidates took."""
    (block,), count = trial, len(next(iter(trial.values())))
    return seconds * _planned_work(problem) / problem.evaluator.cost((block,), count).forward


def _planned_work(problem: Problem) -> float:
    """What all candidates of a search cost."""
    config, evaluator = problem.scorer.config, problem.evaluator
    each = config.method.turn_candidates
    costs = [evaluator.cost((block,), each).forward for block in problem.searched]
    work = config.method.budget / each * sum(costs) / len(costs)
    if config.run.max_forward_tokens is not None:
        work = min(work, config.run.max_forward_tokens * evaluator.depth)
    return work
