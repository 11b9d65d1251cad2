"""From a file of texts with whole answers to a recipe: texts that are written, or answers to choose from."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tandemtune import plugins
from tandemtune.answers.references import unknown
from tandemtune.errors import DataError, UsageError
from tandemtune.models import load as loading
from tandemtune.models.prompts import longest_of, token_counter
from tandemtune.problem import Progress
from tandemtune.rewards import base as rewards
from tandemtune.rewards.finding import code_file, parameters
from tandemtune.rewards.objects import read_object
from tandemtune.starting import (
    BLANKS,
    COVERED,
    DEV_SHARE,
    MODEL,
    MOST_DEV,
    TEST_SHARE,
    RecipeDraft,
    blanks_of,
    room_for,
    titled,
    toml_line,
    whole_rows,
)
from tandemtune.tasks.blanks import MOST_BLANK, without_empty_rows
from tandemtune.tasks.files import examples_of
from tandemtune.tasks.sniffing import ANSWER_NAMES, in_english
from tandemtune.tasks.table import Table, read_table, value_of
from tandemtune.tasks.templates import Template
from tandemtune.tasks.texts import METRIC, TextTask, references_of
from tandemtune.tasks.wording import counted, listed, show, shown_name
from tandemtune.types import Example

PLAIN = (
    "answer",
    "answers",
    "completion",
    "output",
    "reference",
    "references",
    "response",
    "target",
    "targets",
    "text",
)
"""Names of columns of answers that do not say what is asked for."""
LEARNED, SEARCHED = 64, 16
"""Rows to learn from at most, where each is read a few times, and where every candidate of a search writes an answer to it."""


def text_draft(
    source: Path,
    answer: str | None,
    *,
    reward: str | None = None,
    model: str = MODEL,
    texts: Sequence[str] = (),
    progress: Progress | None = None,
) -> RecipeDraft:
    """Propose a recipe for a file of texts with answers that are texts, too.

    Args:
        source: the file.
        answer: column of the answers; each one text, or a list of several. None where nothing but a reward judges.
        reward: what judges: a name or a function of yours (``module:function``, ``file.py:function``); token F1 if left out.
        model: ``pypi:KEY``, a local folder or a hub id.
        texts: columns of the texts; all others that hold texts if none is named.
        progress: called with a short line when something slow begins.

    Raises:
        TandemTuneError: the file cannot be used as it is, or the model not be found; says what to do.
    """
    _check_reward(reward, answer)
    table = read_table(source)
    read = [] if answer or texts else _read_by(reward, table)
    columns = _text_columns(table, texts, [answer] if answer else read)
    table = whole_rows(table, columns, [("answer", answer)] if answer else [], "--text COLUMN --answer COLUMN")
    place = loading.locate(model, progress)
    kind, tokenizer, longest_prompt = _reading(model, place)
    templates = _templates(columns, table, answer)
    template = templates[0]
    task = TextTask(table.name, template, (), {}, "", table, answer_column=answer)
    rows = task.examples(table)
    count = token_counter(tokenizer, kind, template)
    lengths = [len(tokenizer(text)["input_ids"]) for row in rows for text in row.references]
    metric = "json_fields" if answer and all(map(_holds_objects, rows)) else METRIC
    settings = {
        "train": str(source),
        "templates": [str(one) for one in templates],
        **({"answer": answer} if answer else {}),
        **blanks_of(table),
        "test_share": TEST_SHARE,
        **_shots(len(rows), LEARNED if answer else SEARCHED),
        "metric": reward or metric,
        "max_tokens": room_for([count(row) for row in rows], longest_prompt),
        "max_new_tokens": min(
            _eights(sorted(lengths)[int(COVERED * (len(lengths) - 1))]) if lengths else task.max_new_tokens,
            longest_prompt // 2,  # the prompt stands in the same row
        ),
    }
    several = sum(len(row.references) > 1 for row in rows)
    says = (
        f"answers: {show(answer)}, {several:,} of {counted(len(rows), 'row')} with several"
        if answer
        else f"answers: none; {reward} judges",
        *_left_out(read),
        f"texts: {listed(columns)}",
        f"{len(templates)} templates to choose from, the first: {str(template)!r}",
        (f"the longest answer has {max(lengths):,} tokens; " if lengths else "")
        + f"max_new_tokens = {settings['max_new_tokens']}",
    )
    return RecipeDraft(_written(source, model, settings, {}), says, table.notes)


def unwritten(source: Path, columns: Sequence[str], model: str, progress: Progress | None = None) -> str:
    """Why a model cannot write the answers of a file; "" where it can, but for a few.

    Args:
        source: the file.
        columns: of the answers.
        model: ``pypi:KEY``, a local folder or a hub id.
        progress: called with a short line when something slow begins.
    """
    answers: list[str] = []
    table = read_table(source)
    for column, row in itertools.product(columns, range(len(table.rows))):
        with suppress(DataError):  # a row without an answer, which is told where the rows are wanted
            answers += references_of("", value_of(table, row, column))
    if not answers:
        return ""
    tokenizer = loading.read_tokenizer(loading.locate(model, progress))

    def cut(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    lost, signs = unknown(answers, tokenizer, cut)
    if len(lost) <= (1 - COVERED) * len(answers):
        return ""
    what = f" ({' '.join(signs)})" if signs else ""
    return f"{len(lost):,} of {counted(len(answers), 'answer')} hold what its tokenizer does not know{what}"


def _holds_objects(row: Example) -> bool:
    """Whether all right answers of a row are JSON objects."""
    return all(isinstance(read_object(reference), Mapping) for reference in row.references)


def _check_reward(reward: str | None, answer: str | None) -> None:
    """Refuse what could not judge answers with a recipe of this file.

    Raises:
        UsageError: there is no such reward, or it needs something that nobody has named.
    """
    if reward is None:
        return
    if plugins.is_address(reward):
        code_file(reward)
        return
    needs = rewards.get(reward).needs
    if needs == "references" and answer is None:
        raise UsageError(f"reward {reward!r} compares with right answers: name their column with --answer")
    if needs not in ("", "references"):
        raise UsageError(
            f"reward {reward!r} needs [task] {needs}, which no file tells: take another, and set both in the recipe then"
        )


def choice_draft(
    source: Path,
    columns: Sequence[str],
    label: str,
    *,
    model: str = MODEL,
    texts: Sequence[str] = (),
    progress: Progress | None = None,
) -> RecipeDraft:
    """Propose a recipe for a file whose rows have answers to choose from.

    Args:
        source: the file.
        columns: of the answers, in the order in which labels count them.
        label: column of the right one: its number from 0 or 1, its letter, or its column.
        model: ``pypi:KEY``, a local folder or a hub id.
        texts: columns of the texts; all others that hold texts if none is named.
        progress: called with a short line when something slow begins.

    Raises:
        TandemTuneError: the file cannot be used as it is, or the model not be found; says what to do.
    """
    table = read_table(source)
    shown = _text_columns(table, texts, [*columns, label])
    needed = [("label", label), *(("answer", column) for column in columns)]
    table = whole_rows(table, shown, needed, "--text COLUMN --label COLUMN --choices COLUMN")
    place = loading.locate(model, progress)
    kind, tokenizer, longest_prompt = _reading(model, place)
    template = _templates(shown, table)[0]
    rows = examples_of(table, fields=[*template.fields, *columns], label=label, labels=None)
    labels = dict(zip(_numbered(table, label, [str(row.label) for row in rows], columns), columns, strict=True))
    count = token_counter(tokenizer, kind, template)
    lengths = [len(tokenizer(row.fields[column])["input_ids"]) for row in rows for column in columns]
    fewest = min(sum(row.label == name for row in rows) for name in labels)
    settings = {
        "train": str(source),
        "template": str(template),
        "choices": "columns",
        "label_column": label,
        **blanks_of(table),
        "test_share": TEST_SHARE,
        **_shots(fewest, LEARNED // len(labels)),
        "metric": "accuracy",
        "max_tokens": room_for([count(row) for row in rows], longest_prompt),
        "max_new_tokens": _eights(max(lengths)),
    }
    says = (
        f"answers to choose from: {listed(columns)}, counted by {show(label)} ({', '.join(labels)})",
        f"texts: {listed(shown)}",
        f"template: {str(template)!r}",
        f"the longest answer has {max(lengths):,} tokens; max_new_tokens = {settings['max_new_tokens']}",
    )
    return RecipeDraft(_written(source, model, settings, labels), says, table.notes)


_COMMENTS = {
    "template": "columns in braces; {mask} is where the answer stands",
    "templates": "columns in braces; {mask} is where the answer stands; the one is taken whose answers score best on the labelled rows",
    "answer": "column of the right answer, or of a list of several",
    "blank_rows": BLANKS,
    "choices": "each row has answers of its own; the likeliest is taken, token for token on average",
    "test_share": "set aside for the score at the end; or test = a file",
    "shots": "rows to learn from",
    "dev_shots": "rows that choose between points of a search",
    "max_new_tokens": "longest answer",
}


def _read_by(reward: str | None, table: Table) -> list[str]:
    """Columns that a reward seems to compare answers with, which no prompt may show: those with the names of answers, and those that a
    function asks for by name, where others are left to ask with."""
    named = parameters(reward) if reward is not None and plugins.is_address(reward) else frozenset()
    several = [name for name in table.columns if name.strip().lower() in ANSWER_NAMES]
    asked = [name for name in table.columns if name in named and name not in several]
    for found in ([*several, *asked], several):
        if any(name not in found and _reads(table, name) for name in table.columns):
            return [name for name in table.columns if name in found]
    return []


def _left_out(columns: Sequence[str]) -> list[str]:
    """What a draft says of columns that no prompt shows."""
    if not columns:
        return []
    return [
        f"left out of the prompt, since they look like what answers are judged by: {listed(columns)}; --text COLUMN names the prompt's"
    ]


def _text_columns(table: Table, texts: Sequence[str], others: Sequence[str]) -> list[str]:
    """The columns of texts beside others."""
    columns = list(texts) or [name for name in table.columns if name not in others and _reads(table, name)]
    if not columns:
        raise DataError(f"{table.name}: no column of texts beside {listed(others)}: name one with --text COLUMN")
    return columns


def _reads(table: Table, name: str) -> bool:
    """Whether a column holds texts alone, and few of them are blank."""
    cells = [row.get(name) for row in without_empty_rows(table).rows]
    blank = sum(cell is None or (isinstance(cell, str) and not cell.strip()) for cell in cells)
    return all(cell is None or isinstance(cell, str) for cell in cells) and blank <= MOST_BLANK * len(cells)


def _reading(model: str, place: str) -> tuple[str, Any, int]:
    """Kind, tokenizer and longest prompt of a model that reads whole answers."""
    config = loading.read_config(place, None)
    kind = loading.kind_of(config)
    if kind == "masked":
        raise DataError(f"{model} is a masked model, which writes no texts: choose another --model")
    return kind, loading.read_tokenizer(place), longest_of(config)


def _templates(columns: Sequence[str], table: Table, answer: str | None = None) -> list[Template]:
    """Templates that ask for an answer in different ways, by its column's name where that says more than that it is one; in English sentences
    where the rows are English."""
    texts = [f"{titled(name)}: {{{name}}}" if len(columns) > 1 else f"{{{name}}}" for name in columns]
    named = answer is not None and answer.strip().lower() not in PLAIN and re.fullmatch(r"[\w ]+", answer)
    asked = titled(str(answer).strip()) if named else "Answer"
    english = in_english(str(row.get(name) or "") for row in table.rows for name in columns)
    spoken = asked.lower() if english or not named else f"answer ({asked})"
    ways = (
        [*texts, f"{asked}: {{mask}}"],
        [*texts, "", f"Write the {spoken}: {{mask}}"],
        [*texts, f"Question: What is the {spoken}?", "Answer: {mask}"],
    )
    return [Template.parse("\n".join(lines)) for lines in ways]


def _shots(rows: int, most: int) -> dict[str, int]:
    """Rows to learn from, so many at most, and to choose by, of so many (of each label)."""
    dev = max(1, min(MOST_DEV, int(rows * (1 - TEST_SHARE) * DEV_SHARE)))
    return {"shots": max(1, min(most, int(rows * (1 - TEST_SHARE)) - dev)), "dev_shots": min(16, dev)}


def _eights(tokens: int) -> int:
    return -(-tokens // 8) * 8


def _numbered(table: Table, label: str, values: Sequence[str], columns: Sequence[str]) -> list[str]:
    """What labels call the answers, in order."""
    count, found = len(columns), set(values)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count]
    ways = (list(map(str, range(count))), list(map(str, range(1, count + 1))), list(letters), list(columns))
    fitting = [way for way in ways if found <= set(way)]
    if not fitting:
        raise DataError(
            f"{table.name}, column {show(label)}: {listed(sorted(found))}; expected the number of the right answer from 0 or 1, its "
            f"letter, or its column ({listed(columns)}): name the other --choices, or write the recipe by hand"
        )
    lost = sorted(set(fitting[0]) - found)
    if lost:
        raise DataError(
            f"{table.name}, column {show(label)}: no row has {listed(lost)}, expected every answer to be right in some row: mix "
            "the answers, or write the recipe by hand"
        )
    return fitting[0]


def _written(source: Path, model: str, task: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    def lines() -> Iterator[str]:
        yield (
            f"# {shown_name(source.name)}: what `tandemtune init` proposes. Change what you like; `tandemtune validate` checks it."
        )
        yield from ("[model]", toml_line("name", model, "others: tandemtune ls models"), "", "[task]")
        known = {**_COMMENTS, "metric": f"others: tandemtune ls {'metrics' if labels else 'rewards'}"}
        for key in ("shots", "dev_shots") if labels else ():
            known[key] += ", of each label"
        yield from (toml_line(key, value, known.get(key, "")) for key, value in task.items())
        if labels:
            yield from ("", "[task.labels]  # label = column of its answer")
            yield from (toml_line(key, value) for key, value in labels.items())
        yield from ("", "[method]")
        tuned = "LoRA on the answers" if labels or "answer" in task else "a search on the reward"
        yield toml_line("name", "auto", f"{tuned}, kept where the dev rows gain; others: tandemtune ls methods")
        yield ""

    return "\n".join(lines())
