"""A run as one HTML page: what it reached, where it errs, how it got there, what it cost, and how to repeat it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandemtune.errors import RunError
from tandemtune.report import predictions as told
from tandemtune.report.charts import BarChart, Chart, DotChart, Dots, LineChart, Mark, Series
from tandemtune.report.history import Spot, best_spot, ticks, trail, unit_of
from tandemtune.report.numbers import Content, duration, rough, score, shortened
from tandemtune.report.page import (
    Block,
    Code,
    Details,
    Grid,
    Heading,
    Matrix,
    Pairs,
    Picture,
    Pictures,
    Quote,
    Section,
    page,
    render,
)
from tandemtune.report.recipes import as_toml, proposer, rounds, setting, used
from tandemtune.report.text import decided, entrant, layer_gains, simpler, spent_pairs, stood_still
from tandemtune.runs.journal import read_lines
from tandemtune.runs.records import (
    Costs,
    EndRecord,
    Facts,
    GenerationRecord,
    JournalRecord,
    NamedScores,
    PredictionRecord,
    PromptRecord,
    ProposalRecord,
    RaceRecord,
    Result,
    StartRecord,
    StepRecord,
)
from tandemtune.runs.store import RunFolder
from tandemtune.tasks.pictures import thumbnail

CHANCE = "chance"
LONGEST = 400
"""Characters of a text in a table of errors."""
SAMPLES = 8
"""Written texts of the lowest rewards that a report shows, and of the highest."""


@dataclass(frozen=True)
class RunView:
    """Everything that is known of a run.

    Args:
        folder: where it lies.
        recipe: the resolved recipe.
        facts: what was decided when it began; None if it was stopped before.
        result: None while it is not finished.
        records: its journal.
        spots: the same as points of curves.
        predictions: of the test rows, where they were written down.
    """

    folder: RunFolder
    recipe: Mapping[str, Any]
    facts: Facts | None
    result: Result | None
    records: Sequence[JournalRecord]
    spots: Sequence[Spot]
    predictions: Sequence[PredictionRecord]

    @classmethod
    def read(cls, folder: RunFolder) -> RunView:
        """Read a run's folder.

        Raises:
            RunError: one of its files is damaged.
        """
        records = folder.read_records()
        spots = trail(folder, records)
        recipe, facts, result = folder.read_recipe(), folder.read_facts(), folder.read_result()
        return cls(folder, recipe, facts, result, records, spots, folder.read_predictions() if result else ())

    @property
    def metric(self) -> str:
        """Name of the score."""
        return self.result.metric if self.result else str(setting(self.recipe, "task.metric", "score"))

    @property
    def task(self) -> str:
        """Name of the task."""
        if self.result:
            return self.result.task
        return str(setting(self.recipe, "task.name") or Path(str(setting(self.recipe, "task.train", "run"))).stem)

    @property
    def title(self) -> str:
        """One line that tells this run from others."""
        model = self.result.model if self.result else str(setting(self.recipe, "model.name", "model"))
        model = Path(model).name if Path(model).is_absolute() else model
        method = setting(self.recipe, "method.name", "method")
        return f"{self.task} · {model} · {method} · seed {setting(self.recipe, 'task.seed', '?')}"


def run_page(folder: RunFolder) -> str:
    """Everything that is known of a run, on one page.

    Args:
        folder: a run, finished or not.

    Returns:
        A whole HTML file that needs nothing but itself.

    Raises:
        RunError: a file of the run is damaged.
    """
    run = RunView.read(folder)
    sections = [
        Section("result", "Result", _reached(run) if run.result else _standing(run)),
        Section("errors", "Where it errs", _errors(run)),
        Section("search", "The search", _search(run)),
        Section("layers", "Layer by layer", _layers(run)),
        Section("rounds", "Round by round", _rounds(run)),
        Section("conversations", "What was said", _conversations(folder.conversations)),
        Section("costs", "Costs and memory", _costs(run.result) if run.result else _costs_so_far(run)),
        Section("repeat", "To repeat it", _repeat(run)),
    ]
    return page(run.title, [section for section in sections if section.blocks])


def run_charts(folder: RunFolder) -> dict[str, Chart]:
    """The charts of a run by name, for files of their own.

    Args:
        folder: a run, finished or not.

    Returns:
        Those that have something to show: "scores", "classes", "loss", "dev-score", "loss-over-tokens", "loss-over-time", "layers".
    """
    run = RunView.read(folder)
    found: dict[str, Chart | None] = {
        "scores": _scores_chart(run.result, run) if run.result else None,
        "classes": _classes_chart(run),
        **_curves(run),
        "layers": _layers_chart(run),
    }
    return {name: chart for name, chart in found.items() if chart is not None and not chart.empty()}


def run_html_summary(folder: RunFolder | Path) -> str:
    """A run in a few lines of HTML, for notebooks.

    Args:
        folder: a run, finished or not.

    Returns:
        A fragment: the title, scores with intervals if the run is finished, the loss curve.
    """
    run = RunView.read(folder if isinstance(folder, RunFolder) else RunFolder.open(folder))
    blocks: list[Block] = []
    if run.result:
        blocks += [_headline(run.result)[0], _scores_chart(run.result, run)]
    elif run.spots:
        blocks.append(_progress(run))
    blocks += [_curves(run)["loss"]] if run.spots else []
    return render("summary.html", title=run.title, parts=blocks, place=str(run.folder.path))


# ---- what was reached ---------------------------------------------------------------------------------------------


def _reached(run: RunView) -> list[Block]:
    result = run.result
    assert result is not None
    rows = result.rows
    pairs: list[tuple[str, Content]] = [
        ("task", result.task),
        ("model", result.model),
        ("method", result.method),
        ("seed", str(result.seed)),
        ("training rows per class", result.shots),
        ("rows", f"{rows.train:,} train, {rows.dev:,} dev, {rows.test:,} test"),
        ("tuned parameters", run.facts.tunable.parameters if run.facts else None),
        ("best point", _where(run, result)),
        ("stopped by", result.stop_reason),
    ]
    still: list[Block] = [*stood_still(result), *simpler(result)]
    still += [f"Note: {note}" for note in result.notes]
    return [*_headline(result), *still, _scores_chart(result, run), _score_table(result), Pairs(pairs)]


def _where(run: RunView, result: Result) -> str:
    """Which point the search ended with."""
    record = run.records[result.kept_record] if result.kept_record < len(run.records) else None
    if isinstance(record, ProposalRecord) and record.taken is not None:
        return f"the proposal of round {record.round}"
    return f"after step {result.kept_step} of {result.steps}"


def _split(result: Result) -> str:
    """The rows that the first answer is about: test rows if there are any."""
    return "dev" if result.tuned.test is None else "test"


def _headline(result: Result) -> list[str]:
    """The result in sentences."""
    split = _split(result)
    zero, tuned = result.zero_shot, result.tuned
    rows = result.rows.test if split == "test" else result.rows.dev
    reached, plain = getattr(tuned, split), getattr(zero, split)
    calibrated, majority = zero.after_calibration(split), result.majority if split == "test" else None
    metric = result.metric[0].upper() + result.metric[1:]
    said = f"{metric} on {rows:,} {split} rows: {score(reached)} after tuning, {score(plain)} before"
    said += f" ({score(calibrated)} with contextual calibration)" if zero.calibrated is not None else ""
    said += f"; always answering with the most frequent class gives {score(majority)}." if majority is not None else "."
    others = {"the pretrained model": plain, "the pretrained model with calibration": calibrated}
    others["always the most frequent class"] = majority
    better = [f"{name} ({score(value)})" for name, value in others.items() if value is not None and value >= reached]
    told_so = [f"No tuning does at least as well here: {', '.join(better)}."] if better else []
    chose = "The dev rows chose the point that was kept"
    return [
        said,
        *told_so,
        f"{chose}; the test rows were scored once, after the search." if split == "test" else f"{chose}.",
    ]


def _scores_chart(result: Result, run: RunView) -> DotChart:
    """The tuned model beside what needs no tuning, with intervals."""
    split = _split(result)
    rows = result.rows.test if split == "test" else result.rows.dev
    groups: list[list[NamedScores]] = []  # a point's score, then what stands beside it
    for row in result.scores():
        if row.aside and groups:
            groups[-1].append(row)
        else:
            groups.append([row])
    entries: list[tuple[str, float | None]] = [
        (row.name, getattr(row, split)) for group in reversed(groups) for row in group
    ]
    entries.append(("most frequent class", result.majority if split == "test" else None))
    if split == "dev" and result.metric == "accuracy" and run.facts is not None:
        entries.append((CHANCE, 1 / len(run.facts.labels)))
    dots = []
    for name, value in entries:
        if value is None:
            continue
        interval = None
        if result.metric == "accuracy" and rows and name not in ("most frequent class", CHANCE):
            interval = told.share_interval(value, rows)
        elif name == result.scores()[-1].name.removesuffix(", calibrated") and split == "test":
            interval = _f1_interval(run, value)
        dots.append(Dots(name, (), value, *(interval or (None, None))))
    known = "95 % intervals from the number of rows" if any(row.low is not None for row in dots) else ""
    return DotChart(
        title=f"{split} {result.metric}".capitalize() + (f", with {known}" if known else ""),
        x_label=f"{split} {result.metric}",
        rows=dots,
    )


def _f1_interval(run: RunView, value: float) -> tuple[float, float] | None:
    """An interval of a kind of F1 out of the predictions, where these are the ones that were scored."""
    if not run.predictions or run.metric not in ("f1", "macro_f1"):
        return None
    labels = told.labels_of(run.predictions, run.facts.labels if run.facts else {})
    counts = told.confusion(run.predictions, labels)
    positive = setting(run.recipe, "task.positive")
    place = labels.index(positive) if run.metric == "f1" and positive in labels else None
    if run.metric == "f1" and place is None:
        return None
    found = [entry.f1 for entry in told.class_scores(counts, labels)]
    again = found[place] if place is not None else sum(found) / len(found)
    return told.f1_interval(counts, place) if math.isclose(again, value, abs_tol=1e-5) else None


def _score_table(result: Result) -> Grid:
    metric = result.metric
    rows: list[list[Content]] = [
        [row.name, *map(score, (row.test, row.dev, row.dev_loss, row.train, row.train_loss))] for row in result.scores()
    ]
    if result.majority is not None:
        rows.append(["most frequent class", score(result.majority), *["–"] * 4])
    headers = ["", f"test {metric}", f"dev {metric}", "dev loss", f"train {metric}", "train loss"]
    tests = [None if row[1] == "–" else float(str(row[1])) for row in rows]
    top = max((value for value in tests if value is not None), default=None)
    best = {(index, 1) for index, value in enumerate(tests) if value is not None and value == top}
    return Grid(headers, rows, "Before and after", set(range(1, 6)), best)


def _progress(run: RunView) -> str:
    """How far a run that is not finished has come."""
    costs, last = _spent(run.records), run.spots[-1] if run.spots else None
    steps = last.step if last else 0
    said = f"This run is not finished: {costs.candidates:,} candidates and {steps:,} steps so far"
    if rounds(run.recipe):
        done = sum(isinstance(record, ProposalRecord) for record in run.records)
        said += f", {done} of {rounds(run.recipe)} rounds"
    if run.facts and run.facts.planned:
        said += f"; the recipe allows {run.facts.planned:,} {run.facts.unit}"
    return f"{said}."


def _standing(run: RunView) -> list[Block]:
    """What there is to say of a run that is not finished."""
    parts: list[Block] = [
        f"{_progress(run)} The test rows have not been scored.",
        Code(f"tandemtune resume {shlex.quote(str(run.folder.path))}", "Command that continues it"),
    ]
    best = best_spot(run.spots)
    if best is not None:
        last = next(spot for spot in reversed(run.spots) if spot.dev is not None)
        entries = [("start", run.spots[0]), ("lowest dev loss", best), ("last evaluation", last)]
        rows: list[list[Content]] = [
            [name, spot.step, score(spot.dev.loss), score(spot.dev.score)]
            for name, spot in entries
            if spot.dev is not None
        ]
        headers = ["", "step", "dev loss", f"dev {run.metric}"]
        parts.append(Grid(headers, rows, "Evaluations on the dev rows", {1, 2, 3}))
    return parts


# ---- where it errs ------------------------------------------------------------------------------------------------


def _errors(run: RunView) -> list[Block]:
    """Confusion matrix, scores by class, and the most confident errors on test rows."""
    rows = [row for row in run.predictions if row.gold is not None]
    if not rows:
        return _samples(run)
    labels = told.labels_of(rows, run.facts.labels if run.facts else {})
    counts = told.confusion(rows, labels)
    found = told.class_scores(counts, labels)
    classes: list[list[Content]] = [
        [one.label, one.rows, one.predicted, score(one.precision), score(one.recall), score(one.f1)] for one in found
    ]
    headers = ["class", "rows", "predicted", "precision", "recall", "F1"]
    wrong = sum(row.gold != row.label for row in rows)
    parts: list[Block] = [
        f"{wrong:,} of {len(rows):,} test rows are labelled wrongly.",
        Matrix(labels, counts, "Confusion matrix of the test rows"),
    ]
    chart = _classes_chart(run)
    parts += [chart] if chart is not None else []
    parts.append(Grid(headers, classes, "Precision, recall and F1 of each class", {1, 2, 3, 4, 5}))
    errors: list[list[Content]] = [
        [_text_of(row), row.gold, row.label, score(row.probabilities.get(row.label)), place]
        for place, row in told.confident_errors(rows)
    ]
    if errors:
        listed = ["text", "gold", "predicted", "probability", "row"]
        count = "The most confident errors" if len(errors) < wrong or wrong > 1 else "The only error"
        parts.append(Grid(listed, errors, count, {3, 4}))
    shown = _pictures(run, rows)
    if shown:
        parts.append(Pictures("The most confident errors, as pictures", shown))
    return parts


def _pictures(run: RunView, rows: Sequence[PredictionRecord]) -> list[Picture]:
    """Small copies of the images that are most confidently labelled wrongly, where rows are images that still lie there."""
    if run.facts is None or run.facts.kind != "image-text":
        return []
    found: list[Picture] = []
    for _, row in told.confident_errors(rows):
        source = thumbnail(Path(next(iter(row.fields.values()))))
        if source is not None:
            says = [f"{row.label} ({score(row.probabilities.get(row.label))})", f"is {row.gold}"]
            found.append(Picture(source, says))
    return found


def _samples(run: RunView) -> list[Block]:
    """Written texts side by side: the row, what the pretrained model wrote, what the tuned one did, a reference, the reward."""
    written = [row for row in run.predictions if row.rewards]
    if not written:
        return []
    name = next(iter(written[0].rewards))
    order = sorted(range(len(written)), key=lambda place: (written[place].rewards[name], place))
    parts: list[Block] = []
    for title, places in (("Lowest rewards", order[:SAMPLES]), ("Highest rewards", order[::-1][:SAMPLES])):
        grid: list[list[Content]] = [
            [
                _text_of(written[place]),
                shortened(written[place].untuned or "–", LONGEST),
                shortened(written[place].label or "–", LONGEST),
                shortened(next(iter(written[place].references), "–"), LONGEST),
                score(written[place].rewards[name]),
                place + 1,
            ]
            for place in places
        ]
        parts.append(Grid(["text", "untuned", "tuned", "reference", name, "row"], grid, title, {4, 5}))
    return parts


def _classes_chart(run: RunView) -> BarChart | None:
    rows = [row for row in run.predictions if row.gold is not None]
    if not rows:
        return None
    labels = told.labels_of(rows, run.facts.labels if run.facts else {})
    found = told.class_scores(told.confusion(rows, labels), labels)
    return BarChart(
        title="F1 of each class on the test rows",
        x_label="F1",
        bars=[(one.label, one.f1) for one in found],
        limits=(0, 1),
    )


def _text_of(row: PredictionRecord) -> str:
    fields = list(row.fields.items())
    if len(fields) == 1:
        return shortened(fields[0][1], LONGEST)
    return shortened(" · ".join(f"{name}: {text}" for name, text in fields), LONGEST)


# ---- how it got there ---------------------------------------------------------------------------------------------


def _search(run: RunView) -> list[Block]:
    if not run.spots:
        return ["Nothing has been recorded yet."]
    return [_reading(run), *_curves(run).values()]


def _curves(run: RunView) -> dict[str, Chart]:
    """Losses over work, tokens and time, and dev scores over work."""
    spots, unit = run.spots, unit_of(run.records)
    work: list[float | None] = [float(spot.work) for spot in spots]
    looks = [(x, spot.dev.score) for x, spot in zip(work, spots, strict=True) if spot.dev is not None]
    name = f"dev {run.metric}"
    backward = any(spot.backward for spot in spots)
    tokens = "tokens through the model, and backwards" if backward else "tokens through the model"
    found: dict[str, Chart] = {
        "loss": _losses(f"Loss over {unit}", unit, work, spots),
        "dev-score": LineChart(
            title=f"{name.capitalize()} over {unit}",
            x_label=unit,
            y_label=name,
            series=[Series(name, [x for x, _ in looks], [y for _, y in looks])],
            marks=_marks(work, spots),
            height=300,
        ),
        "loss-over-tokens": _losses("Loss over forward tokens", tokens, [spot.tokens for spot in spots], spots),
    }
    if any(spot.seconds for spot in spots):
        seconds = [spot.seconds for spot in spots]
        found["loss-over-time"] = _losses("Loss over time", "seconds of search", seconds, spots)
    return found


def _reading(run: RunView) -> str:
    """What the curves show."""
    spots = run.spots
    kept = run.result is None or run.result.gain is None or run.result.gain.kept
    said = [
        "Dev loss is that of the point where the search stands; the point with the lowest one is kept."
        if kept
        else "Dev loss is that of the point where the search stands; no point of it is kept, as said above."
    ]
    if any(spot.band is not None for spot in spots):
        said.append("The band holds most candidates of a generation: their losses from the 10 % to the 90 % quantile.")
    if any(spot.batch is not None for spot in spots):
        said.append("A gradient step sees only a few training rows, so its loss jumps.")
    if any(spot.mark.startswith("restart") for spot in spots):
        said.append("At a restart the search went on from a proposal.")
    if any(spot.words is not None for spot in spots):
        said.append('"As words" is the loss of the prompt replaced by its nearest words.')
    return " ".join(said)


def _losses(title: str, label: str, xs: Sequence[float | None], spots: Sequence[Spot]) -> LineChart:
    curves: list[Series] = []
    batches = any(spot.batch is not None for spot in spots)

    def add(name: str, values: Sequence[float | None], points: bool = False) -> None:
        there = [(x, y) for x, y in zip(xs, values, strict=True) if y is not None]
        if there:
            made = [x for x, _ in there], [y for _, y in there]
            curves.append(Series(name, *made, style="points" if points else "line"))

    add("loss of the step's rows", [spot.batch for spot in spots])
    add("train loss", [spot.train for spot in spots], points=batches)
    add("dev loss", [None if spot.dev is None else spot.dev.loss for spot in spots])
    add("train loss as words", [spot.words for spot in spots], points=True)
    lines = [y for curve in curves for y in curve.ys if y is not None]
    banded = [(x, spot.band, spot.train) for x, spot in zip(xs, spots, strict=True) if spot.band is not None]
    limits = None
    if banded:
        edges = [x for x, _, _ in banded], [None for _ in banded]
        low, high = [band[0] for _, band, _ in banded], [band[1] for _, band, _ in banded]
        curves.append(Series("most candidates", *edges, low, high, style="band"))
        limits = _limits(lines, low, high)
    return LineChart(
        title=title, x_label=label, y_label="loss", series=curves, marks=_marks(xs, spots), y_limits=limits
    )


def _limits(lines: Sequence[float], low: Sequence[float], high: Sequence[float]) -> tuple[float, float] | None:
    """Ends of the axis that show the curves well: a band that is much wider is cut off."""
    if not lines:
        return None
    bottom, top = min(lines), max(lines)
    room = (top - bottom) or abs(top) * 0.1 or 1.0
    return max(min(*low, bottom), bottom - room) - 0.04 * room, min(max(*high, top), top + room) + 0.04 * room


def _marks(xs: Sequence[float | None], spots: Sequence[Spot]) -> list[Mark]:
    """Restarts, switches, and the point with the lowest dev loss; one line where several fall together."""
    best = best_spot(spots)
    texts: dict[float, list[str]] = {}
    for x, spot in zip(xs, spots, strict=True):
        if x is not None:
            texts.setdefault(x, []).extend(["lowest dev loss"] * (spot is best) + [spot.mark] * bool(spot.mark))
    return [Mark(x, ", ".join(said)) for x, said in texts.items() if said]


def _layers_chart(run: RunView) -> BarChart | None:
    gains = layer_gains(run.records)
    if len(gains) < 2:
        return None
    bars = [(_block(layer), gains[layer].gain) for layer in sorted(gains)]
    return BarChart(title="What each layer's turns brought", x_label="training loss fell by", bars=bars)


def _layers(run: RunView) -> list[Block]:
    """How much each layer's turns brought; nothing where only one block is searched."""
    chart, gains = _layers_chart(run), layer_gains(run.records)
    if chart is None:
        return []
    rows: list[list[Content]] = [
        [_block(layer), gains[layer].turns, gains[layer].taken, gains[layer].gain] for layer in sorted(gains)
    ]
    return [
        chart,
        Grid(["block", "turns", "better point found", "training loss fell by"], rows, "Turns of each layer"),
    ]


def _block(layer: int) -> str:
    return "input" if layer == -1 else f"layer {layer}"


# ---- round by round -----------------------------------------------------------------------------------------------


def _rounds(run: RunView) -> list[Block]:
    """The story of a run in which somebody proposes; what the points say in words where nobody does."""
    parts: list[Block] = []
    read: list[tuple[int, PromptRecord]] = []
    proposals = [record for record in run.records if isinstance(record, ProposalRecord)]
    for record in run.records:
        if isinstance(record, StartRecord | GenerationRecord | StepRecord) and record.words is not None:
            read.append((0 if isinstance(record, StartRecord) else record.step, record.words))
        if isinstance(record, ProposalRecord):
            parts += _round(run, record, read)
            read = []
        if isinstance(record, RaceRecord):
            parts.append(_leg(run.metric, record))
    if read and not proposals:
        parts.append("Nobody proposed anything here; the prompts are read as words all the same.")
    elif proposals and isinstance(end := run.records[-1], EndRecord):
        parts += [Heading("The end"), f"The search ended after step {end.step}, stopped by {end.stop_reason}."]
    if read:
        parts.append(_read_table(read, run.metric))
    if len(proposals) > 1:
        parts.insert(0, _rounds_chart(run, proposals))
    if proposals:
        parts.insert(0, _rule(run.recipe))
    return parts


def _leg(metric: str, record: RaceRecord) -> Grid:
    """One leg of a race, best first."""
    ranked = [*record.kept, *(i for i in range(len(record.entrants)) if i not in record.kept)]
    rows: list[list[Content]] = []
    for place in ranked:
        entry = record.entrants[place]
        fate = "goes on" if place in record.kept else "drops out"
        numbers = (entry.train.loss, entry.train.score, entry.dev.loss, entry.dev.score)
        rows.append([entrant(entry), fate, *map(score, numbers)])
    headers = ["entrant", "outcome", "train loss", f"train {metric}", "dev loss", f"dev {metric}"]
    return Grid(headers, rows, f"The race after step {record.step}", {2, 3, 4, 5})


def _rule(recipe: Mapping[str, Any]) -> str:
    """Which proposals are taken, in a sentence."""
    if setting(recipe, "alternate.mode") == "race":
        return (
            "In each round the proposals and the trained prompt take the same steps side by side, and those with the highest losses "
            "on the training and the dev rows drop out until one is left. The point with the lowest dev loss of all is kept."
        )
    first = setting(recipe, "alternate.select") == "first"
    which = "the first proposal" if first else "the proposal with the lowest dev loss"
    accept = str(setting(recipe, "alternate.accept", ""))
    when = {
        "always": ", whether or not it is better than the trained prompt",
        "if_better": ", if its dev loss is below that of the trained prompt",
        "metropolis": ", if its dev loss is below that of the trained prompt, and sometimes if it is not",
    }.get(accept, f", by the rule {accept!r}" if accept else "")
    return f"In each round the search goes on from {which}{when}. The point with the lowest dev loss of all is kept."


def _rounds_chart(run: RunView, proposals: Sequence[ProposalRecord]) -> LineChart:
    alone = not setting(run.recipe, "alternate.round_steps", 1)
    numbers = [record.round for record in proposals]
    trained = Series(
        "where the search stands" if alone else "what the optimizer reached",
        numbers,
        [record.trained_dev.loss for record in proposals],
    )
    pairs = [(record.round, draft.dev.loss) for record in proposals for draft in record.drafts if draft.dev is not None]
    drafts = Series("proposals", [x for x, _ in pairs], [y for _, y in pairs], style="points")
    return LineChart(
        title="Dev loss round by round", x_label="round", y_label="dev loss", series=[trained, drafts], height=300
    )


def _round(run: RunView, record: ProposalRecord, read: Sequence[tuple[int, PromptRecord]]) -> list[Block]:
    """One round, in the order in which it happened."""
    metric, who = run.metric, _who(run.recipe, record.proposer)
    alone = not setting(run.recipe, "alternate.round_steps", 1)
    begun = "The search stands at" if alone else "The optimizer reached"
    dev = record.trained_dev
    parts: list[Block] = [
        Heading(f"Round {record.round}"),
        f"{begun} a dev loss of {score(dev.loss)} ({metric} {score(dev.score)}).",
    ]
    if read:
        parts.append(_read_table(read, metric))
    if record.failure:
        parts.append(f"{who[:1].upper()}{who[1:]} proposed nothing: {record.failure}.")
    rows: list[list[Content]] = []
    for index, draft in enumerate(record.drafts):
        looked = (draft.dev.loss, draft.dev.score) if draft.dev is not None else (None, None)
        outcome = "in the race" if record.raced else "taken" if index == record.taken else "not taken"
        rows.append([draft.text, outcome, *map(score, (draft.loss, draft.score, *looked))])
    if rows:
        headers = ["proposal", "outcome", "train loss", f"train {metric}", "dev loss", f"dev {metric}"]
        parts.append(Grid(headers, rows, f"What {who} proposed", {2, 3, 4, 5}))
    if record.refused:
        refused: list[list[Content]] = [[text, reason] for text, reason in record.refused]
        parts.append(Grid(["refused", "because"], refused, "What was said and could not be tried", set()))
    if record.shown:
        shown: list[list[Content]] = [[entry.text, score(entry.loss), score(entry.score)] for entry in record.shown]
        listed = Grid(["prompt", "train loss", f"train {metric}"], shown, "Worst first", {1, 2})
        parts.append(Details(f"The best prompts of words so far ({len(shown)}), which a proposer may see", [listed]))
    if record.unsteered:
        parts.append(f"{who[:1].upper()}{who[1:]} decided nothing about the next round: {record.unsteered}.")
    if record.actions is not None:
        parts.append(f"The next round: {decided(record.actions)}.")
    return [*parts, _outcome(record)]


def _outcome(record: ProposalRecord) -> str:
    if record.raced and record.drafts:
        return "They are trained side by side with the trained prompt."
    if record.taken is None:
        return "Nothing was taken: the search goes on from where it stood."
    draft = record.drafts[record.taken]
    after = draft.dev.loss if draft.dev is not None else None
    return f"The search goes on from “{draft.text}”: dev loss {score(record.trained_dev.loss)} → {score(after)}."


def _read_table(read: Sequence[tuple[int, PromptRecord]], metric: str) -> Grid:
    """Points read as words."""
    rows: list[list[Content]] = [
        [step, score(words.soft_loss), words.text, *map(score, (words.distance, words.loss, words.score))]
        for step, words in read
    ]
    headers = ["step", "train loss", "nearest words", "distance", "train loss as words", f"train {metric} as words"]
    return Grid(headers, rows, "The trained prompt, read as words", {0, 1, 3, 4, 5})


def _who(recipe: Mapping[str, Any], name: str) -> str:
    known = {
        "mentor": f"the mentor ({setting(recipe, 'mentor.mentor', 'unnamed')})",
        "mutation": "mutation of the best prompts (control)",
        "random": "chance (random words, control)",
        "perturbed": "noise around the trained prompt (control)",
    }
    return known.get(name, name)


def _conversations(path: Path) -> list[Block]:
    """What was said to a mentor and by it: to be read, and as it was written down."""
    if not path.exists():
        return []
    raw = path.read_bytes().decode("utf-8", "replace")
    verbatim = Details("conversations.jsonl, verbatim", [Code(raw, "conversations.jsonl")])
    asked: dict[str, int] = {}
    said: list[Block] = []
    try:
        lines = read_lines(path)
        for line in lines:
            said += _said(line, asked)
    except (RunError, AttributeError, KeyError, TypeError):
        return ["The file is damaged, or of another kind; this is what it holds.", verbatim]
    client = lines[0].get("client") if lines else None
    questions = "1 question" if len(asked) == 1 else f"{len(asked)} questions"
    intro: list[Block] = [f"{client} was asked {questions}."] if client else []
    return [*intro, *([Details("Questions and answers", said)] if said else []), verbatim]


def _said(line: Mapping[str, Any], asked: dict[str, int]) -> list[Block]:
    """A line of the transcript for a reader; numbers questions in `asked`."""
    if "asked" in line:
        request = line.get("request")
        if not isinstance(request, Mapping):
            return [f"Question {asked.get(str(line['asked']), '?')} was asked once more."]
        asked[str(line["asked"])] = len(asked) + 1
        messages = request.get("messages") or [{"role": "to be continued", "content": request.get("prompt", "")}]
        settings = ", ".join(f"{key} {request[key]}" for key in ("max_tokens", "temperature", "seed") if key in request)
        texts = [Quote(str(message.get("role")), str(message.get("content"))) for message in messages]
        return [Heading(f"Question {len(asked)}"), settings, *texts]
    if "answered" in line:
        reply = line["reply"]
        title = f"Answer to question {asked.get(str(line['answered']), '?')}"
        counts = (
            f"{reply['prompt_tokens']} tokens asked, {reply['completion_tokens']} answered, {reply['finish_reason']}"
        )
        return [Quote(f"{title} ({counts})", str(reply["text"]))]
    if "failed" in line:
        return [f"Question {asked.get(str(line['failed']), '?')} got no answer: {line.get('why')}"]
    return []


# ---- costs, and how to repeat it ----------------------------------------------------------------------------------


def _costs(result: Result) -> list[Block]:
    cost = result.cost
    pairs: list[tuple[str, Content]] = [
        ("candidates", cost.candidates),
        ("gradient steps", cost.gradient_steps),
        ("steps", result.steps),
        ("forward tokens", cost.forward_tokens),
        ("backward tokens", cost.backward_tokens),
        ("search", duration(cost.seconds)),
        ("peak memory of the process", f"{rough(cost.peak_rss_mb)} MB"),
        *spent_pairs(cost.proposer),
    ]
    shown = [pair for pair in pairs if pair[1] != 0]
    notes: list[Block] = [
        "Tokens count once for the whole model: a candidate of an upper layer counts for the layers that it runs through. "
        "They cover the search with its evaluations on dev; the scores before and after it come on top."
    ]
    if cost.proposer:
        notes.append("Memory includes a mentor that runs in this process; its tokens are counted apart.")
    return [Pairs(shown), *notes]


def _spent(records: Sequence[JournalRecord]) -> Costs:
    """What the search has spent by its last record."""
    counted = [r.costs for r in records if isinstance(r, GenerationRecord | StepRecord | ProposalRecord | RaceRecord)]
    return counted[-1] if counted else Costs()


def _costs_so_far(run: RunView) -> list[Block]:
    costs, clock = _spent(run.records), ticks(run.folder)
    pairs: list[tuple[str, Content]] = [("candidates", costs.candidates), ("gradient steps", costs.gradient_steps)]
    if run.facts and run.facts.depth:
        pairs.append(("forward tokens", round(costs.forward / run.facts.depth)))
        pairs.append(("backward tokens", round(costs.backward / run.facts.depth)))
    if clock:
        pairs.append(("search", duration(clock[-1][1])))
        pairs.append(("peak memory of the process", f"{rough(max(peak for _, _, peak in clock))} MB"))
    spent = [record.spent for record in run.records if isinstance(record, ProposalRecord)]
    pairs += spent_pairs(spent[-1]) if spent else []
    return ["So far:", Pairs(pairs)]


def _repeat(run: RunView) -> list[Block]:
    facts, recipe = run.facts, run.recipe
    chosen = [("dtype", "auto", facts.dtype), ("threads", None, facts.threads)] if facts else []
    decided = [f"model.{key}={value}" for key, left, value in chosen if recipe.get("model", {}).get(key) == left]
    words = ["tandemtune", "run", str(run.folder.recipe), *decided]
    out = ["--out", "runs/again"]
    parts: list[Block] = [
        "The same on this machine, with these versions:",
        Code(shlex.join([*words, *out]), "Command that repeats the run"),
    ]
    conversations = run.folder.conversations
    if proposer(recipe) == "mentor" and conversations.exists() and setting(recipe, "mentor.client") != "recorded":
        replay = [*words, "mentor.client=recorded", f"mentor.mentor={conversations}", *out]
        parts.append("The same without asking the mentor again, from what it said then:")
        parts.append(Code(shlex.join(replay), "Command that repeats the run from its transcript"))
    parts += [
        Heading("Settings that this method used"),
        Code(as_toml(used(recipe, facts.unit if facts else "")), "Recipe"),
    ]
    if facts:
        parts.append(Heading("Decided here"))
        labels = facts.label_pieces or facts.labels
        pairs: list[tuple[str, Content]] = [
            ("kind of model", facts.kind),
            ("number format", facts.dtype),
            ("device", facts.device),
            ("threads", facts.threads),
            ("layers", facts.layers),
            ("learning rate", facts.lr),
            ("tokens at a time", facts.chunk_tokens),
            ("memory for activations, MB", facts.max_memory),
            ("calibrated losses", facts.calibrated),
            ("label words", "; ".join(f"{label}: {', '.join(pieces)}" for label, pieces in labels.items())),
            ("rows (SHA-256)", facts.rows_sha256 or None),
        ]
        parts.append(Pairs([pair for pair in pairs if pair[1] is not None]))
        parts.append(Code(facts.template, "Template"))
        if run.result is None:
            parts += [f"Note: {note}" for note in facts.notes]
    versions = run.result.versions if run.result else facts.versions if facts else {}
    if versions:
        parts += [Heading("Versions"), Pairs(list(versions.items()))]
    return parts
