"""Who searches where, and when: phases of one optimizer or one for each block, and stages that take turns with proposals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandemtune.optimizers.base import Optimizer
from tandemtune.subspace import RandomProjection


@dataclass(frozen=True)
class Stage:
    """One stretch of a run.

    Args:
        kind: "tune" (the optimizer's turns) or "propose" (somebody proposes points to go on from).
        round: its number, from 1; 0 where nobody proposes.
        steps: turns of the optimizer; None until a budget ends the run.
        snapshots: turns of the stage after which the point is read as words.
    """

    kind: Literal["tune", "propose"]
    round: int = 0
    steps: int | None = None
    snapshots: frozenset[int] = frozenset()


def alternating(rounds: int, round_steps: int, final_steps: int, snapshots: int) -> tuple[Stage, ...]:
    """Rounds of tuning and proposing, and a last stretch of tuning (arXiv 2405.19732).

    Args:
        rounds: N.
        round_steps: turns m in each round; 0 leaves proposals alone.
        final_steps: turns M after the last round.
        snapshots: points of each round that are read as words, evenly spread, the last one among them.
    """
    count = min(snapshots, round_steps)
    marks = frozenset(round((i + 1) * round_steps / count) for i in range(count))
    stages: list[Stage] = []
    for number in range(1, rounds + 1):
        if round_steps:
            stages.append(Stage("tune", number, round_steps, marks))
        stages.append(Stage("propose", number))
    if final_steps:
        stages.append(Stage("tune", rounds + 1, final_steps))
    return tuple(stages)


@dataclass
class Phase:
    """One stretch of an optimizer around a starting point: block by block in turn, or all blocks at once.

    Args:
        name: what the journal calls it.
        turns: the blocks of each turn, in the order of the turns.
        origin: the point that z = 0 stands for.
        projections: random subspace of each block; empty where an optimizer moves the parameters themselves.
        make_optimizer: the blocks of a turn -> a fresh optimizer; called at their first turn.
        popsize: candidates in one generation.
    """

    name: str
    turns: tuple[tuple[int, ...], ...]
    origin: Mapping[int, Tensor]
    projections: Mapping[int, RandomProjection]
    make_optimizer: Callable[[tuple[int, ...]], Optimizer]
    popsize: int
    optimizers: dict[tuple[int, ...], Optimizer] = field(default_factory=dict)

    @property
    def blocks(self) -> tuple[int, ...]:
        """All blocks, in the order of their turns."""
        return tuple(block for turn in self.turns for block in turn)

    def turn(self, step: int) -> tuple[int, tuple[int, ...]]:
        """Sweep and blocks of a step."""
        sweep, position = divmod(step, len(self.turns))
        return sweep, self.turns[position]

    def optimizer(self, blocks: tuple[int, ...]) -> Optimizer:
        """The optimizer of a turn, made when it is first needed."""
        if blocks not in self.optimizers:
            self.optimizers[blocks] = self.make_optimizer(blocks)
        return self.optimizers[blocks]

    def up(self, blocks: tuple[int, ...], z: NDArray[np.float64]) -> dict[int, Tensor]:
        """Parameters [P, dim] of each block of a turn for candidates z [P, d]."""
        if self.projections:
            (block,) = blocks
            return {block: self.origin[block] + self.projections[block].up(z)}
        sizes = [len(self.origin[block]) for block in blocks]
        pieces = torch.from_numpy(z.astype(np.float32)).split(sizes, dim=1)  # type: ignore[no-untyped-call]
        return dict(zip(blocks, pieces, strict=True))

    def state(self) -> list[dict[str, Any]]:
        """States of all optimizers that have had a turn."""
        return [{"blocks": list(blocks), "state": optimizer.state()} for blocks, optimizer in self.optimizers.items()]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Go on from what `state` returned."""
        for saved in state:
            self.optimizer(tuple(saved["blocks"])).restore(saved["state"])


def seed_for(*parts: int) -> int:
    """A well-mixed 32-bit seed out of several small numbers."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1)[0])
