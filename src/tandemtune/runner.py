"""A run, from a checked recipe to an adapter: everything that happens in a run's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tandemtune import autotune, card, plugins, scoring, trackers, wiring
from tandemtune.answers import answers_of
from tandemtune.callbacks import Callback, Callbacks
from tandemtune.config import RunConfig, load_config
from tandemtune.config.retired import without_retired
from tandemtune.elsewhere import AnotherProcess
from tandemtune.errors import ConfigError, RunError
from tandemtune.models.naming import base_name
from tandemtune.notes import notes_of, unanswered
from tandemtune.problem import Problem
from tandemtune.rewards.own import refuse_while_imported
from tandemtune.runs.records import (
    DIGITS,
    Facts,
    FinalCosts,
    Gain,
    PredictionRecord,
    Result,
    RowCounts,
    YardstickScores,
    rounded,
)
from tandemtune.runs.store import RunFolder
from tandemtune.runs.writing import write_json, write_lines
from tandemtune.search.loop import ALL_RIGHT, BY_HAND
from tandemtune.search.state import SearchState
from tandemtune.system import peak_rss_mb, versions
from tandemtune.tasks.base import Task
from tandemtune.types import Example


def run(
    config: RunConfig,
    out: Path,
    callback: Callback,
    *,
    overwrite: bool = False,
    data: Path | None = None,
    test: bool = True,
) -> Result:
    """Run a recipe and write its run folder.

    Args:
        config: the recipe.
        out: the folder to make.
        callback: told what happens.
        overwrite: replace a run that lies at `out`.
        data: a folder of row files that the recipe names; it is moved into the run's folder, and the recipe with it.
        test: score the test rows at the end.

    Raises:
        TandemTuneError: the data or the model cannot be used, or the folder cannot be written.
    """
    refuse_while_imported()
    config = config.with_absolute_paths()
    RunFolder.check_free(out, overwrite=overwrite)
    if overwrite:
        _refuse_what_it_is_made_from(config, out)
    wiring.check(config, callback.on_progress, test=test)
    wiring.check_proposer(config, callback.on_progress)
    config.run.executor.check()
    problem = _prepared(
        config, None, callback, test
    )  # before the folder is made: what cannot run leaves nothing behind
    final = config if data is None else config.with_data_in(data, out.absolute() / RunFolder.DATA)
    folder = RunFolder.create(out, final.model_dump(mode="json"), overwrite=overwrite, data=data)
    problem.scorer.move_data(final)
    with folder.working(), folder.noting_failures(), folder.gone_unless_begun():
        return _run(folder, problem, callback, test)


def go_on(path: Path, callback: Callback, *, test: bool = True, by_hand: bool = False) -> Result:
    """Go on with a run that was stopped; it ends as if it never had been.

    Args:
        path: the run folder.
        callback: told what happens.
        test: score the test rows at the end.
        by_hand: do not search any further: score and keep what has been found.

    Returns:
        The result; at once if the run had ended.

    Raises:
        RunError: no run lies there, another process works on it, or what it began with has changed.
    """
    refuse_while_imported()
    folder = RunFolder.open(path)
    done = folder.read_result()
    if done is not None:
        return done
    with folder.working(), folder.noting_failures():
        folder.clean()
        begun = folder.read_facts()
        if begun is not None:
            _refuse_other_versions(folder.path, begun)
        recipe = folder.read_recipe()
        _refuse_retired(folder.path, recipe)
        config = load_config(recipe)
        facts = begun and folder.with_mended(begun, config.plugins())
        wiring.check_packages(config)
        config.run.executor.check()
        if not by_hand:
            wiring.check_proposer_again(config, folder.read_records(), callback.on_progress)
        problem = _prepared(config, facts, callback, test)
        if facts is not None:
            folder.accept(facts)
        return _run(folder, problem, callback, test, by_hand)


def _prepared(config: RunConfig, known: Facts | None, callback: Callback, test: bool) -> Problem:
    """Load and measure everything that a search needs; writes nothing."""
    problem = autotune.build(config, known=known, progress=callback.on_progress, test=test)
    planned = wiring.planned(problem.scorer.config)
    problem.scorer.note(planned=planned.total, unit=planned.unit)
    wiring.check_rows(problem)
    scoring.look_for_errors(problem, begun=known is not None)
    callback.on_ready(problem.facts, config.model_dump(mode="json"))
    wiring.check_start(problem, test)
    return problem


def _run(folder: RunFolder, problem: Problem, callback: Callback, test: bool, by_hand: bool = False) -> Result:
    """Search in a folder that this process has locked, and write what was found."""
    with wiring.graded(problem, folder):
        return _reported(folder, problem, callback, test, by_hand)


def _reported(folder: RunFolder, problem: Problem, callback: Callback, test: bool, by_hand: bool) -> Result:
    """Say what will be done, and tell trackers what is."""
    if not folder.facts.exists():
        planned = wiring.planned(problem.scorer.config)
        problem.scorer.note(versions=versions(), planned=planned.total, unit=planned.unit)
        write_json(folder.facts, problem.facts.plain())
        if problem.seconds:
            folder.tick(step=0, seconds=problem.seconds, peak_rss_mb=peak_rss_mb())
        expected = None if problem.facts.all_right else autotune.forecast(problem)
        if expected is not None:
            callback.on_progress(expected)
    scorer = problem.scorer
    with trackers.reporting(
        scorer.config.run.trackers,
        folder.path,
        folder.read_recipe(),
        metric=scorer.task.metric,
        depth=problem.evaluator.depth,
        tell=callback.on_progress,
    ) as reports:
        return _searched(folder, problem, Callbacks([reports, callback]), test, by_hand)


def _searched(folder: RunFolder, problem: Problem, callback: Callback, test: bool, by_hand: bool) -> Result:
    """Search, score, and write the results."""
    scorer = problem.scorer
    executor, own = scorer.config.run.executor, [one.evaluator for one in problem.stretches]
    ends = BY_HAND if by_hand else ALL_RIGHT if problem.facts.all_right else ""
    with (
        wiring.proposing(problem, folder.conversations, callback.on_progress) as source,
        nullcontext(own)
        if ends  # nothing will be scored
        else executor.opened(own, AnotherProcess.of(problem), callback.on_progress) as evaluators,
    ):
        search = wiring.make_search(problem, evaluators, folder, source, callback)
        search.limits = replace(search.limits, ends=ends)
        found = search.run()
    scorer.engine.forget()
    callback.on_testing()
    found, gain = scoring.guarded(problem, found, callback.on_progress)
    result, predictions = _measured(problem, found, gain, folder, callback, test)
    callback.on_progress(f"writing what was found to {folder.path}")
    bias: dict[str, float] = {}
    with folder.replacing_adapter() as place:
        base = base_name(scorer.config.model.name).name
        scorer.parameters.save(found.best, place, base)
        if scorer.readout is not None:
            bias = scorer.readout.save(found.best, place, scorer.backbone, scorer.engine, scorer.verbalizer, base)
        scorer.save_beside(found.best, place)
        card.write_readme(place, problem, result)
    write_json(folder.card, card.task_card(problem, result, bias).plain())
    write_lines(folder.predictions, [prediction.plain() for prediction in predictions])
    write_json(folder.result, result.plain())
    callback.on_result(result)
    return result


def _measured(
    problem: Problem, found: SearchState, gain: Gain | None, folder: RunFolder, callback: Callback, test: bool
) -> tuple[Result, list[PredictionRecord]]:
    """The pretrained and the best point on train, dev and (once, here) test."""
    scorer = problem.scorer
    config, task = scorer.config, scorer.task
    section, readout = config.task, config.method.readout
    examples = None
    if test and task.has_test:
        examples = scoring.test_examples(
            problem,
            f"The search is saved: correct the test rows, then `tandemtune resume {folder.path}`, or leave them out with "
            "--no-test",
        )
    if readout.form is not None:
        callback.on_progress(f"solving the readout ({readout.kind}) on all labelled rows")
    answers = answers_of(task)
    pretrained = answers.reached(problem, None, examples)
    tuned = pretrained if scorer.is_pretrained else answers.reached(problem, found.best, examples, pretrained)
    scorer.readout, scorer.temperature = tuned.solved, tuned.temperature
    result = Result(
        method=config.title,
        model=config.model.name,
        task=task.name,
        metric=task.metric,
        seed=section.seed,
        shots=section.shots,
        zero_shot=pretrained.words,
        tuned=tuned.words if tuned.readout is None else tuned.readout,
        majority=answers.majority(problem, examples),
        zero_shot_readout=pretrained.readout,
        tuned_words=None if tuned.readout is None else tuned.words,
        gain=gain,
        yardsticks=_yardsticks(problem, examples, callback),
        kept_step=found.best_step,
        kept_record=found.best_record,
        found_by=_found_by(config, found),
        steps=found.step,
        cost=_cost(problem, found, gain, folder),
        rows=RowCounts(train=len(problem.split.train), dev=len(problem.split.dev), test=len(examples or ())),
        stop_reason=folder.read_stop_reason(),
        versions=versions(),
        notes=notes_of(problem, found, gain, folder),
        unanswered=unanswered(folder),
        unseen=scorer.unseen(found.best, pretrained.words.test, tuned.words.test) if examples is not None else None,
    )
    return result, tuned.answers(scorer, examples)


def _found_by(config: RunConfig, found: SearchState) -> str:
    """Which of several stretches found the point that is kept; nothing where there is one, or where it is the starting point."""
    names = [one.method.name for one in config.stretches]
    if len(names) == 1 or not found.moved:
        return ""
    return f"{names[found.best_stretch]} (stretch {found.best_stretch + 1} of {len(names)})"


def _cost(problem: Problem, found: SearchState, gain: Gain | None, folder: RunFolder) -> FinalCosts:
    """What the search, the choice of a template and the readout took."""
    depth = problem.evaluator.depth
    beside = scoring.choosing_tokens(problem) + scoring.solving_tokens(problem, gain)
    return FinalCosts(
        candidates=found.costs.candidates,
        gradient_steps=found.costs.gradient_steps,
        forward_tokens=round(found.costs.forward / depth) + beside,
        backward_tokens=round(found.costs.backward / depth),
        generated_tokens=found.costs.generated,
        seconds=round(folder.read_seconds(), 3),
        peak_rss_mb=round(max(peak_rss_mb(), folder.read_peak()), 1),
        proposer=dict(found.spent),
    )


def _yardsticks(
    problem: Problem, examples: Sequence[Example] | None, callback: Callback
) -> tuple[YardstickScores, ...]:
    """What simple classifiers reach that learn from all labelled rows of the run."""
    task, split = problem.scorer.task, problem.split
    known = [*split.train, *split.dev]
    texts, labels = [_as_one_text(row) for row in known], [str(row.label) for row in known]
    found = []
    for name in problem.scorer.config.run.yardsticks:
        callback.on_progress(f"fitting {name} to {len(known):,} rows")
        member = plugins.find("yardstick", name)()
        begin = 0 if not split.dev else len(split.train)
        without = member.without(texts, labels)
        gold = [without.labels.index(label) for label in labels]
        chances = without.probabilities[range(len(gold)), gold][begin:]
        test = None
        if examples:
            answers = member.answers(texts, labels, [_as_one_text(row) for row in examples])
            test = round(_score(task, answers.predicted, examples), DIGITS)
        found.append(
            YardstickScores(
                name=name,
                dev=round(_score(task, without.predicted[begin:], known[begin:]), DIGITS),
                dev_loss=rounded(float(-np.log(np.maximum(chances, 1e-12)).mean())),
                test=test,
            )
        )
    return tuple(found)


def _as_one_text(row: Example) -> str:
    return "\n".join(row.fields.values())


def _score(task: Task, said: Sequence[str], rows: Sequence[Example]) -> float:
    return task.score([task.label_index(label) for label in said], [task.label_index(str(row.label)) for row in rows])


def _refuse_what_it_is_made_from(config: RunConfig, out: Path) -> None:
    """A run is not replaced by one that needs its files: rows that were handed over in memory, weights, what a mentor said.

    Raises:
        ConfigError: names the settings.
    """
    place, problems = out.resolve(), []
    for name, value in _texts(config.model_dump(mode="json")):
        for given in (value, value.rpartition(":")[0]):
            with suppress(OSError, ValueError, RuntimeError):
                path = Path(given).expanduser().resolve()
                word = Path(given).name == given and not path.suffix  # such as "mentor", which names no file
                if given and not word and path.is_relative_to(place) and path.exists():
                    problems.append(
                        f"{name}: {path.relative_to(place)} lies in {out}, which --overwrite would replace: copy it elsewhere, or "
                        "choose another --out"
                    )
                    break
    if problems:
        raise ConfigError(problems)


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a recipe, and the setting that it belongs to."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"[{key}]" if not name else f"{name} {key}")
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, name)


def _refuse_retired(path: Path, recipe: dict[str, Any]) -> None:
    """A run goes on with the settings that it began with, or not at all."""
    _, gone = without_retired(recipe)
    if gone:
        raise RunError(
            f"{path} was begun with a setting that there is no more, so it cannot go on: {'; '.join(gone)}. What it has found so far can "
            f"be read (`tandemtune report {path}`); start it anew"
        )


def _refuse_other_versions(path: Path, facts: Facts) -> None:
    """A run goes on with what it began with, or its numbers would not be those of one run."""
    before, now = facts.versions, versions()
    changed = [f"{name} {before[name]} -> {now.get(name, 'none')}" for name in before if before[name] != now.get(name)]
    if changed:
        raise RunError(
            f"{path} was begun with other versions ({', '.join(changed)}), so it cannot end as one run: "
            "install those versions, or start it anew"
        )
