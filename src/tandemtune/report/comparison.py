"""A comparison as tables: for the terminal, as Markdown, LaTeX and CSV; and its charts as files of their own."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tandemtune.report.charts import BarChart, LineChart, Series
from tandemtune.report.numbers import duration, rough, score
from tandemtune.report.paired import paired
from tandemtune.report.ranks import rank_rows, rank_sentences
from tandemtune.report.standings import (
    CONTROLS,
    COSTS,
    RATIOS,
    ColumnScore,
    ComparisonTable,
    Standing,
    Sweep,
    compared,
    model_of,
)
from tandemtune.report.terminal import bar_text, line_text
from tandemtune.report.unseen import unseen_rows
from tandemtune.runs.records import ComparedRun, ComparedRuns, Result
from tandemtune.runs.writing import write_atomically, write_json

if TYPE_CHECKING:
    from tandemtune.comparisons.plan import Plan

__all__ = [
    "FILES",
    "ComparisonTable",
    "as_csv",
    "as_latex",
    "as_markdown",
    "as_table_csv",
    "compared",
    "comparison_view",
    "cost_rows",
    "paired",
    "sweep_charts",
    "table_rows",
    "write",
]

UNSEEN = "Classes that were left out"
LOG_RATIO = 20
"""Swept values that span this ratio are drawn on a logarithmic axis."""
MISSING = 20
"""Missing runs that tables name; `runs.csv` has all."""
FILES = ("table.md", "table.tex", "table.csv", "runs.csv", "comparison.json", "records.json")
_COST_NAMES = {"minutes": "time"}  # each cell says its own unit
_COUNTS = ("candidates", "gradient steps", "written tokens", "mentor tokens")
Rows = tuple[list[str], list[list[str]]]
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "–": "--",
    "·": r"$\cdot$",
}


def table_rows(found: ComparisonTable) -> Rows:
    """Scores as text cells.

    Args:
        found: what `compared` returned.

    Returns:
        Headers and rows; a method, then the controls in parentheses.
    """
    names = [column.name for column in found.columns]
    headers = ["method", *names, *(["average"] if len(names) > 1 else []), "dev", _rank_header(found)]
    headers += [f"against {found.baseline}", "p", "wins"]
    rows: list[list[str]] = []
    for name, row in found.methods.items():
        tested = ["", "", ""]
        if row.against is not None:
            against = row.against
            tested = [f"{against.difference:+z.3f}", f"{against.p:.3f}", f"{against.wins:g} of {against.pairs}"]
        average = [_with_std(row.average, row.average_std)] if len(names) > 1 else []
        rank = "–" if row.rank is None else f"{row.rank:.1f}"
        rows.append([name, *map(_cell, row.columns.values()), *average, score(row.dev), rank, *tested])
    return headers, rows


def cost_rows(found: ComparisonTable) -> Rows:
    """Mean costs of a run as text cells, time and memory with their ratios to the reference.

    Args:
        found: what `compared` returned.

    Returns:
        Headers and rows; without costs that no method has.
    """
    ran = {name: row for name, row in found.methods.items() if row.costs}
    shown = [key for key in COSTS if key in RATIOS or any(row.costs.get(key) for row in ran.values())]
    headers = ["method", "runs"]
    for key in shown:
        name = _COST_NAMES.get(key, key)
        headers += [name, f"{name}, ratio"] if key in RATIOS else [name]
    rows: list[list[str]] = []
    for name, row in ran.items():
        cells = [name, str(row.runs)]
        for key in shown:
            cells.append(_cost(key, row.costs.get(key)))
            cells += [rough(row.ratios.get(key), 2)] if key in RATIOS else []
        rows.append(cells)
    return headers, rows


def _cost(key: str, value: float | None) -> str:
    if value is None:
        return rough(value)
    if key == "minutes":
        return duration(60 * value)
    return f"{value:,.0f}" if key in _COUNTS else rough(value)


def sweep_rows(found: ComparisonTable, sweep: Sweep) -> Rows:
    """A sweep as text cells: value, dev score, test score; the value that the dev rows choose says so.

    Args:
        found: what `compared` returned.
        sweep: one of its sweeps.
    """
    headers = [sweep.key, "mean dev score", "mean test score", "by dev"]
    rows = []
    for value, name in zip(sweep.values, sweep.methods, strict=True):
        row = found.methods[name]
        chosen = "chosen" if name == sweep.chosen else ""
        rows.append([_value(value), score(row.dev), _with_std(row.average, row.average_std), chosen])
    return headers, rows


def as_markdown(found: ComparisonTable) -> str:
    """All tables as Markdown.

    Args:
        found: what `compared` returned.
    """
    parts = [f"# {found.title}", "", *_markdown(*table_rows(found)), *_markdown(*cost_rows(found))]
    parts.append(f"- Ratios are to {found.reference}, over the runs that both have.")
    if found.unseen:
        parts += [*([""] if parts[-1] else []), f"## {UNSEEN}", "", *_markdown(*unseen_rows(found.unseen))]
    for sweep in found.sweeps:
        parts += [f"## {sweep_title(sweep)}", "", *_markdown(*sweep_rows(found, sweep))]
    parts += [f"- {note}" for note in found.notes]
    parts += [f"- missing: {line}" for line in _missing(found)]
    if found.expected is not None:
        parts += [*([""] if parts[-1] else []), "## Expected and measured ranks", ""]
        parts += _markdown(*rank_rows(found.expected))
        parts += [f"- {line}" for line in rank_sentences(found.expected)]
    return "\n".join(parts).rstrip("\n") + "\n"


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headers, ["---"] * len(headers), *rows]
    return [*("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines), ""]


def as_latex(found: ComparisonTable) -> str:
    """Scores as a LaTeX table for the package ``booktabs``: a row for each model and method, test and dev scores of each task;
    the best of the methods in bold, by the rows that ranks are by.

    Args:
        found: what `compared` returned.
    """
    models = list(dict.fromkeys(column.model for column in found.columns))
    tasks = list(dict.fromkeys(column.task for column in found.columns))
    named = any(models)
    left = ["model"] * named + ["method"]
    top = " & ".join([""] * len(left) + [rf"\multicolumn{{2}}{{c}}{{{_latex(task)}}}" for task in tasks])
    lines = [
        f"% {found.title}: mean and standard deviation over seeds".replace("\n", " "),
        rf"\begin{{tabular}}{{{'l' * len(left)}{'rr' * len(tasks)}}}",
        r"\toprule",
        rf"{top} \\",
        rf"{' & '.join([*left, *['test', 'dev'] * len(tasks)])} \\",
    ]
    for model in models:
        lines.append(r"\midrule")
        at = {column.task: column.name for column in found.columns if column.model == model}
        for name, row in found.methods.items():
            cells = [_latex(model)] * named + [_latex(name)]
            for task in tasks:
                cell = row.columns.get(at.get(task, ""))
                texts = ["–", "–"] if cell is None else [_cell(cell), _with_std(cell.dev, cell.dev_std)]
                texts = [_latex(text) for text in texts]
                if cell is not None and cell.rank is not None and cell.rank == _first(found, at[task]):
                    place = 0 if found.ranked_by == "test" else 1
                    texts[place] = rf"\textbf{{{texts[place]}}}"
                cells += texts
            lines.append(rf"{' & '.join(cells)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _first(found: ComparisonTable, column: str) -> float | None:
    """The best rank of a column; None where there is nothing to be better than."""
    places = [row.columns[column].rank for row in found.contenders.values()]
    known = [place for place in places if place is not None]
    return min(known) if len(known) > 1 else None


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def as_table_csv(found: ComparisonTable) -> str:
    """The table of scores for other programs: one line for each model, task and method.

    Args:
        found: what `compared` returned.
    """
    lines: list[list[Any]] = []
    for column in found.columns:
        for name, row in found.methods.items():
            cell = row.columns[column.name]
            numbers = (cell.mean, cell.std, cell.dev, cell.dev_std, cell.rank)
            place = [column.base, column.task, name, name in CONTROLS]
            lines.append([*place, len(cell.values), cell.of, *("" if v is None else round(v, 6) for v in numbers)])
    scores = ["test", "test_std", "dev", "dev_std", f"rank_by_{found.ranked_by}"]
    return _csv([["model", "task", "method", "control", "runs", "planned", *scores], *lines])


def as_csv(runs: Sequence[ComparedRun]) -> str:
    """One line for each run, with scores and costs.

    Args:
        runs: all of a comparison.
    """
    reads: dict[str, Callable[[Result], Any]] = {
        "metric": lambda result: result.metric,
        "test": lambda result: result.tuned.test,
        "test_calibrated": lambda result: result.tuned.after_calibration("test"),
        "dev": lambda result: result.tuned.dev,
        "dev_calibrated": lambda result: result.tuned.after_calibration("dev"),
        "dev_loss": lambda result: result.tuned.dev_loss,
        "zero_shot": CONTROLS["(zero-shot)"],
        "zero_shot_calibrated": CONTROLS["(zero-shot, calibrated)"],
        "majority": CONTROLS["(majority class)"],
        "stop_reason": lambda result: result.stop_reason,
        **COSTS,
    }
    lines: list[list[Any]] = [["model", "task", "method", "seed", *reads, "failure"]]
    for run in runs:
        place = [model_of(run), run.task, run.method, run.seed]
        if run.result is None:
            lines.append([*place, *[""] * len(reads), run.failure or "not run"])
        else:
            values = [read(run.result) for read in reads.values()]
            lines.append([*place, *(round(v, 6) if isinstance(v, float) else v for v in values), ""])
    return _csv(lines)


def _csv(lines: Sequence[Sequence[Any]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()


def comparison_view(found: ComparisonTable) -> RenderableType:
    """What `compare` prints.

    Args:
        found: what `compared` returned.
    """
    tables = [
        (found.title, table_rows(found)),
        (f"mean cost of a run; ratios are to {found.reference}", cost_rows(found)),
    ]
    tables += [(UNSEEN.lower(), unseen_rows(found.unseen))] if found.unseen else []
    tables += [(f"sweep of {sweep_title(sweep)}", sweep_rows(found, sweep)) for sweep in found.sweeps]
    if found.expected is not None:
        tables.append(("expected and measured ranks", rank_rows(found.expected)))
    parts: list[RenderableType] = []
    for name, (headers, rows) in tables:
        shown = Table(title=Text(name))
        for index, header in enumerate(headers):
            shown.add_column(Text(header), justify="right" if index else "left", overflow="fold")
        for row in rows:
            shown.add_row(*(Text(cell) for cell in row))
        parts.append(shown)
    parts += [Text(line) for line in (rank_sentences(found.expected) if found.expected else [])]
    for chart in sweep_charts(found):
        if isinstance(chart, LineChart):
            parts.append(Text(line_text(chart.title, chart.x_label, chart.series, x_log=chart.x_log)))
        else:
            parts.append(Text(bar_text(chart.title, chart.bars)))
    parts += [Text(note) for note in found.notes]
    if found.missing:
        said = "1 run is missing:" if len(found.missing) == 1 else f"{len(found.missing)} runs are missing:"
        parts.append(Text("\n".join([said, *_missing(found)])))
    return Group(*parts)


def write(plan: Plan, runs: Sequence[ComparedRun]) -> ComparisonTable:
    """Put all tables into the folder of a comparison.

    Args:
        plan: the plan.
        runs: its runs.

    Returns:
        What the tables show, see `compared`.
    """
    reason = plan.budget.reason if plan.budget else None
    found = compared(
        runs, plan.baseline, title=plan.title, reason=reason, reference=plan.reference, expected=plan.expected
    )
    if plan.budget:
        found = found.model_copy(update={"notes": (f"Budget: {plan.budget}.", *found.notes)})
    plan.out.mkdir(parents=True, exist_ok=True)
    write_json(plan.out / "comparison.json", found.plain())
    write_json(plan.out / "records.json", ComparedRuns(runs=tuple(runs)).plain())
    texts = {
        "table.md": as_markdown(found),
        "table.tex": as_latex(found),
        "table.csv": as_table_csv(found),
        "runs.csv": as_csv(runs),
    }
    for name, text in texts.items():
        _write_text(plan.out / name, text)
    return found


def _write_text(place: Path, text: str) -> None:
    write_atomically(place, lambda file: file.write(text.encode("utf-8")))


def sweep_charts(found: ComparisonTable) -> list[LineChart | BarChart]:
    """Mean dev and test scores over the values of each sweep; bars where values are no numbers.

    Args:
        found: what `compared` returned.
    """
    charts: list[LineChart | BarChart] = []
    for sweep in found.sweeps:
        title = f"Score over {sweep_title(sweep)}"
        numbers = [float(v) for v in sweep.values if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) < len(sweep.values):
            named = [(_value(v), found.methods[name]) for v, name in zip(sweep.values, sweep.methods, strict=True)]
            charts.append(
                BarChart(title=f"{title}: dev", x_label="mean dev score", bars=[(v, r.dev) for v, r in named])
            )
            bars = [(value, row.average) for value, row in named]
            charts.append(BarChart(title=f"{title}: test", x_label="mean test score", bars=bars))
            continue
        values, names = zip(*sorted(zip(numbers, sweep.methods, strict=True)), strict=True)
        rows = [found.methods[name] for name in names]
        series = [Series("dev, mean", values, [row.dev for row in rows]), _tests("test, mean", values, rows)]
        if len(found.columns) > 1:
            series += [_tests(column.name, values, rows, column.name) for column in found.columns]
        wide = values[0] > 0 and values[-1] >= LOG_RATIO * values[0]
        charts.append(LineChart(title=title, x_label=sweep.key, y_label="score", series=series, x_log=wide))
    return charts


def sweep_title(sweep: Sweep) -> str:
    """What was varied, in words."""
    return f"{sweep.of}: {sweep.key}" if sweep.of else sweep.key


def _tests(name: str, values: Sequence[float], rows: Sequence[Standing], column: str | None = None) -> Series:
    """Test scores over values, with a band of one standard deviation."""
    if column is None:
        pairs = [(row.average, row.average_std) for row in rows]
    else:
        pairs = [(row.columns[column].mean, row.columns[column].std) for row in rows]
    if column is not None or any(std is None or mean is None for mean, std in pairs):
        return Series(name, values, [mean for mean, _ in pairs])
    edges = [(mean or 0.0, std or 0.0) for mean, std in pairs]
    return Series(name, values, [m for m, _ in pairs], [m - s for m, s in edges], [m + s for m, s in edges])


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rank_header(found: ComparisonTable) -> str:
    return "rank" if found.ranked_by == "test" else "rank by dev"


def _missing(found: ComparisonTable) -> list[str]:
    """Runs without a result, as many as a reader looks at."""
    lines = list(found.missing)
    return lines if len(lines) <= MISSING else [*lines[:MISSING], f"and {len(lines) - MISSING} more, see runs.csv"]


def _cell(cell: ColumnScore) -> str:
    text, count = _with_std(cell.mean, cell.std), len(cell.values)
    return f"{text} ({count} of {cell.of})" if 0 < count < cell.of else text


def _with_std(value: float | None, std: float | None) -> str:
    return score(value) + ("" if std is None else f" ± {std:.3f}")
