"""Losses of written texts: how likely references are, or what a reward says of what candidates write.

Points are measured by what they write one after another (greedy), whatever is minimised: that is what a user gets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandemtune.errors import UsageError
from tandemtune.evaluators.base import OverEngine, PointGradient, Rows
from tandemtune.evaluators.batch import Batch
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.label_words import gradient_of
from tandemtune.evaluators.likelihood import Likelihood, work_of
from tandemtune.evaluators.passages import PassageBatch
from tandemtune.evaluators.writing import Sampling, Text, Writer, tokens_of
from tandemtune.models.answers import AnswerCoder
from tandemtune.rewards.base import Written
from tandemtune.runs.records import Costs, Evaluation, to_loss
from tandemtune.tunables.base import Point
from tandemtune.types import Encoded

Judge = Callable[[Written], float]
"""Texts to a loss."""


@runtime_checkable
class JudgesEach(Protocol):
    """A judge whose loss is minus the mean of what it says of each text."""

    def each(self, written: Written) -> Sequence[float]:
        """What each text is worth [N]."""
        ...


Ask = Callable[[Sequence[int], Sequence[str]], Written]
"""(rows, what was written for them) -> what judges them see."""


@dataclass(frozen=True, eq=False)
class References:
    """Prompts with their right answers behind.

    Args:
        passages: for a population.
        reading: the same in the groups that suit a single point.
        owners: the row of each passage [S].
        rows: how many rows there are.
    """

    passages: PassageBatch
    reading: PassageBatch
    owners: Tensor
    rows: int

    @property
    def counts(self) -> Tensor:
        """References of each row [N]."""
        return torch.bincount(self.owners, minlength=self.rows)

    def by_row(self, values: Tensor) -> Tensor:
        """Means over each row's references: [..., S] -> [..., N]."""
        sums = torch.zeros(*values.shape[:-1], self.rows, device=values.device)
        return sums.index_add(-1, self.owners, values) / self.counts


@dataclass(frozen=True, eq=False)
class TextRows:
    """Rows that texts are written for.

    Args:
        prompts: with room for what is tuned [N].
        ask: puts completions beside what they are judged by.
        references: their right answers; None where there are none, or nobody asks how likely they are.
    """

    prompts: tuple[Encoded, ...]
    ask: Ask
    references: References | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(prompt.ids) for prompt in self.prompts)

    @property
    def answered(self) -> References:
        """The right answers.

        Raises:
            ValueError: there are none.
        """
        if self.references is None:
            raise ValueError("these rows have no references, so nothing has a likelihood")
        return self.references


class TextLoss(Protocol):
    """What is minimised."""

    def of_population(
        self, rows: TextRows, point: Point, candidates: Mapping[int, Tensor], generation: int
    ) -> tuple[NDArray[np.float64], int]:
        """Losses [P] of candidates, and how many tokens they wrote."""
        ...

    def of_written(self, rows: TextRows, point: Point, written: Written) -> float:
        """Loss of one point, which has written something."""
        ...

    def each(self, rows: TextRows, point: Point, written: Written) -> NDArray[np.float64]:
        """The same for each row alone [N]."""
        ...

    def work(self, rows: TextRows, first: int) -> tuple[float, int]:
        """What scoring one candidate costs from a layer on, and how many tokens it may write at most."""
        ...


class ReferenceLoss:
    """Mean negative log-likelihood of references: over the tokens of each, over each row's references, over rows.

    Args:
        likelihood: of passages.
    """

    def __init__(self, likelihood: Likelihood) -> None:
        self.likelihood = likelihood

    def of_population(
        self, rows: TextRows, point: Point, candidates: Mapping[int, Tensor], generation: int
    ) -> tuple[NDArray[np.float64], int]:
        """One pass over all references for all candidates."""
        found = self.likelihood.of_population(rows.answered.passages, point, candidates)
        return -rows.answered.by_row(found).mean(dim=-1).cpu().double().numpy(), 0

    def of_written(self, rows: TextRows, point: Point, written: Written) -> float:
        """The same of one point; what it has written does not matter."""
        return -float(self._by_row(rows, point).mean())

    def each(self, rows: TextRows, point: Point, written: Written) -> NDArray[np.float64]:
        """The mean over each row's references."""
        return -self._by_row(rows, point).cpu().double().numpy()

    def work(self, rows: TextRows, first: int) -> tuple[float, int]:
        """All passages."""
        passages = rows.answered.passages
        return work_of(self.likelihood.engine, self.likelihood.tokens(passages), passages.answered, first), 0

    def _by_row(self, rows: TextRows, point: Point) -> Tensor:
        """Mean log-probabilities of each row's references [N]."""
        return rows.answered.by_row(self.likelihood.of(rows.answered.reading, point))

    def gradient(self, rows: TextRows, point: Point, blocks: Sequence[int]) -> tuple[float, dict[int, Tensor]]:
        """Loss of one point, and its gradient by block [dim]."""
        known = rows.answered
        leaves = {block: point[block].clone().requires_grad_() for block in blocks}
        shares = 1.0 / (known.counts[known.owners] * len(rows))
        total = 0.0
        for group, found in self.likelihood.gradients(known.reading, {**point, **leaves}):
            loss = -(found * shares[group.rows]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total, {block: gradient_of(leaf) for block, leaf in leaves.items()}


class JudgedLoss:
    """What a judge says of the texts that each candidate writes.

    Args:
        writer: writes.
        judge: texts to a loss.
        sampling: random numbers of a generation; None for the most likely tokens.
        asks: whether the judge asks somebody whose answers the run itself counts and writes down.
    """

    def __init__(
        self, writer: Writer, judge: Judge, sampling: Callable[[int], Sampling] | None = None, *, asks: bool = False
    ) -> None:
        self.writer, self.judge, self.sampling, self.asks = writer, judge, sampling, asks

    def of_population(
        self, rows: TextRows, point: Point, candidates: Mapping[int, Tensor], generation: int
    ) -> tuple[NDArray[np.float64], int]:
        """Texts of all candidates in one batch, judged candidate by candidate."""
        texts = self.write(rows, point, candidates, generation)
        return self.of_texts(rows, texts, generation), tokens_of(texts)

    def write(
        self, rows: TextRows, point: Point, candidates: Mapping[int, Tensor], generation: int
    ) -> list[list[Text]]:
        """What each candidate writes for each row."""
        sampling = None if self.sampling is None else self.sampling(generation)
        return self.writer.write(rows.prompts, point, candidates, sampling)

    def of_texts(self, rows: TextRows, texts: Sequence[Sequence[Text]], generation: int) -> NDArray[np.float64]:
        """Losses [P] of what candidates have written for each row; NaN of one whose logits were no numbers."""
        losses = [
            math.nan
            if any(text.broken for text in found)
            else self.judge(judged(rows, self.writer.coder, found, generation))
            for found in texts
        ]
        return np.array(losses, dtype=np.float64)

    def of_written(self, rows: TextRows, point: Point, written: Written) -> float:
        """What the judge says of what the point has written."""
        return self.judge(written)

    def each(self, rows: TextRows, point: Point, written: Written) -> NDArray[np.float64]:
        """What the judge says of each text: of all together where it tells them apart, else of each alone."""
        if isinstance(self.judge, JudgesEach):
            return 0.0 - np.array(self.judge.each(written), dtype=np.float64)
        return np.array([self.judge(written.of([row])) for row in range(len(rows))], dtype=np.float64)

    def work(self, rows: TextRows, first: int) -> tuple[float, int]:
        """The prompts, and as many tokens as may be written."""
        return work_of(self.writer.engine, rows.prompt_tokens, 0, first), len(rows) * self.writer.coder.most


def judged(rows: TextRows, coder: AnswerCoder, texts: Sequence[Text], generation: int = 0) -> Written:
    """What was written for all rows (by candidates of a generation, or by a point), beside what it is judged by."""
    written = rows.ask(range(len(rows)), [coder.decode(text.ids) for text in texts])
    return replace(written, ids=[text.with_end for text in texts], step=generation)


def work_to_write(engine: Engine, tokens: int) -> float:
    """What so many written tokens cost, each through the whole model, or the whole decoder."""
    answers = engine.stack.encoder_layers is not None
    return work_of(engine, 0, tokens) if answers else work_of(engine, tokens, 0)


@dataclass(frozen=True)
class TextKL:
    """A penalty: weight times KL(untuned || candidate) of a token, estimated by texts that the untuned model has sampled: the mean
    difference of their tokens' log-probabilities.

    Args:
        likelihood: of passages.
        passages: prompts with these texts.
        untuned: mean log-probabilities [S] by the untuned model.
        weight: factor of the penalty.
        costs: of sampling these texts and reading them once.
    """

    likelihood: Likelihood
    passages: PassageBatch
    untuned: Tensor
    weight: float
    costs: Costs = field(default_factory=Costs)

    def penalty(self, point: Point, candidates: Mapping[int, Tensor]) -> NDArray[np.float64]:
        """Penalties [P] of candidates."""
        found = self.likelihood.of_population(self.passages, point, candidates)
        return self.weight * (self.untuned - found).mean(dim=-1).cpu().double().numpy()

    def work(self, first: int) -> float:
        """What a pass costs from a layer on."""
        tokens = self.likelihood.tokens(self.passages)
        return work_of(self.likelihood.engine, tokens, self.passages.answered, first)


class TextEvaluator(OverEngine[TextRows]):
    """Losses of candidates on the training rows, evaluations on training and dev rows, gradients on drawn rows.

    Args:
        writer: writes what points are measured by.
        loss: what is minimised.
        score: the task's metric.
        train: the training rows.
        dev: the dev rows.
        prompts: the training prompts, for those who look at what enters layers.
        step_rows: rows of a gradient step, by its number.
        drawn_rows: rows of a generation, by its number, where each is scored on some rows only; None for all.

    Attributes:
        kl: what holds candidates near the untuned model; None if nothing does.
    """

    def __init__(
        self,
        writer: Writer,
        loss: TextLoss,
        score: Callable[[Written], float],
        train: TextRows,
        dev: TextRows,
        prompts: Batch,
        *,
        step_rows: Callable[[int], TextRows] | None = None,
        drawn_rows: Callable[[int], TextRows] | None = None,
    ) -> None:
        super().__init__(writer.engine, drawn_rows)
        self.writer, self.loss, self.score = writer, loss, score
        self.rows: dict[Rows, TextRows] = {"train": train, "dev": dev}
        self.train = prompts
        self.step_rows = step_rows
        self.kl: TextKL | None = None
        self._wrote: dict[tuple[str, int], int] = {}
        self._last = 0

    def evaluate(
        self, point: Point, candidates: Mapping[int, Tensor], generation: int | None = None
    ) -> NDArray[np.float64]:
        """Training losses [P] of candidates, see `Evaluator.evaluate`."""
        losses, tokens = self.loss.of_population(self._rows_of(generation), point, candidates, generation or 0)
        self.note_written(len(losses), tokens)
        return losses if self.kl is None else losses + self.kl.penalty(point, candidates)

    @property
    def asks(self) -> bool:
        """Whether what is written is judged by somebody whom only the run itself asks."""
        return isinstance(self.loss, JudgedLoss) and self.loss.asks

    def draft(
        self, point: Point, candidates: Mapping[int, Tensor], generation: int | None = None
    ) -> tuple[NDArray[np.float64], list[list[Text]]]:
        """The part of `evaluate` that asks nobody: penalties [P], and what each candidate writes for each row.

        Raises:
            ValueError: texts are not judged.
        """
        texts = self._judged.write(self._rows_of(generation), point, candidates, generation or 0)
        self.note_written(len(texts), tokens_of(texts))
        penalties = np.zeros(len(texts)) if self.kl is None else self.kl.penalty(point, candidates)
        return penalties, texts

    def judge(self, texts: Sequence[Sequence[Text]], generation: int | None = None) -> NDArray[np.float64]:
        """The other part: losses [P] of what candidates have written, without penalties."""
        return self._judged.of_texts(self._rows_of(generation), texts, generation or 0)

    @property
    def _judged(self) -> JudgedLoss:
        if not isinstance(self.loss, JudgedLoss):
            raise ValueError("what candidates write is not what is minimised, so it has no loss")
        return self.loss

    @property
    def wrote(self) -> int:
        """Tokens that the last `evaluate` or `draft` wrote."""
        return self._last

    def note_written(self, candidates: int, tokens: int) -> None:
        """Say what a generation wrote that was scored elsewhere: `cost` counts it."""
        self._wrote["population", candidates] = self._last = tokens

    def measure(self, point: Point, rows: Rows = "train") -> Evaluation:
        """Loss and metric of one point on the training or dev rows."""
        found, _ = self.measure_on(self.rows[rows], point, rows)
        return found

    def write(self, point: Point, rows: Rows = "train") -> Written:
        """What one point writes for the training or dev rows."""
        return judged(self.rows[rows], self.writer.coder, self._texts(self.rows[rows], point, rows))

    def described(self, point: Point) -> tuple[Evaluation, tuple[float, ...]]:
        """Evaluation on the training rows; there are no labels that could have a probability."""
        return self.measure(point), ()

    def dev_losses(self, point: Point) -> tuple[Evaluation, NDArray[np.float64]]:
        """Loss and metric of one point on the dev rows, and the loss of each of them [N]."""
        found, written = self.measure_on(self.rows["dev"], point, "dev")
        return found, self.loss.each(self.rows["dev"], point, written)

    def measure_on(self, rows: TextRows, point: Point, name: str = "") -> tuple[Evaluation, Written]:
        """Loss and metric of one point on some rows, and what it wrote."""
        texts = self._texts(rows, point, name)
        written = judged(rows, self.writer.coder, texts)
        broken = any(text.broken for text in texts)
        loss = math.nan if broken else self.loss.of_written(rows, point, written)
        return Evaluation(loss=to_loss(loss), score=self.score(written)), written

    def _texts(self, rows: TextRows, point: Point, name: str) -> list[Text]:
        texts = self.writer.write(rows.prompts, point)
        self._wrote[name, 1] = tokens_of(texts)
        return texts[0]

    def gradient(self, point: Point, blocks: Sequence[int], step: int) -> PointGradient:
        """Loss and gradient on the rows of a step, see `Evaluator.gradient`."""
        if self.step_rows is None or not isinstance(self.loss, ReferenceLoss):
            raise UsageError("a reward has no gradient: choose a search without gradients, or objective ce")
        rows = self.step_rows(step)
        loss, gradients = self.loss.gradient(rows, point, blocks)
        passages = rows.answered.passages
        work = round(work_of(self.engine, passages.read, passages.answered))  # each passage whole
        return PointGradient(loss, gradients, Costs(gradient_steps=1, forward=work, backward=work))

    def cost_to_begin(self) -> Costs:
        """The texts of the penalty. See `Evaluator.cost_to_begin`."""
        return Costs() if self.kl is None else self.kl.costs

    def cost(self, blocks: Sequence[int], count: int, generation: int | None = None, kept: int | None = None) -> Costs:
        """Every candidate from its first layer on, what is shared below, and each token that was written (before anything was: that
        may be). See `Evaluator.cost`."""
        return self._cost(blocks, count, generation, self._wrote.get(("population", count)))

    def most(self, blocks: Sequence[int], count: int) -> Costs:
        """The same with each token that may be written."""
        return self._cost(blocks, count, 0, None)

    def _cost(self, blocks: Sequence[int], count: int, generation: int | None, wrote: int | None) -> Costs:
        rows = self._rows_of(generation)
        first = max(0, self.engine.tunable.first_layer(blocks))
        each, most = self.loss.work(rows, first)
        shared = self.loss.work(rows, 0)[0] - each
        if self.kl is not None:
            each, shared = each + self.kl.work(first), shared + self.kl.work(0) - self.kl.work(first)
        tokens = (count * most if wrote is None else wrote) if most else 0
        work = count * each + shared + work_to_write(self.engine, tokens)
        return Costs(candidates=count, forward=round(work), generated=tokens)

    def cost_to_measure(self, rows: Rows = "train") -> Costs:
        """All prompts, and what was written for them the last time."""
        return self._cost_to_measure(rows, self._wrote.get((rows, 1)))

    def most_to_measure(self, rows: Rows = "train") -> Costs:
        """All prompts, and what may be written for them."""
        return self._cost_to_measure(rows, None)

    def _cost_to_measure(self, rows: Rows, wrote: int | None) -> Costs:
        found = self.rows[rows]
        tokens = len(found) * self.writer.coder.most if wrote is None else wrote
        work = work_of(self.engine, found.prompt_tokens, 0) + work_to_write(self.engine, tokens)
        if isinstance(self.loss, ReferenceLoss):
            work += self.loss.work(found, 0)[0]
        return Costs(forward=round(work), generated=tokens)

    def _rows_of(self, generation: int | None) -> TextRows:
        found = self.drawn(generation)
        return self.rows["train"] if found is None else found
