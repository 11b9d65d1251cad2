"""A run as one HTML page: what it reached, how it got there, what it cost, and how to repeat it."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandemtune.errors import RunError
from tandemtune.report.page import Cell, code, escape, facts, number, page, paragraph, table
from tandemtune.report.plot import Mark, Series, bar_figure, line_figure
from tandemtune.report.text import duration, layer_gains, total_of
from tandemtune.runs.journal import Line, read_journal
from tandemtune.runs.store import RunFolder

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SAID = "white-space:pre-wrap;overflow-wrap:anywhere;margin:.25rem 0 1rem;padding:0 0 0 .75rem;border-left:3px solid var(--line)"
_MENTOR = {
    "mentor_calls": "mentor: answers",
    "mentor_prompt_tokens": "mentor: tokens asked",
    "mentor_completion_tokens": "mentor: tokens answered",
    "mentor_money": "mentor: money",
    "mentor_open_tokens": "mentor: tokens of open questions, at most",
    "mentor_open_money": "mentor: money of open questions, at most",
}
_ALWAYS = {"mentor_calls", "mentor_prompt_tokens", "mentor_completion_tokens"}


@dataclass(frozen=True, slots=True)
class Spot:
    """One line of a journal, as curves need it; None is what was not measured there.

    Args:
        turn: the optimizers' turns so far.
        work: candidates or gradient steps so far, see `unit_of`.
        tokens: tokens through the whole model so far, forwards.
        backward: the same backwards.
        seconds: of search so far.
        batch: loss on the rows of a gradient step.
        train: loss on all training rows.
        words: the same, of the nearest words instead of the point.
        dev: loss on the dev rows.
        score: metric on the dev rows.
        mark: what else happened here, or nothing.
    """

    turn: int
    work: int
    tokens: float | None
    backward: float | None
    seconds: float | None
    batch: float | None = None
    train: float | None = None
    words: float | None = None
    dev: float | None = None
    score: float | None = None
    mark: str = ""


def run_page(folder: RunFolder) -> str:
    """Everything that is known of a run, on one page.

    Args:
        folder: a run, finished or not.

    Returns:
        A whole HTML file that needs nothing but itself.

    Raises:
        RunError: the recipe, the journal or the result is damaged.
    """
    recipe, found, result, lines = folder.read_recipe(), folder.read_facts(), folder.read_result(), folder.read_lines()
    spots = trail(folder, lines)
    metric = str((result or {}).get("metric") or recipe["task"]["metric"] or "score")
    name = recipe["task"]["name"] or Path(recipe["task"]["train"]).stem
    task = str(result["task"] if result else name)
    sections = [
        ("result", "Result", _result(folder, recipe, found, result, lines, spots, metric)),
        ("search", "The search", _curves(recipe, lines, spots, metric)),
    ]
    layers = _layers(lines)
    if layers:
        sections.append(("layers", "Layer by layer", layers))
    rounds = _rounds(recipe, lines, metric)
    if rounds:
        sections.append(("rounds", "Round by round", rounds))
    said = _conversations(folder.conversations)
    if said:
        sections.append(("conversations", "What was said", said))
    sections.append(("costs", "Costs and memory", _costs(folder, found, result, lines)))
    sections.append(("repeat", "To repeat it", _repeat(folder, recipe, found, result)))
    model = recipe["model"]["name"]
    model = Path(model).name if Path(model).is_absolute() else model
    title = f"{task} · {model} · {recipe['method']['name']} · seed {recipe['task']['seed']}"
    return page(title, sections)


def trail(folder: RunFolder, lines: Sequence[Mapping[str, Any]]) -> list[Spot]:
    """A journal's lines as points of curves.

    Args:
        folder: the run; its depth and its clock are read.
        lines: its journal.

    Returns:
        A spot for each line.
    """
    depth, clock, unit = _depth(folder.read_facts()), _clock(folder), unit_of(lines)
    spots: list[Spot] = []
    turn = candidates = steps = 0
    phase = lines[0].get("phase") if lines else None
    counted: dict[str, float | None] = {"token_layers": 0.0 if depth else None, "backward_token_layers": None}
    counted["backward_token_layers"] = counted["token_layers"]
    seconds: float | None = 0.0
    for line in lines:
        event = line["event"]
        turn, candidates = line.get("step", turn), line.get("candidates", candidates)
        steps = line.get("gradient_steps", steps)
        for key in counted:
            if depth and key in line:
                counted[key] = line[key] / depth
        if event in ("generation", "step"):
            seconds = clock.get(turn)
        mark = ""
        if event == "proposal" and line["taken"] is not None:
            mark = f"restart {line['round']}"
        elif line.get("phase", phase) != phase:
            phase = line["phase"]
            mark = f"switch to {phase}"
        look, words = line.get("dev") or {}, line.get("words") or {}
        spots.append(
            Spot(
                turn,
                {"candidates": candidates, "gradient steps": steps, "turns": turn}[unit],
                counted["token_layers"],
                counted["backward_token_layers"],
                seconds,
                batch=line["loss"] if event == "step" else None,
                train=_train(line),
                words=words.get("loss"),
                dev=look.get("loss"),
                score=look.get("score"),
                mark=mark,
            )
        )
    return spots


def unit_of(lines: Iterable[Mapping[str, Any]]) -> str:
    """What the work of a run is counted in: "candidates", "gradient steps", or "turns" where both occur."""
    events = {line["event"] for line in lines}
    if "step" in events:
        return "turns" if "generation" in events else "gradient steps"
    return "candidates"


def kept_spot(spots: Sequence[Spot]) -> Spot | None:
    """Where the lowest dev loss was seen first, as the search chooses; None if nothing was looked at."""
    best: Spot | None = None
    for spot in spots:
        if spot.dev is not None and (best is None or best.dev is None or spot.dev < best.dev):
            best = spot
    return best


def recipe_text(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """A recipe as TOML.

    Args:
        tables: sections; what is None is left out, as in a file.

    Returns:
        Text that `tomllib` reads.
    """
    parts = []
    for section, settings in tables.items():
        rows = [f"{_key(name)} = {toml_value(value)}" for name, value in settings.items() if value is not None]
        if rows:
            parts.append("\n".join([f"[{_key(section)}]", *rows]))
    return "\n\n".join(parts)


def toml_value(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(str(key))} = {toml_value(item)}" for key, item in value.items() if item is not None)
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def details(summary: str, content: str) -> str:
    """Something that opens on demand.

    Args:
        summary: plain text.
        content: HTML.

    Returns:
        HTML.
    """
    return f"<details>\n<summary>{escape(summary)}</summary>\n{content}\n</details>"


# ---- what was reached ---------------------------------------------------------------------------------------------


def _result(
    folder: RunFolder,
    recipe: Mapping[str, Any],
    found: Mapping[str, Any],
    result: Mapping[str, Any] | None,
    lines: Sequence[Line],
    spots: Sequence[Spot],
    metric: str,
) -> str:
    best = kept_spot(spots)
    if result is None:
        return _standing(folder, recipe, lines, spots, metric)
    rows = result["rows"]
    parts = [paragraph(text) for text in _headline(result, metric)]
    if best is not None and spots and best is spots[0]:
        parts.append(
            paragraph("No point was better on dev than the one that the search began with, so that is what was kept.")
        )
    parts.append(_score_table(result, metric))
    parts.append(
        facts(
            [
                ("task", result["task"]),
                ("model", result["model"]),
                ("method", result["method"]),
                ("seed", result["seed"]),
                ("training rows of each class", result["shots"]),
                ("rows", f"{rows['train']} train, {rows['dev']} dev, {number(rows['test'])} test"),
                ("parameters that were tuned", found.get("tunable", {}).get("parameters")),
                ("kept point", _kept(lines, spots, result)),
                ("stopped by", result["stop_reason"]),
            ]
        )
    )
    return "\n".join(parts)


def _kept(lines: Sequence[Line], spots: Sequence[Spot], result: Mapping[str, Any]) -> str:
    """Which point the search ended with."""
    best = kept_spot(spots)
    line = next((line for line, spot in zip(lines, spots, strict=True) if spot is best), {})
    if line.get("event") == "proposal" and line["taken"] is not None:
        return f"the proposal of round {line['round']}"
    return f"after turn {result['kept_step']} of {result['steps']}"


def _headline(result: Mapping[str, Any], metric: str) -> list[str]:
    """The result in sentences; test rows if there are any, else dev rows."""
    zero, tuned, rows = result["zero_shot"], result["tuned"], result["rows"]
    split = "dev" if tuned["test"] is None else "test"
    plain, calibrated, reached = zero[split], zero["calibrated"][split], tuned[split]
    majority = result.get("majority")
    said = [
        f"{metric} on {number(rows[split])} {split} rows: {_score(reached)} tuned "
        f"({_score(tuned['calibrated'][split])} with calibration), against {_score(plain)} of the pretrained model "
        f"({_score(calibrated)} with calibration)"
        + (f" and {_score(majority)} for always the most frequent class." if majority is not None else ".")
    ]
    said[0] = said[0][0].upper() + said[0][1:]
    others = {"the pretrained model": plain, "the pretrained model with calibration": calibrated}
    others["always the most frequent class"] = majority if split == "test" else None
    better = [
        f"{name} ({_score(value)})"
        for name, value in others.items()
        if None not in (value, reached) and value >= reached
    ]
    if better:
        said.append(f"Without any search at least as good as the tuned model: {', '.join(better)}.")
    chose = "Dev rows chose the point that was kept"
    said.append(f"{chose}; test rows were scored once, after the search." if split == "test" else f"{chose}.")
    return said


def _score_table(result: Mapping[str, Any], metric: str) -> str:
    rows: list[list[Cell]] = []
    for key, name in (("zero_shot", "zero-shot"), ("tuned", "tuned")):
        row, calibrated = result[key], result[key]["calibrated"]
        rows.append([name, row["test"], row["dev"], row["dev_loss"], row.get("train"), row["train_loss"]])
        after = (calibrated.get("dev_loss"), None, calibrated.get("train_loss"))
        rows.append([f"{name}, calibrated", calibrated["test"], calibrated["dev"], *after])
    if result.get("majority") is not None:
        rows.append(["majority class", result["majority"], None, None, None, None])
    headers = ["", f"test {metric}", f"dev {metric}", "dev loss", f"train {metric}", "train loss"]
    tests = [row[1] for row in rows]
    top = max((value for value in tests if isinstance(value, int | float)), default=None)
    best = [(index, 1) for index, value in enumerate(tests) if value is not None and value == top]
    return table(headers, rows, "Before and after", numeric=range(1, len(headers)), best=best)


def _standing(
    folder: RunFolder, recipe: Mapping[str, Any], lines: Sequence[Line], spots: Sequence[Spot], metric: str
) -> str:
    """What there is to say of a run that has not ended."""
    turns = [line for line in lines if line["event"] in ("generation", "step")]
    candidates = next((line["candidates"] for line in reversed(lines) if "candidates" in line), 0)
    proposals = sum(line["event"] == "proposal" for line in lines)
    asked = f" and {proposals} of {recipe['alternate']['rounds']} proposals" if proposals else ""
    unit = "" if recipe["alternate"]["rounds"] or "step" in {line["event"] for line in lines} else " candidates"
    parts = [
        paragraph(
            f"This run has not ended: {number(candidates)} candidates, {number(len(turns))} turns{asked} so far; "
            f"the recipe allows {number(total_of(recipe))}{unit or ' turns'}. Test rows have not been scored."
        ),
        code(f"tandemtune resume {shlex.quote(str(folder.path))}", "Command that goes on with it"),
    ]
    best = kept_spot(spots)
    if best is not None:
        last = next(spot for spot in reversed(spots) if spot.dev is not None)
        rows: list[list[Cell]] = [
            [name, spot.turn, spot.dev, spot.score]
            for name, spot in (("start", spots[0]), ("lowest dev loss", best), ("last look", last))
        ]
        parts.append(table(["", "turn", "dev loss", f"dev {metric}"], rows, "Looks at the dev rows"))
    return "\n".join(parts)


# ---- how it got there ---------------------------------------------------------------------------------------------


def _curves(recipe: Mapping[str, Any], lines: Sequence[Line], spots: Sequence[Spot], metric: str) -> str:
    if not spots:
        return paragraph("Nothing has been recorded yet.")
    unit = unit_of(lines)
    parts = [_reading(unit, spots)]
    work = [float(spot.work) for spot in spots]
    parts.append(_losses(f"Loss over {unit}", unit, work, spots))
    looks = [(x, spot) for x, spot in zip(work, spots, strict=True) if spot.score is not None]
    scores = Series(f"dev {metric}", [x for x, _ in looks], [spot.score for _, spot in looks])
    parts.append(
        line_figure(f"Dev {metric} over {unit}", unit, f"dev {metric}", [scores], marks=_marks(work, spots), height=300)
    )
    backward = any(spot.backward for spot in spots)
    label = "tokens through the model, forwards" + (" (gradient steps run backwards, too)" if backward else "")
    parts.append(_losses("Loss over forward tokens", label, [spot.tokens for spot in spots], spots))
    if any(spot.seconds for spot in spots):
        parts.append(_losses("Loss over time", "seconds of search", [spot.seconds for spot in spots], spots))
    return "\n".join(parts)


def _reading(unit: str, spots: Sequence[Spot]) -> str:
    """What the curves show."""
    said = ["Dev loss is that of the point where the search stands; the lowest one is marked as kept."]
    if any(spot.batch is not None for spot in spots):
        said.append("A gradient step sees a few training rows only, so its loss jumps.")
    elif unit == "candidates":
        said.append("Train loss is that of the point that candidates are compared with.")
    if any(spot.mark.startswith("restart") for spot in spots):
        said.append("At a restart the search went on from a proposal.")
    if any(spot.words is not None for spot in spots):
        said.append('"As words" is the loss if the prompt were its nearest words.')
    return paragraph(" ".join(said))


def _losses(title: str, label: str, xs: Sequence[float | None], spots: Sequence[Spot]) -> str:
    batches = any(spot.batch is not None for spot in spots)
    curves: list[Series] = []

    def add(name: str, values: Sequence[float | None], style: str) -> None:
        there = [(x, y) for x, y in zip(xs, values, strict=True) if y is not None]
        if there:
            made = [x for x, _ in there], [y for _, y in there]
            curves.append(Series(name, *made, style="points" if style == "points" else "line"))

    add("loss of the step's rows", [spot.batch for spot in spots], "line")
    add("train loss", [spot.train for spot in spots], "points" if batches else "line")
    add("dev loss", [spot.dev for spot in spots], "line")
    add("train loss as words", [spot.words for spot in spots], "points")
    return line_figure(title, label, "loss", curves, marks=_marks(xs, spots))


def _marks(xs: Sequence[float | None], spots: Sequence[Spot]) -> list[Mark]:
    """Restarts, switches, and the point that was kept; one line where several fall together."""
    best = kept_spot(spots)
    texts: dict[float, list[str]] = {}
    for x, spot in zip(xs, spots, strict=True):
        if x is not None:
            texts.setdefault(x, []).extend(["kept"] * (spot is best) + [spot.mark] * bool(spot.mark))
    return [Mark(x, ", ".join(said)) for x, said in texts.items() if said]


def _layers(lines: Sequence[Line]) -> str:
    """How much each layer's turns brought; nothing where only one block is searched."""
    gains = layer_gains([line for line in lines if line["event"] == "generation"])
    if len(gains) < 2:
        return ""
    order = sorted(gains, key=int)
    names = {layer: "input" if layer == "-1" else f"layer {layer}" for layer in order}
    figure = bar_figure(
        "What the turns of each layer brought",
        "training loss fell by",
        [(names[layer], gains[layer]["gain"], None) for layer in order],
    )
    rows: list[list[Cell]] = [
        [names[layer], int(gains[layer]["turns"]), int(gains[layer]["taken"]), gains[layer]["gain"]] for layer in order
    ]
    listed = table(["block", "turns", "better point found", "training loss fell by"], rows, "Turns of each layer")
    return f"{figure}\n{listed}"


# ---- round by round -----------------------------------------------------------------------------------------------


def _rounds(recipe: Mapping[str, Any], lines: Sequence[Line], metric: str) -> str:
    """The story of a run in which somebody proposes; what the points say in words where nobody does."""
    parts: list[str] = []
    read: list[Line] = []
    rounds = [line for line in lines if line["event"] == "proposal"]
    for line in lines:
        if line.get("words"):
            read.append(line)
        if line["event"] == "proposal":
            parts += _round(recipe, line, read, metric)
            read = []
    if read and not rounds:
        parts.append(paragraph("Nobody proposed anything here; prompts are read as words all the same."))
    elif rounds and lines[-1]["event"] == "end":
        end = lines[-1]
        parts.append("<h3>The end</h3>")
        parts.append(paragraph(f"The search ended after turn {end['step']}, stopped by {end['stop_reason']}."))
    if read:
        parts.append(_read_table(read, metric))
    if len(rounds) > 1:
        parts.insert(0, _rounds_figure(recipe, rounds))
    if rounds:
        parts.insert(0, paragraph(_rule(recipe["alternate"])))
    return "\n".join(parts)


def _rule(section: Mapping[str, Any]) -> str:
    """Which proposals are taken, in a sentence."""
    which = "the first proposal" if section["select"] == "first" else "the proposal with the lowest dev loss"
    when = {
        "always": "whether or not it is better than the trained prompt",
        "if_better": "if its dev loss is below the trained prompt's",
        "metropolis": "if its dev loss is below the trained prompt's, and sometimes if it is not",
    }[section["accept"]]
    return f"In each round the search goes on from {which}, {when}. The point with the lowest dev loss of all is kept."


def _rounds_figure(recipe: Mapping[str, Any], rounds: Sequence[Line]) -> str:
    trained = Series(
        "what the optimizer reached" if recipe["alternate"]["round_steps"] else "where the search stands",
        [line["round"] for line in rounds],
        [line["trained"]["dev"]["loss"] for line in rounds],
    )
    pairs = [(line["round"], draft["dev"]["loss"]) for line in rounds for draft in line["drafts"]]
    drafts = Series("proposals", [x for x, _ in pairs], [y for _, y in pairs], style="points")
    return line_figure("Dev loss round by round", "round", "dev loss", [trained, drafts], height=300)


def _round(recipe: Mapping[str, Any], line: Line, read: Sequence[Line], metric: str) -> list[str]:
    """One round, in the order in which it happened."""
    trained, who = line["trained"], _who(recipe, line["proposer"])
    parts = [f"<h3>Round {number(line['round'])}</h3>"]
    alone = not recipe["alternate"]["round_steps"]
    begun = "The search stands at" if alone else "The optimizer reached"
    parts.append(
        paragraph(
            f"{begun} a dev loss of {_score(trained['dev']['loss'])} ({metric} {_score(trained['dev']['score'])})."
        )
    )
    if read:
        parts.append(_read_table(read, metric))
    if line["failure"]:
        parts.append(paragraph(f"{who[0].upper()}{who[1:]} proposed nothing: {line['failure']}."))
    rows: list[list[Cell]] = []
    for index, draft in enumerate(line["drafts"]):
        dev = draft["dev"]
        outcome = "taken" if index == line["taken"] else "not taken"
        rows.append([draft["text"], outcome, draft["loss"], draft["score"], dev["loss"], dev["score"]])
    if rows:
        headers = ["proposal", "outcome", "train loss", f"train {metric}", "dev loss", f"dev {metric}"]
        parts.append(table(headers, rows, f"What {who} proposed", numeric=range(2, 6)))
    if line["refused"]:
        refused: list[list[Cell]] = [[text, reason] for text, reason in line["refused"]]
        parts.append(table(["refused", "because"], refused, "What was said and could not be tried", numeric=()))
    if line.get("shown"):
        shown: list[list[Cell]] = [[entry["text"], entry["loss"], entry["score"]] for entry in line["shown"]]
        listed = table(["prompt", "train loss", f"train {metric}"], shown, "Worst first", numeric=(1, 2))
        parts.append(details(f"The best prompts of words so far ({len(shown)}), which a proposer may see", listed))
    parts.append(paragraph(_outcome(line)))
    return parts


def _outcome(line: Line) -> str:
    before = line["trained"]["dev"]["loss"]
    if line["taken"] is None:
        return "Nothing was taken: the search goes on from where it stood."
    draft = line["drafts"][line["taken"]]
    return f"The search goes on from “{draft['text']}”: dev loss {_score(before)} → {_score(draft['dev']['loss'])}."


def _read_table(read: Sequence[Line], metric: str) -> str:
    """Points read as words."""
    rows: list[list[Cell]] = []
    for line in read:
        words = line["words"]
        turn = line.get("step", 0)
        rows.append([turn, words["soft_loss"], words["text"], words["distance"], words["loss"], words["score"]])
    headers = ["turn", "train loss", "nearest words", "distance", "train loss as words", f"train {metric} as words"]
    return table(headers, rows, "The trained prompt, read as words", numeric=(0, 1, 3, 4, 5))


def _who(recipe: Mapping[str, Any], proposer: str) -> str:
    known = {
        "mentor": f"the mentor ({recipe['mentor']['mentor']})",
        "mutation": "mutation of the best prompts (control)",
        "random": "chance (random words, control)",
        "perturbed": "noise around the trained prompt (control)",
    }
    return known.get(proposer, proposer)


def _conversations(path: Path) -> str:
    """What was said to a mentor and by it: to be read, and as it was written down."""
    if not path.exists():
        return ""
    raw = path.read_bytes().decode("utf-8", "replace")
    verbatim = details("conversations.jsonl, verbatim", code(raw, "conversations.jsonl"))
    asked: dict[str, int] = {}
    said: list[str] = []
    try:
        lines = read_journal(path)
        for line in lines:
            said += _said(line, asked)
    except (RunError, AttributeError, KeyError, TypeError):
        return f"{paragraph('The file is damaged, or of another kind; this is what it holds.')}\n{verbatim}"
    client = lines[0].get("client") if lines else None
    intro = f"Asked was {client}: {len(asked)} {'question' if len(asked) == 1 else 'questions'}." if client else ""
    parts = [paragraph(intro)] if intro else []
    if said:
        parts.append(details("Questions and answers", "\n".join(said)))
    return "\n".join([*parts, verbatim])


def _said(line: Mapping[str, Any], asked: dict[str, int]) -> list[str]:
    """A line of the transcript for a reader; numbers questions in `asked`."""
    if "asked" in line:
        request = line.get("request")
        if not isinstance(request, Mapping):
            return [paragraph(f"Question {asked.get(str(line['asked']), '?')} was asked once more.")]
        asked[str(line["asked"])] = len(asked) + 1
        messages = request.get("messages") or [{"role": "to be continued", "content": request.get("prompt", "")}]
        settings = ", ".join(f"{key} {request[key]}" for key in ("max_tokens", "temperature", "seed") if key in request)
        texts = [_quoted(str(message.get("role")), str(message.get("content"))) for message in messages]
        return [f"<h3>Question {len(asked)}</h3>", paragraph(settings), *texts]
    if "answered" in line:
        reply = line["reply"]
        told = f"Answer to question {asked.get(str(line['answered']), '?')}"
        counts = (
            f"{reply['prompt_tokens']} tokens asked, {reply['completion_tokens']} answered, {reply['finish_reason']}"
        )
        return [_quoted(f"{told} ({counts})", str(reply["text"]))]
    if "failed" in line:
        return [paragraph(f"Question {asked.get(str(line['failed']), '?')} got no answer: {line.get('why')}")]
    return []


def _quoted(label: str, text: str) -> str:
    return f'{paragraph(f"{label}:")}\n<blockquote style="{_SAID}">{escape(text)}</blockquote>'


# ---- costs, and how to repeat it ----------------------------------------------------------------------------------


def _costs(folder: RunFolder, found: Mapping[str, Any], result: Mapping[str, Any] | None, lines: Sequence[Line]) -> str:
    if result is None:
        return _costs_so_far(folder, found, lines)
    cost = result["cost"]
    pairs: list[tuple[str, Cell]] = [
        ("candidates", cost["candidates"]),
        ("gradient steps", cost.get("gradient_steps", 0)),
        ("turns", result["steps"]),
        ("forward tokens", cost["forward_tokens"]),
        ("backward tokens", cost.get("backward_tokens", 0)),
        ("search", f"{cost['seconds']:.1f} s" + (f" ({duration(cost['seconds'])})" if cost["seconds"] >= 60 else "")),
        ("peak memory of the process", f"{cost['peak_rss_mb']:,.1f} MB"),
    ]
    pairs += [(name, cost[key]) for key, name in _MENTOR.items() if cost.get(key) or key in _ALWAYS & set(cost)]
    notes = [
        "Tokens count once for the whole model: a candidate of an upper layer counts for the layers that it runs through. "
        "They cover the search with its looks at dev; the scores before and after it come on top."
    ]
    if "mentor_calls" in cost:
        notes.append("Memory includes a mentor that runs in this process; tokens of the mentor are its own.")
    return "\n".join([facts(pairs), *(paragraph(note) for note in notes)])


def _costs_so_far(folder: RunFolder, found: Mapping[str, Any], lines: Sequence[Line]) -> str:
    last: dict[str, Any] = {}
    for line in lines:
        last |= {key: line[key] for key in ("candidates", "gradient_steps", "spent") if key in line}
        last |= {key: line[key] for key in ("token_layers", "backward_token_layers") if key in line}
    clock, depth = _ticks(folder), _depth(found)
    pairs: list[tuple[str, Cell]] = [
        ("candidates", last.get("candidates", 0)),
        ("gradient steps", last.get("gradient_steps", 0)),
    ]
    if depth:
        pairs.append(("forward tokens", round(last.get("token_layers", 0) / depth)))
        pairs.append(("backward tokens", round(last.get("backward_token_layers", 0) / depth)))
    if clock:
        pairs.append(("search", duration(clock[-1][1])))
        pairs.append(("peak memory of the process", f"{max(peak for _, _, peak in clock):,.1f} MB"))
    spent = last.get("spent") or {}
    pairs += [(name, value) for key, name in _MENTOR.items() if (value := spent.get(key.removeprefix("mentor_")))]
    return f"{paragraph('So far:')}\n{facts(pairs)}"


def _repeat(
    folder: RunFolder, recipe: Mapping[str, Any], found: Mapping[str, Any], result: Mapping[str, Any] | None
) -> str:
    decided = [
        f"model.{key}={found[key]}"
        for key, open_value in (("dtype", "auto"), ("threads", None))
        if found.get(key) is not None and recipe["model"][key] == open_value
    ]
    words = ["tandemtune", "run", str(folder.recipe), *decided]
    out = ["--out", "runs/again"]
    parts = [
        paragraph("The same on this machine, with these versions:"),
        code(shlex.join([*words, *out]), "Command that repeats the run"),
    ]
    asked = recipe["alternate"]["rounds"] and recipe["alternate"]["proposer"] == "mentor"
    if asked and folder.conversations.exists() and recipe["mentor"]["client"] != "recorded":
        replay = [*words, "mentor.client=recorded", f"mentor.mentor={folder.conversations}", *out]
        parts.append(paragraph("The same without asking the mentor again, out of what it said then:"))
        parts.append(code(shlex.join(replay), "Command that repeats the run from its transcript"))
    parts.append("<h3>Recipe</h3>")
    parts.append(code(recipe_text(recipe), "Recipe"))
    if found:
        parts.append("<h3>Decided here</h3>")
        labels = found.get("label_pieces") or found.get("labels") or {}
        pairs: list[tuple[str, Cell]] = [
            (name, found.get(key))
            for key, name in (
                ("kind", "kind of model"),
                ("dtype", "number format"),
                ("device", "device"),
                ("threads", "threads"),
                ("layers", "layers"),
                ("lr", "learning rate"),
                ("chunk_tokens", "tokens at a time"),
            )
            if found.get(key) is not None and not isinstance(found[key], list | dict)
        ]
        if "calibrated" in found:
            pairs.append(("calibrated losses", "yes" if found["calibrated"] else "no"))
        pairs.append(("label words", "; ".join(f"{label}: {', '.join(pieces)}" for label, pieces in labels.items())))
        pairs.append(("rows (SHA-256)", found.get("rows_sha256")))
        parts.append(facts(pairs))
        if "template" in found:
            parts.append(code(str(found["template"]), "Template"))
        parts += [paragraph(f"Note: {note}") for note in found.get("notes", [])]
    versions = (result or found).get("versions") or {}
    if versions:
        parts.append("<h3>Versions</h3>")
        parts.append(facts(versions.items()))
    return "\n".join(parts)


# ---- reading ------------------------------------------------------------------------------------------------------


def _train(line: Mapping[str, Any]) -> float | None:
    """Loss on all training rows after a line, where it was measured."""
    found: Any = None
    match line["event"]:
        case "start":
            found = line["train_loss"]
        case "generation":
            found = line.get("train_loss", line["best"] if line["accepted"] else line["incumbent"])
        case "step":
            found = (line.get("words") or {}).get("soft_loss")
        case "proposal" if line["taken"] is not None:
            found = line["drafts"][line["taken"]]["loss"]
    return None if found is None else float(found)


def _depth(facts: Mapping[str, Any]) -> float | None:
    """What a token through the whole model counts, in layers."""
    found: float | None = facts.get("depth", facts.get("layers"))
    return found


def _clock(folder: RunFolder) -> dict[int, float]:
    """Seconds after each turn."""
    found: dict[int, float] = {}
    for turn, seconds, _ in _ticks(folder):
        found.setdefault(turn, seconds)
    return found


def _ticks(folder: RunFolder) -> list[tuple[int, float, float]]:
    """(turn, seconds, peak memory in megabytes) as noted; a damaged clock is no reason not to report."""
    try:
        lines = read_journal(folder.clock)
        found = [(int(line["step"]), float(line["seconds"]), float(line["peak_rss_mb"])) for line in lines]
    except (RunError, KeyError, TypeError, ValueError):
        return []
    return [tick for tick in found if math.isfinite(tick[1])]


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else toml_value(name)


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
