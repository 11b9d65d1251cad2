"""A comparison as one HTML page: scores, paired tests, costs, mean curves, sweeps, settings, and what is missing."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tandemtune.errors import RunError
from tandemtune.report.comparison import CONTROLS, LOG_RATIO, cost_rows, reference_of, table_rows
from tandemtune.report.page import Cell, code, facts, page, paragraph, table
from tandemtune.report.plot import Bar, Series, bar_figure, line_figure
from tandemtune.report.ranks import rank_rows, rank_sentences
from tandemtune.report.run_page import Spot, details, recipe_text, toml_value, trail
from tandemtune.report.text import duration
from tandemtune.runs.store import RunFolder

POINTS = 60
"""Points of a mean curve at most."""
BANDS = 3
"""Curves up to which each has a band of one standard deviation; more would lie over each other."""
_SETTING = re.compile(r"\s*(.*\S)\s*=\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")


def comparison_page(found: Mapping[str, Any], records: Sequence[Mapping[str, Any]], title: str, place: Path) -> str:
    """A finished or unfinished comparison on one page.

    Args:
        found: what `compared` returned.
        records: what `compare.execute` returned.
        title: heading of the page.
        place: folder of the comparison; journals and recipes are read from the run folders in it.

    Returns:
        A whole HTML file that needs nothing but itself.
    """
    folders = [_folder(record, place) for record in records]
    sections = [("scores", "Scores", _scores(found, records))]
    sweeps = _sweeps(found)
    if sweeps:
        sections.append(("sweep", "Over a setting", sweeps))
    sections.append(("tests", f"Against {found['baseline']}", _tests(found)))
    if "expected" in found:
        sections.append(("expected", "Against what is published", _expected(found["expected"])))
    sections.append(("costs", "Costs", _costs(found)))
    sections.append(("curves", "On the way", _curves(found, records, folders)))
    if found["missing"]:
        rows: list[list[Cell]] = [[text] for text in found["missing"]]
        sections.append(("missing", "Missing runs", table(["run"], rows, "Runs without a result", numeric=())))
    sections.append(("settings", "Settings", _settings(records, folders)))
    sections.append(("runs", "All runs", details("Every run", _runs(records))))
    return page(title, sections)


def comparison_report(place: Path) -> str:
    """The page of a comparison that lies on disk.

    Args:
        place: a folder that `tandemtune compare` wrote.

    Returns:
        A whole HTML file.

    Raises:
        RunError: its files cannot be read.
    """
    saved, records = _read(place / "comparison.json", dict), _read(place / "records.json", list)
    try:
        return comparison_page(saved, records, str(saved.get("title", place.absolute().name)), place)
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{place} holds no comparison that can be shown ({error!r}): make it anew with `tandemtune compare`"
        ) from error


# ---- scores and costs ---------------------------------------------------------------------------------------------


def _scores(found: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    results = [record["result"] for record in records if "result" in record]
    metrics = sorted({str(result["metric"]) for result in results})
    what = metrics[0] if len(metrics) == 1 else "score"
    columns: list[str] = list(found["columns"])
    headers, cells = table_rows(found)
    keep = [0, 1, 3] if len(columns) == 1 else list(range(len(columns) + 3))  # the average of one column is the column
    methods: list[str] = list(found["methods"])
    best = [(row, keep.index(column)) for row, column in _best(found, columns) if column in keep]
    shown: list[list[Cell]] = [[row[column] for column in keep] for row in cells]
    seeds = list(dict.fromkeys(record["seed"] for record in records))
    parts = [
        facts(
            [
                ("runs that have ended", f"{len(results)} of {len(records)}"),
                ("methods", sum(name not in CONTROLS for name in methods)),
                ("tasks", len({record["task"] for record in records})),
                ("models", len({record["model"] for record in records})),
                ("seeds", ", ".join(map(str, seeds))),
                ("baseline", found["baseline"]),
            ]
        ),
        table(
            [headers[column] for column in keep],
            shown,
            f"Test {what}, mean ± standard deviation over seeds",
            numeric=range(1, len(keep)),
            best=best,
        ),
    ]
    said = "Rank is the mean place among the methods, 1 for the best. Rows in parentheses need no search and have none."
    if len(metrics) > 1:
        said += f" Scores are {', '.join(metrics)}, by task."
    if results and all(result["tuned"]["test"] is None for result in results):
        said += " There are no test rows, so there are no test scores."
    return "\n".join([*parts, *(paragraph(text) for text in (said, *found["notes"]))])


def _best(found: Mapping[str, Any], columns: Sequence[str]) -> list[tuple[int, int]]:
    """(row, column) of the best methods in each column, in the average and in rank; controls do not take part."""
    rows = [(index, row) for index, (name, row) in enumerate(found["methods"].items()) if name not in CONTROLS]
    places: list[list[tuple[int, float | None]]] = [
        [(index, row["columns"][column].get("rank")) for index, row in rows] for column in columns
    ]
    places.append([(index, None if row["average"] is None else -row["average"]) for index, row in rows])
    places.append([(index, row["rank"]) for index, row in rows])
    best = []
    for column, values in enumerate(places, 1):
        there = [value for _, value in values if value is not None]
        if len(there) > 1:
            best += [(index, column) for index, value in values if value == min(there)]
    return best


def _tests(found: Mapping[str, Any]) -> str:
    """Paired tests against the baseline."""
    _, cells = table_rows(found)
    rows: list[list[Cell]] = [[row[0], *row[-3:]] for row in cells if row[0] != found["baseline"] and row[-1]]
    if not rows:
        return paragraph(f"No run can be paired with one of {found['baseline']} yet.")
    said = (
        "Pairs are runs of the same model, task and seed. p is that of a two-sided test that flips the signs of the "
        "differences; a draw is half a win. Each row is a test of its own: of many rows one may look good by chance."
    )
    shown = table(
        ["method", "difference", "p", "wins"], rows, f"Test score minus {found['baseline']}", numeric=(1, 2, 3)
    )
    return f"{shown}\n{paragraph(said)}"


def _expected(order: Mapping[str, Any]) -> str:
    """Expected ranks beside measured ones, and what they say together."""
    headers, cells = rank_rows(order)
    rows: list[list[Cell]] = [list(row) for row in cells]
    shown = table(headers, rows, "Expected and measured ranks", numeric=range(1, len(headers)))
    return "\n".join([shown, *map(paragraph, rank_sentences(order))])


def _costs(found: Mapping[str, Any]) -> str:
    headers, cells = cost_rows(found)
    if not cells:
        return paragraph("No run has ended yet.")
    rows: list[list[Cell]] = [list(row) for row in cells]
    parts = [table(headers, rows, "Mean cost of a run", numeric=range(1, len(headers)))]
    costs = {name: row["costs"] for name, row in found["methods"].items() if row["costs"]}
    for key, title, unit in (("minutes", "Minutes of search", "min"), ("peak MB", "Peak memory of the process", "MB")):
        bars: list[Bar] = [(name, cost[key], None) for name, cost in costs.items()]
        parts.append(bar_figure(title, f"{title.lower()}, mean of a run", bars, unit=unit))
    parts.append(
        paragraph(
            f"Ratios are to {reference_of(found)}, over the runs that both have. Runs that went side by side on one machine slow "
            "each other down."
        )
    )
    return "\n".join(parts)


def _sweeps(found: Mapping[str, Any]) -> str:
    """Test scores over a setting that was varied, or that methods are called by (`d=100`, `d=500`)."""
    parts = []
    for of, key, members in _swept(found):
        title = f"Test score over {': '.join(part for part in (of, key) if part)}"
        numbers = {name: float(value) for name, value in members.items() if type(value) in (int, float)}
        if len(numbers) == len(members):
            parts.append(_sweep_lines(found, title, key, numbers))
            continue
        for column in found["columns"]:
            cells = {str(value): found["methods"][name]["columns"][column] for name, value in members.items()}
            bars: list[Bar] = [(value, cell["mean"], cell["std"]) for value, cell in cells.items()]
            parts.append(bar_figure(f"{title}: {column}", "test score", bars))
    if parts:
        parts.append(paragraph("Bands and error bars are one standard deviation over seeds to either side."))
    return "\n".join(parts)


def _swept(found: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """(method, setting, value of each method that stands for one) of everything that was varied."""
    swept = [
        (str(one["of"]), str(one["key"]), dict(zip(one["methods"], one["values"], strict=True)))
        for one in found["sweeps"]
    ]
    taken = {name for _, _, members in swept for name in members}
    named: dict[str, dict[str, Any]] = {}
    for name in found["methods"]:
        match = None if name in taken else _SETTING.fullmatch(name)
        if match and math.isfinite(float(match[2])):
            named.setdefault(match[1], {})[name] = float(match[2])
    found_here = [("", key, members) for key, members in named.items()]
    return [one for one in [*swept, *found_here] if len(one[2]) > 1]


def _sweep_lines(found: Mapping[str, Any], title: str, key: str, members: Mapping[str, float]) -> str:
    order = sorted(members, key=lambda name: members[name])
    values = [members[name] for name in order]
    columns: list[str] = found["columns"]
    curves = []
    for column in columns:
        cells = [found["methods"][name]["columns"][column] for name in order]
        curves.append(Series(column, values, [cell["mean"] for cell in cells], [cell["std"] for cell in cells]))
    if len(columns) == 1:  # what needs no search, to compare with
        controls = {
            name: found["methods"][name]["columns"][columns[0]]["mean"] for name in CONTROLS if name in found["methods"]
        }
        curves += [
            Series(name, [values[0], values[-1]], [score] * 2) for name, score in controls.items() if score is not None
        ]
    wide = values[0] > 0 and values[-1] >= LOG_RATIO * values[0]
    return line_figure(title, key, "test score", curves, x_log=wide)


# ---- curves -------------------------------------------------------------------------------------------------------


def _curves(found: Mapping[str, Any], records: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> str:
    """Mean dev losses of each method over tokens, figures for each column."""
    trails: dict[tuple[str, str], list[list[Spot]]] = {}
    wanted: Counter[tuple[str, str]] = Counter()
    lost = 0
    for record, folder in zip(records, folders, strict=True):
        key = " · ".join(part for part in (record["model"], record["task"]) if part), record["method"]
        wanted[key] += 1
        if "result" in record:
            spots = _spots(folder)
            lost += spots is None
            if spots:
                trails.setdefault(key, []).append(spots)
    if not trails:
        return paragraph("No journal of an ended run can be read, so there are no curves.")
    parts = [
        paragraph(
            "The lowest dev loss so far is that of the point that would be kept. Curves go look by look, as means over seeds of what "
            "was spent and what was reached; a run that ended early stays where it ended. Bands are one standard deviation to "
            "either side."
        )
    ]
    backward = any(spot.backward for runs in trails.values() for spots in runs for spot in spots)
    for column in found["columns"]:
        there: dict[str, list[list[Spot]]] = {}
        for (where, method), runs in trails.items():
            if where == column:
                few = f" ({len(runs)} of {wanted[where, method]} runs)" if len(runs) < wanted[where, method] else ""
                there[method + few] = runs
        label = "tokens through the model, forwards"
        parts.append(_figure(f"Lowest dev loss so far: {column}", label, there))
        more = [_figure(f"Dev loss where the search stands: {column}", label, there, lowest=False)]
        if backward:
            label += " and backwards"
            more.append(_figure(f"Lowest dev loss so far, over all tokens: {column}", label, there, backward=True))
        parts.append(details(f"More curves of {column}", "\n".join(more)))
    if lost:
        parts.append(paragraph(f"{lost} runs have no journal that can be read, and are not in the curves."))
    return "\n".join(parts)


def _figure(
    title: str,
    label: str,
    trails: Mapping[str, Sequence[Sequence[Spot]]],
    *,
    lowest: bool = True,
    backward: bool = False,
) -> str:
    curves = []
    for method, runs in trails.items():
        xs, ys, spread = mean_curve(runs, lowest=lowest, backward=backward)
        curves.append(Series(method, xs, ys, spread if len(trails) <= BANDS else None))
    return line_figure(title, label, "dev loss", curves)


def mean_curve(
    runs: Sequence[Sequence[Spot]], *, lowest: bool = False, backward: bool = False
) -> tuple[list[float], list[float], list[float | None]]:
    """The mean of several runs, look by look: what they had spent and what they had reached.

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
            (spot.tokens + ((spot.backward or 0.0) if backward else 0.0), spot.dev)
            for spot in spots
            if spot.tokens is not None and spot.dev is not None
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


def _settings(records: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> str:
    """What all runs share as a recipe, and what makes the difference between methods, tasks and models."""
    recipes = [
        (record, recipe)
        for record, folder in zip(records, folders, strict=True)
        if (recipe := _recipe(folder)) is not None
    ]
    if not recipes:
        return paragraph("No recipe can be read.")
    flat = [
        (record, {f"{s}.{k}": v for s, table_ in recipe.items() for k, v in table_.items()})
        for record, recipe in recipes
    ]
    keys = list(dict.fromkeys(key for _, settings in flat for key in settings))
    written = {key: {_text(settings.get(key)) for _, settings in flat} for key in keys}
    shared: dict[str, dict[str, Any]] = {}
    for key in keys:
        section, _, name = key.partition(".")
        if len(written[key]) == 1:
            shared.setdefault(section, {})[name] = flat[0][1].get(key)
    parts = []
    differing = [key for key in keys if len(written[key]) > 1 and key != "task.seed"]
    for axis in ("method", "task", "model"):
        members = list(dict.fromkeys(record[axis] for record, _ in flat))
        by_member = {
            key: {member: {_text(s.get(key)) for r, s in flat if r[axis] == member} for member in members}
            for key in differing
        }
        made = [key for key in differing if all(len(values) == 1 for values in by_member[key].values())]
        if made and len(members) > 1:
            rows: list[list[Cell]] = [
                [key, *(next(iter(by_member[key][member])) for member in members)] for key in made
            ]
            parts.append(table(["setting", *members], rows, f"What differs between {axis}s", numeric=()))
            differing = [key for key in differing if key not in made]
    if differing:
        parts.append(paragraph(f"Settings that differ otherwise: {', '.join(differing)}."))
    parts.append("<h3>The same in all runs</h3>")
    parts.append(code(recipe_text(shared), "Settings that all runs share"))
    return "\n".join(parts)


def _runs(records: Sequence[Mapping[str, Any]]) -> str:
    rows: list[list[Cell]] = []
    for record in records:
        names: list[Cell] = [part for part in (record["task"], record["model"]) if part]
        result = record.get("result")
        if result is None:
            told: list[Cell] = [None, None, None, None, str(record.get("failure", "not run"))]
        else:
            tuned, cost = result["tuned"], result["cost"]
            told = [
                tuned["test"],
                tuned["dev"],
                result["zero_shot"]["test"],
                cost["peak_rss_mb"],
                duration(cost["seconds"]),
            ]
        rows.append([" · ".join(str(name) for name in names), record["method"], str(record["seed"]), *told])
    headers = ["task", "method", "seed", "test", "dev", "zero-shot test", "peak MB", "search"]
    return table(headers, rows, "Every run", numeric=range(2, 7))


# ---- reading ------------------------------------------------------------------------------------------------------


def _folder(record: Mapping[str, Any], place: Path) -> Path:
    """Where a run lies: in the comparison's folder, which may have been moved, or where it was made."""
    made = Path(str(record.get("folder", "")))
    count = sum(bool(record[name]) for name in ("model", "task", "method")) + 1
    near = place.joinpath(*made.parts[-count:])
    return near if (near / "recipe.json").is_file() else made


def _spots(folder: Path) -> list[Spot] | None:
    """A journal as spots; None if it cannot be read."""
    run = RunFolder(folder)
    try:
        return trail(run, run.read_lines()) or None
    except (RunError, OSError, KeyError, TypeError, ValueError):
        return None


def _recipe(folder: Path) -> dict[str, dict[str, Any]] | None:
    try:
        recipe = RunFolder(folder).read_recipe()
    except RunError:
        return None
    return {section: settings for section, settings in recipe.items() if isinstance(settings, dict)}


def _read(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, kind):
        raise RunError(f"{path} is damaged: expected {'an object' if kind is dict else 'a list'}")
    return content


def _text(value: Any) -> str:
    """A setting as text; what is left out has no text."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else toml_value(value)
