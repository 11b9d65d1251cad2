"""Commands that make runs: run, resume, validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tandemtune.cli.app import LOADING, Overrides, Quiet, app, console, patient, say, watched
from tandemtune.cli.beginning import recipe_of_rows
from tandemtune.errors import RunError, UsageError

"""Endings of files that are rows and no recipe."""
NoTest = Annotated[bool, typer.Option("--no-test", help="Leave the test rows unread.")]


@app.command()
def run(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe file, one of `tandemtune ls recipes`, or a file of texts with labels or answers (csv, tsv, jsonl, parquet)."
        ),
    ],
    overrides: Overrides = None,
    answer: Annotated[
        str | None,
        typer.Option(help="Of a file of texts: the column of whole answers, where it is not told by its name."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make; default runs/RECIPE-seedN.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that lies there.")] = False,
    no_test: NoTest = False,
    quiet: Quiet = False,
) -> None:
    """Tune a model as a recipe says.

    A file of texts is run with the recipe that `tandemtune init` proposes, which is written beside the run.

    Example: tandemtune run quickstart seed=21 shots=8 --out runs/mine
    """
    from tandemtune.config.reading import ROWS, load_with_notes

    if Path(recipe).suffix.lower() in ROWS:
        place = out or Path("runs") / Path(recipe).stem
        _check_free(place, overwrite)
        recipe = str(recipe_of_rows(Path(recipe), place, overrides or [], quiet, answer))
        config, unused = load_with_notes(recipe, overrides or [])
    else:
        if answer is not None:
            raise UsageError(f"--answer is for a file of texts; in {recipe} it is [task] answer")
        config, unused = load_with_notes(recipe, overrides or [])
        place = out or Path("runs") / f"{Path(recipe).stem}-seed{config.task.seed}"
        _check_free(place, overwrite)
    for line in unused:
        say(f"note: {line}")

    def work(callback: Any) -> None:
        with patient(LOADING):
            from tandemtune.runner import run as make
        make(config, place, callback, overwrite=overwrite, test=not no_test)

    watched(place, quiet, work)


def _check_free(place: Path, overwrite: bool) -> None:
    from tandemtune.runs.store import RunFolder

    try:
        RunFolder.check_free(place, overwrite=overwrite)
    except RunError as error:
        raise UsageError(str(error)) from None


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="Run folder.")], no_test: NoTest = False, quiet: Quiet = False
) -> None:
    """Go on with a run that was stopped or killed.

    Example: tandemtune resume runs/mine
    """
    _end(folder, no_test, quiet, by_hand=False)


@app.command()
def finish(
    folder: Annotated[Path, typer.Argument(help="Run folder.")], no_test: NoTest = False, quiet: Quiet = False
) -> None:
    """Score and keep what an unfinished run has found so far, and search no further.

    Example: tandemtune finish runs/mine
    """
    _end(folder, no_test, quiet, by_hand=True)


def _end(folder: Path, no_test: bool, quiet: bool, *, by_hand: bool) -> None:
    """Bring a run to its end, after more search or at once."""
    from tandemtune.runs.store import RunFolder

    done = RunFolder.open(folder).read_result()
    if done is not None:
        from tandemtune.report.text import result_table

        there = console()
        there.print(f"the run in {folder} has ended already; nothing to do", soft_wrap=True, markup=False)
        there.print(result_table(done))
        return

    def work(callback: Any) -> None:
        with patient(LOADING):
            from tandemtune.runner import go_on
        go_on(folder, callback, test=not no_test, by_hand=by_hand)

    watched(folder, quiet, work, begun=True)


@app.command()
def validate(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or one of `tandemtune ls recipes`.")],
    overrides: Overrides = None,
    data: Annotated[bool, typer.Option("--data/--no-data", help="Read the data files too.")] = True,
) -> None:
    """Check a recipe and its data without loading a model, and say what it makes of the rows.

    Example: tandemtune validate my.toml optimizer=fireworks
    """
    from tandemtune.config.reading import load_with_notes

    config, unused = load_with_notes(recipe, overrides or [])
    for line in unused:
        say(f"note: {line}")
    if config.method.then:
        from tandemtune.wiring import outline

        for line in outline(config):
            typer.echo(line)
    if data:
        with patient(LOADING):
            from tandemtune.data_card import data_card
            from tandemtune.rewards.own import OwnFunction
            from tandemtune.wiring import check
        for address in config.reward_functions:
            with patient(f"importing {address}"):
                OwnFunction(address, config.task.reward_seconds).check()
        with patient("reading the rows and counting tokens"):
            card = data_card(config, check(config, say))
        for note in card.notes():
            say(f"note: {note}")
        for line in card.lines():
            typer.echo(line)
    typer.echo(f"{recipe}: fine")


mentor_app = typer.Typer(no_args_is_help=True, help="The language model that proposes.")
app.add_typer(mentor_app, name="mentor")


@mentor_app.command("check")
def mentor_check(
    recipe: Annotated[str, typer.Argument(help="A recipe with a mentor.")], overrides: Overrides = None
) -> None:
    """Find out whether a recipe's mentor answers (key, model name, address, packages), and whether what it says can be used.

    It is asked for what the recipe needs it for (prompts, decisions, grades, else templates), about a made-up task. Exit code 1: nothing that it answers can be read, or tried.

    Example: tandemtune mentor check my.toml
    """
    from tandemtune.config import load_config

    config = load_config(recipe, overrides or [])
    with patient(LOADING):
        from tandemtune.wiring import try_mentor
    with patient("waiting for the mentor's answer"):
        for line in try_mentor(config, say):
            say(line)
    typer.echo(f"the mentor of {recipe} can be asked")
