"""A run as one HTML page: what it reached, where it errs, how it got there, what it cost, and how to repeat it."""

from __future__ import annotations

from pathlib import Path

from tandemtune.report.charts import Chart
from tandemtune.report.page import (
    Block,
    Section,
    page,
    render,
)
from tandemtune.report.run_costs import costs, costs_so_far, to_repeat
from tandemtune.report.run_errors import classes_chart, errors
from tandemtune.report.run_result import headline, progress, reached, scores_chart, standing
from tandemtune.report.run_rounds import conversations, rounds_so_far
from tandemtune.report.run_search import curves, layers, layers_chart, search
from tandemtune.report.run_view import RunView
from tandemtune.runs.store import RunFolder


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
        Section("result", "Result", reached(run) if run.result else standing(run)),
        Section("errors", "Where it errs", errors(run)),
        Section("search", "The search", search(run)),
        Section("layers", "Layer by layer", layers(run)),
        Section("rounds", "Round by round", rounds_so_far(run)),
        Section("conversations", "What was said", conversations(folder.conversations)),
        Section("costs", "Costs and memory", costs(run.result) if run.result else costs_so_far(run)),
        Section("repeat", "To repeat it", to_repeat(run)),
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
        "scores": scores_chart(run.result, run) if run.result else None,
        "classes": classes_chart(run),
        **curves(run),
        "layers": layers_chart(run),
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
        blocks += [headline(run.result)[0], scores_chart(run.result, run)]
    elif run.spots:
        blocks.append(progress(run))
    blocks += [curves(run)["loss"]] if run.spots else []
    return render("summary.html", title=run.title, parts=blocks, place=str(run.folder.path))
