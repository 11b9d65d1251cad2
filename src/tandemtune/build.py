"""The only wiring: a configuration becomes a task, a backbone, an objective and a schedule."""

from __future__ import annotations

import gc
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

import tandemtune.assets as assets
from tandemtune.config import ModelSection, RunConfig, TaskSection, parse_layers
from tandemtune.errors import ConfigError, DataError, ModelError, RunError, UsageError
from tandemtune.mentor import (
    Brief,
    Budget,
    Client,
    EndpointClient,
    LlamaClient,
    Mentor,
    RecordedClient,
    Transcript,
)
from tandemtune.models import load as loading
from tandemtune.models.backbone import Backbone, Kind
from tandemtune.objective import losses, statistics
from tandemtune.objective.batch import Batch, collate
from tandemtune.objective.engine import Engine
from tandemtune.objective.objective import Objective, rank_correlation
from tandemtune.optimizers.cmaes import CMAES
from tandemtune.optimizers.gradient import Algorithm, Gradient
from tandemtune.proposals import Mentored, Mutation, Perturbed, Proposer, RandomWords
from tandemtune.schedule import Phase, Stage, alternating, seed_for
from tandemtune.subspace import LayerStatistics, RandomProjection, Rule, scales
from tandemtune.system import cores
from tandemtune.tasks.base import Task
from tandemtune.tasks.catalogue import TASKS, build_task, get
from tandemtune.tasks.fewshot import subsample
from tandemtune.tasks.metrics import score
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import Verbalizer, resolve
from tandemtune.tunables.base import INPUT, Tunable
from tandemtune.tunables.lora import LoRA
from tandemtune.tunables.prompt import Prompt
from tandemtune.tunables.vocabulary import Vocabulary
from tandemtune.types import Encoded, Example, Split

Progress = Callable[[str], None]
CONTENT_FREE = ("N/A", "", "[MASK]")
STRETCH = 1.5
"""Where one point is scored or differentiated, rows up to this many times as long as the shortest run together with it."""
PROMPT_LR, LORA_LR = 0.1, 1e-3
"""Learning rates where a recipe names none: of prompts as a share of the embeddings' standard deviation."""
FASTER = 1.2
"""Formats with 16-bit products are tried where these are at least this much faster than float32's."""
LOW_FORMATS = ("bfloat16", "mixed")
"""Formats with 16-bit products, fastest first."""
RELIABLE = 0.98
"""A format is taken where its losses rank candidates at least this much like float32's (Spearman)."""


@dataclass
class Scorer:
    """A model that can be asked: task, backbone, label words, tunable and engine."""

    config: RunConfig
    task: Task
    backbone: Backbone
    verbalizer: Verbalizer
    tunable: Tunable
    vocabulary: Vocabulary
    engine: Engine
    facts: dict[str, Any]

    def encoded(self, examples: Sequence[Example], plain: bool = False) -> tuple[list[Encoded], list[int]]:
        """Prompts with room for what the tunable puts into them (none if `plain`), and labels (-1 where unknown)."""
        labels = [-1 if e.label is None else self.task.label_index(e.label) for e in examples]
        room = len(self.tunable.reserve(Encoded((0,), 0)).ids) - 1
        limit = min(self.config.task.max_tokens, self.backbone.longest - room)
        prompts = [self.backbone.encode(self.task.template, example.fields, limit) for example in examples]
        return (prompts if plain else [self.tunable.reserve(prompt) for prompt in prompts]), labels

    def batch(self, examples: Sequence[Example], plain: bool = False) -> Batch:
        """Encode labelled or unlabelled examples for this model, to be scored at one point; `plain` for the pretrained one."""
        return self.together(*self.encoded(examples, plain))

    def together(self, prompts: Sequence[Encoded], labels: Sequence[int]) -> Batch:
        """Rows of nearly one length side by side, for one point; a population needs no such help."""
        masked = self.backbone.kind != "causal"
        return collate(prompts, labels, self.backbone.device, stretch=STRETCH, masked=masked)


@dataclass
class Bench:
    """Everything that a run works with: a scorer, its few-shot rows and the objective over them."""

    scorer: Scorer
    split: Split
    objective: Objective
    dev: Batch
    content_free: Batch
    facts: dict[str, Any]

    @cached_property
    def _prompts(self) -> tuple[list[Encoded], list[int]]:
        return self.scorer.encoded(self.split.train)

    @cached_property
    def scales(self) -> dict[int, list[float]]:
        """Scales of each block's random projections, measured where the run begins."""
        return _scales(self)

    def rows(self, step: int) -> Batch:
        """The training rows of a gradient step: seeded epochs without repetition, cut into batches."""
        config = self.scorer.config
        prompts, labels = self._prompts
        size = min(config.method.batch_size, len(prompts))
        epoch, place = divmod(step, len(prompts) // size)
        order = np.random.default_rng([config.task.seed, epoch, 5]).permutation(len(prompts)).tolist()
        chosen = order[place * size : (place + 1) * size]
        return self.scorer.together([prompts[i] for i in chosen], [labels[i] for i in chosen])


def make_task(section: TaskSection, kind: Kind, progress: Progress | None = None) -> Task:
    """The task of a recipe, for one kind of model.

    Raises:
        UsageError: rows, template or label words cannot be used.
        AssetError: a ``pypi:`` data set could not be fetched.
    """
    words = None
    if section.labels is not None:
        words = {label: (w,) if isinstance(w, str) else tuple(w) for label, w in section.labels.items()}
    name, train, test = section.name, section.train, section.test
    if name is not None and name.startswith(assets.PREFIX):
        folder = assets.fetch(name, progress=progress)
        name = name.removeprefix(assets.PREFIX)
        train, test = train or str(folder / "train.jsonl"), test or str(folder / "test.jsonl")
    if name is not None and (train is None or name in TASKS):
        return build_task(
            get(name),
            kind=kind,
            data=section.data,
            template=section.template,
            words=words,
            metric=section.metric,
            positive=section.positive,
            train=train,
            test=test,
            dev=section.dev,
            label_column=section.label_column,
        )
    if train is None or section.template is None or words is None:  # the recipe was checked before
        raise ConfigError(["[task] needs a known name, or train, template and labels"])
    return Task(
        name=name or Path(train).stem,
        template=Template.parse(section.template),
        labels=tuple(words),
        words=words,
        metric=section.metric or "accuracy",
        positive=section.positive,
        train_source=train,
        test_source=test,
        dev_source=section.dev,
        label_column=section.label_column or "label",
    )


def check(config: RunConfig, progress: Progress | None = None) -> Task:
    """Find everything that can be found without loading a model: files, columns, labels, enough rows.

    Args:
        config: a recipe.
        progress: called with a short line while something is fetched.

    Returns:
        The task, for the kind of model that the recipe names, or for a causal model where it cannot be told yet.

    Raises:
        ConfigError: lists every problem.
    """
    config = config.with_absolute_paths()
    kind = _kind_without_loading(config.model) or config.model.kind or "causal"
    task = make_task(config.task, kind, progress)
    problems = task.check()
    if not problems:
        try:
            task.split(config.task.shots, config.task.seed, dev_k=config.task.dev_shots)
        except DataError as error:
            problems = [str(error)]
    if problems:
        raise ConfigError(problems, f"task {task.name}")
    return task


def build(config: RunConfig, *, facts: Mapping[str, Any] | None = None, progress: Progress | None = None) -> Bench:
    """Wire a run.

    Args:
        config: a recipe.
        facts: what an earlier process decided on this machine (number format, threads), to decide the same again.
        progress: called with a short line when something slow begins.

    Raises:
        TandemTuneError: something in the recipe, the data or the model cannot be used.
    """
    section = config.model
    place = loading.locate(section.name, progress)
    kind = section.kind or loading.kind_of(loading.read_config(place, section.revision))
    task = make_task(config.task, kind, progress)
    problems = task.check()
    if problems:
        raise ConfigError(problems, f"task {task.name}")
    split = task.split(config.task.shots, config.task.seed, dev_k=config.task.dev_shots)
    known = dict(facts or {})
    bench = _bench(_chosen_scorer(config, task, kind, split, known, progress), split)
    _settle_chunks(bench, known.get("chunk_tokens"))
    if known.get("rows_sha256", bench.facts["rows_sha256"]) != bench.facts["rows_sha256"]:
        raise RunError(
            f"the rows of task {task.name} are no longer those that the run began with, so it cannot end as one run: "
            "restore the data files, or start it anew"
        )
    return bench


def make_scorer(
    config: RunConfig, task: Task, kind: Kind, facts: Mapping[str, Any] | None, progress: Progress | None
) -> Scorer:
    """Load the model of a recipe and prepare it for a task.

    Args:
        config: the recipe.
        task: the task of that recipe.
        kind: "masked", "causal" or "seq2seq".
        facts: what was decided before: number format, threads, device.
        progress: called with a short line when something slow begins.

    Raises:
        TandemTuneError: the model cannot be loaded, or does not fit the template, the label words or the layers.
    """
    known = dict(facts or {})
    section = config.model
    threads = int(known.get("threads") or section.threads or cores())
    torch.set_num_threads(threads)
    device = str(known.get("device") or _device(section.device))
    dtype = str(known.get("dtype") or (section.dtype if section.dtype != "auto" else "float32"))
    if progress:
        progress(f"loading {section.name} ({dtype})")
    backbone = loading.load(
        section.name,
        kind=kind,
        dtype=dtype,
        device=device,
        target=section.target,
        revision=section.revision,
        quantize=section.quantize,
    )
    backbone.check_template(task.template)
    verbalizer = resolve(backbone.tokenizer, task.template, task.words)
    try:
        layers = parse_layers(config.method.layers, len(backbone.layers))
    except ValueError as error:
        raise ConfigError([f"[method] layers: {error}"]) from None
    vocabulary = Vocabulary(backbone, config.method.vocabulary, verbalizer.token_ids)
    tunable = _tunable(config, backbone, vocabulary, layers)
    averaging = torch.tensor(verbalizer.weights())
    engine = Engine(backbone.stack(verbalizer), tunable, averaging, max_memory=config.run.max_memory)
    decided = {
        "kind": kind,
        "dtype": dtype,
        "device": device,
        "threads": threads,
        "layers": len(backbone.layers),
        "tunable": tunable.describe(),
        "template": str(task.template),
        "labels": {label: list(words) for label, words in task.words.items()},
        "pieces": backbone.tokenizer.convert_ids_to_tokens(list(verbalizer.token_ids)),
        "label_pieces": {
            label: backbone.tokenizer.convert_ids_to_tokens([verbalizer.token_ids[i] for i in members])
            for label, members in zip(verbalizer.labels, verbalizer.members, strict=True)
        },
        "notes": list(verbalizer.notes),
    }
    if config.follows_gradient:
        given = config.method.lr
        decided["lr"] = given or (LORA_LR if config.method.tunable == "lora" else PROMPT_LR * vocabulary.sd)
    return Scorer(config, task, backbone, verbalizer, tunable, vocabulary, engine, {**known, **decided})


def _tunable(config: RunConfig, backbone: Backbone, vocabulary: Vocabulary, layers: Sequence[int]) -> Tunable:
    """What a recipe tunes, at the point where it begins."""
    method, seed = config.method, config.task.seed
    if method.tunable == "lora":
        return LoRA(backbone, method.r, layers, seed_for(seed, 6) if config.follows_gradient else None)
    length = method.prompt_tokens
    if length + 8 > backbone.longest:
        raise ConfigError([f"[method] prompt_tokens: {length} leave no room in the {backbone.longest} of the model"])
    if method.prompt_text is None:
        words = vocabulary.sample(np.random.default_rng([seed, 7]), length)
    else:
        try:
            words = vocabulary.fit(method.prompt_text, length)
        except ValueError as error:
            raise ConfigError([f"[method] prompt_text: {error}"]) from None
    deep: list[int] = []
    if method.tunable == "deep-prompt":
        first = len(list(backbone.model.get_submodule(backbone.architecture.layers).children()))
        deep = [layer for layer in layers if 0 < layer < first]
        if not deep:
            raise ConfigError(
                [
                    f"[method] layers: {list(layers)} hold no layer that a deep prompt could be put before: choose layers from 1 "
                    f"to {first - 1}, or tunable prompt for the input alone"
                ]
            )
    return Prompt(backbone, length, vocabulary.vectors(words.ids), deep)


def _bench(scorer: Scorer, split: Split) -> Bench:
    section = scorer.config.task
    scored = subsample(split.train, section.scored_rows, section.seed)
    train, dev = collate(*scorer.encoded(scored), scorer.backbone.device), scorer.batch(split.dev)
    task = scorer.task
    name = "f1" if task.positive is not None else "macro_f1"
    positive = None if task.positive is None else task.label_index(task.positive)

    def f1(predictions: Sequence[int], gold: Sequence[int]) -> float:
        return score(name, predictions, gold, len(task.labels), positive)

    loss = losses.make(scorer.config.method.loss, f1)
    objective = Objective(scorer.engine, train, loss, scorer.task.score, scorer.batch(scored))
    if isinstance(scorer.tunable, Prompt):
        scorer.tunable.settle(scorer.engine.stack, [group.ids for group in train.groups])
    rows = {
        "train_rows": len(split.train),
        "train_tokens": train.tokens,
        "dev_rows": len(dev),
        "dev_tokens": dev.tokens,
        "rows_sha256": _digest(collate(*scorer.encoded(split.train), scorer.backbone.device), dev),
    }
    return Bench(scorer, split, objective, dev, content_free(scorer), {**scorer.facts, **rows})


def _chosen_scorer(
    config: RunConfig, task: Task, kind: Kind, split: Split, known: dict[str, Any], progress: Progress | None
) -> Scorer:
    """The scorer in the number format that was asked for or decided before; with "auto", decide it.

    Of the formats with 16-bit products the fastest one is taken that ranks the first candidates of a middle layer as float32
    does, or, for a method that follows gradients, whose gradient points where float32's does.
    """
    if config.model.dtype != "auto" or "dtype" in known:
        return make_scorer(config, task, kind, known, progress)
    if config.model.quantize is not None:
        return make_scorer(config, task, kind, {**known, "dtype": "mixed"}, progress)
    if not mixed_is_faster(_device(config.model.device)):
        return make_scorer(config, task, kind, {**known, "dtype": "float32"}, progress)
    what = "gradient_cosine" if config.follows_gradient else "rank_correlation"
    exact = _trial(make_scorer(config, task, kind, {**known, "dtype": "float32"}, progress), split, None)
    found: dict[str, float] = {}
    for dtype in LOW_FORMATS:
        gc.collect()  # two models at once would double the memory
        scorer = make_scorer(config, task, kind, {**known, "dtype": dtype}, progress)
        losses = _trial(scorer, split, exact)
        found[dtype] = (
            round(_cosine(losses.values, exact.values), 4)
            if config.follows_gradient
            else round(rank_correlation(losses.values, exact.values), 4)
        )
        if found[dtype] >= RELIABLE:
            known[what] = found
            scorer.facts.update(known)
            scorer.engine.forget()
            return scorer
        del scorer
    gc.collect()
    known[what] = found
    if progress:
        said = ", ".join(f"{dtype} {value:.3f}" for dtype, value in found.items())
        progress(f"{what.replace('_', ' ')} with float32: {said}; below {RELIABLE}, so float32 is used")
    return make_scorer(config, task, kind, {**known, "dtype": "float32"}, progress)


def _settle_chunks(bench: Bench, known: int | None) -> None:
    """Let a search without gradient score its candidates in chunks of the size that is fastest here, always the same in a run."""
    scorer = bench.scorer
    if scorer.config.follows_gradient or not scorer.tunable.side_by_side:
        return
    engine = scorer.engine
    if known is None:
        block = scorer.tunable.blocks[-1]
        generator = torch.Generator().manual_seed(0)
        size = scorer.config.method.popsize, scorer.tunable.dim(block)
        trial = {block: torch.randn(*size, generator=generator) * 0.01}
        known = engine.choose_chunk(bench.objective.train, scorer.tunable.initial(), trial)
        engine.forget()
    engine.chunk_tokens = known
    bench.facts["chunk_tokens"] = known


@dataclass(frozen=True)
class _Trial:
    """The first candidates of a middle block and their losses, or the first gradient."""

    candidates: dict[int, Tensor]
    values: NDArray[np.float64]


def _trial(scorer: Scorer, split: Split, before: _Trial | None) -> _Trial:
    """What a run's first turn would see; of the candidates that another format saw, if there was one."""
    bench = _bench(scorer, split)
    origin = scorer.tunable.initial()
    if scorer.config.follows_gradient:
        _, gradients = bench.objective.gradient(bench.rows(0), origin, scorer.tunable.blocks)
        return _Trial({}, torch.cat([gradients[block] for block in scorer.tunable.blocks]).double().numpy())
    if before is None:
        phase = make_phase(bench, origin, Stage("tune"))
        block = phase.blocks[len(phase.blocks) // 2]
        trial = phase.up((block,), phase.optimizer((block,)).ask())
    else:
        trial = before.candidates
    return _Trial(trial, bench.objective.evaluate(origin, trial))


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    sizes = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / sizes if sizes else 0.0


def make_task_of_run(config: RunConfig, facts: Mapping[str, Any]) -> Task:
    """The task of a run that has begun, from what it recorded; its data files are not needed any more."""
    words = {label: tuple(pieces) for label, pieces in facts["labels"].items()}
    return Task(
        name=config.task.name or "task",
        template=Template.parse(facts["template"]),
        labels=tuple(words),
        words=words,
        metric=config.task.metric or "accuracy",
        train_source="",
    )


def make_stages(config: RunConfig) -> tuple[Stage, ...]:
    """The order of a recipe's stages."""
    section = config.alternate
    if not config.alternates:
        return (Stage("tune", steps=config.turns if config.follows_gradient else config.method.steps),)
    if section.proposer == "none":
        return (Stage("tune", steps=config.turns),)
    return alternating(section.rounds, section.round_steps, section.final_steps, section.snapshots)


def make_phase(bench: Bench, origin: Mapping[int, Tensor], stage: Stage) -> Phase:
    """The method's optimizer around a point: gradients of all blocks at once, or one subspace and one search for each."""
    config, tunable = bench.scorer.config, bench.scorer.tunable
    method, seed = config.method, config.task.seed
    if config.follows_gradient:

        def descent(blocks: tuple[int, ...]) -> Gradient:
            return Gradient(
                torch.cat([origin[block] for block in blocks]).numpy(),
                algorithm=cast(Algorithm, method.optimizer),
                lr=bench.scorer.facts["lr"],
                weight_decay=method.weight_decay,
                schedule=method.schedule,
                warmup=method.warmup,
                steps=(stage.steps or 0) if config.alternate.reset_moments else config.turns,
                clip=method.clip,
                accumulate=method.accumulate,
            )

        return Phase(method.name, (tunable.blocks,), origin, {}, descent, 1)

    def search(blocks: tuple[int, ...]) -> CMAES:
        return CMAES(
            method.d, method.popsize, method.sigma, seed_for(seed, *_numbers(blocks, stage)), method.covariance
        )

    projections = {}
    for block, sizes in bench.scales.items():
        shapes = tuple(tunable.shapes(block))
        projections[block] = RandomProjection(shapes, method.d, tuple(sizes), (seed, *_numbers((block,), stage)))
    turns = tuple((block,) for block in tunable.blocks)
    return Phase(method.name, turns, origin, projections, search, method.popsize)


@contextmanager
def proposing(bench: Bench, conversations: Path) -> Iterator[Proposer | None]:
    """Who proposes points in a run, ready to be asked.

    Args:
        bench: what the run works with.
        conversations: where everything that is said to a mentor is written.

    Yields:
        The proposer, or None where nobody proposes.
    """
    config, vocabulary = bench.scorer.config, bench.scorer.vocabulary
    section, length, seed = config.alternate, config.method.prompt_tokens, config.task.seed
    words = (vocabulary, length, section.proposals, seed)
    if not config.alternates or section.proposer == "none":
        yield None
    elif section.proposer == "random":
        yield RandomWords(*words)
    elif section.proposer == "perturbed":
        yield Perturbed(section.noise * vocabulary.sd, section.proposals, seed)
    elif section.proposer == "mutation":
        yield Mutation(*words, bench.scorer.backbone.likely_token)
    else:
        client = _mentor_client(config)
        told = config.mentor
        budget = Budget(told.token_cap, told.money_cap, told.price_in, told.price_out)
        transcript = Transcript(conversations, client, budget=budget, retries=told.retries)
        try:
            mentor = Mentor(transcript, style=told.style, temperature=told.creativity, seed=seed)
            yield Mentored(*words, mentor, transcript, _brief(bench))
        finally:
            transcript.close()


def check_start(bench: Bench) -> None:
    """Refuse what would show only after a run has begun.

    Raises:
        ModelError: the model gives no numbers on the training rows, or cannot do what the recipe's proposer needs.
    """
    scorer = bench.scorer
    config, backbone = scorer.config, scorer.backbone
    if (
        config.alternates
        and config.alternate.proposer == "mutation"
        and backbone.kind != "causal"
        and backbone.filler is None
    ):
        raise ModelError(
            f"{backbone.name} has no mask token and no sentinel, so it cannot say how likely a word is inside a text: "
            "choose another [alternate] proposer than mutation"
        )
    if not config.follows_gradient:
        _ = bench.scales
        return
    ids = bench.objective.train.groups[0].ids
    with scorer.tunable.applied(scorer.tunable.initial()):
        states = scorer.engine.stack.hidden(ids, len(scorer.engine.stack) - 1)
    if not (torch.isfinite(states).all() and math.isfinite(scorer.facts["lr"])):
        raise ModelError(
            f"{backbone.name} gives no usable numbers on training rows in {scorer.facts['dtype']}: set [model] dtype to "
            "float32, or choose a model whose weights are whole"
        )


def check_mentor(config: RunConfig, progress: Progress | None = None) -> None:
    """Find out whether a run's mentor can be asked, before anything is written; fetches a local one.

    Raises:
        TandemTuneError: a package, a key, a file or the model is missing.
    """
    if not config.alternates or config.alternate.proposer != "mentor":
        return
    if config.mentor.client == "local":
        name = config.mentor.mentor
        if name.startswith(assets.PREFIX):
            assets.fetch(name, progress=progress)
        elif not Path(name).expanduser().is_file():
            raise UsageError(f"[mentor] mentor: expected pypi:KEY or a GGUF file, found nothing at {name}")
        if find_spec("xllamacpp") is None:
            raise UsageError("a local mentor needs llama.cpp: pip install 'tandemtune[local-mentor]'")
    else:
        _mentor_client(config).close()


def _mentor_client(config: RunConfig) -> Client:
    section = config.mentor
    if section.client == "endpoint":
        given: dict[str, Any] = {"base_url": section.base_url, "key_env": section.key_env}
        named = {key: value for key, value in given.items() if value is not None}
        return EndpointClient(section.mentor, timeout=section.timeout, **named)
    if section.client == "recorded":
        return RecordedClient(Path(section.mentor).expanduser())
    name = section.mentor
    path = assets.fetch(name) / "model.gguf" if name.startswith(assets.PREFIX) else Path(name).expanduser()
    return LlamaClient(path, threads=section.cpu_threads)


def _brief(bench: Bench) -> Brief:
    """What a mentor is told about a task, but for the trajectory."""
    config, task = bench.scorer.config, bench.scorer.task
    row = TASKS.get(task.name)
    words = tuple(word for choices in task.words.values() for word in choices)
    return Brief(
        definition=config.alternate.definition or (row.summary if row else f"Tell {', '.join(task.labels)} apart."),
        labels=task.labels,
        label_words=words,
        metric=task.metric,
        manual=config.alternate.manual,
        usage="[PROMPT] " + str(task.template).replace("{mask}", "[ANSWER]"),
        tried=(),
        wanted=1,
        limit=config.method.prompt_tokens,
    )


def _numbers(blocks: tuple[int, ...], stage: Stage) -> tuple[int, ...]:
    """What tells the random streams of blocks and rounds apart; without rounds the block's own number."""
    named = tuple(block if block != INPUT else 10_000 for block in blocks)
    return named if stage.round == 0 else (*named, stage.round)


def _scales(bench: Bench) -> dict[int, list[float]]:
    scorer, train = bench.scorer, bench.objective.train
    method, tunable = scorer.config.method, scorer.tunable
    origin = tunable.initial()
    if isinstance(tunable, Prompt):
        spreads = {
            block: scorer.vocabulary.sd
            if block == INPUT
            else statistics.clipped_sd(torch.cat([s.flatten() for s in scorer.engine.states(train, origin, block)]))
            for block in tunable.blocks
        }
        rule: Rule = (
            "normal" if method.scale == "normal" else "hidden_state"
        )  # a prompt's vectors are hidden states themselves
        measured = {block: LayerStatistics(sd, {}, {}) for block, sd in spreads.items()}
    else:
        rule = method.scale
        measured = statistics.measure(scorer.engine, scorer.backbone, train, origin)
    result: dict[int, list[float]] = {}
    for block, known in measured.items():
        if not all(math.isfinite(n) and n > 0 for n in (known.hidden_sd, *known.x_rms.values(), *known.y_sd.values())):
            raise ModelError(
                f"{scorer.backbone.name} gives no usable numbers on training rows in {scorer.facts['dtype']} (layer "
                f"{block}: {known}): set [model] dtype to float32, or choose a model whose weights are whole"
            )
        shapes = tuple(tunable.shapes(block))
        result[block] = scales(rule, known, tunable.names, shapes, d=method.d, alpha=method.alpha, sigma=method.sigma)
    return result


def content_free(scorer: Scorer, plain: bool = False) -> Batch:
    """Prompts without content; one of a template and tokenizer that make no token of it is left out."""
    examples: list[Example] = []
    for text in CONTENT_FREE:
        example = Example(dict.fromkeys(scorer.task.template.fields, text))
        with suppress(DataError):
            scorer.batch([example])
            examples.append(example)
    return scorer.batch(examples, plain)


def _digest(*batches: Batch) -> str:
    """What tells one set of encoded rows from another."""
    found = hashlib.sha256()
    for batch in batches:
        for tensor in (batch.labels, *(part for g in batch.groups for part in (g.ids, g.answer, g.rows))):
            found.update(f"{tuple(tensor.shape)}".encode())
            found.update(tensor.cpu().numpy().tobytes())
    return found.hexdigest()


def mixed_is_faster(device: str, repeats: int = 5) -> bool:
    """Whether this device multiplies 16-bit matrices clearly faster, conversions included."""
    x, weight = torch.ones(1024, 768, device=device), torch.ones(2048, 768, device=device)
    low = weight.to(torch.bfloat16)
    plain = _median_seconds(lambda: functional.linear(x, weight), repeats)
    mixed = _median_seconds(lambda: functional.linear(x.to(torch.bfloat16), low).float(), repeats)
    return plain > FASTER * mixed


def _median_seconds(product: Callable[[], Tensor], repeats: int) -> float:
    times: list[float] = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        product()[0, 0].item()
        times.append(time.perf_counter() - begin)
    return sorted(times[1:])[repeats // 2]


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"[model] device: {wanted!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return wanted


def _kind_without_loading(section: ModelSection) -> Kind | None:
    """The kind of a model whose configuration lies on this machine; None where that would need a download."""
    if section.name.startswith(assets.PREFIX):
        asset = assets.CATALOGUE[section.name.removeprefix(assets.PREFIX)]
        known: dict[str, Kind] = {"ForCausalLM": "causal", "ForConditionalGeneration": "seq2seq"}
        return next((kind for ending, kind in known.items() if asset.architecture.endswith(ending)), "masked")
    place = Path(loading.locate(section.name))
    if not place.is_dir():
        return None
    found = loading.read_config(str(place), None)
    return section.kind or loading.kind_of(found)
