"""Random words: the control of a multi-start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tandemtune.plugins import register
from tandemtune.proposers.base import Asked, Draft, Proposal, Proposer, Source, TriedWords, Worded


class RandomWords(Worded):
    """Control: random words, as a multi-start would draw them."""

    def propose(self, round: int, tried: Sequence[TriedWords], known: Sequence[TriedWords]) -> Proposal:
        """Draw words; what was tried does not matter."""
        generator = np.random.default_rng([self.seed, round, 1])
        drawn = [self.vocabulary.sample(generator, self.length) for _ in range(self.count)]
        return Proposal(tuple(Draft(words.text, words.ids) for words in drawn))


@register
class RandomProposer(Proposer):
    """Random words."""

    kind: ClassVar[str] = "random"
    summary: ClassVar[str] = "random words, as a multi-start would draw them"

    def make(self, asked: Asked) -> Source:
        """Draws from the vocabulary."""
        return RandomWords(asked.vocabulary, asked.length, asked.count, asked.seed)
