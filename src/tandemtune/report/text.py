"""A run as tables for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tandemtune.report.charts import Series, thinned
from tandemtune.report.numbers import Content, duration, rough, score
from tandemtune.report.run_view import spent_so_far
from tandemtune.report.stories import story
from tandemtune.report.terminal import line_text
from tandemtune.runs.records import (
    Assessment,
    EndRecord,
    Evaluation,
    GenerationRecord,
    HandOverRecord,
    JournalRecord,
    Loss,
    ProposalRecord,
    RaceRecord,
    Record,
    Result,
    StartRecord,
    StepRecord,
)
from tandemtune.runs.store import RunFolder

_SPENT = {
    "calls": "answers",
    "prompt_tokens": "tokens asked",
    "completion_tokens": "tokens answered",
    "money": "money",
    "open_tokens": "tokens of open questions, at most",
    "open_money": "money of open questions, at most",
}
WIDE = 80
"""Columns of a terminal from which on there is room for a whole table."""
_LOOKS = 16
"""Evaluations that the table of `show` has at most."""


class Look(Record):
    """An evaluation on the dev rows: after which step, by the objective of which stretch (from 1), and the training loss there."""

    step: int
    stretch: int = 1
    train_loss: Loss
    dev: Evaluation


class LayerGain(Record):
    """What a layer's turns brought: how many there were, how often a better point was found, how much the training loss fell."""

    turns: int
    taken: int
    gain: float


class Summary(Record):
    """Everything that `show` tells of a run.

    Args:
        folder: where it lies.
        finished: whether there is a result.
        steps: generations and gradient steps so far.
        candidates: so far.
        planned: how much the recipe allows, counted in `unit`; None if it is not known yet.
        unit: "candidates" or "steps".
        looks: evaluations on the dev rows, the first of them at the start.
        layers: what each layer's turns brought.
        story: what was proposed and said in words, as lines of text.
        result: what it reached.
    """

    folder: str
    finished: bool
    steps: int
    candidates: int
    planned: int | None
    unit: str
    looks: tuple[Look, ...]
    layers: dict[int, LayerGain]
    story: tuple[str, ...]
    result: Result | None

    def plain(self) -> dict[str, Any]:
        """The summary as JSON has it."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def done(self) -> int:
        """How much of what is planned is done."""
        return self.steps if self.unit == "steps" else self.candidates


def result_table(result: Result, said: Collection[str] = ()) -> RenderableType:
    """Zero-shot against tuned, on dev and test, with costs.

    Args:
        result: what a run reached.
        said: notes that stand on the screen already.
    """
    return Group(_ScoreTable(result), *(Text(line) for line in _result_lines(result, said)))


@dataclass(frozen=True)
class _ScoreTable:
    """Scores with losses; without them where the terminal is narrow."""

    result: Result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.table(losses=options.max_width >= WIDE)

    def table(self, losses: bool) -> Table:
        result = self.result
        table = Table(title=Text(f"{result.task} · {result.model} · {result.method} · seed {result.seed}"))
        columns = [f"dev {result.metric}", f"test {result.metric}"]
        for name in ("", *(["train loss", "dev loss"] if losses else []), *columns):
            table.add_column(name, justify="left" if not name else "right")
        for row in result.scores():
            values = [*([row.train_loss, row.dev_loss] if losses else []), row.dev, row.test]
            name = f"  {row.name}" if row.aside else row.name
            table.add_row(name, *map(score, values), style="dim" if row.aside else None)
        if result.majority is not None:
            aside = [""] * (len(table.columns) - 2)
            table.add_row("most frequent class", *aside, score(result.majority), style="dim")
        return table


def _result_lines(result: Result, said_before: Collection[str]) -> list[str]:
    cost, rows = result.cost, result.rows
    by = f", found by {result.found_by}" if result.found_by else ""
    steps = f"{cost.gradient_steps:,} gradient steps" if cost.gradient_steps else f"{result.steps:,} generations"
    backward = f" ({cost.backward_tokens:,} of them backwards, too)" if cost.backward_tokens else ""
    written = f", {cost.generated_tokens:,} written tokens" if cost.generated_tokens else ""
    lines = [
        f"{cost.candidates:,} candidates, {steps}, {cost.forward_tokens:,} forward tokens{backward}{written}, "
        f"{duration(cost.seconds)} of search, peak memory {cost.peak_rss_mb:,.0f} MB",
        f"rows: {rows.train:,} train, {rows.dev:,} dev, {rows.test:,} test · "
        + (
            f"kept {_what_was_kept(result)} ({_why_kept(result)}{by}) · stopped by {result.stop_reason}"
            if result.searched
            else "nothing was searched"
        ),
    ]
    if result.unseen is not None:
        lines.append(result.unseen.sentence())
    if cost.proposer:
        said = [(f"{value:,}" if isinstance(value, int) else value, name) for name, value in _spent(cost.proposer)]
        told = (f"{value if isinstance(value, str) else rough(value)} {name}" for value, name in said)
        lines.append(f"proposer: {', '.join(told)}")
    notes = [f"note: {note}" for note in result.notes if note not in said_before]
    return [*lines, *stood_still(result), *untuned(result), *simpler(result), *notes]


def assessment_view(found: Assessment) -> RenderableType:
    """How a model does on labelled rows: the score first, then where it errs."""
    low, high = found.interval
    loss = "" if found.loss is None else f", loss {found.loss:.4f}"
    chances = (
        ""
        if found.brier is None or found.calibration_error is None
        else f"\nprobabilities: Brier score {found.brier:.4f}, expected calibration error {found.calibration_error:.4f}"
    )
    head = Text(
        f"{found.metric} on {found.rows:,} rows: {found.score:.4f} (95 %: {low:.4f} to {high:.4f}){loss}{chances}"
    )
    if not found.labels:
        return Group(head, _lowest(found))
    matrix = Table(title="rows of each true label (down) by answer (across)")
    for name in ("", *found.labels):
        matrix.add_column(Text(name), justify="right" if name else "left")
    for label, counts in zip(found.labels, found.confusion, strict=True):
        matrix.add_row(Text(label), *map(str, counts))
    each = Table()
    for name in ("label", "precision", "recall", "F1"):
        each.add_column(name, justify="left" if name == "label" else "right")
    for label, values in found.by_label().items():
        each.add_row(Text(label), *(f"{value:.3f}" for value in values))
    worst = Table(title="the most confident errors")
    for name in ("true", "answer", "p(true)", "text"):
        worst.add_column(name, overflow="fold")
    for fields, gold, answer, p in found.worst:
        worst.add_row(Text(gold), Text(answer), f"{p:.3f}", Text(" | ".join(fields.values())[:200]))
    return Group(head, matrix, each, *([worst] if found.worst else []))


def stood_still(result: Result) -> list[str]:
    """What there is to say where the point that the search began with is the result."""
    if result.gain is not None and not result.gain.kept:
        said = f"{result.gain.mean:+.3f} +- {result.gain.standard_error:.3f}"
        return [
            f"What was tuned gains nothing for the readout on the dev rows (loss {said}), so it is solved where the search began."
        ]
    if result.kept_record == 0 and result.searched:
        return ["No point was better on dev than the one that the search began with, so that one was kept."]
    return []


def _lowest(found: Assessment) -> Table:
    """The rows whose written answers have the lowest rewards."""
    table = Table(title="the lowest rewards")
    for name in (found.metric, "answer", "reference", "text"):
        table.add_column(name, overflow="fold")
    for fields, reference, answer, reward in found.worst:
        asked = " | ".join(fields.values())
        table.add_row(f"{reward:.3f}", Text(answer[:200]), Text(reference[:200]), Text(asked[:200]))
    return table


def _what_was_kept(result: Result) -> str:
    """Which point a result is, by the turn that found it."""
    if result.steps:
        return f"the point of step {result.kept_step} of {result.steps}"
    return "what was proposed" if result.kept_record else "the first point"


def _why_kept(result: Result) -> str:
    """By what the point of a result was chosen."""
    return "where the search began" if result.gain is not None and not result.gain.kept else "lowest dev loss"


def split_of(result: Result) -> str:
    """The rows that a result's first answer is about: test rows if there are any."""
    return "dev" if result.tuned.test is None else "test"


def untuned(result: Result) -> list[str]:
    """What needs no tuning, or less of it, and does at least as well; where calibration does harm; and where dev and test rows tell
    two stories."""
    split = split_of(result)
    reached, moved = getattr(result.tuned, split), result.moved and not stood_still(result)
    others = {
        "the pretrained model": getattr(result.zero_shot, split),
        "the pretrained model with calibration": result.zero_shot.after_calibration(split),
        "a readout of the pretrained model": getattr(result.zero_shot_readout, split, None) if moved else None,
        "always the most frequent class": result.majority if split == "test" else None,
    }
    better = [f"{name} ({score(value)})" for name, value in others.items() if value is not None and value >= reached]
    lines = [f"No tuning does at least as well here: {', '.join(better)}."] if better else []
    words = getattr(result.tuned_words, split, None) if result.moved else None
    if words is not None and words > reached:
        lines.append(f"The readout at the end lost some of it here: the label words alone have {score(words)}.")
    plain, calibrated = getattr(result.zero_shot, split), result.zero_shot.after_calibration(split)
    if plain is not None and calibrated is not None and calibrated < plain:
        lines.append(
            f"Calibration does the pretrained model harm here ({score(plain)} to {score(calibrated)}): what it says of empty texts is not what it "
            "leans to on these."
        )
    before, after, test = result.zero_shot.dev, result.tuned.dev, result.zero_shot.test
    if result.tuned.test is not None and test is not None and (after - before) * (result.tuned.test - test) < 0:
        lines.append(
            f"Dev went from {score(before)} to {score(after)}, test from {score(test)} to {score(result.tuned.test)}: "
            f"points are chosen by the dev loss, and {result.rows.dev:,} dev rows say little about a score."
        )
    return lines


def simpler(result: Result) -> list[str]:
    """That a simple classifier of the same rows does better on test, if one does."""
    tuned = result.tuned.test
    better = [one for one in result.yardsticks if one.test is not None and tuned is not None and one.test > tuned]
    return [
        f"{one.name} is better here: test {result.metric} {one.test:.3f} against {tuned:.3f}, from the same labelled rows"
        for one in better
    ]


def spent_pairs(spent: Mapping[str, float]) -> list[tuple[str, Content]]:
    """What asking a proposer has cost, as facts for a page."""
    return [(f"proposer: {name}", value) for name, value in _spent(spent)]


def _spent(spent: Mapping[str, float]) -> list[tuple[str, Content]]:
    """Names and values; what is zero and nobody expects is left out."""
    expected = ("calls", "prompt_tokens", "completion_tokens")
    known = {key: value for key, value in spent.items() if value or key in expected}
    return [(_SPENT.get(key, key.replace("_", " ")), int(v) if v == int(v) else v) for key, v in known.items()]


def summary(folder: RunFolder) -> Summary:
    """Everything that `show` tells, as data.

    Args:
        folder: a run, finished or not.
    """
    records, facts, result = folder.read_records(), folder.read_facts(), folder.read_result()
    turns = [record for record in records if isinstance(record, GenerationRecord | StepRecord | RaceRecord)]
    return Summary(
        folder=str(folder.path),
        finished=result is not None,
        steps=max((record.step for record in turns), default=0),
        candidates=spent_so_far(records).candidates,
        planned=facts.planned if facts is not None else None,
        unit=facts.unit if facts is not None else "candidates",
        looks=tuple(_looks(records)),
        layers=layer_gains(records),
        story=tuple(story(records)),
        result=result,
    )


def _looks(records: Sequence[JournalRecord]) -> Iterator[Look]:
    """All evaluations on the dev rows but those of proposals."""
    stretch = 1
    for record in records:
        if isinstance(record, HandOverRecord):
            stretch = record.stretch
        if isinstance(record, ProposalRecord | EndRecord) or record.dev is None:
            continue
        step = 0 if isinstance(record, StartRecord) else record.step
        yield Look(step=step, stretch=stretch, train_loss=record.train_loss, dev=record.dev)


@dataclass
class _Gain:
    turns: int = 0
    taken: int = 0
    gain: float = 0.0


def layer_gains(records: Sequence[JournalRecord]) -> dict[int, LayerGain]:
    """How often each layer's best candidate was taken, and how much the training loss fell by it; nothing for turns of all
    layers at once, and for methods that move a point whose loss is not measured."""
    gains: dict[int, _Gain] = {}
    turns = [record for record in records if isinstance(record, GenerationRecord)]
    measured = {record.phase for record in turns if record.incumbent is not None}
    for record in turns:
        if record.layer is None or record.phase not in measured:
            continue
        entry = gains.setdefault(record.layer, _Gain())
        entry.turns += 1
        if record.accepted:
            entry.taken += 1
            before = record.incumbent if record.incumbent_again is None else record.incumbent_again
            if before is not None and record.train_loss is not None:
                entry.gain += before - record.train_loss
    return {layer: LayerGain(turns=e.turns, taken=e.taken, gain=e.gain) for layer, e in gains.items()}


def summary_view(found: Summary) -> RenderableType:
    """What `show` prints.

    Args:
        found: what `summary` returned.
    """
    parts: list[RenderableType] = []
    if found.looks:
        curve = Table(title="on the way")
        several = found.looks[-1].stretch > 1
        for name in (*(["stretch"] if several else []), "step", "train loss", "dev loss", "dev score"):
            curve.add_column(name, justify="right")
        for look in thinned(found.looks, _LOOKS):
            place = [*([str(look.stretch)] if several else []), str(look.step)]
            curve.add_row(*place, *map(score, (look.train_loss, look.dev.loss, look.dev.score)))
        parts.append(curve)
        for number in dict.fromkeys(look.stretch for look in found.looks):
            own = [look for look in found.looks if look.stretch == number]
            parts.append(Text(_chart(own)))
    if found.layers:
        layers = Table(title="layer by layer")
        for name in ("layer", "turns", "taken", "training loss fell by"):
            layers.add_column(name, justify="right")
        for layer, entry in found.layers.items():
            layers.add_row(
                "input" if layer == -1 else str(layer), str(entry.turns), str(entry.taken), score(entry.gain)
            )
        parts.append(layers)
    if found.story:
        parts += [
            Text(
                "round by round" if found.looks[-1:] and found.looks[-1].stretch == 1 else "one after another",
                style="bold",
            ),
            *(Text(line) for line in found.story),
        ]
    if found.result:
        parts.append(result_table(found.result))
    else:
        of = f" of {found.planned:,}" if found.planned else ""
        parts.append(
            Text(f"not finished: {found.done:,}{of} {found.unit}. Continue it with: tandemtune resume {found.folder}")
        )
    return Group(*parts)


def _chart(looks: Sequence[Look]) -> str:
    """Losses at the evaluations on dev, drawn in letters."""
    steps = [look.step for look in looks]
    curves = [
        Series("train loss", steps, [look.train_loss for look in looks]),
        Series("dev loss", steps, [look.dev.loss for look in looks]),
    ]
    return line_text("loss", "step", curves)
