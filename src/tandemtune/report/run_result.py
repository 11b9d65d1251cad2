"""A run's page: what was reached, or how far the run has come."""

from __future__ import annotations

import math
import shlex

from tandemtune.report import predictions as told
from tandemtune.report.charts import DotChart, Dots
from tandemtune.report.history import best_spot
from tandemtune.report.numbers import Content, score
from tandemtune.report.page import (
    Block,
    Code,
    Grid,
    Pairs,
)
from tandemtune.report.recipes import rounds, setting
from tandemtune.report.run_view import RunView, spent_so_far
from tandemtune.report.text import simpler, split_of, stood_still, untuned
from tandemtune.runs.records import (
    NamedScores,
    ProposalRecord,
    Result,
)
from tandemtune.tasks.catalogue import TASKS

CHANCE = "chance"


def reached(run: RunView) -> list[Block]:
    """What a finished run has reached: in sentences, as a chart, as a table."""
    result = run.result
    assert result is not None
    rows = result.rows
    pairs: list[tuple[str, Content]] = [
        ("task", result.task),
        ("model", result.model),
        ("method", result.method),
        ("seed", str(result.seed)),
        ("training rows per class", result.shots),
        ("rows", f"{rows.train:,} train, {rows.dev:,} dev, {rows.test:,} test"),
        ("tuned parameters", run.facts.tunable.parameters if run.facts else None),
        ("best point", _where(run, result)),
        ("stopped by", result.stop_reason),
    ]
    still: list[Block] = [*stood_still(result), *simpler(result)]
    still += [f"Note: {note}" for note in result.notes]
    return [*headline(result), *still, scores_chart(result, run), _score_table(result), Pairs(pairs)]


def _where(run: RunView, result: Result) -> str:
    """Which point the search ended with."""
    record = run.records[result.kept_record] if result.kept_record < len(run.records) else None
    if isinstance(record, ProposalRecord) and record.taken is not None:
        return f"the proposal of round {record.round}"
    if not result.steps:
        return "where the search began" if result.searched else "nothing was searched"
    by = f", found by {result.found_by}" if result.found_by else ""
    return f"after step {result.kept_step} of {result.steps}{by}"


def headline(result: Result) -> list[str]:
    """The result in sentences."""
    split = split_of(result)
    zero, tuned = result.zero_shot, result.tuned
    rows = result.rows.test if split == "test" else result.rows.dev
    reached, plain = getattr(tuned, split), getattr(zero, split)
    calibrated, majority = zero.after_calibration(split), result.majority if split == "test" else None
    metric = result.metric[0].upper() + result.metric[1:]
    said = f"{metric} on {rows:,} {split} rows: {score(reached)} after tuning, {score(plain)} before"
    said += f" ({score(calibrated)} with contextual calibration)" if zero.calibrated is not None else ""
    said += f"; always answering with the most frequent class gives {score(majority)}." if majority is not None else "."
    chose = "The dev rows chose the point that was kept"
    return [
        said,
        *untuned(result),
        f"{chose}; the test rows were scored once, after the search." if split == "test" else f"{chose}.",
    ]


def scores_chart(result: Result, run: RunView) -> DotChart:
    """The tuned model beside what needs no tuning, with intervals."""
    split = split_of(result)
    rows = result.rows.test if split == "test" else result.rows.dev
    groups: list[list[NamedScores]] = []  # a point's score, then what stands beside it
    for row in result.scores():
        if row.aside and groups:
            groups[-1].append(row)
        else:
            groups.append([row])
    entries: list[tuple[str, float | None]] = [
        (row.name, getattr(row, split)) for group in reversed(groups) for row in group
    ]
    entries.append(("most frequent class", result.majority if split == "test" else None))
    share = (
        result.metric == "accuracy" and run.facts is not None and bool(run.facts.labels)
    )  # texts may be judged by one of that name
    if split == "dev" and share and run.facts is not None:
        entries.append((CHANCE, 1 / len(run.facts.labels)))
    dots = []
    for name, value in entries:
        if value is None:
            continue
        interval = None
        if share and rows and name not in ("most frequent class", CHANCE):
            interval = told.share_interval(value, rows)
        elif name == result.scores()[-1].name.removesuffix(", calibrated") and split == "test":
            interval = _f1_interval(run, value)
        dots.append(Dots(name, (), value, *(interval or (None, None))))
    known = "95 % intervals from the number of rows" if any(row.low is not None for row in dots) else ""
    return DotChart(
        title=f"{split} {result.metric}".capitalize() + (f", with {known}" if known else ""),
        x_label=f"{split} {result.metric}",
        rows=dots,
    )


def _f1_interval(run: RunView, value: float) -> tuple[float, float] | None:
    """An interval of a kind of F1 out of the predictions, where these are the ones that were scored."""
    labelled = run.facts.labels if run.facts else {}
    if not run.predictions or not labelled or run.metric not in ("f1", "macro_f1"):
        return None
    labels = told.labels_of(run.predictions, labelled)
    counts = told.confusion(run.predictions, labels)
    known = TASKS.get(str(setting(run.recipe, "task.name", "")))
    positive = setting(run.recipe, "task.positive", known and known.positive)
    place = labels.index(positive) if run.metric == "f1" and positive in labels else None
    if run.metric == "f1" and place is None:
        return None
    found = [entry.f1 for entry in told.class_scores(counts, labels)]
    again = found[place] if place is not None else sum(found) / len(found)
    return told.f1_interval(counts, place) if math.isclose(again, value, abs_tol=1e-5) else None


def _score_table(result: Result) -> Grid:
    metric = result.metric
    rows: list[list[Content]] = [
        [row.name, *map(score, (row.test, row.dev, row.dev_loss, row.train, row.train_loss))] for row in result.scores()
    ]
    if result.majority is not None:
        rows.append(["most frequent class", score(result.majority), *["–"] * 4])
    headers = ["", f"test {metric}", f"dev {metric}", "dev loss", f"train {metric}", "train loss"]
    tests = [None if row[1] == "–" else float(str(row[1])) for row in rows]
    top = max((value for value in tests if value is not None), default=None)
    best = {(index, 1) for index, value in enumerate(tests) if value is not None and value == top}
    return Grid(headers, rows, "Before and after", set(range(1, 6)), best)


def progress(run: RunView) -> str:
    """How far a run that is not finished has come."""
    costs, last = spent_so_far(run.records), run.spots[-1] if run.spots else None
    steps = last.step if last else 0
    said = f"This run is not finished: {costs.candidates:,} candidates and {steps:,} steps so far"
    if rounds(run.recipe):
        done = sum(isinstance(record, ProposalRecord) for record in run.records)
        said += f", {done} of {rounds(run.recipe)} rounds"
    if run.facts and run.facts.planned:
        said += f"; the recipe allows {run.facts.planned:,} {run.facts.unit}"
    return f"{said}."


def standing(run: RunView) -> list[Block]:
    """What there is to say of a run that is not finished."""
    parts: list[Block] = [
        f"{progress(run)} The test rows have not been scored.",
        Code(f"tandemtune resume {shlex.quote(str(run.folder.path))}", "Command that continues it"),
    ]
    best = best_spot(run.spots)
    if best is not None:
        last = next(spot for spot in reversed(run.spots) if spot.dev is not None)
        own = [spot for spot in run.spots if spot.yardstick == run.spots[-1].yardstick]
        entries = [("start", own[0]), ("lowest dev loss", best), ("last evaluation", last)]
        rows: list[list[Content]] = [
            [name, spot.step, score(spot.dev.loss), score(spot.dev.score)]
            for name, spot in entries
            if spot.dev is not None
        ]
        headers = ["", "step", "dev loss", f"dev {run.metric}"]
        parts.append(Grid(headers, rows, "Evaluations on the dev rows", {1, 2, 3}))
    return parts
