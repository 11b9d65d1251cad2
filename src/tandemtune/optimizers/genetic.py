"""Genetic search over texts as tuples of token ids, after GAP3 (Zhao et al., IJCAI 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tandemtune.optimizers.base import AskTell, Gradients, Optimizer, Space, State, Text, Uses, check_kind
from tandemtune.plugins import register

Mutate = Callable[[Text, np.random.Generator], Text]
_TRIES = 20  # attempts at a text that was not scored before


class GeneticSearch(AskTell[list[Text]]):
    """Children of parents that win tournaments; the same ask and tell as over vectors, with texts instead.

    The first generation is the starting texts and mutants of them. No text is scored twice as long as mutation finds new
    ones within some tries. A generation's parents are the last generation and the best texts before it.

    Args:
        start: texts to begin with, at least one.
        popsize: texts in one generation.
        mutate: (text, random generator) -> another text; a function of these two alone, or runs do not resume to the bit.
        seed: seed of the random stream.
        crossover: probability that a child has two parents, cut at one place.
        mutation: probability that a child is mutated (one that was scored before always is).
        elite: how many of the best texts so far stay parents.
        tournament: how many parents are drawn for each choice of the best among them.

    Raises:
        ValueError: there is no starting text, or a setting is out of its range.
    """

    def __init__(
        self,
        start: Sequence[Text],
        popsize: int,
        mutate: Mutate,
        seed: int,
        *,
        crossover: float = 0.5,
        mutation: float = 0.75,
        elite: int = 2,
        tournament: int = 3,
    ) -> None:
        if not start or popsize < 1:
            raise ValueError(
                f"expected at least one starting text and popsize of at least 1, got {len(start)}, {popsize}"
            )
        if not (0 <= crossover <= 1 and 0 <= mutation <= 1 and elite >= 0 and tournament >= 1):
            raise ValueError(
                "expected crossover and mutation within [0, 1], elite of at least 0 and tournament of at least 1, "
                f"got {crossover}, {mutation}, {elite} and {tournament}"
            )
        self._popsize, self._mutate, self._rng = popsize, mutate, np.random.default_rng(seed)
        self._crossover, self._mutation, self._elite, self._tournament = crossover, mutation, elite, tournament
        self._waiting = list(dict.fromkeys(_text(text) for text in start))  # starting texts that were not asked yet
        self._parents: list[Text] = []
        self._losses: dict[Text, float] = {}  # of all texts that were ever scored

    @property
    def best(self) -> tuple[Text, float]:
        """The best text so far and its loss; a starting text and infinity as long as nothing was told."""
        if not self._losses:
            return (self._waiting or self._asked or [()])[0], np.inf
        text = min(self._losses, key=self._losses.__getitem__)
        return text, self._losses[text]

    def _propose(self) -> list[Text]:
        batch, self._waiting = self._waiting[: self._popsize], self._waiting[self._popsize :]
        while len(batch) < self._popsize:
            batch.append(self._child(set(batch), self._parents or batch))
        return batch

    def _learn(self, asked: list[Text], losses: NDArray[np.float64], gradients: Gradients | None) -> None:
        self._losses.update(zip(asked, losses.tolist(), strict=True))
        elite = sorted(dict.fromkeys([*self._parents, *asked]), key=self._losses.__getitem__)[: self._elite]
        self._parents = list(dict.fromkeys([*elite, *asked]))

    def _child(self, batch: set[Text], parents: list[Text]) -> Text:
        """A text that is new, if some tries find one."""
        child = self._choose(parents)
        if self._rng.random() < self._crossover:
            child = self._cross(child, self._choose(parents))
        if self._rng.random() < self._mutation:
            child = self._mutant(child)
        for _ in range(_TRIES):
            if child not in batch and child not in self._losses:
                break
            child = self._mutant(child)
        return child

    def _choose(self, parents: list[Text]) -> Text:
        """The winner of a tournament; parents without a loss are equals."""
        drawn = self._rng.integers(0, len(parents), self._tournament)
        return min((parents[i] for i in drawn), key=lambda text: self._losses.get(text, np.inf))

    def _cross(self, one: Text, other: Text) -> Text:
        """The head of one text and, from the same place on, the tail of another."""
        if len(one) < 2:
            return one
        cut = int(self._rng.integers(1, len(one)))
        return one[:cut] + other[cut:]

    def _mutant(self, text: Text) -> Text:
        return _text(self._mutate(text, self._rng))

    @property
    def _kind(self) -> str:
        return f"Genetic(popsize={self._popsize})"

    def _save(self) -> dict[str, Any]:
        return {
            "kind": self._kind,
            "waiting": _packed(self._waiting),
            "parents": _packed(self._parents),
            "texts": _packed(self._losses),
            "losses": np.array(list(self._losses.values()), dtype=np.float64),
            "rng": self._rng.bit_generator.state,
        }

    def _load(self, state: State) -> None:
        check_kind(self._kind, state)
        self._waiting, self._parents, texts = (_unpacked(state[name]) for name in ("waiting", "parents", "texts"))
        self._losses = dict(zip(texts, np.asarray(state["losses"]).tolist(), strict=True))
        self._rng.bit_generator.state = state["rng"]

    def _as_batch(self, asked: Any) -> list[Text]:
        return [_text(text) for text in asked]


def _text(tokens: Iterable[int]) -> Text:
    return tuple(int(token) for token in tokens)


def _packed(texts: Iterable[Text]) -> dict[str, NDArray[np.int64]]:
    """Texts as two arrays: their tokens in a row, and their lengths."""
    lists = list(texts)
    tokens = [token for text in lists for token in text]
    return {
        "tokens": np.array(tokens, dtype=np.int64),
        "lengths": np.array([len(text) for text in lists], dtype=np.int64),
    }


def _unpacked(packed: dict[str, NDArray[np.int64]]) -> list[Text]:
    tokens, ends = packed["tokens"].tolist(), np.cumsum(packed["lengths"]).tolist()
    return [tuple(tokens[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]


@register
class Genetic(Optimizer):
    """Genetic search over prompts of words."""

    kind: ClassVar[str] = "genetic"
    summary: ClassVar[str] = "texts that cross and mutate; keeps its best text"
    source: ClassVar[str] = "IJCAI 2023 (GAP3)"
    uses: ClassVar[Uses] = "text"

    popsize: Annotated[int, Field(ge=2, le=10_000)] = Field(default=20, description="texts in one generation")

    def start(self, space: Space) -> GeneticSearch:
        """From the space's texts, by its mutation."""
        if space.mutate is None:
            raise ValueError("a genetic search needs a mutation of texts")
        return GeneticSearch(space.texts, self.popsize, space.mutate, space.seed)
