"""A run, from a checked recipe to an adapter: everything that happens in a run's folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tandemtune import autotune, card, wiring
from tandemtune.callbacks import Callback
from tandemtune.config import RunConfig, load_config
from tandemtune.errors import DataError, RunError
from tandemtune.evaluators.batch import Batch
from tandemtune.evaluators.label_words import Measurement, calibrate
from tandemtune.models.naming import base_name
from tandemtune.problem import Problem, content_free
from tandemtune.readout.members import SolvedReadout, solve_readout
from tandemtune.runs.records import (
    DIGITS,
    CalibratedScores,
    Facts,
    FinalCosts,
    GenerationRecord,
    PredictionRecord,
    Result,
    RowCounts,
    Scores,
    rounded,
)
from tandemtune.runs.store import RunFolder
from tandemtune.runs.writing import write_json, write_lines
from tandemtune.search.state import SearchState
from tandemtune.system import peak_rss_mb, versions
from tandemtune.tasks.fewshot import subsample
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
    config = config.with_absolute_paths()
    RunFolder.check_free(out, overwrite=overwrite)
    wiring.check(config, callback.on_progress, test=test)
    wiring.check_proposer(config, callback.on_progress)
    problem = _prepared(
        config, None, callback, test
    )  # before the folder is made: what cannot run leaves nothing behind
    final = config if data is None else config.with_data_in(data, out.absolute() / RunFolder.DATA)
    folder = RunFolder.create(out, final.model_dump(mode="json"), overwrite=overwrite, data=data)
    problem.scorer.move_data(final)
    with folder.working(), folder.gone_unless_begun():
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
    folder = RunFolder.open(path)
    done = folder.read_result()
    if done is not None:
        return done
    with folder.working():
        folder.clean()
        facts = folder.read_facts()
        if facts is not None:
            _refuse_other_versions(folder.path, facts)
        problem = _prepared(load_config(folder.read_recipe()), facts, callback, test)
        return _run(folder, problem, callback, test, by_hand)


def _prepared(config: RunConfig, known: Facts | None, callback: Callback, test: bool) -> Problem:
    """Load and measure everything that a search needs; writes nothing."""
    problem = autotune.build(config, known=known, progress=callback.on_progress, test=test)
    planned = wiring.planned(config)
    problem.scorer.note(planned=planned.total, unit=planned.unit)
    wiring.check_rows(problem)
    callback.on_ready(problem.facts, config.model_dump(mode="json"))
    wiring.check_start(problem)
    return problem


def _run(folder: RunFolder, problem: Problem, callback: Callback, test: bool, by_hand: bool = False) -> Result:
    """Search in a folder that this process has locked, and write what was found."""
    if not folder.facts.exists():
        planned = wiring.planned(problem.scorer.config)
        problem.scorer.note(versions=versions(), planned=planned.total, unit=planned.unit)
        write_json(folder.facts, problem.facts.plain())
    scorer = problem.scorer
    with wiring.proposing(problem, folder.conversations, callback.on_progress) as source:
        search = wiring.make_search(problem, folder, source, callback)
        search.limits = replace(search.limits, by_hand=by_hand)
        found = search.run()
    scorer.engine.forget()
    callback.on_testing()
    result, predictions = _measured(problem, found, folder, callback, test)
    callback.on_progress(f"writing what was found to {folder.path}")
    with folder.replacing_adapter() as place:
        base = base_name(scorer.config.model.name).name
        scorer.parameters.save(found.best, place, base)
        if scorer.readout is not None:
            scorer.readout.save(place, scorer.backbone, scorer.engine, scorer.verbalizer, base)
        card.write_readme(place, problem, result)
    write_json(folder.card, card.task_card(problem, result).plain())
    write_lines(folder.predictions, [prediction.plain() for prediction in predictions])
    write_json(folder.result, result.plain())
    callback.on_result(result)
    return result


def _measured(
    problem: Problem, found: SearchState, folder: RunFolder, callback: Callback, test: bool
) -> tuple[Result, list[PredictionRecord]]:
    """The pretrained and the best point on train, dev and (once, here) test."""
    scorer = problem.scorer
    config, task = scorer.config, scorer.task
    section = config.task
    examples = None
    if test and task.has_test:
        try:
            examples = task.test(section.test_rows, section.seed)
            scorer.encoded(examples)
        except DataError as error:
            raise DataError(
                f"{error}. The search is saved: correct the test rows, then `tandemtune resume {folder.path}`, or leave "
                "them out with --no-test"
            ) from None
    zero_shot, predictions = _scores(problem, None, examples)
    tuned, same = zero_shot, scorer.is_pretrained
    if not same:
        tuned, predictions = _scores(problem, found.best, examples)
    zero_shot_readout = tuned_words = None
    if config.method.readout.form is not None:
        callback.on_progress(f"solving the readout ({config.method.readout.kind}) on all labelled rows")
        tuned_words = tuned
        zero_shot_readout, predictions, scorer.readout = _readout_scores(problem, None, examples)
        tuned = zero_shot_readout
        if not same:
            tuned, predictions, scorer.readout = _readout_scores(problem, found.best, examples)
    depth = problem.evaluator.depth
    result = Result(
        method=config.method.name,
        model=config.model.name,
        task=task.name,
        metric=task.metric,
        seed=section.seed,
        shots=section.shots,
        zero_shot=zero_shot,
        tuned=tuned,
        majority=_majority(problem, examples),
        zero_shot_readout=zero_shot_readout,
        tuned_words=tuned_words,
        kept_step=found.best_step,
        kept_record=found.best_record,
        steps=found.step,
        cost=FinalCosts(
            candidates=found.costs.candidates,
            gradient_steps=found.costs.gradient_steps,
            forward_tokens=round(found.costs.forward / depth),
            backward_tokens=round(found.costs.backward / depth),
            seconds=round(folder.read_seconds(), 3),
            peak_rss_mb=round(max(peak_rss_mb(), folder.read_peak()), 1),
            proposer=dict(found.spent),
        ),
        rows=RowCounts(train=len(problem.split.train), dev=len(problem.split.dev), test=len(examples or ())),
        stop_reason=folder.read_stop_reason(),
        versions=versions(),
        notes=(*problem.facts.notes, *_flat(folder)),
    )
    return result, predictions


def _flat(folder: RunFolder) -> list[str]:
    """What there is to say where nothing that was tried made any difference."""
    turns = [record for record in folder.read_records() if isinstance(record, GenerationRecord)]
    losses = {loss for turn in turns for loss in turn.losses}
    if len(losses) != 1 or sum(len(turn.losses) for turn in turns) < 2:
        return []
    return [
        "every candidate had the same loss, so the search had nothing to follow: what it moves does not change the answers "
        "to these prompts (too short for [method] target to matter?), or the objective does not tell them apart"
    ]


def _scores(
    problem: Problem, tuned: Mapping[int, Tensor] | None, examples: Sequence[Example] | None
) -> tuple[Scores, list[PredictionRecord]]:
    """Loss and metric of a tuned point (None: the pretrained model) on every split, plain and with contextual calibration."""
    evaluator, scorer = problem.evaluator, problem.scorer
    plain, point = tuned is None, tuned or {}
    trained = subsample(problem.split.train, scorer.config.task.scored_rows, scorer.config.task.seed)
    rows = scorer.batch(trained, plain), scorer.batch(problem.split.dev, plain)
    empty = evaluator.engine.logits(content_free(scorer, plain), point)
    calibrated = scorer.calibrates and not plain  # the pretrained model is shown without and with it anyway

    def logits_of(batch: Batch) -> Tensor:
        logits = evaluator.engine.logits(batch, point)
        return calibrate(logits, empty) if calibrated else logits

    def divided(logits: Tensor) -> Tensor:
        return logits if calibrated else calibrate(logits, empty)

    found = [logits_of(batch) for batch in rows]
    train, dev = (evaluator.judged(logits, batch) for logits, batch in zip(found, rows, strict=True))
    train_after, dev_after = (
        evaluator.judged(divided(logits), batch) for logits, batch in zip(found, rows, strict=True)
    )
    test = test_after = None
    predictions: list[PredictionRecord] = []
    if examples is not None:
        batch = scorer.batch(examples, plain)
        logits = logits_of(batch)
        test = round(evaluator.score_of(logits, batch), DIGITS)
        test_after = round(evaluator.score_of(divided(logits), batch), DIGITS)
        predictions = _predictions(problem, logits, examples)
    scores = Scores(
        train_loss=rounded(train.loss),
        train=round(train.score, DIGITS),
        dev_loss=rounded(dev.loss),
        dev=round(dev.score, DIGITS),
        test=test,
        calibrated=CalibratedScores(
            train_loss=rounded(train_after.loss),
            dev_loss=rounded(dev_after.loss),
            dev=round(dev_after.score, DIGITS),
            test=test_after,
        ),
        prior=tuple(rounded(p) for p in torch.softmax(empty, dim=-1).mean(dim=0).tolist()),
    )
    return scores, predictions


def _readout_scores(
    problem: Problem, tuned: Mapping[int, Tensor] | None, examples: Sequence[Example] | None
) -> tuple[Scores, list[PredictionRecord], SolvedReadout]:
    """A readout solved at a point (None: the pretrained model) on all labelled rows, and what it reaches.

    Its scores on labelled rows are those of each row by a readout of all others; there is nothing left to calibrate.
    """
    scorer, evaluator = problem.scorer, problem.evaluator
    plain, point = tuned is None, tuned or {}
    rows = [*problem.split.train, *problem.split.dev]
    batch = scorer.batch(rows, plain)
    member = scorer.config.method.readout
    solved = solve_readout(member, scorer.engine, batch, point, scorer.task.labels)
    cut = len(problem.split.train)
    parts = (slice(None, cut), slice(cut, None))
    train, dev = (
        evaluator.judged_rows(solved.without[part].float(), batch.labels[part])
        if len(batch.labels[part])
        else Measurement(math.nan, 0.0, solved.without[part])
        for part in parts
    )
    test = None
    predictions: list[PredictionRecord] = []
    if examples is not None:
        encoded = scorer.batch(examples, plain)
        logits = solved.logits(scorer.engine, encoded, point)
        test = round(evaluator.score_of(logits, encoded), DIGITS)
        predictions = _predictions(problem, logits, examples)
    empty = solved.logits(scorer.engine, content_free(scorer, plain), point)
    dev_score = round(dev.score, DIGITS)
    scores = Scores(
        train_loss=rounded(train.loss),
        train=round(train.score, DIGITS),
        dev_loss=rounded(dev.loss),
        dev=dev_score,
        test=test,
        calibrated=CalibratedScores(
            train_loss=rounded(train.loss), dev_loss=rounded(dev.loss), dev=dev_score, test=test
        ),
        prior=tuple(rounded(p) for p in torch.softmax(empty, dim=-1).mean(dim=0).tolist()),
    )
    return scores, predictions, solved


def _predictions(problem: Problem, logits: Tensor, examples: Sequence[Example]) -> list[PredictionRecord]:
    labels = problem.scorer.task.labels
    probabilities = torch.softmax(logits.double(), dim=-1).tolist()
    return [
        PredictionRecord(
            fields=dict(example.fields),
            gold=example.label,
            label=labels[row.index(max(row))],
            probabilities={label: rounded(p) for label, p in zip(labels, row, strict=True)},
        )
        for example, row in zip(examples, probabilities, strict=True)
    ]


def _majority(problem: Problem, examples: Sequence[Example] | None) -> float | None:
    """Test score of always answering the class that is most frequent among the test rows."""
    task = problem.scorer.task
    if not examples:
        return None
    gold = [task.label_index(str(example.label)) for example in examples]
    common = max(set(gold), key=lambda label: (gold.count(label), -label))
    return round(task.score([common] * len(gold), gold), DIGITS)


def _refuse_other_versions(path: Path, facts: Facts) -> None:
    """A run goes on with what it began with, or its numbers would not be those of one run."""
    before, now = facts.versions, versions()
    changed = [f"{name} {before[name]} -> {now.get(name, 'none')}" for name in before if before[name] != now.get(name)]
    if changed:
        raise RunError(
            f"{path} was begun with other versions ({', '.join(changed)}), so it cannot end as one run: "
            "install those versions, or start it anew"
        )
