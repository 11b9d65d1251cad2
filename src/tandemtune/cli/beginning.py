"""Commands for the first hour: init, export; and how a file of rows becomes a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tandemtune.cli.app import LOADING, app, patient, say
from tandemtune.errors import UsageError

if TYPE_CHECKING:
    from tandemtune.starting import RecipeDraft

MODEL_KEYS = ("model", "model.name")
"""What an override of the model may be called."""


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="Labelled texts: csv, tsv, jsonl, json or parquet.")],
    out: Annotated[Path | None, typer.Option(help="Recipe to write; default FILE.toml in this folder.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="pypi:KEY, a local folder or a hub id; one that fits the free memory if left out."),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="Column of the text; may be given several times.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    answer: Annotated[
        str | None, typer.Option(help="Column of the answer, where answers are texts: one text, or a list of several.")
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="What judges texts: a name (`tandemtune ls rewards`) or file.py:function; without --answer nothing else does."
        ),
    ] = None,
    choices: Annotated[
        list[str] | None,
        typer.Option(
            "--choices",
            help="Column of an answer to choose from, with --label for the right one; in order, several times.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a recipe that is there.")] = False,
) -> None:
    """Look at a file of labelled texts, and write a recipe for it.

    Example: tandemtune init mails.csv --out mails.toml

    Example: tandemtune init questions.jsonl --answer reply

    Example: tandemtune init questions.jsonl --reward rewards.py:near

    Example: tandemtune init copa.jsonl --choices choice1 --choices choice2 --label label
    """
    place = out or Path(f"{file.stem}.toml")
    if place.exists() and not overwrite:
        raise UsageError(f"{place} exists already: choose another --out, or add --overwrite")
    if not place.absolute().parent.is_dir():
        raise UsageError(f"folder {place.absolute().parent} does not exist: make it first")
    if (answer or reward) and label is not None:
        raise UsageError("--answer and --reward are for texts and --label for labels: leave one of them out")
    if choices and (label is None or len(choices) < 2):
        raise UsageError("--choices needs two columns at least, and --label for the column of the right one")
    found = _proposed(file, model, text or (), label, quiet=False, answer=answer, choices=choices or (), reward=reward)
    for note in found.notes:
        say(f"note: {note}")
    _write(place, found.text)
    say(
        "other columns: --text COLUMN --label COLUMN (--answer COLUMN); another model: --model NAME; all else: change it in the recipe"
    )
    say(f"next: tandemtune validate {place}, then tandemtune run {place}")
    typer.echo(place)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Run folder.")],
    to: Annotated[Path, typer.Option(help="Folder to make.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="Whole weights with LoRA adapters merged into them, in place of adapters.")
    ] = False,
    server: Annotated[
        Literal["vllm"] | None, typer.Option("--for", help="Make sure that this server can load the adapter.")
    ] = None,
    rank: Annotated[
        int,
        typer.Option(
            help="With --for vllm: fill the adapter up with zeros to this rank, so that all adapters of a server have one."
        ),
    ] = 0,
) -> None:
    """Write a finished run as a folder that transformers and PEFT load by themselves, with a snippet in its README.

    Example: tandemtune export runs/mine --to mine-for-others

    Example: tandemtune export runs/mine --to served --for vllm --rank 16
    """
    if rank and server is None:
        raise UsageError("--rank is for --for vllm")
    with patient(LOADING):
        from tandemtune.export import export as write

    typer.echo(write(folder, to, merged=merged, rank=rank if server else None, progress=say))


def recipe_of_rows(file: Path, run: Path, overrides: Sequence[str], quiet: bool, answer: str | None = None) -> Path:
    """Propose a recipe for a file of rows, and write it beside the run's folder.

    Args:
        file: the rows.
        run: the run's folder, which need not exist.
        overrides: of the recipe; one of the model chooses the tokenizer, too.
        quiet: do not say what was chosen.
        answer: column of whole answers, where it is known.

    Returns:
        The recipe.

    Raises:
        UsageError: another recipe lies there.
    """
    pairs = (override.partition("=") for override in overrides)
    model = next((value.strip().strip("\"'") for key, _, value in pairs if key.strip() in MODEL_KEYS), None)
    text = _proposed(file, model, (), None, quiet, answer).text
    place = run.with_name(f"{run.name}.toml")
    if place.exists() and place.read_text(encoding="utf-8") != text:
        raise UsageError(f"{place} is there already and says something else: run that recipe, or choose another --out")
    place.parent.mkdir(parents=True, exist_ok=True)
    _write(place, text)
    if not quiet:
        say(f"recipe: {place}")
    return place


def _proposed(
    file: Path,
    model: str | None,
    texts: Sequence[str],
    label: str | None,
    quiet: bool,
    answer: str | None = None,
    choices: Sequence[str] = (),
    reward: str | None = None,
) -> RecipeDraft:
    with patient(LOADING):
        from tandemtune.estimate import ProposedModel, proposed_model
        from tandemtune.starting import draft
        from tandemtune.starting_answers import choice_draft, text_draft, unwritten
        from tandemtune.tasks.sniffing import answer_column
        from tandemtune.tasks.table import read_table
    tell = None if quiet else say
    if answer is None and label is None and not choices and reward is None:
        answer = answer_column(read_table(file))
    writes = answer is not None or reward is not None
    columns = choices or ([] if answer is None else [answer])

    def unfit(name: str) -> str:
        return unwritten(file, columns, name, tell)

    chosen = (
        ProposedModel(model, ())
        if model is not None
        else proposed_model(writes=writes or bool(choices), unfit=unfit if columns else None)
    )
    if writes:
        found = text_draft(file, answer, reward=reward, model=chosen.name, texts=texts, progress=tell)
    elif choices:
        found = choice_draft(file, choices, label or "", model=chosen.name, texts=texts, progress=tell)
    else:
        found = draft(file, model=chosen.name, texts=texts, label=label, progress=tell)
    for line in () if quiet else (*found.says, *chosen.why):
        say(line)
    return found


def _write(place: Path, text: str) -> None:
    from tandemtune.runs.writing import write_atomically

    write_atomically(place, lambda opened: opened.write(text.encode("utf-8")))
