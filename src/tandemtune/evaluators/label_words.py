"""Losses of label words at the answer position, on one task's rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandemtune.devices import exact
from tandemtune.evaluators.base import OverEngine, PointGradient, Rows
from tandemtune.evaluators.batch import Batch
from tandemtune.evaluators.engine import Engine
from tandemtune.objectives.base import LossFunction
from tandemtune.runs.records import Costs, Evaluation, to_loss
from tandemtune.tunables.base import INPUT, Point

Score = Callable[[Sequence[int], Sequence[int]], float]


@dataclass(frozen=True)
class Measurement:
    """One point on one set of rows.

    Args:
        loss: mean loss (the evaluator's own).
        score: the task's metric.
        logits: label logits [N, C].
    """

    loss: float
    score: float
    logits: Tensor


@dataclass(frozen=True)
class KLPenalty:
    """A penalty: weight times KL(untuned || candidate) of the label distributions, mean over some unlabelled rows.

    Args:
        batch: the rows.
        untuned: label logits of the untuned model [N, C].
        weight: factor of the penalty.
    """

    batch: Batch
    untuned: Tensor
    weight: float

    def penalty(self, logits: Tensor) -> Tensor:
        """Penalties [P] of candidates with label logits [P, N, C]."""
        before = torch.log_softmax(self.untuned, dim=-1)
        apart = (before.exp() * (before - torch.log_softmax(logits, dim=-1))).sum(dim=-1)
        return self.weight * apart.mean(dim=-1)


class LabelWordEvaluator(OverEngine[Batch]):
    """Losses of candidates on the training rows, evaluations on training and dev rows, gradients on drawn batches.

    Args:
        engine: the evaluation engine.
        train: the training prompts.
        loss: what is minimised.
        score: the task's metric: (predictions, gold) -> number.
        reading: the training prompts in the groups that suit a single point; None for those of `train`.
        dev: the dev prompts; None where nobody looks at them.
        empty: prompts without content, which every loss and score is calibrated by; None for no calibration.
        kl: what holds candidates near the untuned model; None if nothing does.
        step_rows: the training rows of a gradient step, by its number.
        drawn_rows: the training rows of a generation, by its number, where each is scored on some rows only; None for all.
        class_weights: what a row of each label counts in losses [C]; None where all count alike.
        assumed: how often each label is assumed to come up [C] where a readout answers; rows then count in its losses so that they do.
            None where they count as for label words.
        train_readout: (rows, point, candidates) -> label logits [P, N, C], of each row by a readout of all others that is solved
            anew at each candidate; None for the label words' own.
        dev_readout: label logits [N, C] of the dev rows at a point, by a readout of all other labelled rows; None for the label
            words' own.
        solved_on: the rows that this readout reads, all labelled ones.
    """

    def __init__(
        self,
        engine: Engine,
        train: Batch,
        loss: LossFunction,
        score: Score,
        reading: Batch | None = None,
        *,
        dev: Batch | None = None,
        empty: Batch | None = None,
        kl: KLPenalty | None = None,
        step_rows: Callable[[int], Batch] | None = None,
        drawn_rows: Callable[[int], Batch] | None = None,
        class_weights: Tensor | None = None,
        assumed: Tensor | None = None,
        train_readout: Callable[[Batch, Point, Mapping[int, Tensor]], Tensor] | None = None,
        dev_readout: Callable[[Point], Tensor] | None = None,
        solved_on: Batch | None = None,
    ) -> None:
        super().__init__(engine, drawn_rows)
        self.train = train
        self.reading = reading or train
        self.dev = train if dev is None else dev
        self.loss = loss if class_weights is None else _weighted(loss, class_weights)
        self._weights, self._assumed = class_weights, assumed
        self.score = score
        self.empty = empty
        self.kl = kl
        self.step_rows = step_rows
        self.train_readout, self.dev_readout, self._solved_on = train_readout, dev_readout, solved_on

    def evaluate(
        self, point: Point, candidates: Mapping[int, Tensor], generation: int | None = None
    ) -> NDArray[np.float64]:
        """Training losses [P] of candidates, see `Evaluator.evaluate`."""
        return self.evaluate_on(self.drawn(generation), point, candidates)

    def evaluate_on(self, rows: Batch | None, point: Point, candidates: Mapping[int, Tensor]) -> NDArray[np.float64]:
        """Losses [P] of candidates on some rows.

        Args:
            rows: score on these; None for all training rows.
            point: the incumbent.
            candidates: block -> vectors [P, dim].

        Returns:
            Losses [P]; NaN where the model gave none.
        """
        batch = rows or self.train
        tunable = self.engine.tunable
        loss = self.loss
        if self.train_readout is not None:
            logits, loss = self.train_readout(batch, point, candidates), self._loss_by_readout(batch.labels)
        elif rows is None and not tunable.side_by_side and tunable.first_layer(list(candidates)) == INPUT:
            # one by one through the whole model: the groups that suit a single point are fewer
            count = len(next(iter(candidates.values())))
            each = ({**point, **{block: vectors[p] for block, vectors in candidates.items()}} for p in range(count))
            logits = torch.stack([self.engine.logits(self.reading, one) for one in each])
        else:
            logits = self.engine.population_logits(batch, point, candidates)
        if self.empty is not None and self.train_readout is None:  # a readout corrects the label words' bias itself
            logits = calibrate(logits, self.engine.population_logits(self.empty, point, candidates))
        losses = loss(logits, batch.labels)
        if self.kl is not None:
            found = self.engine.population_logits(self.kl.batch, point, candidates)
            losses = losses + self.kl.penalty(found)
        return losses.cpu().double().numpy()

    def measure(self, point: Point, rows: Rows = "train") -> Evaluation:
        """Loss and metric of one point on the training or dev rows."""
        found = self._measured_on_dev(point) if rows == "dev" else self._measured_on_train(point)
        return Evaluation(loss=to_loss(found.loss), score=found.score)

    def described(self, point: Point) -> tuple[Evaluation, tuple[float, ...]]:
        """Evaluation and mean label probabilities on the training rows, see `Evaluator.described`."""
        found = self._measured_on_train(point)
        shares: list[float] = torch.softmax(exact(found.logits), dim=-1).mean(dim=0).tolist()
        return Evaluation(loss=to_loss(found.loss), score=found.score), tuple(shares)

    def dev_losses(self, point: Point) -> tuple[Evaluation, NDArray[np.float64]]:
        """Dev's evaluation and the loss of each row [N], see `Evaluator.dev_losses`; for losses that are means over rows."""
        found = self._measured_on_dev(point)
        rows = zip(found.logits.split(1), self.dev.labels.split(1), strict=True)  # type: ignore[no-untyped-call]
        losses = np.array([float(self.loss(logits.unsqueeze(0), label)[0]) for logits, label in rows])
        assumed = None if self.dev_readout is None else label_weights(self.dev.labels, self._assumed)
        weights = self._weights if assumed is None else assumed
        if weights is not None:  # of a single row they cancel
            counted = weights[self.dev.labels.to(weights.device)].cpu().double().numpy()
            losses = losses * counted / counted.mean()
        return Evaluation(loss=to_loss(found.loss), score=found.score), losses

    def _measured_on_train(self, point: Point) -> Measurement:
        if self.train_readout is None:
            return self.measure_on(self.reading, point)
        alone = {block: vector.unsqueeze(0) for block, vector in point.items()}
        return self.judged_by_readout(self.train_readout(self.train, point, alone)[0], self.train.labels)

    def _measured_on_dev(self, point: Point) -> Measurement:
        if self.dev_readout is None:
            return self.measure_on(self.dev, point)
        return self.judged_by_readout(self.dev_readout(point), self.dev.labels)

    def measure_on(self, batch: Batch, point: Point) -> Measurement:
        """Loss, metric and logits of one point on a labelled batch."""
        logits = self.engine.logits(batch, point)
        if self.empty is not None:
            logits = calibrate(logits, self.engine.logits(self.empty, point))
        return self.judged(logits, batch)

    def judged(self, logits: Tensor, batch: Batch) -> Measurement:
        """Loss and metric of label logits [N, C] of a labelled batch."""
        return self._of_rows(self.loss, logits, batch.labels)

    def judged_by_readout(self, logits: Tensor, labels: Tensor) -> Measurement:
        """Loss and metric of a readout's label logits [N, C] of rows with labels [N]."""
        return self._of_rows(self._loss_by_readout(labels), logits, labels)

    def _loss_by_readout(self, labels: Tensor) -> LossFunction:
        """The loss of rows with labels [N] that a readout answers."""
        weights = label_weights(labels, self._assumed)
        return self.loss if weights is None else _weighted(self.loss, weights)

    def _of_rows(self, loss: LossFunction, logits: Tensor, labels: Tensor) -> Measurement:
        score = self.score(logits.argmax(dim=-1).tolist(), labels.tolist())
        return Measurement(float(loss(logits.unsqueeze(0), labels)[0]), score, logits)

    def score_of(self, logits: Tensor, batch: Batch) -> float:
        """The task's metric of label logits [N, C]."""
        return self.score(logits.argmax(dim=-1).tolist(), batch.labels.tolist())

    def gradient(self, point: Point, blocks: Sequence[int], step: int) -> PointGradient:
        """Loss and gradient on the rows of a step, see `Evaluator.gradient`."""
        if self.step_rows is None:
            raise ValueError("this evaluator draws no rows for gradient steps")
        batch = self.step_rows(step)
        loss, gradients = self.gradient_on(batch, point, blocks)
        work = round(self.engine.work(batch, apart=True))
        return PointGradient(loss, gradients, Costs(gradient_steps=1, forward=work, backward=work))

    def gradient_on(self, batch: Batch, point: Point, blocks: Sequence[int]) -> tuple[float, dict[int, Tensor]]:
        """Loss of one point on some rows, and its gradient.

        Args:
            batch: the rows.
            point: where to differentiate.
            blocks: the blocks whose gradient is wanted.

        Returns:
            The mean loss, and block -> gradient [dim].
        """
        leaves = {block: point[block].clone().requires_grad_() for block in blocks}
        total = 0.0
        for group in batch.groups:
            logits = self.engine.gradient_logits(group, {**point, **leaves})
            share = self.mass(batch.labels[group.rows]) / self.mass(batch.labels)
            loss = self.loss(logits.unsqueeze(0), batch.labels[group.rows])[0] * share
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total, {block: gradient_of(leaf) for block, leaf in leaves.items()}

    def mass(self, labels: Tensor) -> float:
        """What some rows count together."""
        return len(labels) if self._weights is None else float(self._weights[labels.cpu()].sum())

    def cost(self, blocks: Sequence[int], count: int, generation: int | None = None, kept: int | None = None) -> Costs:
        """Every candidate from its first layer on, and what they share: the hidden states that enter it and, where they differ
        in a decoder only, the text's keys and values in all of its layers. See `Evaluator.cost`."""
        engine, rows = self.engine, self.drawn(generation)
        first = max(0, engine.tunable.first_layer(blocks))
        begun = first if kept is None else min(max(0, kept), first)
        beside = [batch for batch in (self.empty, self.kl.batch if self.kl else None) if batch is not None]
        once = engine.reads_once(blocks)
        work = sum(engine.work(batch, first, read=not once) for batch in (rows or self.train, *beside)) * count
        work += engine.work(self.train, begun, first) if rows is None else engine.work(rows, 0, first)
        work += sum(engine.work(batch, begun, first) for batch in beside)
        if once:
            entered = kept is not None and begun < (engine.stack.encoder_layers or 0)
            anew = [] if rows is None else [rows]
            anew += [b for b in ([self.train] if rows is None else []) + beside if entered or not engine.keeps_read(b)]
            work += sum(engine.work_to_read(batch) for batch in anew)
        return Costs(candidates=count, forward=round(work))

    def cost_to_measure(self, rows: Rows = "train") -> Costs:
        """All tokens of the rows through the whole model; of all labelled rows where dev is read by a readout."""
        if rows == "dev" and self.dev_readout is not None:
            return Costs(forward=round(self.engine.work(self._solved_on or self.dev)))
        return Costs(forward=round(self.engine.work(self.train if rows == "train" else self.dev)))


def _weighted(loss: LossFunction, weights: Tensor) -> LossFunction:
    """A mean over rows that count as their labels do: of the means of each label's rows, by what these count together."""

    def weighted(logits: Tensor, labels: Tensor) -> Tensor:
        present = sorted(set(labels.tolist()))
        masses = [float(weights[label]) * int((labels == label).sum()) for label in present]
        parts = [
            mass * loss(logits[:, labels == label], labels[labels == label])
            for label, mass in zip(present, masses, strict=True)
        ]
        total = sum(masses)  # 0 of rows that count nothing, as those of a label that nothing was learned of
        return torch.stack(parts).sum(dim=0) / total if total else loss(logits, labels)

    return weighted


def label_weights(labels: Tensor, assumed: Tensor | None) -> Tensor | None:
    """What a row of each label counts [C], with a mean of 1 over the rows, so that labels come up as often as assumed.

    Args:
        labels: of the rows [N].
        assumed: how often each label is assumed to come up [C]; None for as often as in the rows.

    Returns:
        None where all rows count alike.
    """
    if assumed is None or not len(labels):
        return None
    counts = exact(torch.bincount(labels, minlength=len(assumed)))
    labels = labels.to(counts.device)
    weights = assumed.to(counts.device) / counts.clamp_min(1.0)
    weights = weights / weights[labels].mean()
    alike = torch.allclose(weights[labels], torch.ones_like(weights[labels]))
    return None if alike else weights


def gradient_of(leaf: Tensor) -> Tensor:
    """The gradient of a tensor that a loss may not depend on."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def calibrate(logits: Tensor, content_free: Tensor) -> Tensor:
    """Contextual calibration (Zhao et al., arXiv 2102.09690): divide by the label distribution of empty inputs.

    Args:
        logits: label logits [..., N, C].
        content_free: label logits of inputs without content [..., M, C].

    Returns:
        Log probabilities up to a constant [..., N, C].
    """
    prior = torch.softmax(content_free, dim=-1).mean(dim=-2, keepdim=True)
    return torch.log_softmax(logits, dim=-1) - prior.clamp_min(torch.finfo(prior.dtype).tiny).log()


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's correlation: how alike two sets of losses [P] rank the same candidates (ties by position)."""
    ranks = [values.argsort(kind="stable").argsort(kind="stable") for values in (one, other)]
    return float(np.asarray(np.corrcoef(ranks))[0, 1])
