"""Many runs as one table: mean and standard deviation, ranks, paired tests against a baseline, costs."""

from __future__ import annotations

import csv
import io
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

EXACT = 14
"""Pairs up to which all sign flips are counted; above, a seeded sample of them."""
SAMPLE = 20_000
CONTROLS: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "(majority class)": lambda result: result.get("majority"),
    "(zero-shot)": lambda result: result["zero_shot"]["test"],
    "(zero-shot, calibrated)": lambda result: result["zero_shot"]["calibrated"]["test"],
}
COSTS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "minutes": lambda result: result["cost"]["seconds"] / 60,
    "forward tokens (M)": lambda result: result["cost"]["forward_tokens"] / 1e6,
    "backward tokens (M)": lambda result: result["cost"]["backward_tokens"] / 1e6,
    "candidates": lambda result: result["cost"]["candidates"],
    "gradient steps": lambda result: result["cost"]["gradient_steps"],
    "mentor tokens": lambda result: (
        result["cost"].get("mentor_prompt_tokens", 0) + result["cost"].get("mentor_completion_tokens", 0)
    ),
    "peak MB": lambda result: result["cost"]["peak_rss_mb"],
}


def compared(records: Sequence[Mapping[str, Any]], baseline: str) -> dict[str, Any]:
    """Everything that the tables of a comparison show.

    Args:
        records: what `compare.execute` returned; those without a result are counted as missing.
        baseline: the method that others are tested against, pair by pair over models, tasks and seeds.

    Returns:
        Columns (task, or model and task), and for each method: mean, standard deviation and number of test scores by column,
        their average, its mean rank over columns, the mean difference to the baseline with a p-value, and its costs.
    """
    done = [record for record in records if "result" in record]
    columns = list(dict.fromkeys(_column(record) for record in records))
    methods = list(dict.fromkeys(record["method"] for record in records))
    scores: dict[str, dict[tuple[str, int], float]] = {method: {} for method in methods}
    for record in done:
        if record["result"]["tuned"]["test"] is not None:
            scores[record["method"]][_column(record), record["seed"]] = record["result"]["tuned"]["test"]
    for name, read in CONTROLS.items():
        found = {(_column(record), record["seed"]): read(record["result"]) for record in done}
        scores[name] = {key: value for key, value in found.items() if value is not None}
    rows = {name: _row(found, columns) for name, found in scores.items()}
    for column in columns:
        order = sorted(
            (rows[m]["columns"][column]["mean"] for m in methods if rows[m]["columns"][column]["n"]), reverse=True
        )
        for method in methods:
            cell = rows[method]["columns"][column]
            cell["rank"] = 1 + order.index(cell["mean"]) + (order.count(cell["mean"]) - 1) / 2 if cell["n"] else None
    for name, row in rows.items():
        ranks = [cell["rank"] for cell in row["columns"].values() if cell.get("rank") is not None]
        row["rank"] = mean(ranks) if ranks else None
        row["against"] = None if name == baseline else paired(scores[name], scores.get(baseline, {}))
        row["costs"] = _costs([record["result"] for record in done if record["method"] == name])
    return {
        "baseline": baseline,
        "columns": columns,
        "methods": rows,
        "missing": [_named(record) for record in records if "result" not in record],
    }


def paired(one: Mapping[Any, float], other: Mapping[Any, float]) -> dict[str, float] | None:
    """Mean difference over the pairs that both have, and the p-value of a two-sided sign-flip (permutation) test.

    Args:
        one: score by pair.
        other: the baseline's.
    """
    differences = [one[key] - other[key] for key in one if key in other]
    if not differences:
        return None
    observed = abs(sum(differences)) - 1e-12
    count = len(differences)
    if count <= EXACT:
        flips: Any = itertools.product((1, -1), repeat=count)
    else:
        generator = random.Random(0)
        flips = ([generator.choice((1, -1)) for _ in range(count)] for _ in range(SAMPLE))
    hits = [abs(sum(sign * d for sign, d in zip(signs, differences, strict=True))) >= observed for signs in flips]
    wins = sum(d > 0 for d in differences) + 0.5 * sum(d == 0 for d in differences)
    return {"difference": mean(differences), "p": mean(hits), "pairs": count, "wins": wins}


def _row(found: Mapping[tuple[str, int], float], columns: Sequence[str]) -> dict[str, Any]:
    cells: dict[str, dict[str, Any]] = {}
    for column in columns:
        values = [value for (name, _), value in found.items() if name == column]
        cells[column] = {
            "mean": mean(values) if values else None,
            "std": stdev(values) if len(values) > 1 else None,
            "n": len(values),
        }
    means = [cell["mean"] for cell in cells.values()]
    return {"columns": cells, "average": mean(means) if means and None not in means else None}


def _costs(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {name: mean(read(result) for result in results) for name, read in COSTS.items()} if results else {}


def table_rows(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Scores as text cells: headers and rows.

    Args:
        found: what `compared` returned.
    """
    headers = ["method", *found["columns"], "average", "rank", f"against {found['baseline']}", "p", "wins"]
    rows: list[list[str]] = []
    for name, row in found["methods"].items():
        against = row["against"]
        rows.append(
            [
                name,
                *(_score(cell) for cell in row["columns"].values()),
                _number(row["average"], 3),
                _number(row["rank"], 1),
                "" if against is None else f"{against['difference']:+.3f}",
                "" if against is None else f"{against['p']:.3f}",
                "" if against is None else f"{against['wins']:g} of {against['pairs']}",
            ]
        )
    return headers, rows


def cost_rows(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Mean costs of a run as text cells, minutes and memory also as ratios to the baseline: headers and rows."""
    base = found["methods"].get(found["baseline"], {}).get("costs", {})
    headers = ["method", *COSTS, "minutes, ratio", "peak MB, ratio"]
    rows: list[list[str]] = []
    for name, row in found["methods"].items():
        costs = row["costs"]
        if costs:
            ratios = [f"{costs[key] / base[key]:.2f}" if base.get(key) else "" for key in ("minutes", "peak MB")]
            digits = {"minutes": 2, "forward tokens (M)": 3, "backward tokens (M)": 3}
            rows.append([name, *(_number(costs[key], digits.get(key, 0)) for key in COSTS), *ratios])
    return headers, rows


def as_markdown(found: Mapping[str, Any], title: str) -> str:
    """Both tables as Markdown."""
    parts = [f"# {title}", ""]
    for headers, rows in (table_rows(found), cost_rows(found)):
        parts += ["| " + " | ".join(headers) + " |", "|---" * len(headers) + "|"]
        parts += ["| " + " | ".join(row) + " |" for row in rows]
        parts.append("")
    if found["missing"]:
        parts.append(f"Missing: {'; '.join(found['missing'])}")
    return "\n".join(parts) + "\n"


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """One line for each run, with scores and costs."""
    file = io.StringIO()
    names = ["model", "task", "method", "seed", "test", "dev", "zero_shot", "zero_shot_calibrated", *COSTS, "failure"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for record in records:
        row: list[Any] = [record[name] for name in ("model", "task", "method", "seed")]
        result = record.get("result")
        if result is None:
            writer.writerow([*row, *[""] * (4 + len(COSTS)), record.get("failure", "not run")])
            continue
        zero = result["zero_shot"]
        scores = [result["tuned"]["test"], result["tuned"]["dev"], zero["test"], zero["calibrated"]["test"]]
        writer.writerow([*row, *scores, *(round(read(result), 6) for read in COSTS.values()), ""])
    return file.getvalue()


def comparison_view(found: Mapping[str, Any], title: str) -> RenderableType:
    """What `compare` prints."""
    parts: list[RenderableType] = []
    for name, (headers, rows) in ((title, table_rows(found)), ("mean cost of a run", cost_rows(found))):
        table = Table(title=Text(name))
        for index, header in enumerate(headers):
            table.add_column(header, justify="right" if index else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        parts.append(table)
    if found["missing"]:
        parts.append(Text(f"{len(found['missing'])} runs are missing: {'; '.join(found['missing'])}"))
    return Group(*parts)


def _column(record: Mapping[str, Any]) -> str:
    return " · ".join(part for part in (record["model"], record["task"]) if part)


def _named(record: Mapping[str, Any]) -> str:
    return f"{_column(record)}, {record['method']}, seed {record['seed']} ({record.get('failure', 'not run')})"


def _score(cell: Mapping[str, Any]) -> str:
    if not cell["n"]:
        return "-"
    return f"{cell['mean']:.3f}" + ("" if cell["std"] is None else f" ± {cell['std']:.3f}")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
