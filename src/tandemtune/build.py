"""The only wiring: a configuration becomes a task, a backbone, an objective and a schedule."""

from __future__ import annotations

import gc
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

import tandemtune.assets as assets
from tandemtune.config import (
    FULL_LIMIT,
    MOST_GENERATIONS,
    MethodSection,
    ModelSection,
    RunConfig,
    TaskSection,
    parse_layers,
)
from tandemtune.errors import ConfigError, DataError, ModelError, RunError, UsageError
from tandemtune.models import load as loading
from tandemtune.models.backbone import Backbone, Kind
from tandemtune.models.lean import keep_freed_memory
from tandemtune.objective import losses
from tandemtune.objective.batch import Batch, collate
from tandemtune.objective.engine import Engine
from tandemtune.objective.objective import Near, Objective, calibrate, rank_correlation
from tandemtune.parts import Bench, Progress, Scorer, content_free
from tandemtune.phases import make_phase
from tandemtune.schedule import Stage, seed_for
from tandemtune.system import cores
from tandemtune.tasks.base import Task
from tandemtune.tasks.catalogue import TASKS, build_task, get
from tandemtune.tasks.fewshot import subsample
from tandemtune.tasks.metrics import score
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import Verbalizer, resolve
from tandemtune.tunables.adapter import Adapter
from tandemtune.tunables.base import Tunable
from tandemtune.tunables.beside import LoRABesidePrompt
from tandemtune.tunables.bias import Bias
from tandemtune.tunables.demonstrations import Demonstrations, demonstrate
from tandemtune.tunables.full import Full
from tandemtune.tunables.lora import LoRA
from tandemtune.tunables.prompt import Prompt
from tandemtune.tunables.seeded import SeededDirections
from tandemtune.tunables.untouched import Untouched
from tandemtune.tunables.vocabulary import Vocabulary
from tandemtune.types import Example, Split

PROMPT_LR, ES_LR, OTHER_LR = 0.1, 1e-2, 1e-3
FULL_LR = {"gradient": 1e-4, "spsa": 1e-6, "es": 1e-3}
"""Learning rates where a recipe names none: of prompts as a share of the embeddings' standard deviation."""
FASTER = 1.2
"""Formats with 16-bit products are tried where these are at least this much faster than float32's."""
LOW_FORMATS = ("bfloat16", "mixed")
"""Formats with 16-bit products, fastest first."""
WORTH_COMPILING, COMPILED_FASTER, TIMED = 180.0, 0.97, 3
"""Compiling is tried where a search will take so many seconds, and kept where a generation takes at most this share of the
time; the fastest of so many timed generations counts."""
TRIED_TOKENS = 8192
"""What is timed at the start has as many candidates as make about so many tokens."""
RELIABLE = 0.98
"""A format is taken where its losses rank candidates at least this much like float32's (Spearman)."""


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
    _settle_compiling(bench, known.get("compiled"), progress)
    if known.get("rows_sha256", bench.facts["rows_sha256"]) != bench.facts["rows_sha256"]:
        raise RunError(
            f"the rows of task {task.name} are no longer those that the run began with, so it cannot end as one run: "
            "restore the data files, or start it anew"
        )
    return bench


def make_scorer(
    config: RunConfig,
    task: Task,
    kind: Kind,
    facts: Mapping[str, Any] | None,
    progress: Progress | None,
    shown: Sequence[Example] | Path = (),
) -> Scorer:
    """Load the model of a recipe and prepare it for a task.

    Args:
        config: the recipe.
        task: the task of that recipe.
        kind: "masked", "causal" or "seq2seq".
        facts: what was decided before: number format, threads, device.
        progress: called with a short line when something slow begins.
        shown: training rows that may be shown as demonstrations, or the folder of a run that has shown some.

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
    keep_freed_memory()  # what loading freed is gone by now
    backbone.check_template(task.template)
    verbalizer = resolve(backbone.tokenizer, task.template, task.words, alone=kind == "seq2seq")
    try:
        layers = parse_layers(config.method.layers, len(backbone.layers))
    except ValueError as error:
        raise ConfigError([f"[method] layers: {error}"]) from None
    vocabulary = Vocabulary(backbone, config.method.vocabulary, verbalizer.token_ids)
    if config.method.optimizer == "none":
        tunable = _solved(config, backbone, task, verbalizer, shown)
    else:
        tunable = _tunable(config, backbone, vocabulary, layers)
    _check_covariance(config.method, tunable)
    averaging = torch.tensor(verbalizer.weights())
    engine = Engine(backbone.stack(verbalizer), tunable, averaging, max_memory=config.run.max_memory)
    decided = {
        "kind": kind,
        "dtype": dtype,
        "device": device,
        "threads": threads,
        "layers": len(backbone.layers),
        "depth": round(sum(engine.stack.costs), 6),
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
    if config.method.optimizer not in ("none", "genetic"):
        decided["lr"] = _learning_rate(config.method, vocabulary)
    return Scorer(config, task, backbone, verbalizer, tunable, vocabulary, engine, {**known, **decided})


def _learning_rate(method: MethodSection, vocabulary: Vocabulary) -> float:
    if method.lr is not None:
        return method.lr
    if method.tunable == "full":
        return FULL_LR[method.optimizer if method.searches else "gradient"]
    if method.optimizer == "es":
        return ES_LR
    return PROMPT_LR * vocabulary.sd if method.tunable in ("prompt", "deep-prompt") else OTHER_LR


def _check_covariance(method: MethodSection, tunable: Tunable) -> None:
    """Refuse a full covariance of more parameters than can be decomposed between two generations."""
    if (method.optimizer, method.subspace, method.covariance) != ("cma-es", "none", "full"):
        return
    sizes = [tunable.dim(block) for block in tunable.blocks]
    longest = sum(sizes) if method.order == "together" else max(sizes)
    if longest > FULL_LIMIT:
        raise ConfigError(
            [
                f"[method] subspace: none makes vectors of {longest} numbers, too long for a full covariance (at most "
                f"{FULL_LIMIT}): set covariance to separable, or subspace to random"
            ]
        )


def _solved(
    config: RunConfig, backbone: Backbone, task: Task, verbalizer: Verbalizer, shown: Sequence[Example] | Path
) -> Tunable:
    """What stands in place of something to tune."""
    if config.method.tunable == "none":
        return Untouched()
    if isinstance(shown, Path):
        return Demonstrations.read(backbone, shown)
    most, limit = config.method.demonstrations, config.task.max_tokens
    rows = demonstrate(backbone, task, verbalizer, shown, limit, most, context=backbone.longest, seed=config.task.seed)
    if not rows:
        raise ConfigError(
            [
                f"[task] max_tokens: {limit} of the model's {backbone.longest} leave no room for a demonstration: lower it"
            ]
        )
    return Demonstrations(backbone, rows)


def _tunable(config: RunConfig, backbone: Backbone, vocabulary: Vocabulary, layers: Sequence[int]) -> Tunable:
    """What a recipe tunes, at the point where it begins."""
    method, seed = config.method, config.task.seed
    # around zero nothing but a search of both factors at once finds a way
    drawn = None if config.in_subspace else seed_for(seed, 6)
    match method.tunable:
        case "lora":
            return LoRA(backbone, method.r, layers, drawn)
        case "lora+prompt":
            return LoRABesidePrompt(LoRA(backbone, method.r, layers, drawn), _prompt(config, backbone, vocabulary, ()))
        case "bias":
            return Bias(backbone, layers)
        case "adapter":
            return Adapter(backbone, method.width, layers, drawn)
        case "full" if config.follows_gradient:
            return Full(backbone)
        case "full":
            return SeededDirections(
                backbone,
                seed_for(seed, 11),
                min(MOST_GENERATIONS, method.steps or MOST_GENERATIONS, method.budget // method.popsize),
                method.popsize // 2,
                "gaussian" if method.noise_rank is None else "low-rank",
                method.noise_rank or 1,
            )
        case _:
            return _prompt(config, backbone, vocabulary, layers)


def _prompt(config: RunConfig, backbone: Backbone, vocabulary: Vocabulary, layers: Sequence[int]) -> Prompt:
    method, length = config.method, config.method.prompt_tokens
    if length + 8 > backbone.longest:
        raise ConfigError([f"[method] prompt_tokens: {length} leave no room in the {backbone.longest} of the model"])
    if method.prompt_text is None:
        words = vocabulary.sample(np.random.default_rng([config.task.seed, 7]), length)
    else:
        try:
            words = vocabulary.fit(method.prompt_text, length)
        except ValueError as error:
            raise ConfigError([f"[method] prompt_text: {error}"]) from None
    deep: list[int] = []
    if method.tunable == "deep-prompt":
        first = backbone.depths[0]
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
    section, method = scorer.config.task, scorer.config.method
    scored = subsample(split.train, section.scored_rows, section.seed)
    train, dev = collate(*scorer.encoded(scored), scorer.backbone.device), scorer.batch(split.dev)
    task = scorer.task
    name = "f1" if task.positive is not None else "macro_f1"
    positive = None if task.positive is None else task.label_index(task.positive)

    def f1(predictions: Sequence[int], gold: Sequence[int]) -> float:
        return score(name, predictions, gold, len(task.labels), positive)

    objective = Objective(
        scorer.engine,
        train,
        losses.make(method.loss, f1),
        scorer.task.score,
        scorer.batch(scored),
    )
    if isinstance(scorer.tunable, Prompt):
        scorer.tunable.settle(scorer.engine.stack, [group.ids for group in train.groups])
    if method.calibrate == "auto" and "calibrated" not in scorer.facts:
        scorer.facts["calibrated"] = _better_calibrated(scorer, objective, dev)
    if scorer.calibrates:
        objective.empty = content_free(scorer, apart=True)
    if method.kl:
        objective.near = _near(scorer, split)
    rows = {
        "train_rows": len(split.train),
        "train_tokens": train.tokens,
        "dev_rows": len(dev),
        "dev_tokens": dev.tokens,
        "rows_sha256": _digest(collate(*scorer.encoded(split.train), scorer.backbone.device), dev),
        **({"calibrated": scorer.calibrates} if method.calibrate else {}),
    }
    return Bench(scorer, split, objective, dev, content_free(scorer), {**scorer.facts, **rows})


def _better_calibrated(scorer: Scorer, objective: Objective, dev: Batch) -> bool:
    """Whether the point that a search begins with has a lower dev loss after contextual calibration."""
    origin, engine = scorer.tunable.initial(), scorer.engine
    logits, empty = engine.logits(dev, origin), engine.logits(content_free(scorer), origin)
    return objective.judged(calibrate(logits, empty), dev).loss < objective.judged(logits, dev).loss


def _near(scorer: Scorer, split: Split) -> Near:
    """What holds candidates near the untuned model: rows of the training file that are in no split, without their labels."""
    method, section = scorer.config.method, scorer.config.task
    rows = scorer.task.unlabelled(method.kl_rows, section.seed, split)
    if not rows:
        raise ConfigError(
            [f"[method] kl: {method.kl} needs rows beside the split, but the training file holds no more: set kl to 0"]
        )
    batch = collate(*scorer.encoded(rows), scorer.backbone.device)
    return Near(batch, scorer.engine.logits(batch, scorer.tunable.initial()), method.kl)


def _chosen_scorer(
    config: RunConfig, task: Task, kind: Kind, split: Split, known: dict[str, Any], progress: Progress | None
) -> Scorer:
    """The scorer in the number format that was asked for or decided before; with "auto", decide it.

    Of the formats with 16-bit products the fastest one is taken that ranks the first candidates of a middle layer as float32
    does, or, for a method that follows gradients, whose gradient points where float32's does.
    """

    def made(dtype: str | None) -> Scorer:
        decided = known if dtype is None else {**known, "dtype": dtype}
        return make_scorer(config, task, kind, decided, progress, split.train)

    if config.model.dtype != "auto" or "dtype" in known:
        return made(None)
    if config.model.quantize is not None:
        return made("mixed")
    in_steps = config.method.tunable == "full" and config.method.searches  # too small for 16 bits
    if in_steps or config.method.optimizer == "none" or not mixed_is_faster(_device(config.model.device)):
        return made("float32")
    what = "gradient_cosine" if config.follows_gradient else "rank_correlation"
    scorer = made("float32")
    exact = _trial(scorer, split, None)
    if "calibrated" in scorer.facts:
        known["calibrated"] = scorer.facts["calibrated"]  # one objective for all formats
    del scorer
    found: dict[str, float] = {}
    for dtype in LOW_FORMATS:
        gc.collect()  # two models at once would double the memory
        scorer = made(dtype)
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
    return made("float32")


def _in_population(scorer: Scorer) -> bool:
    """Whether candidates are scored side by side, and random ones could be made to time it."""
    among_weights = isinstance(scorer.tunable, SeededDirections)
    return scorer.config.method.searches and scorer.tunable.side_by_side and not among_weights


def _few_candidates(bench: Bench) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """A point and a few candidates of the last block around it: enough to time, cheap beside a generation."""
    tunable, block = bench.scorer.tunable, bench.searched[-1]
    count = min(bench.scorer.config.method.popsize, max(1, TRIED_TOKENS // bench.objective.train.tokens))
    generator = torch.Generator().manual_seed(0)
    return tunable.initial(), {block: torch.randn(count, tunable.dim(block), generator=generator) * 0.01}


def _settle_chunks(bench: Bench, known: int | None) -> None:
    """Let a search without gradient score its candidates in chunks of the size that is fastest here, always the same in a run."""
    scorer = bench.scorer
    if not _in_population(scorer):
        return
    engine = scorer.engine
    if known is None:
        known = engine.choose_chunk(bench.objective.train, *_few_candidates(bench))
        engine.forget()
    engine.chunk_tokens = known
    bench.facts["chunk_tokens"] = known


def _settle_compiling(bench: Bench, known: float | None, progress: Progress | None) -> None:
    """Let what layers do between matrix products be compiled where that pays, always the same in a run.

    Compiling takes about as long as some generations, so it is tried where a search will take minutes, and kept if a generation
    is faster with it. It changes the last bits, so a search in float32 is left exact unless it is wanted.
    """
    scorer, config = bench.scorer, bench.scorer.config
    wanted, stack = config.model.compile, scorer.engine.stack
    if wanted == "never" or not _in_population(scorer):
        return
    if known is not None:
        stack.compile(known < 1.0)
        return
    if wanted == "auto" and scorer.facts["dtype"] == "float32":
        return
    origin, trial = _few_candidates(bench)
    (block,), count = trial, len(next(iter(trial.values())))

    def timed() -> float:
        begin = time.perf_counter()
        bench.objective.evaluate(origin, trial)
        return time.perf_counter() - begin

    plain = timed()
    costs = [bench.objective.cost((b,), config.method.popsize) for b in bench.searched]
    planned = config.method.budget / config.method.popsize * sum(costs) / len(costs)
    if config.run.max_forward_tokens is not None:
        planned = min(planned, config.run.max_forward_tokens * sum(stack.costs))
    seconds = plain * planned / bench.objective.cost((block,), count)
    if wanted == "auto" and seconds < WORTH_COMPILING:
        bench.facts["compiled"] = 1.0
        return
    plain = min(timed() for _ in range(TIMED))
    try:
        changed = stack.compile()
        timed()
        ratio = min(timed() for _ in range(TIMED)) / plain if changed else 1.0
    except Exception as error:  # whatever the compiler cannot do; there may be none
        if wanted == "always":
            raise ModelError(f"[model] compile: {str(error).splitlines()[0]}: set compile to never") from error
        ratio = 1.0
    if ratio > COMPILED_FASTER and wanted == "auto":
        ratio = 1.0
    stack.compile(ratio < 1.0 or wanted == "always")
    bench.facts["compiled"] = round(min(ratio, 0.999), 3) if wanted == "always" else round(ratio, 3)
    if progress:
        progress(
            f"compiled parts: a generation takes {ratio:.2f} of the time"
            if ratio < 1
            else "compiling does not pay here"
        )
    scorer.engine.forget()


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
        _, gradients = bench.objective.gradient(bench.rows(0), origin, bench.searched)
        return _Trial({}, torch.cat([gradients[block] for block in bench.searched]).double().numpy())
    if before is None:
        phase = make_phase(bench, origin, Stage("tune"))
        blocks = phase.turns[len(phase.turns) // 2]
        trial = phase.up(blocks, phase.optimizer(blocks).ask())
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


def check_start(bench: Bench) -> None:
    """Refuse what would show only after a run has begun.

    Raises:
        ModelError: the model gives no numbers on the training rows, or cannot do what the recipe's proposer needs.
    """
    scorer = bench.scorer
    config, backbone = scorer.config, scorer.backbone
    mutates = config.alternates and config.alternate.proposer == "mutation"
    if (mutates or config.method.optimizer == "genetic") and backbone.kind != "causal" and backbone.filler is None:
        instead = "choose another [alternate] proposer than mutation" if mutates else "choose another model or method"
        raise ModelError(
            f"{backbone.name} has no mask token and no sentinel, so it cannot say how likely a word is inside a text: {instead}"
        )
    if config.method.optimizer == "none":
        return
    if config.in_subspace and not isinstance(scorer.tunable, SeededDirections):
        _ = bench.scales
        return
    ids = bench.objective.train.groups[0].ids
    with scorer.tunable.applied(scorer.tunable.initial()):
        states = scorer.engine.stack.hidden(ids, len(scorer.engine.stack) - 1)
    if not (torch.isfinite(states).all() and math.isfinite(scorer.facts.get("lr", 0.0))):
        raise ModelError(
            f"{backbone.name} gives no usable numbers on training rows in {scorer.facts['dtype']}: set [model] dtype to "
            "float32, or choose a model whose weights are whole"
        )


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
