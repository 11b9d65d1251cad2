"""The command that makes many runs: compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tandemtune.cli.app import Png, Svg, app, console, fail, say

if TYPE_CHECKING:
    from tandemtune.runs.records import ComparedRun


@app.command()
def compare(
    plan: Annotated[Path, typer.Argument(help="A TOML file of methods, tasks, models and seeds.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value for every run ...", metavar="[KEY=VALUE]...")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of all runs; default runs/PLAN.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Check all recipes and their data, and stop.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Show what has ended so far, and start nothing.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes side by side, instead of the plan's.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Make the runs on a Ray cluster: auto, HOST:PORT, or local for this machine alone. As many at a time as there is room "
            "for, or --jobs.",
        ),
    ] = None,
    gpus: Annotated[float, typer.Option(min=0, help="Accelerators that each run reserves on the cluster.")] = 0.0,
    svg: Svg = None,
    png: Png = None,
) -> None:
    """Run methods side by side on the same rows and budgets; may be stopped and started again.

    Example: tandemtune compare plan.toml task.data=data --out runs/comparison
    """
    from tandemtune.comparisons import check_plan, execute, on_cluster, read_plan, records_of
    from tandemtune.report.charts import save_all
    from tandemtune.report.comparison import FILES, comparison_view, write
    from tandemtune.report.comparison_page import comparison_charts, read_comparison, write_report
    from tandemtune.report.live_comparison import watching

    read = read_plan(plan, out or Path("runs") / plan.stem, overrides or [])
    if ray is None:
        read = dataclasses.replace(read, jobs=jobs or read.jobs)
    if not show:
        check_plan(read, say)
    if check:
        typer.echo(f"{plan}: fine, {len(read.cells)} runs")
        return
    if show:
        records = records_of(read)
    else:
        with watching(read.cells, say) as (tell, watch), on_cluster(ray, gpus, jobs) as elsewhere:
            records = execute(read, tell, elsewhere, watch)
    found = write(read, records)
    console().print(comparison_view(found))
    write_report(read.out)
    say(f"tables lie in {read.out}: {', '.join(FILES)}; charts in report.html")
    if svg or png:
        charts = comparison_charts(*read_comparison(read.out), read.out)
        if svg:
            save_all(charts, svg, "svg")
        if png:
            save_all(charts, png, "png")
    if not show:
        _tell_missing(records)


def _tell_missing(records: Sequence[ComparedRun]) -> None:
    """Say what became of the runs without a result, and end with 1 if any failed, with 3 if one waits for answers."""
    from tandemtune.errors import AnswerAwaited

    missing: dict[str, list[ComparedRun]] = {}
    for record in records:
        if record.result is None:
            missing.setdefault(record.state, []).append(record)
    for record in missing.get("left out", []):
        say(f"left out: {record.task} / {record.method} / {record.seed}: {record.failure}")
    of = f"of {len(records)} runs"
    waiting = missing.get("waiting for answers", [])
    told = f"{len(waiting)} {of} waiting for answers; the same command goes on with them once the answers are there"
    if failed := missing.get("open"):
        if waiting:
            say(told)
        fail(f"{len(failed)} {of} failed; the same command tries them again", 1)
    if waiting:
        fail(told, AnswerAwaited.exit_code)
