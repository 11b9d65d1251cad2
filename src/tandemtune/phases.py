"""From a recipe's method to its stages, and to the optimizer of each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from tandemtune.config import MOST_GENERATIONS, UNBOUNDED, RunConfig
from tandemtune.optimizers.base import Optimizer
from tandemtune.optimizers.cmaes import CMAES
from tandemtune.optimizers.directions import Directions
from tandemtune.optimizers.es import ES
from tandemtune.optimizers.fireworks import Fireworks
from tandemtune.optimizers.genetic import Genetic
from tandemtune.optimizers.gradient import Algorithm, Gradient
from tandemtune.optimizers.random_search import RandomSearch
from tandemtune.optimizers.spsa import SPSA
from tandemtune.optimizers.warm_start import WarmStart
from tandemtune.parts import Bench
from tandemtune.proposals import Mutation
from tandemtune.schedule import Bandit, Phase, Stage, alternating, seed_for
from tandemtune.subspace import RandomProjection
from tandemtune.tunables.base import INPUT
from tandemtune.tunables.seeded import SeededDirections

BOX = 5.0
"""Fireworks search z within this many times sigma."""


def make_stages(config: RunConfig) -> tuple[Stage, ...]:
    """The order of a recipe's stages; none where nothing is tuned."""
    section = config.alternate
    if config.method.optimizer == "none":
        return ()
    if not config.alternates:
        steps = config.turns if config.follows_gradient else config.method.steps
        if config.method.tunable == "full" and config.method.searches:
            steps = min(steps or MOST_GENERATIONS, MOST_GENERATIONS)
        return (Stage("tune", steps=steps),)
    if section.proposer == "none":
        return (Stage("tune", steps=config.turns),)
    return alternating(section.rounds, section.round_steps, section.final_steps, section.snapshots)


def make_phase(bench: Bench, origin: Mapping[int, Tensor], stage: Stage) -> Phase:
    """The method's optimizer around a point: gradients of all blocks at once, or one search for each block or for all."""
    config = bench.scorer.config
    method, blocks = config.method, bench.searched
    if config.follows_gradient:
        return Phase(method.name, (blocks,), origin, {}, lambda blocks: _gradient(bench, origin, stage, blocks), 1)
    if method.optimizer == "genetic":
        return _texts(bench, origin, stage)
    projections = {}
    if config.in_subspace and not isinstance(bench.scorer.tunable, SeededDirections):
        for block in blocks:
            numbers = (config.task.seed, *_numbers((block,), stage))
            projections[block] = RandomProjection(bench.shapes(block), method.d, tuple(bench.scales[block]), numbers)
    turns = (blocks,) if method.order == "together" else tuple((block,) for block in blocks)
    bandit = None
    if method.order == "bandit":
        bandit = Bandit([bench.objective.cost(turn, method.popsize + 1) for turn in turns])

    def search(blocks: tuple[int, ...]) -> Optimizer:
        return _search(bench, origin, stage, blocks, len(turns), bool(projections))

    return Phase(method.name, turns, origin, projections, search, method.turn_candidates, bandit=bandit)


def _gradient(bench: Bench, origin: Mapping[int, Tensor], stage: Stage, blocks: Sequence[int]) -> Gradient:
    config = bench.scorer.config
    method = config.method
    return Gradient(
        torch.cat([origin[block] for block in blocks]).numpy(),
        algorithm=cast(Algorithm, method.optimizer),
        lr=bench.scorer.facts["lr"],
        weight_decay=method.weight_decay,
        schedule=method.schedule,
        warmup=method.warmup,
        steps=((stage.steps or 0) if config.alternate.reset_moments else config.turns) // method.accumulate,
        clip=method.clip,
        accumulate=method.accumulate,
    )


def _search(
    bench: Bench, origin: Mapping[int, Tensor], stage: Stage, blocks: tuple[int, ...], turns: int, subspace: bool
) -> Optimizer:
    """The optimizer of one turn's blocks: around zero in a subspace, else among the parameters around the origin."""
    config = bench.scorer.config
    method = config.method
    seed = seed_for(config.task.seed, *_numbers(blocks, stage))
    start = None if subspace else torch.cat([origin[block] for block in blocks]).double().numpy()
    d = method.d if start is None else len(start)
    p, sigma = method.popsize, method.sigma
    match method.optimizer:
        case "cma-es":
            inner = CMAES(d, p, sigma, seed, method.covariance, start)
            if not method.warm_start:
                return inner
            make = lambda mean: CMAES(d, p, sigma, seed, method.covariance, mean)  # noqa: E731
            return WarmStart(d, p, sigma, seed, method.warm_start, make)
        case "fireworks":
            box = (-BOX * sigma, BOX * sigma) if start is None else (float(start.min()) - BOX, float(start.max()) + BOX)
            return Fireworks(
                d,
                p,
                seed,
                variant=method.variant,
                box=box,
                amplitude=method.amplitude * sigma,
                start=np.zeros(d) if start is None else start,
                g_max=_generations(config, stage, turns),
                shrink=method.shrink,
                remeasure=True,
            )
        case "random":
            return RandomSearch(d, p, seed, sigma=sigma, start=start, remeasure=True)
        case "es":
            lr = bench.scorer.facts["lr"]
            if isinstance(tunable := bench.scorer.tunable, SeededDirections):
                return Directions(tunable.groups, tunable.group, lr=lr, sigma=sigma, shaping="ranks")
            return ES(d, p, sigma, seed, lr=lr, start=start)
        case _:
            lr = bench.scorer.facts["lr"]
            if isinstance(tunable := bench.scorer.tunable, SeededDirections):
                return Directions(tunable.groups, tunable.group, lr=lr, sigma=sigma, shaping="values")
            return SPSA(d, seed, lr=lr, epsilon=sigma, directions=p // 2, start=start)


def _generations(config: RunConfig, stage: Stage, turns: int) -> int | None:
    """How many generations one turn's optimizer will have, where that is known."""
    if stage.steps is not None:
        return None if stage.steps >= UNBOUNDED else -(-stage.steps // turns)
    if config.method.budget >= UNBOUNDED:
        return None
    return -(-config.method.budget // (config.method.turn_candidates * turns))


def _texts(bench: Bench, origin: Mapping[int, Tensor], stage: Stage) -> Phase:
    """Genetic search over prompts of words."""
    scorer = bench.scorer
    method, vocabulary, seed = scorer.config.method, scorer.vocabulary, scorer.config.task.seed
    mutation = Mutation(vocabulary, method.prompt_tokens, 1, seed, scorer.backbone.likely_token, share=0.2)

    def read(texts: Sequence[Sequence[int]]) -> Tensor:
        return torch.stack([vocabulary.vectors(text).reshape(-1) for text in texts])

    def genetic(blocks: tuple[int, ...]) -> Any:
        first = vocabulary.exact(origin[INPUT].reshape(method.prompt_tokens, -1)).ids
        return Genetic([first], method.popsize, mutation.mutated, seed_for(seed, stage.round, 9))

    return Phase(method.name, ((INPUT,),), origin, {}, genetic, method.turn_candidates, read=read)


def _numbers(blocks: tuple[int, ...], stage: Stage) -> tuple[int, ...]:
    """What tells the random streams of blocks and rounds apart; without rounds the block's own number."""
    named = tuple(block if block != INPUT else 10_000 for block in blocks)
    return named if stage.round == 0 else (*named, stage.round)
