"""A comparison as one HTML page: scores, scores against costs, paired tests, sweeps, mean curves, settings, and what is missing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tandemtune.errors import RunError
from tandemtune.report.charts import Chart, DotChart, Dots, LineChart, ScatterChart, Series
from tandemtune.report.comparison import UNSEEN, cost_rows, sweep_charts, sweep_rows, sweep_title, table_rows
from tandemtune.report.history import Spot, trail
from tandemtune.report.numbers import Content, duration, rough, score
from tandemtune.report.page import Block, Code, Details, Grid, Heading, Pairs, Section, page
from tandemtune.report.paired import mean_interval, score_bounds
from tandemtune.report.ranks import rank_rows, rank_sentences
from tandemtune.report.recipes import as_toml, flat, objectives, value_text
from tandemtune.report.standings import CONTROLS, ComparisonTable, column_of, model_of
from tandemtune.report.unseen import unseen_rows
from tandemtune.runs.records import ComparedRun, ComparedRuns
from tandemtune.runs.store import RunFolder
from tandemtune.runs.writing import write_atomically

POINTS = 60
"""Points of a mean curve at most."""
BANDS = 3
"""Curves up to which each has a band of one standard deviation; more would lie over each other."""
SHORT = 2.0
"""Minutes below which an axis counts seconds."""
_COSTS = {"tokens (M)": ("forward tokens (M)", "backward tokens (M)"), "minutes": ("minutes",), "peak MB": ("peak MB",)}


def comparison_page(found: ComparisonTable, runs: Sequence[ComparedRun], place: Path) -> str:
    """A comparison, finished or not, on one page.

    Args:
        found: what `compared` returned.
        runs: what it was made of.
        place: folder of the comparison; journals and recipes are read from the run folders in it.

    Returns:
        A whole HTML file that needs nothing but itself.
    """
    folders = [_folder(run, place) for run in runs]
    sections = [
        Section("scores", "Scores", _scores(found, runs)),
        Section("cost", "Score against cost", _trade(found)),
        Section("sweep", "Over a setting", _sweeps(found)),
        Section("tests", f"Against {found.baseline}", _tests(found)),
        Section("expected", "Against what is published", _expected(found)),
        Section("costs", "Costs", _costs(found)),
        Section("curves", "On the way", _curves(found, runs, folders)),
        Section("missing", "Missing runs", _missing(found)),
        Section("settings", "Settings", _settings(runs, folders)),
        Section("runs", "All runs", [Details("Every run", [_runs(runs)])]),
    ]
    return page(found.title, [section for section in sections if section.blocks])


def write_report(place: Path) -> None:
    """Write a comparison's page beside its tables.

    Args:
        place: folder of all runs.
    """
    page = comparison_report(place).encode("utf-8")
    write_atomically(place / "report.html", lambda file: file.write(page))


def comparison_report(place: Path) -> str:
    """The page of a comparison that lies on disk.

    Args:
        place: a folder that `tandemtune compare` wrote.

    Returns:
        A whole HTML file.

    Raises:
        RunError: its files cannot be read.
    """
    return comparison_page(*read_comparison(place), place)


def read_comparison(place: Path) -> tuple[ComparisonTable, tuple[ComparedRun, ...]]:
    """What `tandemtune compare` wrote: the comparison, and its runs.

    Args:
        place: the folder.

    Raises:
        RunError: its files cannot be read.
    """
    found = ComparisonTable.read(_read(place / "comparison.json"), place / "comparison.json")
    return found, ComparedRuns.read(_read(place / "records.json"), place / "records.json").runs


def comparison_charts(found: ComparisonTable, runs: Sequence[ComparedRun], place: Path) -> dict[str, Chart]:
    """The charts of a comparison by name, for files of their own.

    Args:
        found: what `compared` returned.
        runs: what it was made of.
        place: folder of the comparison.

    Returns:
        Those that have something to show: "scores" (of several columns the average), "scores-1" and so on for each of several
        columns, "score-against-cost", "sweep-1" and so on, "dev-loss-1" and so on for each column.
    """
    trails, wanted, _ = _trails(runs, [_folder(run, place) for run in runs])
    dots = _dots(found, runs)
    charts: dict[str, Chart] = {f"scores-{n}" if n else "scores": chart for n, chart in enumerate(dots)}
    charts["score-against-cost"] = _scatter(found)
    charts |= {f"sweep-{n}": chart for n, chart in enumerate(sweep_charts(found), 1)}
    for n, column in enumerate(found.columns, 1):
        charts[f"dev-loss-{n}"] = _lowest(column.name, _named_trails(column.name, trails, wanted))
    return {name: chart for name, chart in charts.items() if not chart.empty()}


# ---- scores and costs ---------------------------------------------------------------------------------------------


def _scores(found: ComparisonTable, runs: Sequence[ComparedRun]) -> list[Block]:
    results = [run.result for run in runs if run.result is not None]
    metrics = sorted({result.metric for result in results})
    what = metrics[0] if len(metrics) == 1 else "score"
    headers, cells = table_rows(found)
    keep = len(headers) - 3  # tests against the baseline have a table of their own
    rows: list[list[Content]] = [list(row[:keep]) for row in cells]
    pairs: list[tuple[str, Content]] = [
        ("finished runs", f"{len(results)} of {len(runs)}"),
        ("methods", len(found.contenders)),
        ("tasks", len({run.task for run in runs})),
        ("models", len({run.model for run in runs})),
        ("seeds", ", ".join(dict.fromkeys(str(run.seed) for run in runs))),
        ("baseline", found.baseline),
    ]
    caption = f"Test {what}, mean ± standard deviation over seeds"
    table = Grid(headers[:keep], rows, caption, set(range(1, keep)), _best(found))
    said = "Rank is the mean place among the methods, 1 for the best. Rows in parentheses need no search and have none."
    if found.ranked_by == "dev":
        said += (
            " Settings are swept here, so ranks and stars are by the dev rows: test rows would flatter what they chose."
        )
    if len(metrics) > 1:
        said += f" Scores are {', '.join(metrics)}, by task."
    if results and all(result.tuned.test is None for result in results):
        said += " There are no test rows, so there are no test scores."
    first, *others = _dots(found, runs)
    each: list[Block] = [Details("Each task by seed", others)] if others else []
    return [Pairs(pairs), first, table, said, *_unseen(found), *found.notes, *each]


def _unseen(found: ComparisonTable) -> list[Block]:
    """Scores among classes that were left out, where some were."""
    if not found.unseen:
        return []
    headers, cells = unseen_rows(found.unseen)
    return [Grid(headers, [list(row) for row in cells], UNSEEN, set(range(1, len(headers))))]


def _dots(found: ComparisonTable, runs: Sequence[ComparedRun]) -> list[DotChart]:
    """Test scores by seed: of several columns first their average, then each."""
    metrics = {column_of(run): run.result.metric for run in runs if run.result is not None}
    charts = []
    if len(found.columns) > 1:
        whole = {name: row.averages for name, row in found.methods.items() if row.averages}
        metric = next(iter(metrics.values())) if len(set(metrics.values())) == 1 else "score"
        charts.append(_dot_chart(f"Average test {metric} by seed", f"test {metric}, average", whole, metrics.values()))
    for column in found.columns:
        values = {name: row.columns[column.name].values for name, row in found.methods.items()}
        metric = metrics.get(column.name, "score")
        title = f"Test {metric} by seed" + (f": {column.name}" if len(found.columns) > 1 else "")
        there = {name: found for name, found in values.items() if found}
        charts.append(_dot_chart(title, f"test {metric}", there, [metric]))
    return charts


def _dot_chart(title: str, label: str, values: Mapping[str, Sequence[float]], metrics: Iterable[str]) -> DotChart:
    """Single scores with their mean and its interval; controls without, since their seeds are no repetitions."""
    dots, bounds = [], score_bounds(metrics)
    for name, scores in values.items():
        interval = None if name in CONTROLS else mean_interval(scores, bounds)
        dots.append(Dots(name, () if name in CONTROLS else scores, mean(scores), *(interval or (None, None))))
    known = any(row.low is not None for row in dots)
    return DotChart(title=title + (", with 95 % intervals of the mean" if known else ""), x_label=label, rows=dots)


def _best(found: ComparisonTable) -> set[tuple[int, int]]:
    """(row, column) of the best methods in each column, in the averages and in rank; controls do not take part."""
    rows = [(index, row) for index, (name, row) in enumerate(found.methods.items()) if name not in CONTROLS]
    places: list[list[float | None]] = [[row.columns[column.name].rank for _, row in rows] for column in found.columns]
    if len(found.columns) > 1:
        by_test = found.ranked_by == "test"
        places.append([None if row.average is None or not by_test else -row.average for _, row in rows])
    places.append([None if row.dev is None or found.ranked_by == "test" else -row.dev for _, row in rows])
    places.append([row.rank for _, row in rows])
    if found.ranked_by == "dev":
        places[: len(found.columns)] = [[None] * len(rows) for _ in found.columns]
    best = set()
    for column, values in enumerate(places, 1):
        there = [value for value in values if value is not None]
        if len(there) > 1:
            best |= {(index, column) for (index, _), value in zip(rows, values, strict=True) if value == min(there)}
    return best


def _trade(found: ComparisonTable) -> list[Block]:
    chart = _scatter(found)
    if chart.empty():
        return []
    return [chart, "The grey line joins the Pareto front: the methods that no other beats in both score and cost."]


def _scatter(found: ComparisonTable) -> ScatterChart:
    """Mean test scores against mean costs of a run."""
    ran = [row for row in found.contenders.values() if row.average is not None and row.costs]
    short = max((row.costs.get("minutes", 0.0) for row in ran), default=0.0) < SHORT
    costs = {
        "seconds" if short and name == "minutes" else name: (keys, 60 if short and name == "minutes" else 1)
        for name, keys in _COSTS.items()
    }
    points = [
        (name, row.average, [times * sum(row.costs.get(key, 0.0) for key in keys) for keys, times in costs.values()])
        for name, row in found.contenders.items()
        if row.average is not None and row.costs
    ]
    return ScatterChart(
        title="Mean test score against the mean cost of a run",
        y_label="mean test score",
        x_labels=list(costs),
        points=points,
    )


def _tests(found: ComparisonTable) -> list[Block]:
    """Paired tests against the baseline."""
    _, cells = table_rows(found)
    rows: list[list[Content]] = [[row[0], *row[-3:]] for row in cells if row[0] != found.baseline and row[-1]]
    if not rows:
        return [f"No run can be paired with one of {found.baseline} yet."]
    said = (
        "Pairs are runs of the same model, task and seed. p is that of a two-sided test that flips the signs of the "
        "differences; a draw is half a win. Each row is a test of its own: of many rows one may look good by chance."
    )
    caption = f"Test score minus {found.baseline}"
    return [Grid(["method", "difference", "p", "wins"], rows, caption, {1, 2, 3}), said]


def _expected(found: ComparisonTable) -> list[Block]:
    """Expected ranks beside measured ones, and what they say together."""
    if found.expected is None:
        return []
    headers, cells = rank_rows(found.expected)
    rows: list[list[Content]] = [list(row) for row in cells]
    shown = Grid(headers, rows, "Expected and measured ranks", set(range(1, len(headers))))
    return [shown, *rank_sentences(found.expected)]


def _costs(found: ComparisonTable) -> list[Block]:
    headers, cells = cost_rows(found)
    if not cells:
        return ["No run is finished yet."]
    rows: list[list[Content]] = [list(row) for row in cells]
    said = f"Ratios are to {found.reference}, over the runs that both have. Runs side by side on one machine slow each other down."
    return [Grid(headers, rows, "Mean cost of a run", set(range(1, len(headers)))), said]


def _sweeps(found: ComparisonTable) -> list[Block]:
    """Scores over settings that were varied."""
    parts: list[Block] = []
    for sweep in found.sweeps:
        headers, cells = sweep_rows(found, sweep)
        rows: list[list[Content]] = [list(row) for row in cells]
        best = {(index, 1) for index, name in enumerate(sweep.methods) if name == sweep.chosen}
        parts.append(Grid(headers, rows, f"Values of {sweep_title(sweep)}", {1, 2}, best))
    parts += sweep_charts(found)
    said = "The dev rows choose the value; its test score is the one to report. Bands are one standard deviation over seeds."
    return [*parts, said] if parts else []


def _missing(found: ComparisonTable) -> list[Block]:
    rows: list[list[Content]] = [[text] for text in found.missing]
    return [Grid(["run"], rows, "Runs without a result", set())] if rows else []


# ---- curves -------------------------------------------------------------------------------------------------------

Trails = dict[tuple[str, str], list[list[Spot]]]


def _trails(runs: Sequence[ComparedRun], folders: Sequence[Path]) -> tuple[Trails, Counter[tuple[str, str]], int]:
    """Journals of finished runs by column and method, how many runs each should have, and how many cannot be read."""
    trails: Trails = {}
    wanted: Counter[tuple[str, str]] = Counter()
    lost = 0
    for run, folder in zip(runs, folders, strict=True):
        key = column_of(run), run.method
        wanted[key] += 1
        if run.result is not None:
            spots = _spots(folder)
            lost += spots is None
            if spots:
                trails.setdefault(key, []).append(spots)
    return trails, wanted, lost


def _named_trails(column: str, trails: Trails, wanted: Mapping[tuple[str, str], int]) -> dict[str, list[list[Spot]]]:
    """The journals of a column by what the legend says."""
    found = {}
    for (where, method), runs in trails.items():
        if where == column:
            of = wanted[where, method]
            found[method + (f" ({len(runs)} of {of} runs)" if len(runs) < of else "")] = runs
    return found


def _curves(found: ComparisonTable, runs: Sequence[ComparedRun], folders: Sequence[Path]) -> list[Block]:
    """Mean dev losses of each method over tokens, figures for each column."""
    trails, wanted, lost = _trails(runs, folders)
    if not trails:
        return ["No journal of a finished run can be read, so there are no curves."]
    parts: list[Block] = [
        "The lowest dev loss so far is that of the point that would be kept. Curves are means over seeds, evaluation by "
        "evaluation, of what was spent and what was reached; a run that ended early stays where it ended. Bands are one standard "
        "deviation to either side."
    ]
    backward = any(spot.backward for members in trails.values() for spots in members for spot in spots)
    for column in found.columns:
        there = _named_trails(column.name, trails, wanted)
        parts.append(_lowest(column.name, there))
        more: list[Block] = [
            _mean_chart(f"Dev loss where the search stands: {column.name}", _FORWARD, there, lowest=False)
        ]
        if backward:
            title = f"Lowest dev loss so far, over all tokens: {column.name}"
            more.append(_mean_chart(title, f"{_FORWARD} and backwards", there, backward=True))
        parts.append(Details(f"More curves of {column.name}", more))
    if lost:
        parts.append(f"{lost} runs have no journal that can be read, and are not in the curves.")
    return parts


_FORWARD = "tokens through the model, forwards"


def _lowest(column: str, there: Mapping[str, Sequence[Sequence[Spot]]]) -> LineChart:
    return _mean_chart(f"Lowest dev loss so far: {column}", _FORWARD, there)


def _mean_chart(
    title: str,
    label: str,
    trails: Mapping[str, Sequence[Sequence[Spot]]],
    *,
    lowest: bool = True,
    backward: bool = False,
) -> LineChart:
    curves = []
    for method, runs in trails.items():
        xs, ys, spread = mean_curve(runs, lowest=lowest, backward=backward)
        low = [None if s is None else y - s for y, s in zip(ys, spread, strict=True)]
        high = [None if s is None else y + s for y, s in zip(ys, spread, strict=True)]
        banded = len(trails) <= BANDS and any(s is not None for s in spread)
        curves.append(Series(method, xs, ys, *((low, high) if banded else (None, None))))
    return LineChart(title=title, x_label=label, y_label="dev loss", series=curves)


def mean_curve(
    runs: Sequence[Sequence[Spot]], *, lowest: bool = False, backward: bool = False
) -> tuple[list[float], list[float], list[float | None]]:
    """The mean of several runs, evaluation by evaluation: what they had spent and what they had reached.

    Args:
        runs: journals as spots.
        lowest: take the lowest dev loss so far instead of the present one.
        backward: count tokens that ran backwards, too.

    Returns:
        Mean tokens, mean dev losses, and the standard deviations of these (None for one run).
    """
    looks = []
    for spots in runs:
        seen = [
            (spot.tokens + ((spot.backward or 0.0) if backward else 0.0), spot.dev.loss)
            for spot in spots
            if spot.tokens is not None and spot.dev is not None and spot.dev.loss is not None
        ]
        if lowest:
            seen = list(zip((x for x, _ in seen), accumulate((loss for _, loss in seen), min), strict=True))
        if seen:
            looks.append(seen)
    longest = max(map(len, looks), default=0)
    most = min(longest, POINTS)
    xs: list[float] = []
    ys: list[float] = []
    spread: list[float | None] = []
    for place in sorted({round(i * (longest - 1) / max(most - 1, 1)) for i in range(most)}):
        now = [seen[min(place, len(seen) - 1)] for seen in looks]
        xs.append(mean(tokens for tokens, _ in now))
        ys.append(mean(loss for _, loss in now))
        spread.append(stdev(loss for _, loss in now) if len(now) > 1 else None)
    return xs, ys, spread


# ---- settings and runs --------------------------------------------------------------------------------------------


def _settings(runs: Sequence[ComparedRun], folders: Sequence[Path]) -> list[Block]:
    """What all runs share as a recipe, and what makes the difference between methods, tasks and models."""
    settings = [
        (run, dict(flat(recipe)))
        for run, folder in zip(runs, folders, strict=True)
        if (recipe := _recipe(folder)) is not None
    ]
    if not settings:
        return ["No recipe can be read."]
    keys = list(dict.fromkeys(key for _, found in settings for key in found))
    written = {key: {value_text(found.get(key)) for _, found in settings} for key in keys}
    parts: list[Block] = []
    differing = [key for key in keys if len(written[key]) > 1 and key != ("task", "seed")]
    for axis in ("method", "task", "model"):
        members = list(dict.fromkeys(str(getattr(run, axis)) for run, _ in settings))
        values = {
            key: {m: {value_text(s.get(key)) for r, s in settings if getattr(r, axis) == m} for m in members}
            for key in differing
        }
        made = [key for key in differing if all(len(each) == 1 for each in values[key].values())]
        if made and len(members) > 1:
            rows: list[list[Content]] = [
                [".".join(key), *(next(iter(values[key][member])) for member in members)] for key in made
            ]
            parts.append(Grid(["setting", *members], rows, f"What differs between {axis}s", set()))
            differing = [key for key in differing if key not in made]
    if differing:
        parts.append(f"Settings that differ otherwise: {', '.join(map('.'.join, differing))}.")
    same: dict[str, Any] = {}
    for key in keys:
        value = settings[0][1].get(key)
        if len(written[key]) == 1 and value is not None:
            *path, name = key
            inner = same
            for part in path:
                inner = inner.setdefault(part, {})
            inner[name] = value
    return [*parts, Heading("The same in all runs"), Code(as_toml(same), "Settings that all runs share")]


def _runs(runs: Sequence[ComparedRun]) -> Grid:
    rows: list[list[Content]] = []
    for run in runs:
        if run.result is None:
            told: list[Content] = ["–", "–", "–", "–", run.failure or "not run"]
        else:
            tuned, cost = run.result.tuned, run.result.cost
            scores = (tuned.test, tuned.dev, run.result.zero_shot.test)
            told = [*map(score, scores), rough(cost.peak_rss_mb), duration(cost.seconds)]
        rows.append([run.task, model_of(run), run.method, str(run.seed), *told])
    headers = ["task", "model", "method", "seed", "test", "dev", "zero-shot test", "peak MB", "search"]
    return Grid(headers, rows, "Every run", set(range(3, 8)))


# ---- reading ------------------------------------------------------------------------------------------------------


def _folder(run: ComparedRun, place: Path) -> Path:
    """Where a run lies: in the comparison's folder, which may have been moved, or where it was made."""
    made = Path(run.folder)
    count = sum(bool(name) for name in (run.model, run.task, run.method)) + 1
    near = place.joinpath(*made.parts[-count:])
    return near if (near / "recipe.json").is_file() else made


def _spots(folder: Path) -> list[Spot] | None:
    """A journal as spots; None if it cannot be read."""
    run = RunFolder(folder)
    try:
        found = trail(run, run.read_records(), objectives(_recipe(folder) or {}))
        return [spot for spot in found if spot.yardstick == found[-1].yardstick] or None
    except (RunError, OSError):
        return None


def _recipe(folder: Path) -> dict[str, Any] | None:
    try:
        return RunFolder(folder).read_recipe()
    except RunError:
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: expected a JSON object")
    return content
