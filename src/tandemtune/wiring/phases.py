"""A method's optimizer at work around a point, for one stage of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tandemtune.config.schema import UNBOUNDED
from tandemtune.optimizers.base import Space
from tandemtune.problem import Problem
from tandemtune.proposers.mutation import Mutation
from tandemtune.search.schedule import Phase, Stage
from tandemtune.subspace import Matrices, RandomProjection
from tandemtune.tunables.base import INPUT
from tandemtune.types import seed_for


def make_phase(problem: Problem, origin: Mapping[int, Tensor], stage: Stage) -> Phase:
    """The method's optimizer around a point: gradients or texts of all blocks at once, or one search for each block or for all."""
    config, scorer = problem.scorer.config, problem.scorer
    method = config.method
    blocks = tuple(block for block in problem.searched if not stage.layers or block in stage.layers)
    if method.optimizer.uses == "gradient":
        return Phase(
            method.name,
            (blocks,),
            origin,
            {},
            lambda blocks: method.optimizer.start(_space_of_gradient(problem, origin, stage, blocks)),
            1,
            keeps_best=False,
            gradient=True,
        )
    if method.optimizer.uses == "text":
        return _text_phase(problem, origin, stage)
    projections = _projections(problem, stage, blocks)
    turns = (blocks,) if method.order == "together" else tuple((block,) for block in blocks)

    def start(blocks: tuple[int, ...]) -> Any:
        inside = bool(projections)
        beginning = None if inside else torch.cat([origin[block] for block in blocks]).double().numpy()
        return method.optimizer.start(
            Space(
                method.subspace.d if beginning is None else len(beginning),
                seed_for(config.task.seed, *_numbers(blocks, stage)),
                beginning,
                scorer.facts.lr or 0.0,
                _generations(problem, stage, turns),
                directions=scorer.parameters.directions,
                told=method.optimizer.keeps_best,
            )
        )

    return Phase(
        method.name,
        turns,
        origin,
        projections,
        start,
        method.turn_candidates,
        shard=config.run.executor.shard,
        keeps_best=method.optimizer.keeps_best,
        scale=stage.scale,
    )


def _projections(problem: Problem, stage: Stage, blocks: Sequence[int]) -> dict[int, RandomProjection]:
    """The random matrices between each block's parameters and what is searched; none where parameters are searched themselves."""
    config, scorer = problem.scorer.config, problem.scorer
    if not config.in_subspace or scorer.parameters.directions is not None:
        return {}
    kept, d = Matrices.on(scorer.backbone.device), config.method.subspace.d
    return {
        block: RandomProjection(
            problem.factors(block),
            d,
            tuple(problem.scales[block]),
            (config.task.seed, *_numbers((block,), stage)),
            kept,
        )
        for block in blocks
    }


def _space_of_gradient(problem: Problem, origin: Mapping[int, Tensor], stage: Stage, blocks: Sequence[int]) -> Space:
    config = problem.scorer.config
    start = torch.cat([origin[block] for block in blocks]).numpy()
    steps = config.turns if config.keeps_moments else (stage.steps or 0)
    return Space(len(start), 0, start, problem.scorer.facts.lr or 0.0, steps=steps)


def _text_phase(problem: Problem, origin: Mapping[int, Tensor], stage: Stage) -> Phase:
    """A search over prompts of words."""
    scorer, config = problem.scorer, problem.scorer.config
    method, vocabulary, seed = config.method, scorer.vocabulary, config.task.seed
    length = len(origin[INPUT]) // scorer.backbone.embedding_weight.shape[1]
    mutation = Mutation(vocabulary, length, 1, seed, scorer.backbone.likely_token, share=0.2)

    numbers = (stage.round or stage.stretch, 9, *([stage.since] if stage.since else []))

    def read(texts: Sequence[Sequence[int]]) -> Tensor:
        return torch.stack([vocabulary.vectors(text).reshape(-1) for text in texts])

    def start(blocks: tuple[int, ...]) -> Any:
        first = vocabulary.exact(origin[INPUT].reshape(length, -1)).ids
        return method.optimizer.start(Space(length, seed_for(seed, *numbers), texts=(first,), mutate=mutation.mutated))

    def show(optimizer: Any) -> str:
        return vocabulary.words(optimizer.best[0]).text

    return Phase(method.name, ((INPUT,),), origin, {}, start, method.turn_candidates, read=read, show=show)


def _generations(problem: Problem, stage: Stage, turns: Sequence[tuple[int, ...]]) -> int | None:
    """How many generations one turn's optimizer will have, where that is known: by the bound on turns, candidates or tokens that is
    reached first."""
    config, evaluator = problem.scorer.config, problem.evaluator
    method, count = config.method, config.method.turn_candidates
    every = [bound for bound in (stage.steps, stage.until) if bound is not None]
    if config.bounded_by_budget and method.budget < UNBOUNDED:
        every.append(-(-method.budget // count))
    looks = evaluator.most_to_measure("dev")
    for bound, name, share in (
        (config.run.max_forward_tokens, "forward", evaluator.depth),
        (config.run.max_generated_tokens, "generated", 1.0),
    ):
        works = [getattr(evaluator.most(turn, count), name) for turn in turns]
        one = sum(works) / len(works) + getattr(looks, name) / method.dev_every
        if bound is not None and one:
            every.append(math.ceil(bound * share / one))
    fewest = min(every, default=UNBOUNDED)
    return None if fewest >= UNBOUNDED else -(-max(0, fewest - stage.since) // len(turns))


def _numbers(blocks: tuple[int, ...], stage: Stage) -> tuple[int, ...]:
    """What tells the random streams of blocks, of rounds or stretches, and of times that one began anew apart; in the first of these the
    block's own number."""
    named = tuple(block if block != INPUT else 10_000 for block in blocks)
    number = stage.round or stage.stretch  # a run has one or the other
    if stage.since:
        return (*named, number, stage.since)
    return named if number == 0 else (*named, number)
