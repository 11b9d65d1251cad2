"""A run as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tandemtune.runs.store import RunFolder


def duration(seconds: float) -> str:
    """Seconds for people: "48 s", "3 min 20 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def result_table(result: dict[str, Any]) -> RenderableType:
    """Zero-shot against tuned, on dev and test, with costs.

    Args:
        result: the content of `result.json`.
    """
    metric = result["metric"]
    title = f"{result['task']} · {result['model']} · {result['method']} · seed {result['seed']}"
    table = Table(title=Text(title))
    for name in ("", "train loss", "dev loss", f"dev {metric}", f"test {metric}"):
        table.add_column(name, justify="left" if not name else "right")
    for key, name in (("zero_shot", "zero-shot"), ("tuned", "tuned")):
        row = result[key]
        table.add_row(
            name, _number(row["train_loss"]), _number(row["dev_loss"]), _number(row["dev"]), _number(row["test"])
        )
        calibrated = row["calibrated"]
        table.add_row(
            f"  {name}, calibrated", "", "", _number(calibrated["dev"]), _number(calibrated["test"]), style="dim"
        )
    cost = result["cost"]
    rows = result["rows"]
    lines = [
        f"{cost['candidates']} candidates, {cost['forward_tokens']:,} forward tokens, "
        f"{duration(cost['seconds'])} of search, peak memory {cost['peak_rss_mb']:.0f} MB",
        f"rows: {rows['train']} train, {rows['dev']} dev, {rows['test']} test · "
        f"kept the point after generation {result['kept_step']} of {result['steps']} (lowest dev loss) · "
        f"stopped by {result['stop_reason']}",
    ]
    if result["kept_step"] == 0:
        lines.append("No point was better on dev than the pretrained model, so that is what was kept.")
    return Group(table, *(Text(line) for line in lines))


def summary(folder: RunFolder) -> dict[str, Any]:
    """Everything `show` tells, as data.

    Args:
        folder: a run, finished or not.
    """
    lines = folder.read_lines()
    generations = [line for line in lines if line["event"] == "generation"]
    looks = [
        {"step": line["step"], **line["dev"], "train_loss": _after(line)}
        for line in generations
        if line["dev"] is not None
    ]
    return {
        "folder": str(folder.path),
        "finished": folder.result.exists(),
        "generations": len(generations),
        "budget": folder.read_recipe()["method"]["budget"],
        "candidates": generations[-1]["candidates"] if generations else 0,
        "start": lines[0] if lines else None,
        "looks": looks,
        "layers": layer_gains(generations),
        "result": folder.read_result(),
    }


def layer_gains(generations: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How often each layer's best candidate was taken, and how much the training loss fell by it."""
    gains: dict[str, dict[str, float]] = {}
    for line in generations:
        entry = gains.setdefault(str(line["layer"]), {"turns": 0, "taken": 0, "gain": 0.0})
        entry["turns"] += 1
        if line["accepted"]:
            entry["taken"] += 1
            if line["incumbent"] is not None:
                entry["gain"] += line["incumbent"] - line["best"]
    return gains


def summary_view(found: dict[str, Any]) -> RenderableType:
    """What `show` prints.

    Args:
        found: what `summary` returned.
    """
    parts: list[RenderableType] = []
    if found["looks"]:
        curve = Table(title="on the way")
        for name in ("generation", "train loss", "dev loss", "dev score"):
            curve.add_column(name, justify="right")
        if found["start"]:
            start = found["start"]
            curve.add_row(
                "0", _number(start["train_loss"]), _number(start["dev"]["loss"]), _number(start["dev"]["score"])
            )
        for look in _thinned(found["looks"], 16):
            curve.add_row(str(look["step"]), _number(look["train_loss"]), _number(look["loss"]), _number(look["score"]))
        layers = Table(title="layer by layer")
        for name in ("layer", "turns", "taken", "training loss fell by"):
            layers.add_column(name, justify="right")
        for layer, entry in found["layers"].items():
            layers.add_row(layer, f"{entry['turns']:.0f}", f"{entry['taken']:.0f}", _number(entry["gain"]))
        parts += [curve, layers]
    if found["result"]:
        parts.append(result_table(found["result"]))
    else:
        parts.append(
            Text(
                f"not finished: {found['candidates']} of {found['budget']} candidates. "
                f"Go on with: tandemtune resume {found['folder']}"
            )
        )
    return Group(*parts)


def bench_view(found: dict[str, Any]) -> RenderableType:
    """What `bench engine` prints.

    Args:
        found: what `bench.measure` returned.
    """
    plan = found["plan"]
    table = Table(
        title=f"{plan['model']}: {found['rows']} rows, {found['tokens']} tokens, population {plan['popsize']}"
    )
    for name in ("", "milliseconds", "from", "to"):
        table.add_column(name, justify="left" if not name else "right")
    for name, spread in found["seconds_per_candidate"].items():
        table.add_row(name.replace("_", " "), *(f"{1000 * spread[key]:.1f}" for key in ("median", "min", "max")))
    ratios = Table(title="ratios, over a sweep")
    for name in ("", "median", "from", "to"):
        ratios.add_column(name, justify="left" if not name else "right")
    for name, spread in found["ratios"].items():
        ratios.add_row(name, *(f"{spread[key]:.2f}" for key in ("median", "min", "max")))
    layers = Table(title="milliseconds a candidate, by layer")
    names = list(next(iter(found["by_layer"].values())))
    for name in ("layer", *names):
        layers.add_column(name.replace("_", " "), justify="right")
    for block, row in found["by_layer"].items():
        layers.add_row(block, *(f"{1000 * row[name]:.1f}" for name in names))
    lines = [f"{name}: {value:.2g}" for name, value in found["agreement"].items()]
    if "peak_mb" in found:
        lines += [f"peak memory, {name}: {value:.0f} MB" for name, value in found["peak_mb"].items()]
    return Group(table, ratios, layers, *(Text(line) for line in lines))


def _after(line: dict[str, Any]) -> float | None:
    return line["best"] if line["accepted"] else line["incumbent"]  # type: ignore[no-any-return]


def _thinned(rows: list[Any], most: int) -> list[Any]:
    if len(rows) <= most:
        return rows
    picks = sorted({round(i * (len(rows) - 1) / (most - 1)) for i in range(most)})
    return [rows[i] for i in picks]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
