"""A run's page: the curves of the search, and what each layer's turns brought."""

from __future__ import annotations

from collections.abc import Sequence

from tandemtune.report.charts import BarChart, Chart, LineChart, Mark, Series
from tandemtune.report.history import Spot, best_spot, unit_of
from tandemtune.report.numbers import Content
from tandemtune.report.page import (
    Block,
    Grid,
)
from tandemtune.report.run_view import RunView
from tandemtune.report.text import layer_gains


def search(run: RunView) -> list[Block]:
    """The curves of a search, and what they show."""
    if not run.spots:
        return ["Nothing has been recorded yet."]
    return [_reading(run), *curves(run).values()]


def curves(run: RunView) -> dict[str, Chart]:
    """Losses over work, tokens and time, and dev scores over work."""
    spots, unit = run.spots, unit_of(run.records)
    work: list[float | None] = [float(spot.work) for spot in spots]
    looks = [(x, spot.dev.score) for x, spot in zip(work, spots, strict=True) if spot.dev is not None]
    name = f"dev {run.metric}"
    backward = any(spot.backward for spot in spots)
    tokens = "tokens through the model, and backwards" if backward else "tokens through the model"
    losses = _each(spots, f"Loss over {unit}", unit, work)
    found: dict[str, Chart] = {
        **{f"loss{behind}": chart for behind, chart in losses.items()},
        "dev-score": LineChart(
            title=f"{name.capitalize()} over {unit}",
            x_label=unit,
            y_label=name,
            series=[Series(name, [x for x, _ in looks], [y for _, y in looks])],
            marks=_marks(work, spots),
            height=300,
        ),
    }
    charts = _each(spots, "Loss over forward tokens", tokens, [spot.tokens for spot in spots])
    found |= {f"loss-over-tokens{behind}": chart for behind, chart in charts.items()}
    if any(spot.seconds for spot in spots):
        charts = _each(spots, "Loss over time", "seconds of search", [spot.seconds for spot in spots])
        found |= {f"loss-over-time{behind}": chart for behind, chart in charts.items()}
    return found


def _each(spots: Sequence[Spot], title: str, label: str, xs: Sequence[float | None]) -> dict[str, LineChart]:
    """A chart of losses for each objective that a run's stretches had one after another: their losses are no one quantity."""
    last = spots[-1].yardstick if spots else 0
    found = {}
    for number in range(last + 1):
        mine = [place for place, spot in enumerate(spots) if spot.yardstick == number]
        own = [spots[place] for place in mine]
        of = f", {' and '.join(dict.fromkeys(spot.stretch for spot in own))}" if last else ""
        behind = f"-{number + 1}" if number else ""
        found[behind] = _losses(title + of, label, [xs[place] for place in mine], own)
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
    if spots[-1].yardstick:
        said.append("Each objective has a chart of its own; the point that was handed over is measured by both.")
    if any(spot.mark.startswith("restart") for spot in spots):
        said.append("At a restart the search went on from a proposal.")
    if any(spot.words is not None for spot in spots):
        said.append('"As words" is the loss of the prompt replaced by its nearest words.')
    return " ".join(said)


def _losses(title: str, label: str, xs: Sequence[float | None], spots: Sequence[Spot]) -> LineChart:
    series: list[Series] = []
    batches = any(spot.batch is not None for spot in spots)

    def add(name: str, values: Sequence[float | None], points: bool = False) -> None:
        there = [(x, y) for x, y in zip(xs, values, strict=True) if y is not None]
        if there:
            made = [x for x, _ in there], [y for _, y in there]
            series.append(Series(name, *made, style="points" if points else "line"))

    add("loss of the step's rows", [spot.batch for spot in spots])
    add("train loss", [spot.train for spot in spots], points=batches)
    add("dev loss", [None if spot.dev is None else spot.dev.loss for spot in spots])
    add("train loss as words", [spot.words for spot in spots], points=True)
    lines = [y for curve in series for y in curve.ys if y is not None]
    banded = [(x, spot.band, spot.train) for x, spot in zip(xs, spots, strict=True) if spot.band is not None]
    limits = None
    if banded:
        edges = [x for x, _, _ in banded], [None for _ in banded]
        low, high = [band[0] for _, band, _ in banded], [band[1] for _, band, _ in banded]
        series.append(Series("most candidates", *edges, low, high, style="band"))
        limits = _limits(lines, low, high)
    return LineChart(
        title=title, x_label=label, y_label="loss", series=series, marks=_marks(xs, spots), y_limits=limits
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


def layers_chart(run: RunView) -> BarChart | None:
    """What each layer's turns brought; None where there are fewer than two."""
    gains = layer_gains(run.records)
    if len(gains) < 2:
        return None
    bars = [(_block(layer), gains[layer].gain) for layer in sorted(gains)]
    return BarChart(title="What each layer's turns brought", x_label="training loss fell by", bars=bars)


def layers(run: RunView) -> list[Block]:
    """How much each layer's turns brought; nothing where only one block is searched."""
    chart, gains = layers_chart(run), layer_gains(run.records)
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
