"""Many runs as one table: mean and standard deviation, ranks, paired tests against a baseline, costs, curves of sweeps."""

from __future__ import annotations

import csv
import io
import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tandemtune.compare import save
from tandemtune.plan import Expected, Plan
from tandemtune.report.plot import Series, bar_text, line_text
from tandemtune.report.ranks import ROUNDING, against_expected, rank_rows, rank_sentences, ranks
from tandemtune.runs.files import write_atomically, write_json

EXACT = 14
"""Pairs up to which all sign flips are counted; above, a seeded sample of them."""
SAMPLE = 20_000
LOG_RATIO = 20
"""Swept values that span this ratio are drawn on a logarithmic axis."""
MISSING = 20
"""Missing runs that tables name; `runs.csv` has all."""
FILES = ("table.md", "runs.csv", "comparison.json", "records.json")
Key = tuple[str, int]
Read = Callable[[Mapping[str, Any]], Any]
CONTROLS: dict[str, Read] = {
    "(majority class)": lambda result: result.get("majority"),
    "(zero-shot)": lambda result: result["zero_shot"]["test"],
    "(zero-shot, calibrated)": lambda result: result["zero_shot"]["calibrated"]["test"],
}
COSTS: dict[str, Read] = {
    "minutes": lambda result: result["cost"]["seconds"] / 60,
    "peak MB": lambda result: result["cost"]["peak_rss_mb"],
    "forward tokens (M)": lambda result: result["cost"]["forward_tokens"] / 1e6,
    "backward tokens (M)": lambda result: result["cost"].get("backward_tokens", 0) / 1e6,
    "candidates": lambda result: result["cost"]["candidates"],
    "gradient steps": lambda result: result["cost"].get("gradient_steps", 0),
    "mentor tokens": lambda result: (
        result["cost"].get("mentor_prompt_tokens", 0) + result["cost"].get("mentor_completion_tokens", 0)
    ),
}
A_ROW_OR_TWO = 0.01
"""Controls that differ by less are one: in 16 bits other groups of rows turn a row or two."""
RATIOS = ("minutes", "peak MB")
"""Costs that are shown as ratios to those of the plan's reference, too."""
DIGITS = {"minutes": 2, "forward tokens (M)": 3, "backward tokens (M)": 3}


def compared(
    records: Sequence[Mapping[str, Any]],
    baseline: str,
    *,
    reason: str | None = None,
    reference: str | None = None,
    expected: Expected | None = None,
) -> dict[str, Any]:
    """Everything that the tables of a comparison show.

    Args:
        records: what `compare.execute` returned; those without a result are counted as missing.
        baseline: the method that others are tested against, pair by pair over models, tasks and seeds.
        reason: how runs say that they ended by the plan's budget, if it has one.
        reference: the method that ratios of costs are to; None: the baseline.
        expected: published scores, if the plan has some.

    Returns:
        Columns (task, or model and task), and for each method and control: mean, standard deviation (n - 1) and number of test
        scores by column; their average, and its standard deviation over seeds, where no run is missing; mean rank over columns;
        the mean difference to the baseline with a p-value; and costs. Sweeps, what is missing, and notes. With published scores
        ``expected``, see `against_expected`.
    """
    done = [record for record in records if "result" in record]
    reference = reference or baseline
    tasks = {_column(record): record["task"] for record in records}
    columns = list(tasks)
    methods = list(dict.fromkeys(record["method"] for record in records))
    wanted = {name: [_key(record) for record in records if record["method"] == name] for name in methods}
    results = {name: {_key(r): r["result"] for r in done if r["method"] == name} for name in methods}
    scores = {name: _scores(found, lambda result: result["tuned"]["test"]) for name, found in results.items()}
    every = list(dict.fromkeys(_key(record) for record in records))
    shared: dict[Key, Mapping[str, Any]] = {}
    for name in [baseline, *methods]:  # what all methods share is read from the baseline's runs where it has them
        shared = {**results.get(name, {}), **shared}
    for name, read in CONTROLS.items():
        scores[name], wanted[name] = _scores(shared, read), every
    rows = {name: _row(scores[name], wanted[name], columns) for name in scores}
    _rank({name: rows[name] for name in methods}, columns)
    for name, row in rows.items():
        row["against"] = None if name == baseline else paired(scores[name], scores.get(baseline, {}))
        row["runs"] = len(results.get(name, {}))
        row["costs"] = _costs(results.get(name, {}))
        row["ratios"] = _ratios(results.get(name, {}), results.get(reference, {}))
    found = {
        "baseline": baseline,
        "reference": reference,
        "columns": columns,
        "methods": rows,
        "sweeps": _sweeps(records),
        "missing": [_named(record) for record in records if "result" not in record],
    }
    if expected is not None:
        found["expected"] = against_expected(expected, {name: rows[name] for name in methods}, tasks)
    return {**found, "notes": [*_notes(found), *_notes_on_runs(done, results, baseline, reason)]}


def paired(one: Mapping[Any, float], other: Mapping[Any, float]) -> dict[str, float] | None:
    """A two-sided sign-flip (permutation) test of the mean difference over the pairs that both have.

    Args:
        one: score by pair.
        other: the baseline's.

    Returns:
        The mean ``difference``; ``p``, the share of all sign flips (of a seeded sample beyond `EXACT` pairs, the observed
        signs counted in) whose mean is at least as far from zero; ``pairs``; ``wins``, a tie counted half; and ``ties``. None
        without pairs.
    """
    differences = [one[key] - other[key] for key in one if key in other]
    if not differences:
        return None
    count, total = len(differences), sum(differences)
    least = abs(total) - 2 * ROUNDING * count
    if count <= EXACT:
        flips = itertools.product((1, -1), repeat=count)
        hits = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= least for signs in flips]
        p = mean(hits)
    else:
        generator = random.Random(0)
        drawn = (generator.getrandbits(count) for _ in range(SAMPLE))
        sums = (total - 2 * sum(d for i, d in enumerate(differences) if bits >> i & 1) for bits in drawn)
        p = (1 + sum(abs(flipped) >= least for flipped in sums)) / (1 + SAMPLE)
    won, ties = sum(d > ROUNDING for d in differences), sum(abs(d) <= ROUNDING for d in differences)
    return {
        "difference": mean(differences) + 0.0,  # no negative zero
        "p": float(p),
        "pairs": count,
        "wins": won + ties / 2,
        "ties": ties,
    }


def _key(record: Mapping[str, Any]) -> Key:
    return _column(record), record["seed"]


def _scores(results: Mapping[Key, Mapping[str, Any]], read: Read) -> dict[Key, float]:
    """Scores that are numbers, by column and seed."""
    found = {key: read(result) for key, result in results.items()}
    return {key: float(value) for key, value in found.items() if value is not None and math.isfinite(value)}


def _row(found: Mapping[Key, float], wanted: Sequence[Key], columns: Sequence[str]) -> dict[str, Any]:
    cells: dict[str, dict[str, Any]] = {}
    for column in columns:
        values = [value for (name, _), value in found.items() if name == column]
        of = sum(name == column for name, _ in wanted)
        cells[column] = {"mean": mean(values) if values else None, "std": _std(values), "n": len(values), "of": of}
    average, std = None, None
    seeds = list(dict.fromkeys(seed for _, seed in wanted))
    if seeds and all(key in found for key in itertools.product(columns, seeds)):
        average = mean(cell["mean"] for cell in cells.values())
        std = _std([mean(found[column, seed] for column in columns) for seed in seeds])
    return {"columns": cells, "average": average, "average_std": std, "rank": None}


def _std(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample; None of one value."""
    return stdev(values) if len(values) > 1 else None


def _rank(rows: Mapping[str, dict[str, Any]], columns: Sequence[str]) -> None:
    """Ranks of the methods in each column that they have whole, ties shared; their mean where a method has all columns."""
    for column in columns:
        cells = {name: row["columns"][column] for name, row in rows.items()}
        places = ranks({name: cell["mean"] for name, cell in cells.items() if cell["n"] == cell["of"] > 0})
        for name, cell in cells.items():
            cell["rank"] = places.get(name)
    for row in rows.values():
        found = [cell["rank"] for cell in row["columns"].values()]
        row["rank"] = mean(found) if found and None not in found else None


def _costs(results: Mapping[Key, Mapping[str, Any]]) -> dict[str, float]:
    return {name: mean(float(read(r)) for r in results.values()) for name, read in COSTS.items()} if results else {}


def _ratios(results: Mapping[Key, Mapping[str, Any]], base: Mapping[Key, Mapping[str, Any]]) -> dict[str, float | None]:
    """Costs as ratios to the reference's, over the runs that both have."""
    keys = [key for key in results if key in base]
    sums = {name: [sum(COSTS[name](of[key]) for key in keys) for of in (results, base)] for name in RATIOS}
    return {name: mine / its if its else None for name, (mine, its) in sums.items()}


def _sweeps(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Settings that were varied: the values and the methods that stand for them."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        if "sweep" in record:
            of, key, value = (record["sweep"][name] for name in ("of", "key", "value"))
            sweep = found.setdefault((of, key), {"of": of, "key": key, "values": [], "methods": []})
            if record["method"] not in sweep["methods"]:
                sweep["values"].append(value)
                sweep["methods"].append(record["method"])
    return list(found.values())


def _notes(found: Mapping[str, Any]) -> list[str]:
    """What a reader of the scores has to know."""
    notes = []
    pairs = {row["against"]["pairs"] for row in found["methods"].values() if row["against"]}
    if pairs and 2 / 2 ** min(pairs) > 0.05:
        notes.append(
            f"p of {min(pairs)} pairs cannot be below {2 / 2 ** min(pairs):.3g}: telling methods apart takes more seeds or tasks."
        )
    if any(0 < cell["n"] < cell["of"] for row in found["methods"].values() for cell in row["columns"].values()):
        notes.append(
            "(n of m): runs are missing, so the mean is of other seeds than its neighbours'; no average, no rank."
        )
    return notes


def _notes_on_runs(
    done: Sequence[Mapping[str, Any]],
    results: Mapping[str, Mapping[Key, Mapping[str, Any]]],
    baseline: str,
    reason: str | None,
) -> list[str]:
    """What makes runs less comparable than a table looks."""
    notes = []
    for name, found in results.items():
        reasons = [str(r.get("stop_reason")) for r in found.values()]
        other = [given for given in reasons if reason is not None and given != reason]
        if other:
            said = ", ".join(sorted(set(other)))
            notes.append(f"{name}: {len(other)} of {len(found)} runs ended before the budget was spent ({said}).")
    first = results.get(baseline, {})
    for name, found in results.items():
        keys = [key for key in found if key in first]
        if any(_differ(read(found[key]), read(first[key])) for read in CONTROLS.values() for key in keys):
            notes.append(
                f"{name}: its zero-shot scores are not the baseline's (other rows, template or format); shown are those."
            )
    used: dict[str, set[str]] = {}
    for record in done:
        for package, version in record["result"].get("versions", {}).items():
            used.setdefault(package, set()).add(version)
    mixed = [f"{package} {', '.join(sorted(versions))}" for package, versions in used.items() if len(versions) > 1]
    if mixed:
        notes.append(f"Runs were made with different versions: {'; '.join(mixed)}.")
    unknown = sorted({setting for record in done for setting in record.get("unknown", [])})
    if unknown:
        notes.append(f"Some runs were made with settings that this version does not know: {', '.join(unknown)}.")
    return notes


def _differ(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) > A_ROW_OR_TWO


# ---- as tables ---------------------------------------------------------------------------------------------------


def table_rows(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Scores as text cells.

    Args:
        found: what `compared` returned.

    Returns:
        Headers and rows; a method, then the controls in parentheses.
    """
    headers = ["method", *found["columns"], "average", "rank", f"against {found['baseline']}", "p", "wins"]
    rows: list[list[str]] = []
    for name, row in found["methods"].items():
        against = row["against"]
        tested = ["", "", ""]
        if against is not None:
            tested = [f"{against['difference']:+z.3f}", f"{against['p']:.3f}"]
            tested.append(f"{against['wins']:g} of {against['pairs']}")
        average = _with_std(row["average"], row["average_std"])
        rows.append([name, *map(_score, row["columns"].values()), average, _number(row["rank"], 1), *tested])
    return headers, rows


def cost_rows(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Mean costs of a run as text cells, minutes and memory with their ratios to the reference.

    Args:
        found: what `compared` returned.

    Returns:
        Headers and rows; without costs that no method has.
    """
    ran = {name: row for name, row in found["methods"].items() if row["costs"]}
    shown = [key for key in COSTS if key in RATIOS or any(row["costs"][key] for row in ran.values())]
    headers = ["method", "runs"]
    for key in shown:
        headers += [key, f"{key}, ratio to {reference_of(found)}"] if key in RATIOS else [key]
    rows: list[list[str]] = []
    for name, row in ran.items():
        cells = [name, str(row["runs"])]
        for key in shown:
            cells.append(_number(row["costs"][key], DIGITS.get(key, 0)))
            cells += [_number(row["ratios"][key], 2)] if key in RATIOS else []
        rows.append(cells)
    return headers, rows


def reference_of(found: Mapping[str, Any]) -> str:
    """The method that ratios of costs are to.

    Args:
        found: what `compared` returned, by an earlier version, too.
    """
    return str(found.get("reference", found["baseline"]))


def as_markdown(found: Mapping[str, Any], title: str) -> str:
    """All tables as Markdown.

    Args:
        found: what `compared` returned.
        title: heading.
    """
    parts = [f"# {title}", "", *_markdown(*table_rows(found)), *_markdown(*cost_rows(found))]
    parts += [f"- {note}" for note in found["notes"]]
    parts += [f"- missing: {line}" for line in _missing(found)]
    if "expected" in found:
        parts += [*([""] if parts[-1] else []), "## Expected and measured ranks", ""]
        parts += _markdown(*rank_rows(found["expected"]))
        parts += [f"- {line}" for line in rank_sentences(found["expected"])]
    return "\n".join(parts).rstrip("\n") + "\n"


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headers, ["---"] * len(headers), *rows]
    return [*("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines), ""]


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """One line for each run, with scores and costs.

    Args:
        records: what `compare.execute` returned.
    """
    scores: dict[str, Read] = {
        "test": lambda result: result["tuned"]["test"],
        "test_calibrated": lambda result: result["tuned"]["calibrated"]["test"],
        "dev": lambda result: result["tuned"]["dev"],
        "zero_shot": CONTROLS["(zero-shot)"],
        "zero_shot_calibrated": CONTROLS["(zero-shot, calibrated)"],
        "majority": CONTROLS["(majority class)"],
        "stop_reason": lambda result: result.get("stop_reason"),
    }
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = ("model", "task", "method", "seed")
    writer.writerow([*names, *scores, *COSTS, "failure"])
    for record in records:
        result = record.get("result")
        row: list[Any] = [record[name] for name in names]
        if result is None:
            writer.writerow([*row, *[""] * (len(scores) + len(COSTS)), record.get("failure", "not run")])
        else:
            costs = [round(read(result), 6) for read in COSTS.values()]
            writer.writerow([*row, *(read(result) for read in scores.values()), *costs, ""])
    return file.getvalue()


def comparison_view(found: Mapping[str, Any], title: str) -> RenderableType:
    """What `compare` prints.

    Args:
        found: what `compared` returned.
        title: of the first table.
    """
    parts: list[RenderableType] = []
    tables = [(title, table_rows(found)), ("mean cost of a run", cost_rows(found))]
    if "expected" in found:
        tables.append(("expected and measured ranks", rank_rows(found["expected"])))
    for name, (headers, rows) in tables:
        shown = Table(title=Text(name))
        for index, header in enumerate(headers):
            shown.add_column(Text(header), justify="right" if index else "left", overflow="fold")
        for row in rows:
            shown.add_row(*(Text(cell) for cell in row))
        parts.append(shown)
    parts += [Text(line) for line in (rank_sentences(found["expected"]) if "expected" in found else [])]
    for sweep in found["sweeps"]:
        heading, curves = _sweep_title(sweep), _curves(found, sweep)
        if curves:
            parts.append(Text(line_text(heading, sweep["key"], "test score", curves, x_log=_log(sweep["values"]))))
        else:
            parts += [Text(bar_text(f"{heading}: {name}", "test score", lines)) for name, lines in _bars(found, sweep)]
    parts += [Text(note) for note in found["notes"]]
    if found["missing"]:
        parts.append(Text("\n".join([f"{len(found['missing'])} runs are missing:", *_missing(found)])))
    return Group(*parts)


def write(plan: Plan, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put all tables into the folder of a comparison.

    Args:
        plan: the plan.
        records: what `compare.execute` returned.

    Returns:
        What the tables show, see `compared`.
    """
    reason = plan.budget.reason if plan.budget else None
    budget = [f"Budget: {plan.budget}."] if plan.budget else []
    found = compared(records, plan.baseline, reason=reason, reference=plan.reference, expected=plan.expected)
    found["notes"] = budget + found["notes"]
    plan.out.mkdir(parents=True, exist_ok=True)
    write_json(plan.out / "comparison.json", {"title": plan.title, **found})
    save(plan.out, records)
    for name, text in (("table.md", as_markdown(found, plan.title)), ("runs.csv", as_csv(records))):
        write_atomically(plan.out / name, lambda file, text=text: file.write(text.encode("utf-8")))  # type: ignore[misc]
    return found


def _curves(found: Mapping[str, Any], sweep: Mapping[str, Any]) -> list[Series]:
    """Score against value, a curve for each column and for their average; none if values are no numbers."""
    if not all(type(value) in (int, float) for value in sweep["values"]):
        return []
    values, methods = zip(*sorted(zip(sweep["values"], sweep["methods"], strict=True)), strict=True)
    rows = [found["methods"][method] for method in methods]
    curves = [
        Series(
            column,
            values,
            [row["columns"][column]["mean"] for row in rows],
            [row["columns"][column]["std"] for row in rows],
        )
        for column in found["columns"]
    ]
    if len(curves) > 1:
        curves.append(Series("average", values, [row["average"] for row in rows], [row["average_std"] for row in rows]))
    return curves


def _bars(
    found: Mapping[str, Any], sweep: Mapping[str, Any]
) -> list[tuple[str, list[tuple[str, float | None, float | None]]]]:
    """Score of each value, by column."""
    rows = [
        (str(value), found["methods"][name]["columns"])
        for value, name in zip(sweep["values"], sweep["methods"], strict=True)
    ]
    return [
        (column, [(name, cells[column]["mean"], cells[column]["std"]) for name, cells in rows])
        for column in found["columns"]
    ]


def _sweep_title(sweep: Mapping[str, Any]) -> str:
    return f"{sweep['of']}: {sweep['key']}" if sweep["of"] else str(sweep["key"])


def _log(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= LOG_RATIO


def _column(record: Mapping[str, Any]) -> str:
    return " · ".join(part for part in (record["model"], record["task"]) if part)


def _named(record: Mapping[str, Any]) -> str:
    return f"{_column(record)}, {record['method']}, seed {record['seed']} ({record.get('failure', 'not run')})"


def _missing(found: Mapping[str, Any]) -> list[str]:
    """Runs without a result, as many as a reader looks at."""
    lines: list[str] = found["missing"]
    return lines if len(lines) <= MISSING else [*lines[:MISSING], f"and {len(lines) - MISSING} more, see runs.csv"]


def _score(cell: Mapping[str, Any]) -> str:
    text = _with_std(cell["mean"], cell["std"])
    return f"{text} ({cell['n']} of {cell['of']})" if 0 < cell["n"] < cell["of"] else text


def _with_std(value: float | None, std: float | None) -> str:
    return _number(value, 3) + ("" if std is None else f" ± {std:.3f}")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:z.{digits}f}"
