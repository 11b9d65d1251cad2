"""Rows of a task that is answered with texts, as an evaluator takes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import cast

import torch

from tandemtune.errors import DataError
from tandemtune.evaluators.passages import STRETCH, Passage, collate_passages
from tandemtune.evaluators.text import References, TextRows
from tandemtune.evaluators.writing import Writer
from tandemtune.models.answers import AnswerCoder
from tandemtune.models.passages import PassageStack
from tandemtune.models.prompts import prompt_text
from tandemtune.problem import Scorer
from tandemtune.rewards.base import Written
from tandemtune.tasks.base import Task
from tandemtune.tasks.texts import TextTask
from tandemtune.types import Encoded, Example


def writer_of(scorer: Scorer) -> Writer:
    """What writes a scorer's answers."""
    return Writer(scorer.engine, _coder(scorer))


def _coder(scorer: Scorer) -> AnswerCoder:
    """What turns a scorer's answers into tokens, with the mark behind given ones that the run began with."""
    task = text_task(scorer.task)
    return AnswerCoder(scorer.backbone, task.template, task.max_new_tokens, task.stop, scorer.facts.answer_end)


def text_rows(scorer: Scorer, examples: Sequence[Example], plain: bool = False, *, references: bool = True) -> TextRows:
    """Rows as an evaluator takes them.

    Args:
        scorer: encodes them.
        examples: the rows.
        plain: as the pretrained model reads them.
        references: whether their likelihood may be asked for.
    """
    task, backbone, stack = text_task(scorer.task), scorer.backbone, cast(PassageStack, scorer.engine.stack)
    prompts, _ = scorer.encoded(examples, plain)
    shown = shown_prompts(scorer, examples)

    def ask(rows: Sequence[int], completions: Sequence[str]) -> Written:
        return task.written([shown[row] for row in rows], completions, [examples[row] for row in rows])

    if not (references and task.has_references and task.likely):
        return TextRows(tuple(prompts), ask)
    coder = _coder(scorer)
    most = scorer.config.task.references
    passages = _passages(coder, prompts, examples, most)
    owners = [row for row, example in enumerate(examples) for _ in example.references[:most]]
    known = References(
        collate_passages(passages, stack),
        collate_passages(passages, stack, stretch=STRETCH),
        torch.tensor(owners, device=backbone.device),
        len(examples),
    )
    return TextRows(tuple(prompts), ask, known)


def shown_prompts(scorer: Scorer, examples: Sequence[Example]) -> list[str]:
    """Prompts as what judges answers sees them: the template with a row's texts, whole. Neither what a model is not given of a long text, nor
    what stands before it (words of a prompt, demonstrations), is told."""
    told = scorer.backbone.tokenizer, scorer.backbone.kind, scorer.task.template
    return [prompt_text(*told, example.fields)[0] for example in examples]


def _passages(coder: AnswerCoder, prompts: Sequence[Encoded], examples: Sequence[Example], most: int) -> list[Passage]:
    return [
        Passage(prompt, coder.encode(reference))
        for prompt, example in zip(prompts, examples, strict=True)
        for reference in example.references[:most]
    ]


def digest(scorer: Scorer, examples: Sequence[Example]) -> str:
    """What tells one set of rows from another: prompts as tokens, references, and whatever rewards may see."""
    found = hashlib.sha256()
    prompts, _ = scorer.encoded(examples)
    for prompt, example in zip(prompts, examples, strict=True):
        columns = json.dumps(example.columns, sort_keys=True, default=str)
        found.update(f"{prompt.ids} {example.references} {columns}\n".encode())
    return found.hexdigest()


def text_task(task: Task) -> TextTask:
    """A task, as one that is answered with texts.

    Raises:
        DataError: it is not.
    """
    if not isinstance(task, TextTask):
        raise DataError(f"task {task.name!r} is not answered with texts")
    return task
