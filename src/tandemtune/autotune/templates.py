"""Which template a run asks with: the one that does best on the labelled rows, of those that are listed, known or proposed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tandemtune import devices, wiring
from tandemtune.answers import answers_of
from tandemtune.config import RunConfig
from tandemtune.errors import ConfigError, DataError, MentorRefused, ModelError
from tandemtune.models.backbone import Backbone, Kind
from tandemtune.problem import Progress
from tandemtune.proposers.wordings import ask_for_wordings, brief_of, tasks_of
from tandemtune.readout.ranking import best_of, predicted
from tandemtune.runs.records import Facts, TemplateScore
from tandemtune.system import default_threads
from tandemtune.tasks.base import Task
from tandemtune.tasks.catalogue import TASKS
from tandemtune.tasks.fewshot import subsample
from tandemtune.types import Example, Split


def chosen_template(
    config: RunConfig, task: Task, kind: Kind, split: Split, known: Facts | None, progress: Progress | None
) -> tuple[Task, tuple[TemplateScore, ...]]:
    """The template that does best on the labelled rows; what was chosen when the run began."""
    if known is not None:
        return wiring.joined(
            config.task, task.as_recorded(known.template, known.labels), known.templates
        ), known.templates
    tasks = wiring.candidate_tasks(config.task, task, kind)
    if len(tasks) == 1:
        return tasks[0], ()
    scores = ranked(config, tasks, kind, split, progress)
    best = best_of(scores)[0]
    if progress:
        why = f"lowest leave-one-out loss, {best.loss:.4f}" if best.labels else f"best {task.metric}, {best.score:.4f}"
        progress(f"template {best.template!r} has the {why}")
    return wiring.joined(config.task, tasks[scores.index(best)], scores), tuple(scores)


def ranked(
    config: RunConfig, tasks: Sequence[Task], kind: Kind, split: Split, progress: Progress | None
) -> list[TemplateScore]:
    """All templates, judged on the rows of a split.

    Raises:
        TandemTuneError: the model cannot be loaded.
    """
    most = answers_of(tasks[0]).most_judged
    if not most:
        raise ConfigError(
            ["[task] templates: they are judged by label words or by texts, and this task is answered with neither"]
        )
    torch.set_num_threads(config.model.threads or default_threads())
    if progress:
        progress(f"loading {config.model.name} to judge {len(tasks)} templates")
    dtype = "float32" if config.model.dtype == "auto" else config.model.dtype
    backbone = wiring.load_backbone(config, kind, dtype, devices.find_device(config.model.device))
    rows = subsample([*split.train, *split.dev], most, config.task.seed)
    return _judged(config, backbone, tasks, rows, progress)


def proposed(
    config: RunConfig,
    tasks: Sequence[Task],
    scores: Sequence[TemplateScore],
    kind: Kind,
    split: Split,
    count: int,
    said: Path,
    progress: Progress,
) -> list[TemplateScore]:
    """Templates and label words that the mentor of a recipe proposes, judged as the others were.

    Args:
        config: the recipe.
        tasks: the wordings that were judged.
        scores: what came of them, in their order.
        kind: of the model.
        split: the labelled rows.
        count: how many are asked for.
        said: folder of the conversation.
        progress: told what goes on.

    Raises:
        TandemTuneError: the mentor cannot be asked, or none of what it says can be used.
    """
    if not tasks[0].first_pieces:
        raise ConfigError(
            ["[task] templates: a mentor proposes them with label words, and this task has none: list your own"]
        )
    rows = [*split.train, *split.dev]
    best = tasks[scores.index(best_of(scores)[0])]
    backbone = wiring.load_backbone(config, kind, "float32", devices.find_device(config.model.device))
    guessed = predicted(backbone, best, rows, config.task.max_tokens)
    known = TASKS.get(best.name)
    definition = config.alternate.definition or (known.summary if known else f"Tell {', '.join(best.labels)} apart.")
    shown = config.mentor.show_rows
    brief = brief_of(best, definition, scores, count, kind != "masked", guessed, rows, shown)
    found = ask_for_wordings(config.mentor, said / best.name / "conversations.jsonl", brief, config.task.seed, progress)
    for text, reason in found.refused:
        progress(f"refused: {text!r}: {reason}")
    if not found.accepted:
        raise MentorRefused(
            f"the mentor proposed nothing that can be judged: {found.problem or 'all of it was refused'}"
        )
    return _judged(config, backbone, tasks_of(best, found.accepted), rows, progress)


def _judged(
    config: RunConfig, backbone: Backbone, tasks: Sequence[Task], rows: Sequence[Example], progress: Progress | None
) -> list[TemplateScore]:
    """Each task's template on labelled rows; one that cannot be used has a reason and no loss. Test rows are never seen."""
    found: list[TemplateScore] = []
    for number, task in enumerate(tasks, 1):
        if progress:
            progress(f"template {number} of {len(tasks)}: {str(task.template)!r}")
        try:
            found.append(answers_of(task).judged(backbone, task, rows, config.task))
        except (DataError, ModelError) as error:
            found.append(TemplateScore(template=str(task.template), labels=dict(task.words), refused=str(error)))
    return found
