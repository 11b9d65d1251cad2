"""Points read as prompts of words, and words scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from tandemtune.evaluators.base import Evaluator
from tandemtune.runs.records import Costs, Evaluation, PromptRecord
from tandemtune.tunables.base import INPUT, Point
from tandemtune.tunables.vocabulary import Vocabulary, Words


class WordReader:
    """Reads the input block of a point as words, and scores words in its place.

    Args:
        evaluator: scores.
        vocabulary: the tuned model's words.
        length: tokens of a prompt.
        measure: what nearest means, "cosine" or "l2".
        always_words: the block is words anyway, and what they cost changes with the rest of the point.
        informed: whoever is asked is told the mean probability of each label, too.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        vocabulary: Vocabulary,
        length: int,
        measure: Literal["cosine", "l2"],
        always_words: bool,
        informed: bool = False,
    ) -> None:
        self._evaluator, self._vocabulary = evaluator, vocabulary
        self._length, self._measure = length, measure
        self.always_words, self._informed = always_words, informed

    def measure(self, point: Point) -> tuple[Evaluation, tuple[float, ...] | None]:
        """A point on the training rows, with the mean probability of each label if somebody is told."""
        return self._evaluator.described(point) if self._informed else (self._evaluator.measure(point), None)

    def read(self, point: Mapping[int, Tensor], tried: Sequence[PromptRecord]) -> tuple[PromptRecord, Costs]:
        """The nearest words to a point, scored as words, beside the point's own loss: what is lost by reading it.

        Args:
            point: its block `INPUT` is read.
            tried: words that are not scored again.

        Returns:
            The words, and what scoring them and the point has cost.
        """
        vectors = point[INPUT].reshape(self._length, -1)
        soft, probabilities = self.measure(point)
        costs = self._evaluator.cost_to_measure()
        if self.always_words:
            words, found = self._vocabulary.exact(vectors), soft
        else:
            words = self._vocabulary.nearest(vectors, self._measure)
            before = next((entry for entry in tried if entry.ids == words.ids), None)
            if before:
                found = Evaluation(loss=before.loss, score=before.score)
            else:
                found = self._evaluator.measure(self.placed(words, point))
                costs += self._evaluator.cost_to_measure()
        read = PromptRecord(
            text=words.text,
            ids=words.ids,
            loss=found.loss,
            score=found.score,
            distance=words.distance,
            soft_loss=soft.loss,
            probabilities=probabilities,
        )
        return read, costs

    def placed(self, words: Words, point: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """A point with words in the place of its input block."""
        return {**point, INPUT: self._vocabulary.vectors(words.ids).reshape(-1)}

    def text(self, ids: Sequence[int]) -> str:
        """Tokens as text."""
        return self._vocabulary.words(ids).text
