"""Words substituted by the tuned model's own likelihood: the control of a language model that is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tandemtune.mentor import Course
from tandemtune.mentor.steering import RESTARTS
from tandemtune.plugins import register
from tandemtune.proposers.base import Asked, Draft, Proposal, Proposer, Source, Steered, TriedWords, Worded
from tandemtune.runs.records import Actions
from tandemtune.tunables.vocabulary import Vocabulary


class Mutation(Worded):
    """Control: the best prompts with some words substituted by the tuned model's own likelihood; no language model is asked.

    Args:
        vocabulary: the tuned model's words.
        length: tokens of a prompt.
        count: candidates to propose.
        seed: of the run.
        scores: (ids, position) -> logits [V] of the token at that position, by the tuned model.
        share: share of the tokens that are substituted.
        top: the likeliest tokens that are drawn from.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        length: int,
        count: int,
        seed: int,
        scores: Callable[[Sequence[int], int], Tensor],
        share: float = 0.4,
        top: int = 50,
    ) -> None:
        super().__init__(vocabulary, length, count, seed)
        self._scores, self._share, self._top = scores, share, top

    def propose(self, round: int, tried: Sequence[TriedWords], known: Sequence[TriedWords]) -> Proposal:
        """Substitute words of the best prompts, best first."""
        generator = np.random.default_rng([self.seed, round, 3])
        seen = {entry.words.ids for entry in known}
        drafts: list[Draft] = []
        parents = [entry.words for entry in reversed(tried)]
        for attempt in range(4 * self.count):
            if len(drafts) == self.count or not parents:
                break
            ids = self.mutated(parents[attempt % len(parents)].ids, generator)
            if ids not in seen:
                seen.add(ids)
                drafts.append(Draft(self.vocabulary.words(ids).text, ids))
        return Proposal(tuple(drafts))

    def steer(self, round: int, course: Course) -> Steered:
        """Decide at random: each layer with a chance of one half, at least one, and any restart and possible size of steps."""
        generator = np.random.default_rng([self.seed, round, 6])
        layers = [one.layer for one in course.layers]
        chosen = np.flatnonzero(generator.random(len(layers)) < 0.5).tolist() or [int(generator.integers(len(layers)))]
        restart = RESTARTS[int(generator.integers(len(RESTARTS)))]
        steps = course.sizes[int(generator.integers(len(course.sizes)))]
        return Steered(Actions(layers=tuple(layers[i] for i in chosen), restart=restart, steps=steps))

    def mutated(self, parent: tuple[int, ...], generator: np.random.Generator) -> tuple[int, ...]:
        """A text with some tokens substituted by likely ones; a function of both arguments alone.

        Args:
            parent: token ids.
            generator: draws places and tokens.
        """
        ids = list(parent)
        allowed = self.vocabulary.ids
        places = generator.choice(len(ids), size=max(1, round(self._share * len(ids))), replace=False)
        for place in sorted(places.tolist()):
            logits = self._scores(ids, place).cpu()[allowed]
            if not logits.isfinite().all():
                continue  # a model without numbers substitutes nothing
            best = logits.topk(min(self._top, len(logits)))
            weights = torch.softmax(best.values.double(), dim=0).numpy()
            ids[place] = int(allowed[best.indices[generator.choice(len(weights), p=weights / weights.sum())]])
        return tuple(ids)


@register
class MutationProposer(Proposer):
    """Word substitutions by the tuned model's own likelihood."""

    kind: ClassVar[str] = "mutation"
    summary: ClassVar[str] = "word substitutions by the tuned model's own likelihood"
    asks_model: ClassVar[bool] = True
    steers: ClassVar[bool] = True

    def make(self, asked: Asked) -> Source:
        """Asks the tuned model."""
        return Mutation(asked.vocabulary, asked.length, asked.count, asked.seed, asked.likely_token)
