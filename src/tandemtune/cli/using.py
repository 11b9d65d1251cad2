"""Commands that use a finished run: predict, embeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tandemtune.cli.app import app, say
from tandemtune.errors import DataError, UsageError


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
    fields = Template.parse(facts.template).fields if facts else ()
    rows = read_examples(input, fields=fields, label=None, labels=None)
    originals = _json_rows(input) or [dict(row.fields) for row in rows]
    if len(originals) != len(rows):
        raise DataError(f"{input} changed while it was read: start again")
    answers = load(folder, progress=say).predict([dict(row.fields) for row in rows])
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
    say(f"{len(lines)} rows labelled in {output}")


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
    fields = Template.parse(facts.template).fields if facts else ()
    rows = read_examples(input, fields=fields, label=None, labels=None)
    tensors = load(folder, progress=say).prompt_embeds([dict(row.fields) for row in rows])
    output.mkdir(parents=True)
    for index, tensor in enumerate(tensors):
        torch.save(tensor.clone(), output / f"{index:05}.pt")
    say(f"{len(tensors)} tensors in {output}")


def _json_rows(path: Path) -> list[dict[str, Any]] | None:
    """The rows of a JSONL file with all their fields; None for other formats."""
    if path.suffix.lower() in {".csv", ".tsv", ".parquet"}:
        return None
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [json.loads(line) for line in lines if line.strip()]
