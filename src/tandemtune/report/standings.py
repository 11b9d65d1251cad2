"""What the runs of a comparison say together: means and deviations, ranks, paired tests against a baseline, costs, sweeps."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Literal

from pydantic import Field, JsonValue

from tandemtune.report.paired import Key, Paired, paired
from tandemtune.report.ranks import Ranking, against_expected, ranks
from tandemtune.report.unseen import UnseenScores, unseen_scores
from tandemtune.runs.records import ComparedRun, Record, Result, Versioned

if TYPE_CHECKING:
    from tandemtune.comparisons.expected import Expected

A_ROW_OR_TWO = 0.01
"""Controls that differ by less are one: in 16 bits other groups of rows turn a row or two."""
Read = Callable[[Result], float | None]
CONTROLS: dict[str, Read] = {
    "(majority class)": lambda result: result.majority,
    "(zero-shot)": lambda result: result.zero_shot.test,
    "(zero-shot, calibrated)": lambda result: result.zero_shot.after_calibration("test"),
    "(zero-shot, calibrated by batch)": lambda result: result.zero_shot.test_by_batch,
    "(zero-shot, readout)": lambda result: found.test if (found := result.zero_shot_readout) else None,
    "(tf-idf)": lambda result: found.test if (found := result.yardstick("tf-idf")) else None,
    "(embedding)": lambda result: found.test if (found := result.yardstick("embedding")) else None,
}
_CONTROLS_ON_DEV: dict[str, Read] = {
    "(zero-shot)": lambda result: result.zero_shot.dev,
    "(zero-shot, calibrated)": lambda result: result.zero_shot.after_calibration("dev"),
    "(zero-shot, readout)": lambda result: found.dev if (found := result.zero_shot_readout) else None,
    "(tf-idf)": lambda result: found.dev if (found := result.yardstick("tf-idf")) else None,
    "(embedding)": lambda result: found.dev if (found := result.yardstick("embedding")) else None,
}
_NOT_EVERYWHERE = ("(zero-shot, calibrated by batch)", "(zero-shot, readout)", "(tf-idf)", "(embedding)")
COSTS: dict[str, Callable[[Result], float]] = {
    "minutes": lambda result: result.cost.seconds / 60,
    "peak MB": lambda result: result.cost.peak_rss_mb,
    "forward tokens (M)": lambda result: result.cost.forward_tokens / 1e6,
    "backward tokens (M)": lambda result: result.cost.backward_tokens / 1e6,
    "candidates": lambda result: result.cost.candidates,
    "gradient steps": lambda result: result.cost.gradient_steps,
    "written tokens": lambda result: result.cost.generated_tokens,
    "mentor tokens": lambda result: sum(
        value for name, value in result.cost.proposer.items() if name in ("prompt_tokens", "completion_tokens")
    ),
}
RATIOS = ("minutes", "peak MB")
"""Costs that are shown as ratios to those of the plan's reference, too."""
_SETTING = re.compile(r"\s*(.*\S)\s*=\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")


class Column(Record):
    """A column of the table of scores: a task, of one model where there are several.

    Args:
        name: its heading.
        model: what the plan calls the model; "" where it has one only.
        task: the task.
        base: the model's own name, as far as a run that has ended tells it.
    """

    name: str
    model: str
    task: str
    base: str


class ColumnScore(Record):
    """What one method reaches in one column.

    Args:
        values: test scores by seed.
        mean: their mean; None without any.
        std: their standard deviation (n - 1); None for one.
        of: runs that the plan has here.
        dev: mean score on dev rows.
        dev_std: its standard deviation.
        devs: runs with a score on dev rows.
        rank: among the methods; None where a run is missing.
    """

    values: tuple[float, ...]
    mean: float | None
    std: float | None
    of: int
    dev: float | None = None
    dev_std: float | None = None
    devs: int = 0
    rank: float | None = None

    @property
    def whole(self) -> bool:
        """Whether no run is missing."""
        return len(self.values) == self.of > 0


class Standing(Record):
    """A method, or a control in parentheses.

    Args:
        columns: what it reaches in each.
        average: over all columns; None where a run is missing.
        average_std: standard deviation of the average over seeds.
        averages: over all columns, by seed; empty where a run is missing.
        dev: average of its scores on dev rows; None where a run is missing.
        rank: mean of its ranks.
        against: paired test against the baseline.
        runs: finished ones.
        costs: means over its runs.
        ratios: costs as ratios to the reference's, over the runs that both have.
    """

    columns: dict[str, ColumnScore]
    average: float | None
    average_std: float | None
    averages: tuple[float, ...] = ()
    dev: float | None = None
    rank: float | None = None
    against: Paired | None = None
    runs: int = 0
    costs: dict[str, float] = Field(default_factory=dict)
    ratios: dict[str, float | None] = Field(default_factory=dict)


class Sweep(Record):
    """A setting that was varied.

    Args:
        of: the method; empty where a plan names none.
        key: the setting.
        values: what it was set to.
        methods: the method that stands for each value.
        chosen: the one with the best mean score on dev rows; None while runs are missing.
    """

    of: str
    key: str
    values: tuple[JsonValue, ...]
    methods: tuple[str, ...]
    chosen: str | None = None


class ComparisonTable(Versioned):
    """``comparison.json``: everything that the tables of a comparison show.

    Args:
        title: one line.
        baseline: the method that others are tested against.
        reference: the method that ratios of costs are to.
        ranked_by: the rows whose scores ranks are by: dev where settings are swept, so that nobody selects on test rows.
        columns: of the table of scores.
        methods: what each method and control reached.
        sweeps: settings that were varied.
        missing: runs without a result, in words.
        expected: ranks beside those of published scores, if the plan has some.
        notes: what a reader has to know.
        unseen: scores among classes that were left out, by method and run, where some were.
    """

    title: str
    baseline: str
    reference: str
    ranked_by: Literal["test", "dev"]
    columns: tuple[Column, ...]
    methods: dict[str, Standing]
    sweeps: tuple[Sweep, ...] = ()
    missing: tuple[str, ...] = ()
    expected: Ranking | None = None
    notes: tuple[str, ...] = ()
    unseen: dict[str, UnseenScores] = Field(default_factory=dict)

    @property
    def contenders(self) -> dict[str, Standing]:
        """The methods without the controls."""
        return {name: row for name, row in self.methods.items() if name not in CONTROLS}


def compared(
    runs: Sequence[ComparedRun],
    baseline: str,
    *,
    title: str = "Comparison",
    reason: str | None = None,
    reference: str | None = None,
    expected: Expected | None = None,
) -> ComparisonTable:
    """What the runs of a comparison say together.

    Args:
        runs: all of the plan; those without a result are counted as missing.
        baseline: the method that others are tested against, pair by pair over models, tasks and seeds.
        title: one line.
        reason: how runs say that they ended by the plan's budget, if it has one.
        reference: the method that ratios of costs are to; None: the baseline.
        expected: published scores, if the plan has some.
    """
    models = {column_of(run): model_of(run) for run in sorted(runs, key=lambda run: run.result is not None)}
    columns = {
        name: Column(name=name, model=run.model, task=run.task, base=models[name])
        for run in runs
        for name in [column_of(run)]
    }
    methods = list(dict.fromkeys(run.method for run in runs))
    results = {name: {_key(r): r.result for r in runs if r.method == name and r.result is not None} for name in methods}
    wanted = {name: [_key(run) for run in runs if run.method == name] for name in methods}
    tests = {name: _scores(found, lambda result: result.tuned.test) for name, found in results.items()}
    devs = {name: _scores(found, lambda result: result.tuned.dev) for name, found in results.items()}
    shared: dict[Key, Result] = {}
    for name in [baseline, *methods]:  # what all methods share is read from the baseline's runs where it has them
        shared = {**results.get(name, {}), **shared}
    for name, read in CONTROLS.items():
        if (shared or name in _NOT_EVERYWHERE) and all(read(result) is None for result in shared.values()):
            continue  # texts have no majority class and no calibration
        tests[name], wanted[name] = _scores(shared, read), list(dict.fromkeys(map(_key, runs)))
        devs[name] = _scores(shared, _CONTROLS_ON_DEV.get(name, lambda result: None))
    sweeps = _sweeps(runs, methods)
    ranked_by: Literal["test", "dev"] = "dev" if sweeps else "test"
    rows = {name: _row(tests[name], devs[name], wanted[name], list(columns)) for name in tests}
    rows |= _ranked({name: rows[name] for name in methods}, list(columns), ranked_by)
    base, reference = results.get(reference or baseline, {}), reference or baseline
    for name, row in rows.items():
        found = results.get(name, {})
        against = None if name == baseline else paired(tests[name], tests.get(baseline, {}))
        changes = {"against": against, "runs": len(found), "costs": _costs(found), "ratios": _ratios(found, base)}
        rows[name] = row.model_copy(update=changes)
    contenders = {name: rows[name] for name in methods}
    ranking = None
    if expected is not None:
        means = {
            column: {name: row.columns[column].mean for name, row in contenders.items() if row.columns[column].whole}
            for column in columns
        }
        ranking = against_expected(expected, means, methods, {name: column.task for name, column in columns.items()})
    return ComparisonTable(
        title=title,
        baseline=baseline,
        reference=reference,
        ranked_by=ranked_by,
        columns=tuple(columns.values()),
        methods=rows,
        sweeps=tuple(_chosen(sweep, contenders) for sweep in sweeps),
        missing=tuple(_named(run) for run in runs if run.result is None),
        expected=ranking,
        notes=(*_notes(rows), *_notes_on_runs(runs, results, baseline, reason)),
        unseen=unseen_scores({name: found.values() for name, found in results.items()}, shared.values()),
    )


def model_of(run: ComparedRun) -> str:
    """The model of a run: what the plan calls it where it has several, else the one that its result names."""
    return run.model or (run.result.model if run.result is not None else "")


def column_of(run: ComparedRun) -> str:
    """Name of the column that a run belongs to."""
    return " · ".join(part for part in (run.model, run.task) if part)


def _key(run: ComparedRun) -> Key:
    return column_of(run), run.seed


def _scores(results: Mapping[Key, Result], read: Read) -> dict[Key, float]:
    """Scores that are numbers, by column and seed."""
    found = {key: read(result) for key, result in results.items()}
    return {key: float(value) for key, value in found.items() if value is not None and math.isfinite(value)}


def _row(
    tests: Mapping[Key, float], devs: Mapping[Key, float], wanted: Sequence[Key], columns: Sequence[str]
) -> Standing:
    cells = {}
    for column in columns:
        values = [value for (name, _), value in tests.items() if name == column]
        dev = [value for (name, _), value in devs.items() if name == column]
        cells[column] = ColumnScore(
            values=tuple(values),
            mean=mean(values) if values else None,
            std=_std(values),
            of=sum(name == column for name, _ in wanted),
            dev=mean(dev) if dev else None,
            dev_std=_std(dev),
            devs=len(dev),
        )
    seeds = list(dict.fromkeys(seed for _, seed in wanted))
    every = list(itertools.product(columns, seeds))
    average = std = dev_average = None
    averages: tuple[float, ...] = ()
    if seeds and all(key in tests for key in every):
        averages = tuple(mean(tests[column, seed] for column in columns) for seed in seeds)
        average, std = mean(averages), _std(averages)
    if seeds and all(key in devs for key in every):
        dev_average = mean(mean(devs[column, seed] for seed in seeds) for column in columns)
    return Standing(columns=cells, average=average, average_std=std, averages=averages, dev=dev_average)


def _std(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample; None of one value."""
    return stdev(values) if len(values) > 1 else None


def _ranked(rows: Mapping[str, Standing], columns: Sequence[str], by: Literal["test", "dev"]) -> dict[str, Standing]:
    """Ranks of the methods in each column that they have whole, ties shared; their mean where a method has all columns."""
    found = {name: dict(row.columns) for name, row in rows.items()}
    for column in columns:
        scores = {}
        for name, row in rows.items():
            cell = row.columns[column]
            value, there = (cell.mean, cell.whole) if by == "test" else (cell.dev, cell.devs == cell.of)
            if there and value is not None:
                scores[name] = value
        places = ranks(scores)
        for name in rows:
            found[name][column] = found[name][column].model_copy(update={"rank": places.get(name)})
    ranked = {}
    for name, row in rows.items():
        places_of = [cell.rank for cell in found[name].values()]
        known = [place for place in places_of if place is not None]
        whole = known and len(known) == len(places_of)
        ranked[name] = row.model_copy(update={"columns": found[name], "rank": mean(known) if whole else None})
    return ranked


def _costs(results: Mapping[Key, Result]) -> dict[str, float]:
    return {name: mean(float(read(r)) for r in results.values()) for name, read in COSTS.items()} if results else {}


def _ratios(results: Mapping[Key, Result], base: Mapping[Key, Result]) -> dict[str, float | None]:
    """Costs as ratios to the reference's, over the runs that both have."""
    keys = [key for key in results if key in base]
    sums = {name: [sum(COSTS[name](of[key]) for key in keys) for of in (results, base)] for name in RATIOS}
    return {name: mine / its if its else None for name, (mine, its) in sums.items()}


def _sweeps(runs: Sequence[ComparedRun], methods: Sequence[str]) -> list[Sweep]:
    """Settings that were varied, by the plan or by methods that are called after a value (``d=100``, ``d=500``)."""
    found: dict[tuple[str, str], dict[str, JsonValue]] = {}
    taken = {run.method for run in runs if run.sweep is not None}
    for run in runs:
        if run.sweep is not None:
            found.setdefault((run.sweep.of, run.sweep.key), {})[run.method] = run.sweep.value
    for name in methods:
        match = None if name in taken else _SETTING.fullmatch(name)
        if match and math.isfinite(float(match[2])):
            found.setdefault(("", match[1]), {})[name] = float(match[2])
    return [
        Sweep(of=of, key=key, values=tuple(members.values()), methods=tuple(members))
        for (of, key), members in found.items()
        if len(members) > 1
    ]


def _chosen(sweep: Sweep, rows: Mapping[str, Standing]) -> Sweep:
    """The sweep with the value that the dev rows choose."""
    devs = {name: dev for name in sweep.methods if (dev := rows[name].dev) is not None}
    chosen = max(devs, key=lambda name: devs[name]) if len(devs) == len(sweep.methods) else None
    return sweep.model_copy(update={"chosen": chosen})


def _named(run: ComparedRun) -> str:
    return f"{column_of(run)}, {run.method}, seed {run.seed} ({run.failure or 'not run'})"


def _notes(rows: Mapping[str, Standing]) -> list[str]:
    """What a reader of the scores has to know."""
    notes = []
    pairs = {row.against.pairs for row in rows.values() if row.against}
    if pairs and 2 / 2 ** min(pairs) > 0.05:
        notes.append(
            f"p of {min(pairs)} pairs cannot be below {2 / 2 ** min(pairs):.3g}: telling methods apart takes more seeds or tasks."
        )
    if any(0 < len(cell.values) < cell.of for row in rows.values() for cell in row.columns.values()):
        notes.append(
            "(n of m): runs are missing, so the mean is over other seeds than its neighbours'; no average, no rank."
        )
    return notes


def _notes_on_runs(
    runs: Sequence[ComparedRun], results: Mapping[str, Mapping[Key, Result]], baseline: str, reason: str | None
) -> list[str]:
    """What makes runs less comparable than a table looks."""
    notes = []
    for name, found in results.items():
        other = [r.stop_reason for r in found.values() if reason is not None and r.stop_reason != reason]
        if other:
            said = ", ".join(sorted(set(other)))
            notes.append(f"{name}: {len(other)} of {len(found)} runs ended before the budget was spent ({said}).")
    first = results.get(baseline, {})
    for name, found in results.items():
        keys = [key for key in found if key in first]
        if any(_differ(read(found[key]), read(first[key])) for read in CONTROLS.values() for key in keys):
            notes.append(
                f"{name}: its zero-shot scores are not the baseline's (other rows, template, format or readout); the baseline's are shown."
            )
    used: dict[str, set[str]] = {}
    for run in runs:
        for package, version in (run.result.versions if run.result else {}).items():
            used.setdefault(package, set()).add(version)
    mixed = [f"{package} {', '.join(sorted(versions))}" for package, versions in used.items() if len(versions) > 1]
    if mixed:
        notes.append(f"Runs were made with different versions: {'; '.join(mixed)}.")
    unknown = sorted({name for run in runs for name in run.unknown})
    if unknown:
        notes.append(f"Some runs were made with settings that this version does not know: {', '.join(unknown)}.")
    return notes


def _differ(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) > A_ROW_OR_TWO
