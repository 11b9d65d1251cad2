"""Labels by the likelihood of whole answers: a label's logit is the mean log-probability of the tokens of its answer.

Everything that judges label logits works on them: objectives, metrics, class weights, calibration, the KL penalty, mentors.
Answers of one token give the same probabilities as label words do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from tandemtune.evaluators.batch import Batch, Group, collate
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.label_words import LabelWordEvaluator, gradient_of
from tandemtune.evaluators.likelihood import Likelihood, work_of
from tandemtune.evaluators.passages import STRETCH, Passage, PassageBatch, collate_passages
from tandemtune.models.passages import PassageStack
from tandemtune.tunables.base import Parameters, Point
from tandemtune.types import Encoded

NEVER = -1e4
"""Logit of a label that has no answer in a row: a probability of 0, and still a number."""


@dataclass(frozen=True, slots=True)
class Question(Encoded):
    """A prompt with the answers to choose from.

    Args:
        answers: tokens of each answer [W].
        missing: which labels there are no answers of [C]; empty where there are answers of all.
    """

    answers: tuple[tuple[int, ...], ...] = ()
    missing: tuple[bool, ...] = ()


@dataclass(frozen=True, eq=False)
class ChoiceBatch(Batch):
    """Questions that are scored together; `groups` are those of their prompts alone, `tokens` those of all passages.

    Args:
        passages: each prompt with each of its answers [N * W], row by row, for a population.
        reading: the same for a single point, with all answers of a row in one group.
        missing: which labels have no answer in a row [N, C]; None where all have one.
    """

    passages: PassageBatch
    reading: PassageBatch
    missing: Tensor | None = None

    def parts(self) -> tuple[Tensor, ...]:
        """All tensors that say what the rows are."""
        groups = self.passages.groups
        of_passages = (*(part for g in groups for part in (g.ids, g.answers, g.targets, g.rows)), self.missing)
        return (*super().parts(), *(part for part in of_passages if part is not None))


def collate_choices(
    questions: Sequence[Question], labels: Sequence[int], stack: PassageStack, *, stretch: float = 1.0
) -> ChoiceBatch:
    """Put questions together.

    Args:
        questions: as many answers each [N].
        labels: gold labels [N], -1 where unknown.
        stack: the model.
        stretch: of the prompts alone, see `collate`.
    """
    prompts = collate(questions, labels, stack.device, stretch=stretch)
    passages = [Passage(question, answer) for question in questions for answer in question.answers]
    width = len(questions[0].answers) if questions else 0
    rows = [range(first, first + width) for first in range(0, len(passages), width or 1)]
    apart = collate_passages(passages, stack)
    together = collate_passages(passages, stack, stretch=STRETCH, units=rows)
    lacking = any(any(question.missing) for question in questions)
    missing = torch.tensor([question.missing for question in questions], device=stack.device) if lacking else None
    return ChoiceBatch(prompts.groups, prompts.labels, apart.read + apart.answered, apart, together, missing)


class ChoiceEngine(Engine):
    """Label logits of whole answers.

    Args:
        stack: the model, which reads whole answers.
        tunable: what the candidates change.
        averaging: matrix [W, C] from answers to labels.
        max_memory: bound on the activations of one chunk of candidates, in megabytes.
    """

    no_adapter = "whole answers are no rows of the output embedding"

    def __init__(self, stack: PassageStack, tunable: Parameters, averaging: Tensor, max_memory: float = 256.0) -> None:
        super().__init__(stack, tunable, averaging, max_memory)
        self.likelihood = Likelihood(self)

    def logits(self, batch: Batch, point: Point) -> Tensor:
        """Label logits [N, C] of one point."""
        return self.by_label(self.likelihood.of(_choices(batch).reading, point), _choices(batch).missing)

    def population_logits(self, batch: Batch, point: Point, candidates: Mapping[int, Tensor]) -> Tensor:
        """Label logits [P, N, C] of candidates that differ from `point` in some blocks."""
        found = self.likelihood.of_population(_choices(batch).passages, point, candidates)
        return self.by_label(found, _choices(batch).missing)

    def by_label(self, likely: Tensor, missing: Tensor | None = None) -> Tensor:
        """Label logits [..., N, C] of answers [..., N * W], row by row; of labels without an answer in their row [N, C] `NEVER`."""
        found = self.gathered(likely.view(*likely.shape[:-1], -1, len(self.averaging)))
        return found if missing is None else found.masked_fill(missing, NEVER)

    def reads_once(self, blocks: Sequence[int]) -> bool:
        """Never: a decoder reads answers of several tokens."""
        return False

    def work(
        self, batch: Batch, first: int = 0, stop: int | None = None, *, read: bool = True, apart: bool = False
    ) -> float:
        """What a pass over all passages costs, see `Engine.work`."""
        passages = _choices(batch).passages
        return work_of(
            self, passages.read if apart else self.likelihood.tokens(passages), passages.answered, first, stop
        )

    def tokens(self, batch: Batch) -> int:
        """Tokens of all passages that go through the model for one point."""
        passages = _choices(batch).passages
        return self.likelihood.tokens(passages) + passages.answered

    def parts(self, batch: Batch) -> Iterator[Group]:
        """The passages as `logits` sends them through the model, one part after another."""
        for part in self.likelihood.parts(_choices(batch).reading):
            yield Group(part.ids, part.places, part.rows, part.mask, part.spans)

    def tokens_per_candidate(self, batch: Batch, blocks: Sequence[int]) -> list[int]:
        """Tokens that go through the layers for each candidate, piece by piece."""
        pieces = self.likelihood.pieces(_choices(batch).passages)
        return [piece.ids.numel() + (0 if piece.answers is None else piece.answers.numel()) for piece in pieces]

    def forget(self) -> None:
        """Drop all kept hidden states."""
        super().forget()
        self.likelihood.forget()


class ChoiceEvaluator(LabelWordEvaluator):
    """Losses of candidates on questions with whole answers."""

    engine: ChoiceEngine

    def gradient_on(self, batch: Batch, point: Point, blocks: Sequence[int]) -> tuple[float, dict[int, Tensor]]:
        """Loss of one point on some questions, and its gradient."""
        leaves = {block: point[block].clone().requires_grad_() for block in blocks}
        width, total = len(self.engine.averaging), 0.0
        for group, found in self.engine.likelihood.gradients(_choices(batch).reading, {**point, **leaves}):
            rows = group.rows[::width] // width
            labels, missing = batch.labels[rows], _choices(batch).missing
            share = self.mass(labels) / self.mass(batch.labels)
            loss = (
                self.loss(self.engine.by_label(found, None if missing is None else missing[rows]).unsqueeze(0), labels)[
                    0
                ]
                * share
            )
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total, {block: gradient_of(leaf) for block, leaf in leaves.items()}


def _choices(batch: Batch) -> ChoiceBatch:
    return cast(ChoiceBatch, batch)
