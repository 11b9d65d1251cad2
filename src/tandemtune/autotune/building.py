"""Everything that a run works with, from its recipe; what it decided when it began is decided again when it goes on."""

from __future__ import annotations

import time

from tandemtune import devices, wiring
from tandemtune.autotune.chunks import settle_chunks, settle_compiling
from tandemtune.autotune.formats import chosen_scorer
from tandemtune.autotune.templates import chosen_template
from tandemtune.config import RunConfig
from tandemtune.config.reading import with_parts_of
from tandemtune.errors import ConfigError, RunError
from tandemtune.methods import METHODS
from tandemtune.models import hub
from tandemtune.models import load as loading
from tandemtune.models.quantized import FORMATS, method_of
from tandemtune.problem import Problem, Progress
from tandemtune.runs.records import Facts


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
    section = config.model
    place = loading.locate(section.name, progress)
    settings = loading.read_config(place, section.revision)
    instead = _instead(config, progress) if known is None else known.instead
    config = with_parts_of(config, instead)
    kind = section.kind or loading.kind_of(settings)
    task = wiring.as_searched(config, wiring.make_task(config.task, kind, progress))
    task = task if test else task.without_test()
    if progress:
        progress(f"reading the rows of {task.name}")
    problems = task.check()
    if problems:
        raise ConfigError(problems, f"task {task.name}")
    split = task.split(
        config.task.shots, config.task.seed, dev_k=config.task.dev_shots, short=config.task.short_classes
    )
    task = wiring.with_length(task, config, len(split.train))
    begin = time.perf_counter()
    chosen = chosen_template(config, task, kind, split, known, progress)
    seconds = time.perf_counter() - begin if chosen.templates else 0.0
    scorer = chosen_scorer(config, chosen.task, kind, split, known, progress, method_of(settings) is not None)
    if progress:
        progress(f"preparing {len(split.train):,} training and {len(split.dev):,} dev rows")
    problem = wiring.make_problem(scorer, split)
    problem.seconds = seconds
    problem.scorer.note(templates=chosen.templates, together=chosen.together, instead=instead)
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
    settle_chunks(problem, known.chunk_tokens if known else None)
    settle_compiling(problem, known.compiled if known else None, progress)


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
    free = devices.free_memory(devices.find_device(config.model.device))
    if free is None:
        return ""
    needed = devices.BACKWARD * hub.megabytes(loading.locate(config.model.name), config.model.revision)
    return f"a backward pass may take {needed:,.0f} MB and {free:,.0f} MB are free" if needed > free else ""
