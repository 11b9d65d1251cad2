"""Noise around the trained prompt: the control of a restart without anybody's idea."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tandemtune.plugins import register
from tandemtune.proposers.base import Asked, Draft, Proposal, Proposer, Source, TriedWords


class Perturbed:
    """Control: the trained prompt with noise.

    Args:
        sd: standard deviation of the noise.
        count: candidates to propose.
        seed: of the run.
    """

    def __init__(self, sd: float, count: int, seed: int) -> None:
        self.sd, self.count, self.seed = sd, count, seed

    def propose(self, round: int, tried: Sequence[TriedWords], known: Sequence[TriedWords]) -> Proposal:
        """Name seeds; what was tried does not matter."""
        seeds = np.random.SeedSequence([self.seed, round, 2]).generate_state(self.count).tolist()
        return Proposal(tuple(Draft(f"noise of sd {self.sd:.3g}, seed {seed}", None, seed) for seed in seeds))

    def vector(self, draft: Draft, incumbent: Tensor) -> Tensor:
        """The trained prompt with the draft's noise."""
        if draft.seed is None:
            raise ValueError(f"expected a draft with a seed, got {draft}")
        noise = np.random.default_rng(draft.seed).standard_normal(len(incumbent), dtype=np.float32)
        return incumbent + self.sd * torch.from_numpy(noise)


@register
class PerturbedProposer(Proposer):
    """Noise around the trained prompt."""

    kind: ClassVar[str] = "perturbed"
    summary: ClassVar[str] = "the trained prompt with noise"
    words: ClassVar[bool] = False

    noise: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=0.5, description="standard deviation, as a share of the embeddings' own"
    )

    def make(self, asked: Asked) -> Source:
        """Noise in units of the embeddings' spread."""
        return Perturbed(self.noise * asked.vocabulary.sd, asked.count, asked.seed)
