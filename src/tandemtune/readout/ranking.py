"""Templates and label words judged before anything is searched: by the leave-one-out loss of a readout, one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tandemtune.errors import ConfigError
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.features import read
from tandemtune.evaluators.views import ANSWER
from tandemtune.models.backbone import Backbone
from tandemtune.models.conversations import in_conversation
from tandemtune.models.prompts import Truncate
from tandemtune.readout.design import Design
from tandemtune.readout.fitting import FORMS, FormName, choose, leave_one_out
from tandemtune.readout.members import ReadoutMember
from tandemtune.runs.records import TemplateScore, from_loss, rounded
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


def judged(
    backbone: Backbone,
    task: Task,
    rows: Sequence[Example],
    max_tokens: int,
    truncate: Truncate,
    member: ReadoutMember,
) -> tuple[TemplateScore, list[int]]:
    """A template and its label words by the leave-one-out loss of a readout of the answer, and what that says of each row.

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
    design = Design([reading.views[ANSWER]], reading.logits, batch.labels, member.prior, task.labels)
    settings = choose(design, FORMS[member.form or DEFAULT])
    without = leave_one_out(design, settings)
    each, gold = design.losses(without), batch.labels
    plain = task.score(reading.logits.argmax(dim=-1).tolist(), gold.tolist())
    said = without.argmax(dim=-1).tolist()
    score = TemplateScore(
        template=str(task.template),
        labels={label: tuple(words) for label, words in task.words.items()},
        loss=rounded(settings.loss),
        standard_error=rounded(float(each.std() / math.sqrt(len(each)))),
        score=round(task.score(said, gold.tolist()), 6),
        zero_shot=round(plain, 6),
        tokens=round(engine.work(batch) / sum(engine.stack.costs)),
    )
    return score, said
