"""Who proposes points to go on from: a language model, and the controls that a claim about it needs.

A `Proposer` is what a recipe says, a `Source` is one that is ready to be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from tandemtune.mentor import Brief, Misread
from tandemtune.plugins import Member
from tandemtune.runs.records import Actions
from tandemtune.tunables.base import Point
from tandemtune.tunables.vocabulary import Vocabulary, Words


@dataclass(frozen=True)
class TriedWords:
    """A prompt of words that was scored.

    Args:
        words: its tokens.
        loss: on the training rows.
        score: the task's metric on the training rows.
        trained: loss of the trained vectors that were read as these words; None for words of their own.
        probabilities: mean probability of each label on the training rows, by the trained vectors where there are some; empty if
            it is not known.
        steps: gradient steps that were taken from these words before loss and score; 0 for the words as they are.
        residual: whether these steps began at the words plus what had been learned before.
    """

    words: Words
    loss: float
    score: float
    trained: float | None = None
    probabilities: tuple[float, ...] = ()
    steps: int = 0
    residual: bool = False


@dataclass(frozen=True)
class Standing:
    """How the tuned model does on the training rows where a search stands.

    Args:
        confusion: rows of each gold label by predicted label; empty where answers are texts.
        probabilities: the mean probability of each label; empty where answers are texts.
        misread: rows that it gets wrong, or whose texts have the lowest rewards, where they may be shown.
        looked: whether the model was asked for it.
    """

    confusion: tuple[tuple[int, ...], ...]
    probabilities: tuple[float, ...]
    misread: tuple[Misread, ...] = ()
    looked: bool = True


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


@dataclass(frozen=True)
class Steered:
    """What came of asking how the next round is to be run.

    Args:
        actions: what was decided; None if no answer could be used.
        failure: why not.
        spent: what all asking so far has cost; empty if it costs nothing.
    """

    actions: Actions | None
    failure: str | None = None
    spent: dict[str, float] = field(default_factory=dict)


def survivors(entrants: int) -> int:
    """How many go on after a leg of a race: a quarter of more than four, else half."""
    return -(-entrants // 4) if entrants > 4 else max(1, entrants // 2)


class Source(Protocol):
    """Somebody who is ready to propose.

    One that wants to know how the tuned model does where the search stands has a method ``look(point)``, too; it is called before `propose`, and
    counts as a pass over the training rows. One that steers a search (`Proposer.steers`) has a method ``steer(round, course) -> Steered``, which
    answers a round in the same way whenever it is asked.
    """

    def propose(self, round: int, tried: Sequence[TriedWords], known: Sequence[TriedWords]) -> Proposal:
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


@dataclass(frozen=True)
class Asked:
    """What a proposer is opened with.

    Args:
        vocabulary: the tuned model's words.
        length: tokens of a prompt.
        count: candidates to propose.
        seed: of the run.
        likely_token: (ids, position) -> logits [V] of the token at that position, by the tuned model.
        brief: what a mentor is told, but for the trajectory.
        conversations: where everything that is said to a mentor is written.
        mentor: the recipe's ``[mentor]``.
        tell: told what a person has to know.
        standing: (point) -> how the tuned model does there; a pass over the training rows.
    """

    vocabulary: Vocabulary
    length: int
    count: int
    seed: int
    likely_token: Callable[[Sequence[int], int], Tensor]
    brief: Brief
    conversations: Path
    mentor: Any
    tell: Callable[[str], None] | None = None
    standing: Callable[[Point], Standing] | None = None


class Proposer(Member):
    """Base of what a recipe's ``[alternate.proposer]`` may be.

    Attributes:
        words: whether it proposes words; otherwise its points are vectors.
        asks_model: whether it asks the tuned model which words are likely inside a text.
        proposes: whether it proposes anything at all.
        informed: whether it is told what each prompt makes the tuned model say: the mean probability of each label.
        steers: whether it also decides how the next round of a layer-by-layer search is run.
        asks_mentor: whether it asks whom the recipe's ``[mentor]`` names.
    """

    noun: ClassVar[str] = "proposer"
    words: ClassVar[bool] = True
    asks_model: ClassVar[bool] = False
    proposes: ClassVar[bool] = True
    informed: ClassVar[bool] = False
    steers: ClassVar[bool] = False
    asks_mentor: ClassVar[bool] = False

    def open(self, asked: Asked) -> AbstractContextManager[Source | None]:
        """Get ready to be asked, until the context ends."""
        return nullcontext(self.make(asked))

    def make(self, asked: Asked) -> Source | None:
        """A source that holds nothing open."""
        raise NotImplementedError

    def check(self, recipe: Any, progress: Callable[[str], None] | None = None) -> None:
        """Find out whether it can be asked, before anything is written.

        Raises:
            TandemTuneError: a package, a key, a file or a model is missing.
        """

    def try_out(self, recipe: Any) -> Iterator[str]:
        """Ask it something like what a run asks, about a made-up task; nothing where that says nothing.

        Returns:
            What came of it, in sentences.

        Raises:
            TandemTuneError: no answer came, or none that can be used.
        """
        yield from ()

    def problems(self, recipe: Any) -> Iterator[str]:
        """Proposals that the tunable has no place for, a search that cannot be steered."""
        tunable, section = recipe.method.tunable, recipe.alternate
        if not recipe.alternates:
            return
        if section.actions and self.proposes:
            yield from self._steering_problems(recipe)
        if not tunable.takes_words and not section.actions:
            yield (
                f"[alternate] rounds: {section.rounds}, but proposals are words, and {tunable.kind} is no prompt at the "
                "input: set [method] tunable to prompt or lora+prompt, or rounds to 0"
            )
        if tunable.words_only and not self.words:
            yield f"[alternate] proposer: {self.kind} makes no words, and the prompt of {tunable.kind} is words"

    def _steering_problems(self, recipe: Any) -> Iterator[str]:
        """A proposer that does not steer, a search without layers to choose from."""
        method = recipe.method
        if not self.steers:
            yield f"[alternate] actions: true, but {self.kind} does not steer a search: set proposer to mentor or mutation, or actions to false"
        by_layer = method.order != "together" and method.optimizer.keeps_best and not method.tunable.all_weights
        if not (recipe.in_subspace and by_layer):
            yield (
                "[alternate] actions: true, but only a search that goes layer by layer in a subspace and keeps its best candidate can be steered, "
                "as in tandem and c-lora: choose such a method, or set actions to false"
            )
