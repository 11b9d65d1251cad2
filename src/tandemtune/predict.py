"""Uses a finished run: labels new texts with the tuned model."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tandemtune.config import load_config
from tandemtune.errors import DataError, RunError
from tandemtune.problem import Progress, Scorer
from tandemtune.readout.members import load_readout
from tandemtune.runs.records import Evaluation
from tandemtune.runs.store import RunFolder
from tandemtune.tunables.base import INPUT
from tandemtune.types import Example
from tandemtune.wiring import make_scorer, task_of_run


@dataclass(frozen=True)
class Prediction:
    """The answer to one text.

    Args:
        label: the most likely label.
        probabilities: softmax over the label words' logits, by label.
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
            inputs: texts, or dicts with the fields of the task's template where it needs several.

        Raises:
            DataError: an input is no text, or lacks a field.
        """
        examples = self._examples(inputs)
        if not examples:
            return []
        with self._lock:
            logits = self.scorer.label_logits(self.scorer.batch(examples), self.point)
        labels = self.scorer.task.labels
        rows = torch.softmax(logits.double(), dim=-1).tolist()
        return [Prediction(labels[row.index(max(row))], dict(zip(labels, row, strict=True))) for row in rows]

    def evaluate(self, rows: Sequence[Mapping[str, Any]], label_column: str | None = None) -> Evaluation:
        """Mean loss and the task's metric on labelled rows.

        Args:
            rows: dicts with the template's fields and a label.
            label_column: the label's column; the recipe's if left out.

        Raises:
            DataError: there are no rows, or one lacks a field or has a label that the task does not have.
        """
        column = label_column or self.scorer.config.task.label_column or "label"
        task = self.scorer.task
        if not rows:
            raise DataError("there are no rows to evaluate: expected at least one")
        answers = self.predict([{name: row.get(name) for name in self.fields} for row in rows])  # type: ignore[misc]
        gold = [str(row.get(column)) for row in rows]
        for number, label in enumerate(gold, 1):
            if label not in task.labels:
                raise DataError(f"row {number}: {column} is {label!r}, expected one of {', '.join(task.labels)}")
        losses = [-math.log(max(a.probabilities[g], 1e-300)) for a, g in zip(answers, gold, strict=True)]
        score = task.score([task.label_index(a.label) for a in answers], [task.label_index(g) for g in gold])
        return Evaluation(loss=sum(losses) / len(losses), score=score)

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
        if isinstance(value, str):
            if len(self.fields) > 1:
                raise DataError(f"input {index + 1} is one text, but the task needs a dict of {', '.join(self.fields)}")
            value = {self.fields[0]: value}
        if not isinstance(value, Mapping):
            raise DataError(f"input {index + 1} must be a text or a dict, got {type(value).__name__}")
        for name in self.fields:
            if not isinstance(value.get(name), str):
                raise DataError(
                    f"input {index + 1}: field {name!r} must be a text, got {type(value.get(name)).__name__}"
                )
        return Example({name: value[name] for name in self.fields})


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
    config = load_config(folder.read_recipe())
    here = facts.model_copy(update={"threads": 0, "device": ""})  # the run's own bits are not at stake here
    kind: Any = facts.kind
    scorer = make_scorer(config, task_of_run(config, facts), kind, here, progress, folder.adapter)
    if facts.weights_sha256 and scorer.facts.weights_sha256 != facts.weights_sha256:
        raise RunError(
            f"the weights of {config.model.name} are no longer those that the run in {path} tuned, so its adapter does not "
            "fit them: restore them, or make the run anew"
        )
    scorer.readout = load_readout(config.method.readout, folder.adapter)
    return TunedModel(scorer, scorer.parameters.load(folder.adapter))
