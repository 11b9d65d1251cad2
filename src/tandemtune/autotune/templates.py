"""Which template a run asks with: the one that does best on the labelled rows, of those that are listed, known or proposed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tandemtune import devices, wiring
from tandemtune.answers import answers_of
from tandemtune.config import RunConfig
from tandemtune.errors import ConfigError, DataError, MentorRefused, ModelError
from tandemtune.evaluators.features import PassReading
from tandemtune.mentor.wordings import Wording
from tandemtune.models.backbone import Kind
from tandemtune.problem import Progress
from tandemtune.proposers.wordings import ask_for_wordings, brief_of, check_mentor, tasks_of
from tandemtune.readout.ranking import best_of, judged, read_together, resolved
from tandemtune.runs.records import Facts, TemplateScore, TemplatesTogether, from_loss
from tandemtune.system import default_threads
from tandemtune.tasks.base import Task
from tandemtune.tasks.catalogue import TASKS
from tandemtune.tasks.fewshot import subsample
from tandemtune.types import Split


@dataclass(frozen=True)
class Chosen:
    """What a run asks with.

    Args:
        task: with its template, and those that are read together with it.
        templates: all that were judged.
        together: how many are read together, where their losses decide.
    """

    task: Task
    templates: tuple[TemplateScore, ...] = ()
    together: TemplatesTogether | None = None


def chosen_template(
    config: RunConfig, task: Task, kind: Kind, split: Split, known: Facts | None, progress: Progress | None
) -> Chosen:
    """The template that does best on the labelled rows; what was chosen when the run began."""
    if known is not None:
        recorded = task.as_recorded(known.template, known.labels)
        again = wiring.joined(config.task, recorded, known.templates, known.together)
        return Chosen(again, known.templates, known.together)
    tasks = wiring.candidate_tasks(config.task, task, kind)
    if len(tasks) == 1:
        if progress and config.task.templates == "auto" and config.task.template is not None:
            progress("the recipe has one template, so none is chosen: `templates` lists several")
        elif progress and config.task.templates == "auto" and kind == "masked":
            progress(
                "no template is chosen: those that are known are for models that answer behind the text, not for masked ones; "
                "`templates` lists your own"
            )
        return Chosen(tasks[0])
    judge = Judge(config, task, kind, split, progress)
    scores = judge.ranked(tasks)
    best = best_of(scores)[0]
    if progress:
        why = f"lowest leave-one-out loss, {best.loss:.4f}" if best.labels else f"best {task.metric}, {best.score:.4f}"
        progress(f"template {best.template!r} has the {why}")
    together = judge.together(scores)
    if progress and together is not None:
        progress(how_many(together))
    return Chosen(wiring.joined(config.task, tasks[scores.index(best)], scores, together), tuple(scores), together)


def how_many(together: TemplatesTogether) -> str:
    """In a sentence, how many templates are read together, and why."""
    read = (
        "the best template is read alone"
        if together.count == 1
        else f"the best {together.count} templates are read together"
    )
    each = ", ".join(f"{number}: {from_loss(loss):.4f}" for number, loss in enumerate(together.losses, 1))
    return f"{read}; leave-one-out losses by how many there are: {each}"


class Judge:
    """A model and labelled rows that templates are judged by: all that stand in one ranking by the same.

    Args:
        config: the recipe.
        task: whose templates they are.
        kind: of the model.
        split: the labelled rows; a seeded sample of them is taken where they are more than templates are judged by. Test rows are never seen.
        progress: told what goes on.

    Attributes:
        rows: those that templates are judged by.
        training: the training rows, of which a mentor may be shown some.

    Raises:
        TandemTuneError: the task's templates are not judged, or the model cannot be loaded.
    """

    def __init__(self, config: RunConfig, task: Task, kind: Kind, split: Split, progress: Progress | None) -> None:
        most, reason = answers_of(task).most_judged, answers_of(task).unjudged
        if not most:
            raise ConfigError([f"[task] templates: {reason}"])
        torch.set_num_threads(config.model.threads or default_threads())
        if progress:
            progress(f"loading {config.model.name} to judge templates")
        dtype = "float32" if config.model.dtype == "auto" else config.model.dtype
        self._config, self._task, self._progress = config, task, progress
        self._readings: list[tuple[TemplateScore, PassReading]] = []
        self._backbone = wiring.load_backbone(config, kind, dtype, devices.find_device(config.model.device))
        self.training = list(split.train)
        self.rows = subsample([*split.train, *split.dev], most, config.task.seed, least=2)

    def ranked(self, tasks: Sequence[Task]) -> list[TemplateScore]:
        """What comes of each task's template, in their order; one that cannot be used has a reason and no loss."""
        found: list[TemplateScore] = []
        for number, task in enumerate(tasks, 1):
            if self._progress:
                self._progress(f"template {number} of {len(tasks)}: {str(task.template)!r}")
            try:
                score, reading = answers_of(task).judged(self._backbone, task, self.rows, self._config)
                found.append(score)
                if reading is not None and self._config.task.together == "auto":
                    self._readings.append((score, reading))
            except (DataError, ModelError) as error:
                if self._progress:
                    self._progress(f"template {number} is passed over: {error}")
                found.append(TemplateScore(template=str(task.template), labels=dict(task.words), refused=str(error)))
        return found

    def together(self, scores: Sequence[TemplateScore]) -> TemplatesTogether | None:
        """How many of some templates that were judged here are read together; None where the recipe says it, or none can be used."""
        section = self._config.task
        if section.together != "auto" or all(one.loss is None for one in scores):
            return None
        best = best_of(scores, section.most_together)
        readings = [next(reading for score, reading in self._readings if score == one) for one in best]
        gold = torch.tensor(self._task.gold(self.rows))
        return read_together(readings, gold, self._config.method.readout, self._task.labels)

    def refused(self, task: Task) -> str | None:
        """Why the model cannot use a task's template and label words, as far as a tokenizer knows; None if it can."""
        try:
            resolved(self._backbone, task)
        except (DataError, ModelError) as error:
            return str(error)
        return None

    def predicted(self, task: Task) -> list[int]:
        """What a readout of all other rows says of each row, as numbers of labels."""
        section, readout = self._config.task, self._config.method.readout
        return judged(self._backbone, task, self.rows, section.max_tokens, section.truncate, readout).said


def check_proposing(config: RunConfig, task: Task, said: Path, progress: Progress) -> None:
    """Find out before anything is judged whether templates can be asked for.

    Args:
        config: the recipe.
        task: whose templates they are.
        said: folder of the conversation.
        progress: told what goes on.

    Raises:
        TandemTuneError: the task has no label words, or the mentor will not answer.
    """
    if not task.first_pieces:
        raise ConfigError(
            ["[task] templates: a mentor proposes them with label words, and this task has none: list your own"]
        )
    check_mentor(config.mentor, _conversations(said, task), progress)


def proposed(
    config: RunConfig,
    judge: Judge,
    tasks: Sequence[Task],
    scores: Sequence[TemplateScore],
    kind: Kind,
    count: int,
    said: Path,
    progress: Progress,
) -> list[TemplateScore]:
    """Templates and label words that the mentor of a recipe proposes, judged as the others were.

    Args:
        config: the recipe.
        judge: of all of them.
        tasks: the wordings that were judged.
        scores: what came of them, in their order.
        kind: of the model.
        count: how many are asked for.
        said: folder of the conversation.
        progress: told what goes on.

    Raises:
        TandemTuneError: the mentor cannot be asked, or none of what it says can be used.
    """
    best = tasks[scores.index(best_of(scores)[0])]
    guessed = judge.predicted(best)
    known = TASKS.get(best.name)
    definition = config.alternate.definition or (known.summary if known else f"Tell {', '.join(best.labels)} apart.")
    shown = config.mentor.show_rows
    brief = brief_of(best, definition, scores, count, kind != "masked", guessed, judge.rows, judge.training, shown)

    def check(wording: Wording) -> str | None:
        return judge.refused(*tasks_of(best, [wording]))

    found = ask_for_wordings(config.mentor, _conversations(said, best), brief, config.task.seed, progress, check)
    for text, reason in found.refused:
        progress(f"refused: {text!r}: {reason}")
    if found.accepted and found.problem:
        progress(f"the mentor was not heard to the end: {found.problem}")
    if not found.accepted:
        raise MentorRefused(
            f"the mentor proposed nothing that can be judged: {found.problem or 'all of it was refused'}"
        )
    return judge.ranked(tasks_of(best, found.accepted))


def _conversations(said: Path, task: Task) -> Path:
    return said / task.name / "conversations.jsonl"
