"""Commands that use a finished run: predict, evaluate, embeds."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tandemtune.cli.app import LOADING, app, console, echo_json, patient, say
from tandemtune.errors import UsageError

if TYPE_CHECKING:
    from tandemtune.tasks.table import Table


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(help="Run folder.")],
    input: Annotated[
        Path | None,
        typer.Option(
            help="Rows: jsonl, json, csv, tsv or parquet; - for lines of text on standard input; a folder of images."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="File to write, by its suffix; all columns are kept, a label that was there becomes gold."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="Label or answer this text (or image file); may be given several times."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")] = False,
) -> None:
    """Label new texts with a tuned model, or write answers to them. A row whose texts are blank gets an empty label or answer.

    Example: tandemtune predict runs/mine --input mails.csv --output labelled.csv
    """
    with patient(LOADING):
        from tandemtune.answers import answers_of
        from tandemtune.predict import check_input, load, predict_table
    from tandemtune.tasks.table import Table as Rows
    from tandemtune.tasks.table import read_table, write_table

    if (input is None) == (not text):
        raise UsageError("expected either --input FILE or --text TEXT")
    _check_output(output, input, overwrite)
    lines = text or (_lines_of_stdin() if str(input) == "-" else None)
    given = read_table(input) if lines is None and not Path(str(input)).is_dir() else None
    if given is not None:
        check_input(folder, given)  # what is wrong with it is told before the model is loaded
        _tell(given)
    model = load(folder, progress=say)
    table = model.scorer.table(input) if lines is None else None
    if lines is not None and len(model.fields) > 1:
        raise UsageError(f"the task needs {', '.join(model.fields)} of each row: give a file with these columns")
    if table is None:
        table = Rows.of([{model.fields[0]: line} for line in lines or ()], "the given texts")
    with patient(f"{answers_of(model.scorer.task).doing} {len(table.rows):,} rows"):
        found = predict_table(model, table)
    made = found.table if given is None else _as_given(found.table, given, model.fields)
    if output is None:
        for row in made.rows:
            typer.echo(f"{row[found.column]}\t{row.get(model.fields[0], '')}")
    else:
        write_table(output, made)
        say(f"{len(made.rows)} rows {'labelled' if found.column == 'label' else 'answered'} in {output}")
    if found.blank:
        blank = "1 blank row has" if found.blank == 1 else f"{found.blank:,} blank rows have"
        say(f"{blank} an empty {found.column}")
    if found.score is not None:
        say(f"{found.metric} on {found.scored} rows with a known label: {found.score:.4f}")


@app.command()
def generate(
    folder: Annotated[Path, typer.Argument(help="Run folder.")],
    text: Annotated[
        list[str] | None, typer.Argument(help="What to answer; several are answered one after another.")
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            "--field", help="COLUMN=TEXT, once for each column, where the template has several: what to answer."
        ),
    ] = None,
) -> None:
    """Write what a tuned model answers to texts.

    Example: tandemtune generate runs/mine "name : Alimentum | area : city centre"

    Example: tandemtune generate runs/mine --field premise="It rained." --field question="What is wet?"
    """
    with patient(LOADING):
        from tandemtune.predict import inputs_of, load

    if not text and not field:
        raise UsageError("expected TEXT, or --field COLUMN=TEXT for each column of the template")
    if text and field:
        raise UsageError("expected either TEXT or --field COLUMN=TEXT: leave one of them out")
    needed = inputs_of(folder)
    if len(needed) > 1 and not field:
        raise UsageError(
            f"the task needs {', '.join(needed)} of each row: give --field COLUMN=TEXT for each of them, or a file with these columns to "
            "tandemtune predict"
        )
    given: list[str] | list[dict[str, str]] = text or [_row_of(field or (), needed)]
    blank = [place for place, one in enumerate(text or (), 1) if not one.strip()]
    if blank:
        raise UsageError(f"text {blank[0]} of {len(text or ())} is blank: give something to answer")
    model = load(folder, progress=say)
    with patient("writing"):
        found = model.predict(given)
    for one in found:
        typer.echo(one.text)


def _row_of(given: Sequence[str], needed: Sequence[str]) -> dict[str, str]:
    """One row of the columns that are given on the command line.

    Args:
        given: ``COLUMN=TEXT`` each.
        needed: columns that a row needs.

    Raises:
        UsageError: one is missing, or there twice, or none of these, or all are blank.
    """
    from tandemtune.tasks.wording import did_you_mean, listed, nfc, show

    row: dict[str, str] = {}
    for one in given:
        name = next((name for name in sorted(needed, key=len, reverse=True) if nfc(one).startswith(f"{name}=")), None)
        if name is None:
            found, equals, _ = one.partition("=")
            told = f"no column {show(found)}{did_you_mean(found, needed)}" if equals else "expected COLUMN=TEXT"
            raise UsageError(f"--field {show(one)}: {told}; the task needs {listed(needed)}")
        if name in row:
            raise UsageError(f"--field {name}: given twice, expected one text of each column")
        row[name] = one.partition("=")[2] if "=" not in name else nfc(one)[len(name) + 1 :]
    lacking = [name for name in needed if name not in row]
    if lacking:
        raise UsageError(f"--field: nothing for {listed(lacking)}: the task needs {listed(needed)} of each row")
    if not any(value.strip() for value in row.values()):
        raise UsageError("--field: every text is blank: give something to answer")
    return row


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="Run folder.")],
    input: Annotated[Path, typer.Argument(help="Labelled rows: jsonl, json, csv, tsv or parquet; a folder of images.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print data instead of tables.")] = False,
) -> None:
    """Score a tuned model on rows whose answers are known: with an interval, a confusion matrix and scores of each label, and the worst rows.

    Example: tandemtune evaluate runs/mine labelled.csv
    """
    with patient(LOADING):
        from tandemtune.answers import answers_of
        from tandemtune.predict import check_input, evaluate_table, load
    from tandemtune.report.text import assessment_view
    from tandemtune.tasks.table import read_table

    if not input.is_dir():
        given = read_table(input)
        _tell(given)
        check_input(folder, given, answers=True)  # what is wrong with it is told before the model is loaded
    model = load(folder, progress=say)
    table = model.scorer.table(input)
    with patient(f"{answers_of(model.scorer.task).doing} {len(table.rows):,} rows"):
        found = evaluate_table(model, table)
    if as_json:
        echo_json({**found.model_dump(mode="json"), "by_label": found.by_label()})
    else:
        console().print(assessment_view(found))


def _tell(table: Table) -> None:
    """Say how a file was read where that is a guess."""
    for note in table.notes:
        say(f"note: {note}")


def _as_given(made: Table, given: Table, fields: Sequence[str]) -> Table:
    """A table whose texts stand as they were given: those of images were made paths that are found from anywhere."""
    for column in [name for field in fields if (name := given.column(field)) in made.columns]:
        before = [row.get(column) for row in given.rows]
        cells = [old if isinstance(old, str) else row.get(column) for old, row in zip(before, made.rows, strict=True)]
        made = made.replaced(column, cells)
    return made


def _lines_of_stdin() -> list[str]:
    """Lines of text on standard input, in whatever encoding they are."""
    from tandemtune.tasks.encodings import decoded

    text, _ = decoded(sys.stdin.buffer.read(), "standard input")
    return [line.rstrip("\n") for line in io.StringIO(text, newline=None)]


def _check_output(output: Path | None, input: Path | None, overwrite: bool) -> None:
    """Refuse an output that would replace the input or something else, or cannot be written."""
    from tandemtune.tasks.table import check_output

    if output is None:
        return
    if input is not None and output.resolve() == input.resolve():
        raise UsageError(f"{output} is the input: choose another --output")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists already: choose another --output, or add --overwrite")
    check_output(output)


@app.command()
def embeds(
    folder: Annotated[Path, typer.Argument(help="Run folder of a tuned prompt.")],
    input: Annotated[Path, typer.Option(help="Texts: jsonl, csv, tsv or parquet with the template's fields.")],
    output: Annotated[Path, typer.Option(help="Folder to make: one tensor a text, 00000.pt and so on.")],
) -> None:
    """Write whole prompts as embeddings, as vLLM's prompt_embeds takes them.

    Example: tandemtune embeds runs/prompt --input mails.csv --output tensors
    """
    import torch

    with patient(LOADING):
        from tandemtune.predict import load
    from tandemtune.tasks.files import read_examples

    if output.exists():
        raise UsageError(f"{output} exists already: choose another --output")
    model = load(folder, progress=say)
    rows = read_examples(input, fields=model.fields, label=None, labels=None)
    with patient(f"embedding {len(rows):,} prompts"):
        tensors = model.prompt_embeds([dict(row.fields) for row in rows])
    output.mkdir(parents=True)
    for index, tensor in enumerate(tensors):
        torch.save(tensor.clone(), output / f"{index:05}.pt")
    say(f"{len(tensors)} tensors in {output}")
