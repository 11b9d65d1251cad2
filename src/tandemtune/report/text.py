"""A run as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tandemtune.report.plot import Series, line_text
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
        losses = (_number(calibrated[key]) if key in calibrated else "" for key in ("train_loss", "dev_loss"))
        table.add_row(
            f"  {name}, calibrated", *losses, _number(calibrated["dev"]), _number(calibrated["test"]), style="dim"
        )
    cost = result["cost"]
    rows = result["rows"]
    turns = f"{cost['gradient_steps']} gradient steps" if cost["gradient_steps"] else f"{result['steps']} generations"
    backward = f" ({cost['backward_tokens']:,} of them backwards, too)" if cost["backward_tokens"] else ""
    lines = [
        f"{cost['candidates']} candidates, {turns}, "
        f"{cost['forward_tokens']:,} forward tokens{backward}, "
        f"{duration(cost['seconds'])} of search, peak memory {cost['peak_rss_mb']:.0f} MB",
        f"rows: {rows['train']} train, {rows['dev']} dev, {rows['test']} test · "
        f"kept the point after turn {result['kept_step']} of {result['steps']} (lowest dev loss) · "
        f"stopped by {result['stop_reason']}",
    ]
    if "mentor_calls" in cost:
        lines.append(
            f"mentor: {cost['mentor_calls']:.0f} calls, {cost['mentor_prompt_tokens']:.0f} tokens asked, "
            f"{cost['mentor_completion_tokens']:.0f} answered"
            + (f", {cost['mentor_money']:.4f} of money" if cost.get("mentor_money") else "")
        )
    if result["kept_line"] == 0:
        lines.append("No point was better on dev than the one that the search began with, so that is what was kept.")
    return Group(table, *(Text(line) for line in lines))


def unit_of(recipe: Mapping[str, Any]) -> str:
    """What bounds a recipe's search: "candidates" of a derivative-free search, or "turns".

    Args:
        recipe: a complete recipe.
    """
    gradient = recipe["method"]["optimizer"] in ("adamw", "adam", "sgd")
    return "turns" if gradient or recipe["alternate"]["rounds"] else "candidates"


def total_of(recipe: Mapping[str, Any]) -> int:
    """Candidates or turns that a recipe allows.

    Args:
        recipe: a complete recipe.
    """
    method, rounds = recipe["method"], recipe["alternate"]
    if rounds["rounds"]:
        turns: int = rounds["rounds"] * rounds["round_steps"] + rounds["final_steps"]
        return turns
    return int(method["steps"] or 60) if method["optimizer"] in ("adamw", "adam", "sgd") else int(method["budget"])


def proposal_story(line: Mapping[str, Any]) -> list[str]:
    """What was proposed in one round, and what came of it, as lines of text.

    Args:
        line: the journal's line.
    """
    trained = line["trained"]
    story = [
        f"round {line['round']}: the trained prompt has a dev loss of {_number(trained['dev']['loss'])} "
        f"({_number(trained['dev']['score'])})"
    ]
    if line["failure"]:
        story.append(f"  {line['proposer']} proposed nothing: {line['failure']}")
    for index, draft in enumerate(line["drafts"]):
        mark = "-> taken" if index == line["taken"] else ""
        story.append(
            f"  {line['proposer']} proposed {draft['text']!r}: dev loss {_number(draft['dev']['loss'])} "
            f"({_number(draft['dev']['score'])}) {mark}".rstrip()
        )
    if line["refused"]:
        story.append(
            f"  refused: {len(line['refused'])}, for example {line['refused'][0][0]!r} ({line['refused'][0][1]})"
        )
    if line["taken"] is None:
        story.append("  the trained prompt goes on")
    return story


def summary(folder: RunFolder) -> dict[str, Any]:
    """Everything `show` tells, as data.

    Args:
        folder: a run, finished or not.
    """
    lines = folder.read_lines()
    unit = unit_of(folder.read_recipe())
    generations = [line for line in lines if line["event"] in ("generation", "step")]
    looks = [
        {"step": line["step"], **line["dev"], "train_loss": _after(line)}
        for line in generations
        if line["dev"] is not None
    ]
    return {
        "folder": str(folder.path),
        "finished": folder.result.exists(),
        "generations": len(generations),
        "budget": total_of(folder.read_recipe()),
        "unit": unit,
        "done": len(generations) if unit == "turns" else generations[-1]["candidates"] if generations else 0,
        "candidates": next((line["candidates"] for line in reversed(lines) if "candidates" in line), 0),
        "start": lines[0] if lines else None,
        "looks": looks,
        "layers": layer_gains([line for line in generations if line["event"] == "generation"]),
        "story": story(lines),
        "result": folder.read_result(),
    }


def story(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Round by round: what the optimizer reached, what it says in words, what was proposed, and what was taken; or the texts
    that a search of texts went through.

    Args:
        lines: a journal; empty if nobody proposed anything in it and no texts were searched.
    """
    if not any(line["event"] == "proposal" or "text" in line for line in lines):
        return []
    told: list[str] = []
    text = ""
    for line in lines:
        words = line.get("words")
        if words:
            told.append(
                f"{'start' if line['event'] == 'start' else 'turn ' + str(line['step'])}: "
                f"train loss {_number(words['soft_loss'])}; in words {words['text']!r} "
                f"(distance {words['distance']:.3f}, train loss as words {_number(words['loss'])})"
            )
        if line.get("text") and line["text"] != text:
            text = line["text"]
            told.append(
                f"turn {line['step']}: the best text is now {text!r} (train loss {_number(line['train_loss'])})"
            )
        if line["event"] == "proposal":
            told += proposal_story(line)
        if line["event"] == "end":
            told.append(f"end after turn {line['step']}: {line['stop_reason']}")
    return told


def layer_gains(generations: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How often each layer's best candidate was taken, and how much the training loss fell by it; nothing for turns of all
    layers at once."""
    gains: dict[str, dict[str, float]] = {}
    for line in generations:
        if line["layer"] is None:
            continue
        entry = gains.setdefault(str(line["layer"]), {"turns": 0, "taken": 0, "gain": 0.0})
        entry["turns"] += 1
        if line["accepted"]:
            entry["taken"] += 1
            before = line.get("incumbent_again", line["incumbent"])
            if before is not None:
                entry["gain"] += before - line.get("train_loss", line["best"])
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
        parts += [curve, Text(_chart(found))]
    if found["layers"]:
        layers = Table(title="layer by layer")
        for name in ("layer", "turns", "taken", "training loss fell by"):
            layers.add_column(name, justify="right")
        for layer, entry in found["layers"].items():
            layers.add_row(layer, f"{entry['turns']:.0f}", f"{entry['taken']:.0f}", _number(entry["gain"]))
        parts.append(layers)
    if found["story"]:
        parts += [Text("round by round", style="bold"), *(Text(line) for line in found["story"])]
    if found["result"]:
        parts.append(result_table(found["result"]))
    else:
        parts.append(
            Text(
                f"not finished: {found['done']} of {found['budget']} {found['unit']}. "
                f"Go on with: tandemtune resume {found['folder']}"
            )
        )
    return Group(*parts)


def _chart(found: Mapping[str, Any]) -> str:
    """Losses at the looks at dev, drawn in letters."""
    start = found["start"]
    first = [{"step": 0, "train_loss": start["train_loss"], **start["dev"]}] if start else []
    looks = [*first, *found["looks"]]
    turns = [look["step"] for look in looks]
    names = {"train_loss": "train loss", "loss": "dev loss"}
    curves = [Series(name, turns, [look[key] for look in looks]) for key, name in names.items()]
    return line_text("", "turn", "loss", curves, height=12)


def _after(line: dict[str, Any]) -> float | None:
    if line["event"] == "step":
        return line["loss"]  # type: ignore[no-any-return]
    before = line["best"] if line["accepted"] else line["incumbent"]
    return line.get("train_loss", before)  # type: ignore[no-any-return]


def _thinned(rows: list[Any], most: int) -> list[Any]:
    if len(rows) <= most:
        return rows
    picks = sorted({round(i * (len(rows) - 1) / (most - 1)) for i in range(most)})
    return [rows[i] for i in picks]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
