"""Uses a finished run: labels new texts with the tuned model."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tandemtune.answers import answers_of
from tandemtune.answers.base import PredictedTable as PredictedTable
from tandemtune.answers.labels import calibration_error as calibration_error
from tandemtune.config import load_config
from tandemtune.config.reading import with_parts_of
from tandemtune.errors import DataError, RunError
from tandemtune.problem import Progress, Scorer
from tandemtune.readout.members import load_readout
from tandemtune.runs.records import Assessment
from tandemtune.runs.store import RunFolder
from tandemtune.tasks.files import examples_of
from tandemtune.tasks.images import ImageTask
from tandemtune.tasks.table import Table, is_absent, value_of
from tandemtune.tasks.texts import TextTask
from tandemtune.tunables.base import INPUT
from tandemtune.types import Example
from tandemtune.wiring import make_scorer, task_of_run


@dataclass(frozen=True)
class Prediction:
    """The answer to one text.

    Args:
        label: the most likely label, or the text where the task is answered with one.
        probabilities: by label: softmax over the label words' logits, at the run's temperature; empty where the answer is a text.
    """

    label: str
    probabilities: dict[str, float]

    @property
    def text(self) -> str:
        """The answer."""
        return self.label


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
        return self.scorer.task.inputs

    def predict(self, inputs: Sequence[str | Mapping[str, str]]) -> list[Prediction]:
        """Label texts.

        Args:
            inputs: texts (paths of images, or pictures of Pillow's, for an image-text model), or dicts with the fields of the task's
                template where it needs several.

        Raises:
            DataError: an input is no text, or lacks a field.
        """
        return self.answers(self._examples(inputs))

    def answers(self, examples: Sequence[Example]) -> list[Prediction]:
        """Label rows that were read from a table.

        Raises:
            DataError: a row cannot be asked; names it.
        """
        if not examples:
            return []
        with self._lock:
            found = answers_of(self.scorer.task).given(self.scorer, self.point, examples)
        return [Prediction(answer, probabilities) for answer, probabilities in found]

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
        optional = self.scorer.task.optional
        for name in self.fields:
            if "." in name and name not in value:
                with suppress(DataError):  # which is told below, where the row needs it
                    value = {**value, name: value_of(Table.of([value]), 0, name)}
        for name in self.fields:
            if not isinstance(value.get(name), self.scorer.inputs) and not (name in optional and name not in value):
                raise DataError(
                    f"input {index + 1}: field {name!r} must be a text, got {type(value.get(name)).__name__}"
                )
        return Example({name: value[name] for name in self.fields if name in value})


def predict_table(model: TunedModel, table: Table) -> PredictedTable:
    """Label all rows of a table, keeping all columns and the order.

    Args:
        model: the tuned model.
        table: rows with the template's fields.

    Raises:
        DataError: a field is missing or is no text.
    """
    return answers_of(model.scorer.task).table(model, table)


def evaluate_table(model: TunedModel, table: Table) -> Assessment:
    """Score a model on all labelled rows of a table.

    Args:
        model: the tuned model.
        table: rows with the template's fields and the recipe's label column.

    Raises:
        DataError: a field or the label column is missing, or a label is none of the task's.
    """
    return answers_of(model.scorer.task).assessment(model, table)


def check_input(path: Path, table: Table, *, answers: bool = False) -> None:
    """Refuse rows that lack what a run needs, before its model is loaded.

    Args:
        path: the run folder.
        table: rows to be answered.
        answers: they are to be scored, so that each needs its label or right answer.

    Raises:
        DataError: names the column, and those that are there, or the row.
        RunError: no run lies there.
    """
    folder = RunFolder.open(path)
    facts = folder.read_facts()
    if facts is None or not table.rows:
        return
    task = task_of_run(load_config(folder.read_recipe(), ended=True), facts)
    needed = (*task.inputs, *(column for _, column in task.needed if answers))
    for name in dict.fromkeys(needed):
        try:
            if not (name in task.optional and is_absent(table, 0, name)):
                value_of(table, 0, name)
        except DataError as error:
            raise DataError(
                f"{str(error).partition(': rename')[0]}: the run in {path} needs it; rename the column"
            ) from error
    if not answers:
        return
    if isinstance(task, TextTask):
        task.examples(table)
    elif not isinstance(task, ImageTask):  # whose rows are read when images are
        examples_of(table, fields=task.inputs, label=task.label_column, labels=task.labels, optional=task.optional)


def inputs_of(path: Path) -> tuple[str, ...]:
    """Columns of texts that one input of a run needs, told without its model; empty where the run has not come so far.

    Args:
        path: the run folder.

    Raises:
        RunError: no run lies there.
    """
    folder = RunFolder.open(path)
    facts = folder.read_facts()
    return () if facts is None else task_of_run(load_config(folder.read_recipe(), ended=True), facts).inputs


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
    config = with_parts_of(load_config(folder.read_recipe(), ended=True), facts.instead)
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
