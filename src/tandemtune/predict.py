"""Uses a finished run: labels new texts with the tuned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tandemtune.build import make_scorer, make_task_of_run
from tandemtune.config import load_config
from tandemtune.errors import DataError, RunError
from tandemtune.evaluators.label_words import calibrate
from tandemtune.parts import Progress, Scorer, content_free
from tandemtune.runs.store import RunFolder
from tandemtune.tunables.prompt import Prompt
from tandemtune.types import Example


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
    """A backbone with the adapter of a run beside it.

    Args:
        scorer: the run's model, template and label words.
        point: the adapter's factors.
    """

    scorer: Scorer
    point: dict[int, Tensor]

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
        logits = self.scorer.engine.logits(self.scorer.batch(examples), self.point)
        if self.scorer.calibrates:
            logits = calibrate(logits, self.scorer.engine.logits(content_free(self.scorer), self.point))
        labels = self.scorer.task.labels
        rows = torch.softmax(logits.double(), dim=-1).tolist()
        return [Prediction(labels[row.index(max(row))], dict(zip(labels, row, strict=True))) for row in rows]

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
        prompt = self.scorer.tunable
        if not isinstance(prompt, Prompt) or len(prompt.blocks) > 1:
            kind = self.scorer.config.method.tunable
            raise RunError(f"the run tuned {kind}: only a prompt at the input can be given as embeddings")
        encoded, _ = self.scorer.encoded(self._examples(inputs))
        found: list[Tensor] = []
        with torch.inference_mode(), prompt.applied(self.point):
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
        for field in self.fields:
            if not isinstance(value.get(field), str):
                raise DataError(
                    f"input {index + 1}: field {field!r} must be a text, got {type(value.get(field)).__name__}"
                )
        return Example({field: value[field] for field in self.fields})


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
    facts: dict[str, Any] = folder.read_facts()
    config = load_config(folder.read_recipe())
    for place in ("threads", "device"):  # another machine may have others; the run's own bits are not at stake here
        facts.pop(place, None)
    scorer = make_scorer(config, make_task_of_run(config, facts), facts["kind"], facts, progress, folder.adapter)
    return TunedModel(scorer, scorer.tunable.load(folder.adapter))
