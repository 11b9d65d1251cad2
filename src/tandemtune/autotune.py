"""What is decided by measuring when a run begins: number format, size of chunks, compiled parts. Always the same within a run."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tandemtune import devices, wiring
from tandemtune.answers import answers_of
from tandemtune.config import RunConfig
from tandemtune.config.reading import with_parts_of
from tandemtune.errors import ConfigError, DataError, MentorRefused, ModelError, RunError
from tandemtune.evaluators.label_words import rank_correlation
from tandemtune.methods import METHODS
from tandemtune.models import load as loading
from tandemtune.models.backbone import Backbone, Kind
from tandemtune.models.quantized import FORMATS, method_of
from tandemtune.problem import Problem, Progress, Scorer
from tandemtune.proposers.wordings import ask_for_wordings, brief_of, tasks_of
from tandemtune.readout.ranking import best_of, predicted
from tandemtune.runs.records import Facts, TemplateScore
from tandemtune.search.schedule import Stage
from tandemtune.system import default_threads
from tandemtune.tasks.base import Task
from tandemtune.tasks.catalogue import TASKS
from tandemtune.tasks.fewshot import subsample
from tandemtune.types import Example, Split

FASTER = 1.2
"""Formats with 16-bit products are tried where these are at least this much faster than float32's."""
LOW_FORMATS = ("bfloat16", "mixed")
"""Formats with 16-bit products, fastest first."""
WORTH_COMPILING, WORTH_ON_GPU, COMPILED_FASTER, TIMED = 180.0, 60.0, 0.97, 3
"""Compiling is tried where a search will take so many seconds (fewer on a GPU, whose compiler is quicker), and kept where a
generation takes at most this share of the time; the fastest of so many timed generations counts."""
TRIED_TOKENS, TRIED_ON_GPU = 8192, 131072
"""What is timed at the start has as many candidates as make about so many tokens: a GPU has to be filled."""
SOON = 2.0
"""What took less, in seconds, is timed a second time, since a first call is slow."""
RELIABLE = 0.98
"""A format is taken where its losses rank candidates at least this much like float32's (Spearman)."""


def _instead(config: RunConfig, progress: Progress | None) -> str:
    """The method whose parts are taken, where a recipe's own needs a backward pass that does not fit here; else "".

    Raises:
        ConfigError: nothing would be left to do.
    """
    method = METHODS.get(config.method.name)
    found = method and method.without_gradients(config.task.answers)
    if not found or not config.follows_gradient:
        return ""
    reason = _no_backward_pass(config)
    if not reason:
        return ""
    other = with_parts_of(config, found).method
    if other.optimizer.uses == "none" and other.readout.form is None:
        raise ConfigError(
            [
                f"[method] name: {config.method.name} without a readout has nothing to do here, since {reason}: set readout to ridge, or "
                "name a method that needs forward passes only, such as c-lora-calibrated"
            ]
        )
    if progress:
        progress(f"{reason}: no gradients, but {found}: {METHODS[found].summary}")
    return found


def _no_backward_pass(config: RunConfig) -> str:
    """Why gradients cannot be taken here; "" where they can, or where nothing is known of the model's size."""
    form = FORMATS.get(config.model.quantize or "")
    if form is not None and not form.gradients:
        return f"the model's layers are in {form.name}"
    place = Path(loading.locate(config.model.name))
    device = devices.find_device(config.model.device)
    free = devices.free_memory(device)
    if free is None or not place.is_dir():
        return ""
    weights = sum(file.stat().st_size for file in place.glob("*.safetensors")) / 1e6
    needed = devices.BACKWARD * weights
    return f"a backward pass may take {needed:,.0f} MB and {free:,.0f} MB are free" if needed > free else ""


def build(
    config: RunConfig, *, known: Facts | None = None, progress: Progress | None = None, test: bool = True
) -> Problem:
    """Load and measure everything that a run works with.

    Args:
        config: a recipe.
        known: what an earlier process decided on this machine (number format, threads), to decide the same again.
        progress: called with a short line when something slow begins.
        test: whether rows for test will be needed.

    Raises:
        TandemTuneError: something in the recipe, the data or the model cannot be used, or has changed since the run began.
    """
    instead = _instead(config, progress) if known is None else known.instead
    config = with_parts_of(config, instead)
    section = config.model
    place = loading.locate(section.name, progress)
    settings = loading.read_config(place, section.revision)
    kind = section.kind or loading.kind_of(settings)
    task = wiring.make_task(config.task, kind, progress)
    task = task if test else task.without_test()
    if progress:
        progress(f"reading the rows of {task.name}")
    problems = task.check()
    if problems:
        raise ConfigError(problems, f"task {task.name}")
    split = task.split(
        config.task.shots, config.task.seed, dev_k=config.task.dev_shots, short=config.task.short_classes
    )
    begin = time.perf_counter()
    task, templates = _chosen_template(config, task, kind, split, known, progress)
    chosen = time.perf_counter() - begin if templates else 0.0
    scorer = _chosen_scorer(config, task, kind, split, known, progress, method_of(settings) is not None)
    if progress:
        progress(f"preparing {len(split.train):,} training and {len(split.dev):,} dev rows")
    problem = wiring.make_problem(scorer, split)
    problem.seconds = chosen
    problem.scorer.note(templates=templates, instead=instead)
    if known is not None:
        refuse_changes(known, problem.facts, task.name)
    settle(problem, known, progress)
    return problem


def settle(problem: Problem, known: Facts | None, progress: Progress | None = None) -> None:
    """Choose chunks and compiled parts by measuring, or as they were chosen before.

    Args:
        problem: what the run works with.
        known: what an earlier process decided.
        progress: told what came of it.
    """
    _settle_chunks(problem, known.chunk_tokens if known else None)
    _settle_compiling(problem, known.compiled if known else None, progress)


def _chosen_template(
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


def refuse_changes(before: Facts, now: Facts, task: str) -> None:
    """A run goes on with the rows, the weights and the code that it began with.

    Raises:
        RunError: they are others.
    """
    changed = [
        what
        for what, one, other in (
            (f"the rows of task {task}", before.rows_sha256, now.rows_sha256),
            ("the model's weights", before.weights_sha256, now.weights_sha256),
            *(
                (f"the code of {address}", sha256, now.plugins.get(address, ""))
                for address, sha256 in before.plugins.items()
            ),
        )
        if one != other
    ]
    if changed:
        raise RunError(
            f"{' and '.join(changed)} are no longer those that the run began with, so it cannot end as one run: "
            "restore them, or start it anew"
        )


def _chosen_scorer(
    config: RunConfig,
    task: Task,
    kind: Kind,
    split: Split,
    known: Facts | None,
    progress: Progress | None,
    quantized: bool,
) -> Scorer:
    """The scorer in the number format that was asked for or decided before; with "auto", decide it.

    Of the formats with 16-bit products the fastest one is taken that ranks the first candidates of a middle layer as float32
    does, or, for a method that follows gradients, whose gradient points where float32's does.
    """

    def made(dtype: str | None) -> Scorer:
        return wiring.make_scorer(config, task, kind, known, progress, split.train, dtype)

    method = config.method
    if config.model.dtype != "auto" or known is not None:
        return made(None)
    if config.model.quantize is not None:
        return made("mixed")
    if quantized:  # its layers say in which format they multiply
        return made("float32")
    in_steps = method.tunable.all_weights and method.optimizer.searches  # too small for 16 bits
    if (
        in_steps
        or any(one.method.objective.asks_model for one in config.stretches)
        or method.optimizer.uses == "none"
        or not mixed_is_faster(devices.find_device(config.model.device))
    ):
        return made("float32")
    tell = progress or (lambda text: None)
    scorer = made("float32")
    exact = _trials(scorer, split)
    if not all(trial.tells for trial in exact):
        tell("the first candidates have one loss, by which number formats cannot be told apart: float32 is used")
        scorer.engine.forget()
        return scorer
    decided = {
        "calibrated": scorer.facts.calibrated,
        "stretches": scorer.facts.stretches,
    }  # one objective for all formats
    del scorer
    found: dict[str, dict[str, float]] = {}
    for dtype in LOW_FORMATS:
        gc.collect()  # two models at once would double the memory
        scorer = made(dtype)
        scorer.note(**decided)
        for trial, other in zip(exact, _trials(scorer, split, exact), strict=True):
            alike = round((_cosine if trial.gradient else rank_correlation)(other.values, trial.values), 4)
            of_kind = found.setdefault("gradient_cosine" if trial.gradient else "rank_correlation", {})
            of_kind[dtype] = min(alike, of_kind.get(dtype, alike))
        if all(of_kind[dtype] >= RELIABLE for of_kind in found.values()):
            break
        del scorer
    else:
        gc.collect()
        for what, values in found.items():
            said = ", ".join(f"{dtype} {value:.3f}" for dtype, value in values.items())
            tell(f"{what.replace('_', ' ')} with float32: {said}; below {RELIABLE}, so float32 is used")
        scorer = made("float32")
        scorer.note(**decided)
    scorer.note(**found)
    scorer.engine.forget()
    return scorer


def _in_population(scorer: Scorer) -> bool:
    """Whether candidates are scored side by side, and random ones could be made to time it."""
    parameters = scorer.parameters
    return scorer.config.method.optimizer.searches and parameters.side_by_side and parameters.directions is None


def _populated(problem: Problem) -> Problem | None:
    """The first search of a run whose candidates are scored side by side; None where there is none."""
    return next((one for one in problem.stretches if _in_population(one.scorer)), None)


def _few_candidates(problem: Problem) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """A point and a few candidates of the last block around it: enough to time, cheap beside a generation. On a GPU of one a bit
    below, so that there is more to time than what a host does for a single layer."""
    on_gpu = problem.scorer.backbone.device.type == "cuda"
    parameters, block = problem.scorer.parameters, problem.searched[-1 - (len(problem.searched) // 8 if on_gpu else 0)]
    popsize = problem.scorer.config.method.optimizer.candidates
    one = sum(problem.scorer.engine.tokens_per_candidate(problem.evaluator.train, [block]))
    count = min(popsize, max(1, (TRIED_ON_GPU if on_gpu else TRIED_TOKENS) // one))
    generator = torch.Generator().manual_seed(0)
    return parameters.initial(), {block: torch.randn(count, parameters.dim(block), generator=generator) * 0.01}


def _settle_chunks(problem: Problem, known: int | None) -> None:
    """Let a search without gradient score its candidates in chunks of the size that is fastest here."""
    searched = _populated(problem)
    if searched is None or problem.scorer.config.run.executor.shard is not None:
        return  # a shard goes through as a whole, as far as memory allows
    engine = problem.scorer.engine
    if known is None:
        known = engine.choose_chunk(searched.evaluator.train, *_few_candidates(searched))
        engine.forget()
    engine.chunk_tokens = known
    problem.scorer.note(chunk_tokens=known)


def _settle_compiling(problem: Problem, known: float | None, progress: Progress | None) -> None:
    """Let what layers do between matrix products be compiled where that pays.

    Compiling takes about as long as some generations, so it is tried where a search will take minutes, and kept if a generation
    is faster with it. It changes the last bits, so a search in float32 is left exact unless it is wanted.
    """
    scorer, config, searched = problem.scorer, problem.scorer.config, _populated(problem)
    wanted, stack = config.model.compile, scorer.engine.stack
    if wanted == "never" or searched is None:
        return
    if known is not None:
        stack.compile(known < 1.0)
        return
    if wanted == "auto" and scorer.facts.dtype == "float32":
        return
    origin, trial = _few_candidates(searched)

    def timed() -> float:
        begin = time.perf_counter()
        searched.evaluator.evaluate(origin, trial)
        return time.perf_counter() - begin

    worth = WORTH_ON_GPU if scorer.backbone.device.type == "cuda" else WORTH_COMPILING
    if wanted == "auto" and _planned_seconds(searched, timed(), trial) < worth:
        scorer.note(compiled=1.0)
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
    scorer.note(compiled=round(min(ratio, 0.999), 3) if wanted == "always" else round(ratio, 3))
    if progress:
        progress(
            f"compiled parts: a generation takes {ratio:.2f} of the time"
            if ratio < 1
            else "compiling does not pay here"
        )
    scorer.engine.forget()


def _planned_seconds(problem: Problem, seconds: float, trial: dict[int, Tensor]) -> float:
    """How long a search will take, from the time that a few candidates took."""
    (block,), count = trial, len(next(iter(trial.values())))
    return seconds * _planned_work(problem) / problem.evaluator.cost((block,), count).forward


def _planned_work(problem: Problem) -> float:
    """What all candidates of a search cost."""
    config, evaluator = problem.scorer.config, problem.evaluator
    each = config.method.turn_candidates
    costs = [evaluator.cost((block,), each).forward for block in problem.searched]
    work = config.method.budget / each * sum(costs) / len(costs)
    if config.run.max_forward_tokens is not None:
        work = min(work, config.run.max_forward_tokens * evaluator.depth)
    return work


def forecast(problem: Problem) -> str | None:
    """About how long a search will take at most, in a line for people; from what a few of its candidates, one of its gradient
    steps or one pass take here. None where nothing is searched, or nothing but time ends it."""
    config = problem.scorer.config
    planned, each = wiring.planned(config), [_forecast_seconds(one) for one in problem.stretches]
    if not all(each):
        return None
    took = sum(each)
    span = f"{took:.0f} s" if took < 100 else f"{took / 60:.0f} min"
    limit = config.run.max_seconds
    if limit is not None and limit < took:
        return f"all {planned.total:,} {planned.unit} would take about {span} here; the search ends after {limit:,g} s"
    return f"the search will take about {span} here for {planned.total:,} {planned.unit}, what is proposed aside"


def _forecast_seconds(problem: Problem) -> float:
    """About how long one search will take at most; 0 where nothing is searched, or nothing but time ends it."""
    config, evaluator = problem.scorer.config, problem.evaluator
    planned, method = wiring.planned(config), config.method
    if not planned.total or not problem.searched or method.optimizer.uses == "none":
        return 0.0
    origin = problem.scorer.parameters.initial()
    if config.follows_gradient:
        found = evaluator.gradient(origin, problem.searched, 0).costs
        turn = _seconds_of(lambda: evaluator.gradient(origin, problem.searched, 0))
        rate = turn / (found.forward + 2 * found.backward)  # a step backwards is about two forwards
    elif _in_population(problem.scorer):
        origin, trial = _few_candidates(problem)
        (block,), count = trial, len(next(iter(trial.values())))
        rate = _seconds_of(lambda: evaluator.evaluate(origin, trial, 0)) / evaluator.cost((block,), count, 0).forward
        blocks = problem.searched
        turns = [blocks] if method.order == "together" else [(b,) for b in blocks]
        turn = rate * sum(evaluator.cost(t, method.turn_candidates, 0).forward for t in turns) / len(turns)
    else:
        seconds = _seconds_of(lambda: evaluator.measure(origin))
        rate = seconds / evaluator.cost_to_measure().forward
        turn = seconds * method.turn_candidates
    many = planned.total / (method.turn_candidates if planned.unit == "candidates" else 1)
    took = many * (turn + rate * evaluator.cost_to_measure("dev").forward / method.dev_every)
    problem.scorer.engine.forget()
    return took


def _seconds_of(call: Callable[[], object]) -> float:
    """Seconds that a call takes, the second time where that is soon."""
    times: list[float] = []
    while not times or (len(times) < 2 and times[0] < SOON):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return times[-1]


@dataclass(frozen=True)
class _Trial:
    """The first candidates of a middle block and their losses, or the first gradient."""

    candidates: dict[int, Tensor]
    values: NDArray[np.float64]
    gradient: bool = False

    @property
    def tells(self) -> bool:
        """Whether they differ, so that another format could be seen to disagree."""
        return len(set(self.values.tolist())) > 1


def _trials(scorer: Scorer, split: Split, before: Sequence[_Trial | None] = ()) -> list[_Trial]:
    """What the first turn of each stretch would see; of the candidates that another format saw, if there was one."""
    stretches = wiring.make_problem(scorer, split).stretches
    return [_trial(one, other) for one, other in zip(stretches, before or [None] * len(stretches), strict=True)]


def _trial(problem: Problem, before: _Trial | None) -> _Trial:
    """What the first turn of a stretch would see, were it the first."""
    scorer = problem.scorer
    origin = scorer.parameters.initial()
    if scorer.config.follows_gradient:
        found = problem.evaluator.gradient(scorer.parameters.movable(origin), problem.searched, 0)
        values = torch.cat([found.blocks[block] for block in problem.searched]).double().numpy()
        return _Trial({}, values, gradient=True)
    if before is None:
        phase = wiring.make_phase(problem, origin, Stage("tune"))
        blocks = phase.turns[len(phase.turns) // 2]
        trial = dict(phase.up(blocks, phase.optimizer(blocks).ask()))
    else:
        trial = before.candidates
    return _Trial(trial, problem.evaluator.evaluate(origin, trial))


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    sizes = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / sizes if sizes else 0.0


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
