"""Who proposes points to go on from: a language model, and the controls that a claim about it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tandemtune.errors import MentorError
from tandemtune.mentor import Brief, Mentor, Transcript
from tandemtune.mentor import Tried as MentorTried
from tandemtune.tunables.vocabulary import Vocabulary, Words


@dataclass(frozen=True)
class Tried:
    """A prompt of words that was scored.

    Args:
        words: its tokens.
        loss: on the training rows.
        score: the task's metric on the training rows.
    """

    words: Words
    loss: float
    score: float


@dataclass(frozen=True)
class Draft:
    """One proposed point.

    Args:
        text: what a reader sees.
        ids: its tokens [length]; None for a point that is no words.
        seed: of the noise that makes a point out of the trained prompt; None for words.
    """

    text: str
    ids: tuple[int, ...] | None
    seed: int | None = None


@dataclass(frozen=True)
class Proposal:
    """What came of asking.

    Args:
        drafts: candidates, in the order in which they were named.
        refused: texts that were not taken, with the reason.
        failure: why nobody answered; None if somebody did.
        spent: what all asking so far has cost, as plain numbers.
    """

    drafts: tuple[Draft, ...]
    refused: tuple[tuple[str, str], ...] = ()
    failure: str | None = None
    spent: dict[str, float] = field(default_factory=dict)


class Proposer(Protocol):
    """Somebody who proposes."""

    def propose(self, round: int, tried: Sequence[Tried], known: Sequence[Tried]) -> Proposal:
        """Propose points.

        Args:
            round: number of the round, from 1; the same round is answered in the same way.
            tried: the best prompts of words so far, worst first.
            known: all prompts of words so far.
        """
        ...

    def vector(self, draft: Draft, incumbent: Tensor) -> Tensor:
        """The point [dim] that a draft stands for; `incumbent` is the trained prompt [dim]."""
        ...


class Worded:
    """Base of proposers whose drafts are words.

    Args:
        vocabulary: the tuned model's words.
        length: tokens of a prompt.
        count: candidates to propose.
        seed: of the run.
    """

    def __init__(self, vocabulary: Vocabulary, length: int, count: int, seed: int) -> None:
        self.vocabulary, self.length, self.count, self.seed = vocabulary, length, count, seed

    def vector(self, draft: Draft, incumbent: Tensor) -> Tensor:
        """The embeddings of the draft's tokens."""
        if draft.ids is None:
            raise ValueError(f"expected a draft of words, got {draft}")
        return self.vocabulary.vectors(draft.ids).reshape(-1)


class RandomWords(Worded):
    """Control: random words, as a multi-start would draw them."""

    def propose(self, round: int, tried: Sequence[Tried], known: Sequence[Tried]) -> Proposal:
        """Draw words; what was tried does not matter."""
        generator = np.random.default_rng([self.seed, round, 1])
        drawn = [self.vocabulary.sample(generator, self.length) for _ in range(self.count)]
        return Proposal(tuple(Draft(words.text, words.ids) for words in drawn))


class Mentored(Worded):
    """A language model that is told the task and the trajectory (arXiv 2405.19732).

    Args:
        vocabulary: the tuned model's words.
        length: tokens of a prompt.
        count: candidates to ask for.
        seed: of the run.
        mentor: asks and judges.
        transcript: what the mentor asks through; it keeps the ledger.
        brief: what the mentor is told besides the trajectory.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        length: int,
        count: int,
        seed: int,
        mentor: Mentor,
        transcript: Transcript,
        brief: Brief,
    ) -> None:
        super().__init__(vocabulary, length, count, seed)
        self._mentor, self._transcript, self._brief = mentor, transcript, brief

    def propose(self, round: int, tried: Sequence[Tried], known: Sequence[Tried]) -> Proposal:
        """Tell it what was tried, worst first, and take what may be tried next."""
        shown = tuple(MentorTried(entry.words.text, entry.loss, entry.score) for entry in tried)
        brief = replace(self._brief, tried=shown, wanted=self.count, limit=self.length)
        texts = [entry.words.text for entry in known]
        try:
            found = self._mentor.propose(brief, self.vocabulary.count, turn=round, known=texts)
        except MentorError as error:
            return Proposal((), failure=str(error), spent=self._spent())
        words = [self.vocabulary.fit(text, self.length) for text in found.accepted]
        drafts = tuple(Draft(text, w.ids) for text, w in zip(found.accepted, words, strict=True))
        return Proposal(drafts, found.refused, found.failure, self._spent())

    def _spent(self) -> dict[str, float]:
        return asdict(self._transcript.ledger)


class Perturbed:
    """Control: the trained prompt with noise.

    Args:
        sd: standard deviation of the noise.
        count: candidates to propose.
        seed: of the run.
    """

    def __init__(self, sd: float, count: int, seed: int) -> None:
        self.sd, self.count, self.seed = sd, count, seed

    def propose(self, round: int, tried: Sequence[Tried], known: Sequence[Tried]) -> Proposal:
        """Name seeds; what was tried does not matter."""
        seeds = np.random.SeedSequence([self.seed, round, 2]).generate_state(self.count).tolist()
        return Proposal(tuple(Draft(f"noise of sd {self.sd:.3g}, seed {seed}", None, seed) for seed in seeds))

    def vector(self, draft: Draft, incumbent: Tensor) -> Tensor:
        """The trained prompt with the draft's noise."""
        if draft.seed is None:
            raise ValueError(f"expected a draft with a seed, got {draft}")
        noise = np.random.default_rng(draft.seed).standard_normal(len(incumbent), dtype=np.float32)
        return incumbent + self.sd * torch.from_numpy(noise)


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

    def propose(self, round: int, tried: Sequence[Tried], known: Sequence[Tried]) -> Proposal:
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
            logits = self._scores(ids, place)[allowed]
            if not logits.isfinite().all():
                continue  # a model without numbers substitutes nothing
            best = logits.topk(min(self._top, len(logits)))
            weights = torch.softmax(best.values.double(), dim=0).numpy()
            ids[place] = int(allowed[best.indices[generator.choice(len(weights), p=weights / weights.sum())]])
        return tuple(ids)


def as_line(proposal: Proposal, **more: Any) -> dict[str, Any]:
    """A proposal as plain data for the journal."""
    return {
        "refused": [list(pair) for pair in proposal.refused],
        "failure": proposal.failure,
        "spent": proposal.spent,
        **more,
    }
