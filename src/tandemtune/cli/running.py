"""Commands that make runs: run, resume, validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tandemtune.cli.app import Overrides, Quiet, app, console, say, watched
from tandemtune.errors import RunError, UsageError


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or one of `tandemtune ls recipes`.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make; default runs/RECIPE-seedN.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that lies there.")] = False,
    quiet: Quiet = False,
) -> None:
    """Tune a model as a recipe says.

    Example: tandemtune run quickstart seed=21 method.budget=1000 --out runs/mine
    """
    from tandemtune.config.load import load_with_notes
    from tandemtune.runs.store import RunFolder

    config, unused = load_with_notes(recipe, overrides or [])
    place = out or Path("runs") / f"{Path(recipe).stem}-seed{config.task.seed}"
    try:
        RunFolder.check_free(place, overwrite=overwrite)
    except RunError as error:
        raise UsageError(str(error)) from None
    for line in unused:
        say(f"note: {line}")

    def work(callback: Any) -> None:
        from tandemtune.runner import run as make

        make(config, place, callback, overwrite=overwrite)

    watched(place, quiet, work)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="Run folder.")],
    no_test: Annotated[
        bool, typer.Option("--no-test", help="End without a score on the test file, which cannot be read any more.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run that was stopped or killed.

    Example: tandemtune resume runs/mine
    """
    from tandemtune.runs.store import RunFolder

    done = RunFolder.open(folder).read_result()
    if done is not None:
        from tandemtune.report.text import result_table

        there = console()
        there.print(f"the run in {folder} has ended already; nothing to do", soft_wrap=True, markup=False)
        there.print(result_table(done))
        return

    def work(callback: Any) -> None:
        from tandemtune.runner import go_on

        go_on(folder, callback, without_test=no_test)

    watched(folder, quiet, work, begun=True)


@app.command()
def validate(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or one of `tandemtune ls recipes`.")],
    overrides: Overrides = None,
    data: Annotated[bool, typer.Option("--data/--no-data", help="Read the data files too.")] = True,
) -> None:
    """Check a recipe and its data without loading a model.

    Example: tandemtune validate my.toml optimizer=fireworks
    """
    from tandemtune.config.load import load_with_notes

    config, unused = load_with_notes(recipe, overrides or [])
    for line in unused:
        say(f"note: {line}")
    if data:
        from tandemtune.wiring import check

        task = check(config, say)
        split = task.split(config.task.shots, config.task.seed, dev_k=config.task.dev_shots)
        for note in (*task.notes(), *task.report(split).notes()):
            say(f"note: {note}")
    typer.echo(f"{recipe}: fine")


mentor_app = typer.Typer(no_args_is_help=True, help="The language model that proposes.")
app.add_typer(mentor_app, name="mentor")


@mentor_app.command("check")
def mentor_check(
    recipe: Annotated[str, typer.Argument(help="A recipe with a mentor.")], overrides: Overrides = None
) -> None:
    """Find out whether a recipe's mentor answers: key, model name, address, packages.

    Example: tandemtune mentor check my.toml
    """
    from tandemtune.config import load_config
    from tandemtune.wiring import check_proposer

    config = load_config(recipe, overrides or [])
    if not config.alternates:
        raise UsageError(f"{recipe} asks nobody: set [alternate] rounds, or take a method such as maao")
    check_proposer(config, say)
    typer.echo(f"the mentor of {recipe} can be asked")
