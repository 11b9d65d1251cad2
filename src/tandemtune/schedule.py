"""Who searches where, and when: blocks in turn, each with its own optimizer and its own random subspace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tandemtune.optimizers.base import Optimizer
from tandemtune.subspace import RandomProjection


@dataclass
class Phase:
    """One stretch of search around a starting point, block by block in turn.

    Args:
        name: what the journal calls it.
        blocks: the blocks in the order of their turns.
        origin: the point that z = 0 stands for.
        projections: random subspace of each block.
        make_optimizer: block -> a fresh optimizer; called when the block has its first turn.
        popsize: candidates in one generation.
    """

    name: str
    blocks: tuple[int, ...]
    origin: Mapping[int, Tensor]
    projections: Mapping[int, RandomProjection]
    make_optimizer: Callable[[int], Optimizer]
    popsize: int
    optimizers: dict[int, Optimizer] = field(default_factory=dict)

    def turn(self, step: int) -> tuple[int, int]:
        """Sweep and block of a step."""
        sweep, position = divmod(step, len(self.blocks))
        return sweep, self.blocks[position]

    def optimizer(self, block: int) -> Optimizer:
        """The block's optimizer, made at its first turn."""
        if block not in self.optimizers:
            self.optimizers[block] = self.make_optimizer(block)
        return self.optimizers[block]

    def up(self, block: int, z: NDArray[np.float64]) -> Tensor:
        """Full vectors [P, dim] of a block's candidates z [P, d]."""
        return self.origin[block] + self.projections[block].up(z)

    def state(self) -> dict[str, Any]:
        """States of all optimizers that have had a turn."""
        return {str(block): optimizer.state() for block, optimizer in self.optimizers.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        for block, inner in state.items():
            self.optimizer(int(block)).restore(inner)


def seed_for(*parts: int) -> int:
    """A well-mixed 32-bit seed out of several small numbers."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1)[0])
