"""From a recipe's ``[task]`` to the task: rows, template, label words, and what can be checked without a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import tandemtune.assets as assets
from tandemtune import plugins
from tandemtune.answers import answers_of
from tandemtune.assets.workspace import kept_images
from tandemtune.config.schema import ModelSection, RunConfig, TaskSection
from tandemtune.config.task import WordedTemplate
from tandemtune.errors import ConfigError, DataError, UsageError
from tandemtune.models import load as loading
from tandemtune.models.backbone import Kind
from tandemtune.models.conversations import no_conversation
from tandemtune.models.prompts import goes_on, writes_nothing
from tandemtune.problem import Progress
from tandemtune.readout.ranking import best_of
from tandemtune.rewards import base as rewards
from tandemtune.rewards.base import Length
from tandemtune.rewards.own import GIVEN
from tandemtune.runs.records import Facts, TemplateScore, TemplatesTogether
from tandemtune.tasks import metrics
from tandemtune.tasks.base import Task
from tandemtune.tasks.catalogue import TASKS, build_task, get
from tandemtune.tasks.chat import Chat
from tandemtune.tasks.choices import ChoiceTask
from tandemtune.tasks.fewshot import subsample, without_row
from tandemtune.tasks.images import ImageTask, holds_images, is_folder, seen_and_unseen, task_settings
from tandemtune.tasks.joined import JoinedTask
from tandemtune.tasks.known_templates import known_templates
from tandemtune.tasks.templates import Template
from tandemtune.tasks.texts import TextTask, metric_of
from tandemtune.tasks.wording import nfc
from tandemtune.types import Example, Split
from tandemtune.wiring.stages import length_of

_Task = TypeVar("_Task", bound=Task)


def make_task(section: TaskSection, kind: Kind, progress: Progress | None = None) -> Task:
    """The task of a recipe, for one kind of model.

    Raises:
        UsageError: rows, template or label words cannot be used.
        AssetError: a ``pypi:`` data set could not be fetched.
    """
    task: Task = (
        _text_task(section)
        if section.writes
        else _in_conversation(section, _with_choices(section, _label_task(section, kind, progress)))
    )
    return replace(task, blank_rows=section.blank_rows, further=() if kind == "image-text" else _columns(section))


def _columns(section: TaskSection) -> tuple[str, ...]:
    """The columns of all templates that a recipe lists."""
    return tuple(dict.fromkeys(name for one in section.listed for name in Template.parse(one.template).fields))


def _with_choices(section: TaskSection, task: Task) -> Task:
    """The task with whole answers, where the recipe has some."""
    if section.choices == "words":
        return task
    return ChoiceTask.of(task, in_row=section.choices == "columns", longest=section.max_new_tokens)


def _label_task(section: TaskSection, kind: Kind, progress: Progress | None) -> Task:
    """The task of a recipe that is answered with labels."""
    words = None
    section = _of_asset(section, kind, progress)
    metric = metrics.get(section.metric) if section.metric is not None else None
    if section.labels is not None:
        words = _words(section.labels)
    name, train, test = section.name, section.train, section.test
    _check_rows_for(section, kind)
    if name is not None and (train is None or name in TASKS) and kind != "image-text":
        return build_task(
            get(name),
            kind=kind,
            data=section.data,
            template=section.template,
            words=words,
            metric=metric or section.metric,
            positive=section.positive,
            train=train,
            test=test,
            dev=section.dev,
            label_column=section.label_column,
            test_share=section.test_share,
        )
    several = [one.template for one in section.listed]
    text = section.template or (several[0] if several else None)
    if train is None or text is None or words is None:  # the recipe was checked before
        lost = (
            f"train: no folder of images at {train}, so no classes are known"
            if train
            else "a known name, or train, template and labels"
        )
        raise ConfigError([f"[task] {lost}" if train else f"[task] needs {lost}"])
    own: dict[str, Any] = {
        "name": name or Path(train).stem,
        "template": Template.parse(text),
        "labels": tuple(words),
        "words": words,
        "metric": section.metric or "accuracy",
        "positive": section.positive,
        "train_source": train,
        "test_source": None if section.test_share is not None else test,
        "dev_source": section.dev,
        "label_column": section.label_column or "label",
        "test_share": section.test_share,
        "own_metric": metric,
    }
    if kind == "image-text":
        seen, unseen = seen_and_unseen(words, section.unseen_share)
        classes = {"labels": tuple(seen), "words": seen, "unseen": unseen}
        return ImageTask(**{**own, **classes}, ensemble=tuple(map(Template.parse, several)), kept=kept_images())
    return Task(**own)


def _words(given: Mapping[str, str | list[str]]) -> dict[str, tuple[str, ...]]:
    """Label words as a recipe has them, several for each label."""
    return {label: (word,) if isinstance(word, str) else tuple(word) for label, word in given.items()}


def _of_asset(section: TaskSection, kind: Kind, progress: Progress | None) -> TaskSection:
    """A task that is named as an asset, with that one's rows where the recipe has none of its own; fetched if it is not there."""
    name = section.name
    if name is None or not name.startswith(assets.PREFIXES):
        return section
    asset = assets.lookup(name)
    images = asset.kind == "images"
    _check_kind(f"name: {name} is a task", images, kind)
    folder = assets.fetch(name, progress=progress)
    told: dict[str, Any] = {part: str(folder / f"{part}.jsonl") for part in ("train", "test")}
    if images:
        given = section.model_dump(include={"labels", "template", "templates", "test", "dev", "test_share"})
        told = task_settings({**given, "train": str(folder)})
    own = {key: value for key, value in told.items() if getattr(section, key) is None}
    return section.model_copy(update={**own, "name": asset.key})


def _check_rows_for(section: TaskSection, kind: Kind) -> None:
    """Refuse images for a model of texts, and texts for one of images."""
    if kind == "image-text" and section.together != 1:
        raise ConfigError(
            ["[task] together: a class of images is the mean of its texts in all templates: leave it out"]
        )
    if kind == "image-text" and any(one.labels is not None for one in section.listed):
        raise ConfigError(
            ["[task] templates: a class of images has the same names in all templates: leave their labels out"]
        )
    if kind == "image-text" and section.chat:
        raise ConfigError(["[task] chat: images are compared with texts, and nobody is asked: leave it out"])
    if kind == "image-text" and section.choices != "words":
        raise ConfigError(["[task] choices: an image has the class whose text it is most like: leave it out"])
    if section.train is not None and is_folder(section.train):
        _check_kind(f"train: {section.train} is a folder", True, kind)
    if section.name is not None and section.name in TASKS:
        _check_kind(f"name: {section.name} is a task", False, kind)


def _check_kind(what: str, images: bool, kind: Kind) -> None:
    if images and kind != "image-text":
        other = "choose an image-text model such as CLIP or pypi:clip-like-conse as [model] name"
        raise ConfigError([f"[task] {what} of images, but the model is a {kind} language model: {other}"])
    if not images and kind == "image-text":
        raise ConfigError([f"[task] {what} of texts, but the model compares images: set train to a folder of images"])


def _text_task(section: TaskSection, template: str | None = None, *, asked: bool = False) -> TextTask:
    """The task of a recipe that is answered with texts."""
    several = [one.template for one in section.listed]
    made = TextTask(
        name=section.name or Path(section.train or "task").stem,
        template=Template.parse(template or section.template or next(iter(several), "")),
        labels=(),
        words={},
        metric="",
        train_source=section.train or "",
        test_source=None if section.test_share is not None else section.test,
        dev_source=section.dev,
        test_share=section.test_share,
        answer_column=section.answer,
        max_new_tokens=section.max_new_tokens,
        stop=tuple(section.stop),
        schema=section.answer_schema,
        reward=metric_of(section.metric, section.reward_seconds),
        seconds=section.reward_seconds,
    )
    return _in_conversation(section, made, asked=asked)


def _in_conversation(section: TaskSection, task: _Task, *, asked: bool = False) -> _Task:
    """The task with how it is asked in a conversation, where the recipe wants that.

    Args:
        section: the recipe's ``[task]``.
        task: with its template.
        asked: that is the whole conversation already.
    """
    if not section.chat:
        return task
    several = [*filter(None, [section.template]), *(one.template for one in section.listed)]
    several += [row.template for row in known_templates().get(task.name, ())]
    known = [get(task.name).template("causal")] if task.name in TASKS else []
    questions = dict.fromkeys([*map(Template.parse, several), *known])
    return replace(task, chat=Chat(section.system, section.chat_arguments, tuple(questions), asked))


def candidate_tasks(section: TaskSection, task: Task, kind: Kind) -> list[Task]:
    """A task with each of the templates that a recipe wants to choose from; just itself if it names none.

    Args:
        section: the recipe's ``[task]``.
        task: the task with the recipe's own template, which is one of them.
        kind: of the model; what is known suits models that answer behind the text.

    Raises:
        ConfigError: label words of a template cannot be used.
    """
    if kind == "image-text":  # a class is the mean of its names in all templates
        return [task]
    if section.templates is None or (section.templates == "auto" and section.template is not None):
        return [task]
    named = not isinstance(section.templates, list)
    own = [] if section.template is None and not named else [task]
    if section.templates == "known" and kind == "masked":
        raise ConfigError(
            [
                "[task] templates: those that are known are for models that answer behind the text, not for masked ones: list your own"
            ]
        )
    if named:
        known = known_templates().get(task.name, ()) if kind != "masked" and task.first_pieces else ()
        users = [task.words] if section.labels is not None else []
        several = [
            replace(task, template=Template.parse(row.template), words=words)
            for row in known
            for words in (dict(zip(task.labels, ((word,) for word in row.words), strict=True)), *users)
        ]
    else:
        several = in_each(task, section.listed)
    unique = {(str(one.template), tuple(one.words.values())): one for one in [*own, *several]}
    return list(unique.values())


def in_each(task: Task, listed: Sequence[WordedTemplate]) -> list[Task]:
    """A task in each of some templates, with the label words of those that have some of their own.

    Args:
        task: with a template and label words that have been checked.
        listed: other templates.

    Raises:
        ConfigError: a template shows the answer, or its label words cannot be used.
    """
    known = task.wording_problems()
    tasks: list[Task] = []
    problems: list[str] = []
    for one in listed:
        made = replace(task, template=Template.parse(one.template))
        if one.labels is not None:
            own = {nfc(label): words for label, words in _words(one.labels).items()}
            order = [*filter(own.__contains__, task.labels), *(label for label in own if label not in task.labels)]
            made = replace(made, words={label: own[label] for label in order})
        lines = [line for line in made.wording_problems() if line not in known]
        problems += [f"[task] templates: {one.template!r}: {line}" for line in lines]
        tasks.append(made)
    if problems:
        raise ConfigError(problems)
    return tasks


def joined(
    section: TaskSection, best: Task, scores: Sequence[TemplateScore], decided: TemplatesTogether | None
) -> Task:
    """A task with its best template, and with those next to it that a recipe wants to be read together with it.

    Args:
        section: the recipe's ``[task]``.
        best: the task with the template of the lowest loss.
        scores: all templates that were judged.
        decided: how many are read together, where the recipe leaves that to their losses.
    """
    count = section.most_together if decided is None else decided.count
    if count == 1 or not scores:
        return best
    others = [best.as_recorded(one.template, one.labels) for one in best_of(scores, count)[1:]]
    return JoinedTask.of(best, others) if others else best


def with_length(task: Task, config: RunConfig, train_rows: int) -> Task:
    """A task whose rewards, where it has some, know how long a run is.

    Args:
        task: of the recipe.
        config: the recipe.
        train_rows: how many there are.
    """
    return replace(task, length=length_of(config, train_rows)) if isinstance(task, TextTask) else task


def as_searched(config: RunConfig, task: _Task) -> _Task:
    """A task that is answered with texts, with what a recipe's searches ask of its right answers.

    Args:
        config: the recipe.
        task: its task.
    """
    if not isinstance(task, TextTask):
        return task
    objectives = [one.method.objective for one in config.stretches]
    named = dict.fromkeys(name for one in objectives for noun, name in one.named() if noun == "reward")
    likely = any(one.judge(task) is None for one in objectives)
    return replace(task, likely=likely, judges=tuple(rewards.get(name, task.seconds) for name in named))


def task_of_run(config: RunConfig, facts: Facts) -> Task:
    """The task of a run that has begun, from what it recorded; its data files are not needed any more."""
    if config.task.writes:
        try:
            length = length_of(config, facts.train_rows)
        except UsageError:  # a reward is gone: who searches on is told, and a run that has ended does without
            length = Length()
        written = _text_task(config.task, facts.template, asked=True)
        return replace(written, known_kinds=facts.columns or {}, length=length)
    known = None if facts.kind == "image-text" else TASKS.get(config.task.name or "")
    own: dict[str, Any] = {
        "name": config.task.name or "task",
        "template": Template.parse(facts.template),
        "labels": tuple(facts.labels),
        "words": facts.labels,
        "metric": config.task.metric or (known.metric if known else "accuracy"),
        "positive": config.task.positive or (known.positive if known else None),
        "train_source": "",
        "label_column": config.task.label_column or (known.label_column if known else "label"),
        "own_metric": metrics.of_run(config.task.metric) if config.task.metric is not None else None,
    }
    if facts.kind == "image-text":
        several = [one.template for one in config.task.listed]
        return ImageTask(**own, ensemble=tuple(map(Template.parse, several)))
    made = _in_conversation(config.task, _with_choices(config.task, Task(**own)), asked=True)
    return joined(config.task, made, facts.templates, facts.together)


def check(config: RunConfig, progress: Progress | None = None, *, test: bool = True) -> Task:
    """Find everything that can be found without loading a model: files, columns, labels, enough rows, a proposer.

    Args:
        config: a recipe.
        progress: called with a short line while something is fetched.
        test: whether rows for test will be needed.

    Returns:
        The task, for the kind of model that the recipe names, or for a causal model where it cannot be told yet.

    Raises:
        ConfigError: lists every problem.
    """
    config = config.with_absolute_paths()
    known = _kind_without_loading(config.model) or config.model.kind
    kind = known or _kind_of_rows(config.task)
    if kind == "image-text" and config.run.yardsticks:
        raise ConfigError(
            [
                f"[run] yardsticks: {', '.join(config.run.yardsticks)} learn from texts, but rows are images: leave them out"
            ]
        )
    if kind == "image-text" and config.mentor.show_rows:
        raise ConfigError(
            [
                f"[mentor] show_rows: {config.mentor.show_rows}, but rows are images, of which only paths could be shown: set it to 0"
            ]
        )
    task = as_searched(config, make_task(config.task, kind, progress))
    task = task if test else task.without_test()
    problems = [*_kind_problems(config, task, known), *task.check()]
    try:
        candidate_tasks(config.task, task, kind)
    except ConfigError as error:
        problems += error.problems
    if not problems:
        try:
            split = task.split(
                config.task.shots, config.task.seed, dev_k=config.task.dev_shots, short=config.task.short_classes
            )
            answers_of(task).check(config.task, task, split)
            for one in config.stretches:
                one.method.readout.check_labels(task.labels)
                one.method.readout.check_rows(len(split.train) + len(split.dev), len(task.labels))
                problems += _labels_without_rows(one, task, split)
        except DataError as error:
            problems = [str(error)]
    problems += _missing_packages(config)
    if problems:
        raise ConfigError(problems, f"task {task.name}")
    return task


def hidden_columns(config: RunConfig, rows: Sequence[Example]) -> list[str]:
    """A sentence on columns that functions which judge texts never see, since they are given something else of that name."""
    named = [name for part in config.parts for noun, name in part.named() if noun == "reward"]
    named += [config.task.metric] if config.task.writes and config.task.metric is not None else []
    own = [one.name for one in map(rewards.get, dict.fromkeys(named)) if one.code]
    taken = GIVEN if config.task.answer in (None, "references") else (*GIVEN, "references")
    there = {name for row in rows for name in (*row.columns, *row.numbers)}
    hidden = [name for name in taken if name in there]
    if not own or not hidden:
        return []
    columns = "column" if len(hidden) == 1 else "columns"
    return [
        f"the {columns} {' and '.join(map(repr, hidden))} never reach{'es' if len(hidden) == 1 else ''} {' and '.join(own)}: a reward function is "
        f"given something else by {'that name' if len(hidden) == 1 else 'these names'}; rename the {columns}, and use the new name there"
    ]


def check_packages(config: RunConfig) -> None:
    """Refuse to begin, or to go on, where a package is missing that a run needs on its way or at its end.

    Raises:
        ConfigError: says what to install.
    """
    if problems := list(_missing_packages(config)):
        raise ConfigError(problems)


def _missing_packages(config: RunConfig) -> Iterator[str]:
    run = config.run
    for noun, name in [*(("yardstick", one) for one in run.yardsticks), *(("tracker", one) for one in run.trackers)]:
        try:
            plugins.find(noun, name).check()
        except UsageError as error:
            yield str(error)


def _labels_without_rows(config: RunConfig, task: Task, split: Split) -> Iterator[str]:
    """Labels without a row among those that candidates are scored on, where a readout is solved on these."""
    section, method, count = config.task, config.method, len(split.train)
    if method.score != "readout":
        return
    scored = {row.label for row in subsample(split.train, section.scored_rows, section.seed)}
    lacking = ", ".join(label for label in task.labels if label not in scored)
    if lacking and section.scored_rows is None:
        yield f"[method] score: readout needs a training row of each label, and there is none of {lacking}: set it to words"
    elif lacking:
        yield (
            f"[task] scored_rows: {section.scored_rows} of {count} training rows hold none of {lacking}, and [method] score = readout needs "
            "one of each label: raise it, or set score to words"
        )
    elif method.subsample is not None and method.subsample < count:
        sizes = [sum(row.label == label for row in split.train) for label in task.labels]
        rare = ", ".join(task.labels[number] for number in without_row(method.subsample, sizes))
        if rare:
            yield (
                f"[method] subsample: {method.subsample} of {count} training rows, each label with its share, may hold none of {rare}, and score "
                f"= readout needs one of each label: raise it to {-(-count // min(sizes))}, or set score to words"
            )


def _kind_problems(config: RunConfig, task: Task, kind: Kind | None) -> list[str]:
    """What a model of some kind cannot do with a task; nothing where the kind is not known."""
    section, name = config.task, config.model.name
    whole = section.writes or section.choices != "words"
    if kind == "masked" and whole:
        return [writes_nothing(name)]
    if kind == "masked" and section.chat:
        return [no_conversation(name)]
    if kind in (None, "image-text") or section.templates is not None:  # of several templates some may be of no use
        return []
    return [*filter(None, [goes_on(name, str(kind), task.template)])]


def _kind_of_rows(section: TaskSection) -> Kind:
    """The kind of a model that some rows are for, where nothing is known of the model."""
    named = section.name is not None and section.name.startswith(assets.PREFIXES)
    if named and assets.lookup(str(section.name)).kind == "images":
        return "image-text"
    return "image-text" if section.train is not None and holds_images(section.train) else "causal"


def _kind_without_loading(section: ModelSection) -> Kind | None:
    """The kind of a model whose configuration lies on this machine; None where that would need a download."""
    if section.name.startswith(assets.PREFIX):
        asset = assets.CATALOGUE[section.name.removeprefix(assets.PREFIX)]
        if asset.kind == "image-text":
            return "image-text"
        known: dict[str, Kind] = {"ForCausalLM": "causal", "ForConditionalGeneration": "seq2seq"}
        return next((kind for ending, kind in known.items() if asset.architecture.endswith(ending)), "masked")
    place = Path(loading.locate(section.name))
    if not place.is_dir():
        return None
    found = loading.read_config(str(place), None)
    return section.kind or loading.kind_of(found)
