"""Who searches where, and when: phases of one optimizer or one for each block, and stages that take turns with proposals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandemtune.evaluators.candidates import Candidates, Short
from tandemtune.optimizers.base import AskTell
from tandemtune.subspace import RandomProjection


@dataclass(frozen=True)
class Stage:
    """One stretch of a run.

    Args:
        kind: "tune" (the optimizer's turns), "propose" (somebody proposes points to go on from), or "race" (the proposals are
            trained side by side, one leg a turn, until one is left).
        round: its number, from 1; 0 where nobody proposes.
        steps: turns of the optimizer; None until a budget ends the run. In a race, each entrant's turns in one leg.
        snapshots: turns of the stage after which the point is read as words.
        until: the stage lasts until the whole run has so many turns of the optimizer, in place of `steps`.
        layers: the blocks that have turns, where somebody has chosen; all if empty.
        scale: size of the steps in a subspace, as a share of the usual one.
        stretch: number of the search that it belongs to, from 0, in a run of several.
        since: turns of the stage after which its optimizers began anew at the kept point; 0 where they have not.
    """

    kind: Literal["tune", "propose", "race"]
    round: int = 0
    steps: int | None = None
    snapshots: frozenset[int] = frozenset()
    until: int | None = None
    layers: tuple[int, ...] = ()
    scale: float = 1.0
    stretch: int = 0
    since: int = 0

    def over(self, step: int, stage_step: int) -> bool:
        """Whether a stretch of tuning has ended.

        Args:
            step: turns of the optimizer in the run so far.
            stage_step: those of this stage.
        """
        return stage_step == self.steps if self.until is None else step >= self.until


def alternating(rounds: int, round_steps: int, final_steps: int, snapshots: int) -> tuple[Stage, ...]:
    """Rounds of tuning and proposing, and a last stretch of tuning (arXiv 2405.19732).

    Args:
        rounds: N.
        round_steps: turns m in each round; 0 leaves proposals alone.
        final_steps: turns M after the last round.
        snapshots: points of each round that are read as words, evenly spread, the last one among them.
    """
    marks = _marks(round_steps, snapshots)
    stages: list[Stage] = []
    for number in range(1, rounds + 1):
        if round_steps:
            stages.append(Stage("tune", number, round_steps, marks))
        stages.append(Stage("propose", number))
    if final_steps:
        stages.append(Stage("tune", rounds + 1, final_steps))
    return tuple(stages)


def racing(rounds: int, round_steps: int, race_steps: int, turns: int, snapshots: int) -> tuple[Stage, ...]:
    """Rounds of tuning, proposing and a race of the proposals, and a last stretch of tuning.

    Args:
        rounds: N.
        round_steps: turns before each proposal.
        race_steps: turns of each entrant in one leg of a race.
        turns: of the whole run; those of the races' winners are among them.
        snapshots: as in `alternating`.
    """
    stages: list[Stage] = []
    for number in range(1, rounds + 1):
        if round_steps:
            stages.append(Stage("tune", number, round_steps, _marks(round_steps, snapshots)))
        stages += [Stage("propose", number), Stage("race", number, race_steps)]
    return (*stages, Stage("tune", rounds + 1, until=turns))


def _marks(steps: int, snapshots: int) -> frozenset[int]:
    """Turns of a stage after which the point is read as words, evenly spread, the last one among them."""
    count = min(snapshots, steps)
    return frozenset(round((i + 1) * steps / count) for i in range(count))


@dataclass
class Phase:
    """One stretch of an optimizer around a starting point: block by block in turn, or all blocks at once.

    Args:
        name: what the journal calls it.
        turns: the blocks of each turn, in the order of the turns.
        origin: the point that z = 0 stands for.
        projections: random subspace of each block, of one vector for all blocks of a turn; empty where an optimizer moves the
            parameters themselves.
        make_optimizer: the blocks of a turn -> a fresh optimizer; called at their first turn.
        candidates: candidates that one turn scores.
        read: turns what an optimizer of texts proposes into the only block's parameters [P, dim].
        keeps_best: whether the incumbent is scored beside each generation and only replaced by what is better.
        gradient: whether the optimizer follows gradients.
        show: what an optimizer of texts has found so far, as text.
        scale: of the steps in a subspace.
        shard: candidates that are mapped to parameters together; None for all.
    """

    name: str
    turns: tuple[tuple[int, ...], ...]
    origin: Mapping[int, Tensor]
    projections: Mapping[int, RandomProjection]
    make_optimizer: Callable[[tuple[int, ...]], AskTell[Any]]
    candidates: int
    read: Callable[[Any], Tensor] | None = None
    keeps_best: bool = True
    gradient: bool = False
    show: Callable[[Any], str] | None = None
    scale: float = 1.0
    shard: int | None = None
    optimizers: dict[tuple[int, ...], AskTell[Any]] = field(default_factory=dict)

    @property
    def blocks(self) -> tuple[int, ...]:
        """All blocks, in the order of their turns."""
        return tuple(block for turn in self.turns for block in turn)

    @property
    def lr(self) -> float:
        """Learning rate of the next step, where gradients are followed."""
        optimizer: Any = self.optimizer(self.turns[0])
        return float(optimizer.lr)

    def turn(self, step: int) -> tuple[int, tuple[int, ...]]:
        """Sweep and blocks of a step."""
        sweep, position = divmod(step, len(self.turns))
        return sweep, self.turns[position]

    def beginning(self, blocks: tuple[int, ...]) -> NDArray[np.float64]:
        """The starting point of a turn's blocks as one vector."""
        return torch.cat([self.origin[block].flatten() for block in blocks]).cpu().double().numpy()

    def below(self, blocks: tuple[int, ...]) -> int:
        """The block whose hidden states are surely kept when a turn begins: the one of the turn before; the turn's own for the
        lowest one."""
        return max((block for block in self.blocks if block < min(blocks)), default=min(blocks))

    def optimizer(self, blocks: tuple[int, ...]) -> AskTell[Any]:
        """The optimizer of a turn, made when it is first needed."""
        if blocks not in self.optimizers:
            self.optimizers[blocks] = self.make_optimizer(blocks)
        return self.optimizers[blocks]

    def shown(self, optimizer: AskTell[Any]) -> str | None:
        """The best text so far, where texts are searched."""
        return None if self.show is None else self.show(optimizer)

    def carry_on(self, before: Phase) -> None:
        """Take over the optimizers of the phase before, at this phase's origin but with their moments."""
        for blocks, optimizer in before.optimizers.items():
            restart = getattr(optimizer, "restart", None)
            if restart is not None:
                restart(torch.cat([self.origin[block] for block in blocks]).numpy(), reset_moments=False)
                self.optimizers[blocks] = optimizer

    def branch(self, before: Phase) -> None:
        """Begin with copies of another phase's optimizers, at this phase's origin but with their moments; those that search around
        their origin begin anew."""
        for blocks, optimizer in before.optimizers.items():
            own: Any = self.optimizer(blocks)
            if hasattr(own, "restart"):
                own.restore(optimizer.state())
                own.restart(torch.cat([self.origin[block] for block in blocks]).numpy(), reset_moments=False)

    def up(self, blocks: tuple[int, ...], z: Any) -> Mapping[int, Tensor]:
        """Parameters [P, dim] of each block of a turn for candidates z [P, d], or for P texts."""
        if self.read is not None:
            (block,) = blocks
            return {block: self.read(z)}
        if self.projections:
            return self._projected(blocks, self.scale * np.asarray(z, dtype=np.float64))
        sizes = [len(self.origin[block]) for block in blocks]
        pieces = torch.from_numpy(z.astype(np.float32, copy=False)).split(sizes, dim=1)  # type: ignore[no-untyped-call]
        return dict(zip(blocks, pieces, strict=True))

    def _projected(self, blocks: tuple[int, ...], z: Any) -> Candidates:
        """Candidates in random subspaces, shard by shard: whoever maps a shard elsewhere finds the same, to the bit."""
        short = Short(np.asarray(z, dtype=np.float32), {b: self.projections[b] for b in blocks}, self.origin)
        size = self.shard or max(1, len(short))
        drawn = {block: projection.matrices() for block, projection in short.projections.items()}
        firsts = range(0, len(short), size)
        parts = [short.rows(first, first + size).vectors(self.origin, drawn) for first in firsts]
        return Candidates({block: torch.cat([part[block] for part in parts]) for block in blocks}, short)

    def state(self) -> list[dict[str, Any]]:
        """States of all optimizers that have had a turn."""
        return [{"blocks": list(blocks), "state": optimizer.state()} for blocks, optimizer in self.optimizers.items()]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Go on from what `state` returned."""
        for saved in state:
            self.optimizer(tuple(saved["blocks"])).restore(saved["state"])
