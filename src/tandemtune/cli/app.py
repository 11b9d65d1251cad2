"""The application: how it is called, how errors are said, and what commands share."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from tandemtune import __version__
from tandemtune.errors import TandemTuneError

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Tune pretrained models in closed form, with forward passes only, with gradients, or with an optimizer and a language model in turns. Exit codes: 0 done, 1 failed, 2 wrong use, 3 waiting for a mentor's file, 130 stopped, 143 ended by a signal.",
)
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]
Svg = Annotated[Path | None, typer.Option(help="Folder for the charts as SVG files, with text kept as text.")]
Png = Annotated[Path | None, typer.Option(help="Folder for the charts as PNG files of 216 dots an inch.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value ...", metavar="[KEY=VALUE]...")]


def main() -> None:
    """Run the command line; turns errors into a message and an exit code."""
    from tandemtune.cli import beginning, comparing, looking, running, using  # noqa: F401  (they register their commands)

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # retries without a network are no news
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.captureWarnings(True)
    try:
        app()
    except TandemTuneError as error:
        fail(str(error), error.exit_code)
    except _Said:
        raise
    except SystemExit as ended:
        if ended.code == 130:  # an interrupt that nobody else has spoken of
            fail("stopped", 130)
        raise
    except KeyboardInterrupt:
        fail("stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        fail(f"{error.strerror or error}{where}", 1)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        fail(NO_MEMORY, 1)


NO_MEMORY = "out of memory: close other programs, or lower [run] max_memory, [task] max_tokens or the number of rows"


def _out_of_memory(error: BaseException) -> bool:
    """Whether Python, or torch on any device, found no memory; on a processor torch has no type for that."""
    said = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tandemtune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Tune pretrained models in closed form, with forward passes only, with gradients, or with an optimizer and a language model in turns. Exit codes: 0 done, 1 failed, 2 wrong use, 3 waiting for a mentor's file, 130 stopped, 143 ended by a signal."""


def console() -> Console:
    """The terminal, or wide lines where there is none."""
    return Console(width=None if sys.stdout.isatty() else 140)


def say(text: str) -> None:
    """A line beside the result."""
    typer.echo(text, err=True)


LOADING = "loading torch and transformers"
PATIENCE = 5.0
"""Seconds that may go by before a command says what it is waiting for."""


@contextmanager
def patient(what: str) -> Iterator[None]:
    """Say what is being done, if it takes more than a few seconds."""
    timer = threading.Timer(PATIENCE, say, [f"{what} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def echo_json(content: Any) -> None:
    """Data for other programs."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def fail(message: str, code: int) -> NoReturn:
    """Say what went wrong, and end with an exit code."""
    typer.echo("tandemtune: " + "\n".join(map(_shown, message.split("\n"))), err=True)
    raise _Said(code)


class _Said(SystemExit):
    """The end of the process, after its reason has been said."""


class _Terminated(KeyboardInterrupt):
    """Somebody wants this process to end, as a scheduler or `timeout` does."""


def _terminated(number: int, frame: object) -> None:
    raise _Terminated


def watched(place: Path, quiet: bool, work: Any, begun: bool = False) -> None:
    """Do a run's work with its progress shown; Ctrl-C, or a signal to end, says how to go on.

    Args:
        place: the run folder.
        quiet: say nothing but the result.
        work: called with a callback.
        begun: the run began in an earlier process.
    """
    from tandemtune.report.live import LiveReport

    live = LiveReport(console(), quiet)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        with live:
            work(live)
    except KeyboardInterrupt as stop:
        code = 143 if isinstance(stop, _Terminated) else 130
        if live.started or begun:
            fail(f"stopped. Nothing that was finished is lost; go on with: tandemtune resume {place}", code)
        fail("stopped before the run began", code)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error) or not (live.started or begun):
            raise
        fail(f"{NO_MEMORY}. Nothing that was finished is lost; go on with: tandemtune resume {place}", 1)
    finally:
        signal.signal(signal.SIGTERM, before)
    what, example = _use_of(place)
    say(f"the run lies in {place}; {what} with: tandemtune predict {place} --input {example} --output out.jsonl")


def _use_of(place: Path) -> tuple[str, str]:
    """What a finished run is for, and an example of its input."""
    from tandemtune.answers import answers_of
    from tandemtune.config import load_config
    from tandemtune.runs.store import RunFolder
    from tandemtune.wiring import task_of_run

    folder = RunFolder.open(place)
    facts = folder.read_facts()
    assert facts is not None  # of a run that has ended
    return answers_of(task_of_run(load_config(folder.read_recipe(), ended=True), facts)).use


def _shown(line: str) -> str:
    """A line of a message without control characters, and not so long that nobody reads it."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    return line if len(line) <= 900 else f"{line[:500]} ... {line[-300:]}"
