"""Templates and label words judged before anything is searched: by the leave-one-out loss of a readout, one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandemtune.errors import ConfigError
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.features import PassReading, read
from tandemtune.evaluators.views import ANSWER
from tandemtune.models.backbone import Backbone
from tandemtune.models.conversations import in_conversation
from tandemtune.models.prompts import Truncate
from tandemtune.readout.design import Design
from tandemtune.readout.fitting import FORMS, FormName, choose, leave_one_out
from tandemtune.readout.members import ReadoutMember
from tandemtune.readout.solving import clearly_better
from tandemtune.runs.records import TemplateScore, TemplatesTogether, from_loss, rounded
from tandemtune.tasks.base import Task
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import Verbalizer, resolve
from tandemtune.tunables.identity import Identity
from tandemtune.types import Example

DEFAULT: FormName = "ridge"
"""The form of readout that templates of a recipe without one are judged by."""
STRETCH = 1.5
"""Rows up to this many times as long as the shortest run together with it."""


def best_of(scores: Sequence[TemplateScore], count: int = 1) -> list[TemplateScore]:
    """Those with the lowest losses, the best first, as many as can be used; they name the same columns as the best.

    Args:
        scores: all of them.
        count: how many at most.

    Raises:
        ConfigError: none can be used.
    """
    usable = sorted((score for score in scores if score.loss is not None), key=lambda score: from_loss(score.loss))
    if not usable:
        raise ConfigError([f"[task] templates: {score.template!r}: {score.refused}" for score in scores])
    columns = [set(Template.parse(score.template).fields) for score in usable]
    return [score for score, own in zip(usable, columns, strict=True) if own == columns[0]][:count]


def resolved(backbone: Backbone, task: Task) -> Verbalizer:
    """A template's label words as the model reads them.

    Raises:
        DataError: the tokenizer does not know a word, or cannot tell two of them apart.
        ModelError: the model has no place for the template.
    """
    asked = in_conversation(task, backbone.tokenizer, backbone.name, backbone.kind)
    backbone.check_template(asked.template)
    return resolve(backbone.tokenizer, asked.template, asked.words, alone=backbone.kind == "seq2seq")


@dataclass(frozen=True)
class Judged:
    """What comes of a template and its label words on labelled rows.

    Args:
        score: by the leave-one-out loss of a readout of the answer.
        said: what a readout of all other rows says of each row, as numbers of labels.
        reading: what the model tells of the rows.
    """

    score: TemplateScore
    said: list[int]
    reading: PassReading


def judged(
    backbone: Backbone,
    task: Task,
    rows: Sequence[Example],
    max_tokens: int,
    truncate: Truncate,
    member: ReadoutMember,
) -> Judged:
    """A template and its label words by the leave-one-out loss of a readout of the answer.

    Args:
        backbone: the model.
        task: with the template and label words.
        rows: labelled rows.
        max_tokens: longest prompt.
        truncate: the part that a text loses where a prompt is longer.
        member: the recipe's readout, whose form and prior are taken; ridge where it is none.

    Raises:
        DataError: the template cannot be used.
        ModelError: the model has no place for it.
    """
    verbalizer = resolved(backbone, task)
    engine = Engine(backbone.stack(verbalizer), Identity(), torch.tensor(verbalizer.weights()))
    limit = min(max_tokens, backbone.longest)
    asked = in_conversation(task, backbone.tokenizer, backbone.name, backbone.kind)
    prompts = [backbone.encode(asked.template, row.fields, limit, truncate) for row in rows]
    labels = task.gold(rows)
    batch = collate(prompts, labels, backbone.device, stretch=STRETCH, masked=backbone.kind != "causal")
    reading = read(engine, batch, {}, [ANSWER])
    gold = batch.labels
    without, each, loss = _left_out(reading, gold, member, task.labels)
    plain = task.score(reading.logits.argmax(dim=-1).tolist(), gold.tolist())
    said = without.argmax(dim=-1).tolist()
    score = TemplateScore(
        template=str(task.template),
        labels={label: tuple(words) for label, words in task.words.items()},
        loss=rounded(loss),
        standard_error=rounded(float(each.std() / math.sqrt(len(each)))),
        score=round(task.score(said, gold.tolist()), 6),
        zero_shot=round(plain, 6),
        tokens=round(engine.work(batch) / sum(engine.stack.costs)),
    )
    return Judged(score, said, reading)


def read_together(
    readings: Sequence[PassReading], gold: Tensor, member: ReadoutMember, labels: Sequence[str]
) -> TemplatesTogether:
    """How many of the best templates a readout reads together: further ones where its leave-one-out loss falls by more than its
    standard error over rows.

    Args:
        readings: what the model tells of the rows in each template, the best one first.
        gold: labels of the rows [N].
        member: the recipe's readout, as for `judged`.
        labels: their names, for errors.

    Raises:
        DataError: a label has no row.
    """
    found = [
        _left_out(PassReading.joined(readings[:count]), gold, member, labels) for count in range(1, len(readings) + 1)
    ]
    count = clearly_better((count, each) for count, (_, each, _) in enumerate(found, 1))
    return TemplatesTogether(count=count, losses=tuple(rounded(loss) for _, _, loss in found))


def _left_out(
    reading: PassReading, gold: Tensor, member: ReadoutMember, labels: Sequence[str]
) -> tuple[Tensor, Tensor, float]:
    """What a readout of all other rows says of each row [N, C], the loss of each [N], and their mean."""
    design = Design([reading.views[ANSWER]], reading.logits, gold, member.prior, labels)
    settings = choose(design, FORMS[member.form or DEFAULT])
    without = leave_one_out(design, settings)
    return without, design.losses(without), settings.loss
