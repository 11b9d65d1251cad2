"""Uses a finished run: labels new texts with the tuned model."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandemtune.config import load_config
from tandemtune.config.reading import with_parts_of
from tandemtune.errors import DataError, RunError
from tandemtune.problem import Progress, Scorer
from tandemtune.readout.members import load_readout
from tandemtune.runs.records import Assessment
from tandemtune.runs.store import RunFolder
from tandemtune.tasks.files import examples_of, texts_of
from tandemtune.tasks.table import Table
from tandemtune.tunables.base import INPUT
from tandemtune.types import Example
from tandemtune.wiring import make_scorer, task_of_run


@dataclass(frozen=True)
class Prediction:
    """The answer to one text.

    Args:
        label: the most likely label.
        probabilities: by label: softmax over the label words' logits, at the run's temperature.
    """

    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True)
class TunedModel:
    """A backbone with the adapter of a run beside it. Several threads may ask it: they are answered one after the other, since
    a point is applied to the one model in memory.

    Args:
        scorer: the run's model, template and label words.
        point: the adapter's factors.
    """

    scorer: Scorer
    point: dict[int, Tensor]
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the texts that one input needs."""
        return self.scorer.task.template.fields

    def predict(self, inputs: Sequence[str | Mapping[str, str]]) -> list[Prediction]:
        """Label texts.

        Args:
            inputs: texts (paths of images, or pictures of Pillow's, for an image-text model), or dicts with the fields of the task's
                template where it needs several.

        Raises:
            DataError: an input is no text, or lacks a field.
        """
        examples = self._examples(inputs)
        if not examples:
            return []
        with self._lock:
            logits = self.scorer.label_logits(self.scorer.batch(examples), self.point)
        labels = self.scorer.task.labels
        rows = self.scorer.probabilities(logits)
        return [Prediction(labels[row.index(max(row))], dict(zip(labels, row, strict=True))) for row in rows]

    def evaluate(self, rows: Any) -> Assessment:
        """How the model does on labelled rows.

        Args:
            rows: a file, a DataFrame or dicts with the template's fields and the recipe's label column.

        Raises:
            DataError: there are no rows, or one lacks a field or has a label that the task does not have.
        """
        return evaluate_table(self, self.scorer.table(rows))

    def prompt_embeds(self, inputs: Sequence[str | Mapping[str, str]]) -> list[Tensor]:
        """Embeddings of whole prompts with the tuned vectors in their places, for engines that are given embeddings in place of
        tokens (vLLM's ``prompt_embeds``).

        Args:
            inputs: as `predict` takes them.

        Returns:
            One float32 tensor [T, width] for each input.

        Raises:
            RunError: the run tuned something else than a prompt at the input.
        """
        prompt, tunable = self.scorer.parameters, self.scorer.config.method.tunable
        if prompt.blocks != (INPUT,) or not hasattr(tunable, "prompt_tokens"):
            raise RunError(f"the run tuned {tunable.kind}: only a prompt at the input can be given as embeddings")
        encoded, _ = self.scorer.encoded(self._examples(inputs))
        found: list[Tensor] = []
        with self._lock, torch.inference_mode(), prompt.applied(self.point):
            for one in encoded:
                ids = torch.tensor([one.ids], device=self.scorer.backbone.device)
                found.append(self.scorer.backbone.embeddings(ids)[0].float().cpu())
        return found

    def _examples(self, inputs: Sequence[str | Mapping[str, str]]) -> list[Example]:
        if isinstance(inputs, (str, Mapping)):
            raise DataError("expected a list of texts or dicts, got a single one: put it in a list")
        return [self._example(index, value) for index, value in enumerate(inputs)]

    def _example(self, index: int, value: str | Mapping[str, str]) -> Example:
        if isinstance(value, Path) or hasattr(value, "convert"):  # an image
            value = {self.fields[0]: value}  # type: ignore[dict-item]
        if isinstance(value, str):
            if len(self.fields) > 1:
                raise DataError(f"input {index + 1} is one text, but the task needs a dict of {', '.join(self.fields)}")
            value = {self.fields[0]: value}
        if not isinstance(value, Mapping):
            raise DataError(f"input {index + 1} must be a text or a dict, got {type(value).__name__}")
        for name in self.fields:
            if not isinstance(value.get(name), self.scorer.inputs):
                raise DataError(
                    f"input {index + 1}: field {name!r} must be a text, got {type(value.get(name)).__name__}"
                )
        return Example({name: value[name] for name in self.fields})


@dataclass(frozen=True)
class PredictedTable:
    """A table with answers.

    Args:
        table: all rows and columns with ``label`` and ``probabilities`` (in CSV a column for each label) behind; a label column that was there
            is called ``gold``.
        blank: rows without a text, whose label is empty.
        scored: rows whose label was known.
        score: the task's metric on them; None if there are none.
        metric: its name.
    """

    table: Table
    blank: int
    scored: int
    score: float | None
    metric: str


def predict_table(model: TunedModel, table: Table) -> PredictedTable:
    """Label all rows of a table, keeping all columns and the order.

    Args:
        model: the tuned model.
        table: rows with the template's fields.

    Raises:
        DataError: a field is missing or is no text.
    """
    task = model.scorer.task
    texts = texts_of(table, model.fields)
    answers = iter(model.predict([dict(example.fields) for example in texts if example is not None]))
    given = [None if example is None else next(answers) for example in texts]
    column = table.column(model.scorer.config.task.label_column or "label")
    known = [None if column is None else row.get(column) for row in table.rows]
    both = [
        (answer.label, str(gold))
        for answer, gold in zip(given, known, strict=True)
        if answer is not None and gold is not None and str(gold) in task.labels
    ]
    score = None
    if both:
        score = task.score([task.label_index(a) for a, _ in both], [task.label_index(g) for _, g in both])
    made = table if column is None else table.renamed(column, "gold")
    made = made.with_column("label", ["" if answer is None else answer.label for answer in given])
    rounded = [
        None if answer is None else {label: round(p, 6) for label, p in answer.probabilities.items()}
        for answer in given
    ]
    made = made.with_column("probabilities", rounded)
    return PredictedTable(made, given.count(None), len(both), score, task.metric)


RESAMPLES, WORST, BINS = 1000, 10, 10


def evaluate_table(model: TunedModel, table: Table) -> Assessment:
    """Score a model on all labelled rows of a table.

    Args:
        model: the tuned model.
        table: rows with the template's fields and the recipe's label column.

    Raises:
        DataError: a field or the label column is missing, or a label is none of the task's.
    """
    task = model.scorer.task
    column = model.scorer.config.task.label_column or "label"
    examples = examples_of(table, fields=model.fields, label=column, labels=task.labels)
    answers = model.predict([dict(example.fields) for example in examples])
    gold = np.array(task.gold(examples))
    said = np.array([task.label_index(answer.label) for answer in answers])
    right = [answer.probabilities[str(example.label)] for answer, example in zip(answers, examples, strict=True)]
    matrix = np.zeros((len(task.labels), len(task.labels)), dtype=int)
    np.add.at(matrix, (gold, said), 1)
    generator = np.random.default_rng(0)
    draws = [generator.integers(0, len(gold), len(gold)) for _ in range(RESAMPLES)]
    resampled = [task.score(said[draw].tolist(), gold[draw].tolist()) for draw in draws]
    wrong = sorted((p, i) for i, p in enumerate(right) if gold[i] != said[i])[:WORST]
    chances = np.array([[answer.probabilities[label] for label in task.labels] for answer in answers])
    return Assessment(
        metric=task.metric,
        score=task.score(said.tolist(), gold.tolist()),
        interval=(float(np.quantile(resampled, 0.025)), float(np.quantile(resampled, 0.975))),
        loss=float(np.mean([-math.log(max(p, 1e-300)) for p in right])),
        brier=float(((chances - np.eye(len(task.labels))[gold]) ** 2).sum(axis=1).mean()),
        calibration_error=calibration_error(chances.max(axis=1), gold == said),
        rows=len(gold),
        labels=tuple(task.labels),
        confusion=tuple(tuple(map(int, row)) for row in matrix),
        worst=tuple((dict(examples[i].fields), str(examples[i].label), answers[i].label, p) for p, i in wrong),
    )


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Expected calibration error: the mean distance between confidence and accuracy over bins of equally many rows (Nixon et al.,
    arXiv 1904.01685).

    Args:
        confidence: probability of the predicted label of each row [N].
        right: whether it is the true one [N].
    """
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(BINS, len(order)))
    return float(sum(abs(confidence[part].mean() - right[part].mean()) * len(part) for part in parts) / len(order))


def load(path: str | Path, *, progress: Progress | None = None) -> TunedModel:
    """Load a finished run.

    Args:
        path: the run folder.
        progress: called with a short line when something slow begins.

    Returns:
        The model, ready to predict; it computes in the number format of the run.

    Raises:
        RunError: no finished run lies there.
    """
    folder = RunFolder.open(Path(path))
    if folder.read_result() is None:
        raise RunError(f"the run in {path} has not ended: `tandemtune resume {path}` goes on with it")
    facts = folder.read_facts()
    if facts is None:
        raise RunError(f"{folder.facts} is missing: restore it, or make the run anew")
    config = with_parts_of(load_config(folder.read_recipe()), facts.instead)
    here = facts.model_copy(update={"threads": 0, "device": ""})  # the run's own bits are not at stake here
    kind: Any = facts.kind
    scorer = make_scorer(config, task_of_run(config, facts), kind, here, progress, folder.adapter)
    if facts.weights_sha256 and scorer.facts.weights_sha256 != facts.weights_sha256:
        raise RunError(
            f"the weights of {config.model.name} are no longer those that the run in {path} tuned, so its adapter does not "
            "fit them: restore them, or make the run anew"
        )
    scorer.readout = load_readout(config.method.readout, folder.adapter)
    card = folder.read_card()
    scorer.temperature = card.temperature if card is not None and card.temperature else 1.0
    return TunedModel(scorer, scorer.parameters.load(folder.adapter))
