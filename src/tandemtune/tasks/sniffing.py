"""Which columns of a table hold the texts and which one the label, told by what stands in their cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tandemtune.errors import DataError
from tandemtune.tasks.table import Table
from tandemtune.tasks.templates import MASK, SLOT
from tandemtune.tasks.wording import ONE_LABEL, listed, nfc, show

LABEL_NAMES = ("label", "labels", "class", "category", "target", "gold", "sentiment", "topic", "intent", "y")
"""What label columns are often called; it decides only between columns whose cells would do equally well."""
ANSWER_NAMES = (
    "answer",
    "answers",
    "reference",
    "references",
    "response",
    "completion",
    "output",
    "target",
    "reply",
    "summary",
    "translation",
)
"""What columns of whole answers are often called."""
MOST_LABELS = 50
LABEL_CHARS, TEXT_CHARS = 60, 20
MOST_TEXTS = 3
ENGLISH = frozenset(("the", "and", "to", "this", "that", "with", "you", "it", "my", "are", "not", "have"))
"""Words that stand in most English sentences and in hardly any other ones."""
ENGLISH_SHARE = 0.02
"""Texts of which at least this share of the words are such ones are English."""
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True)
class Columns:
    """The columns of a task.

    Args:
        texts: columns of the texts, in the order of the table.
        label: column of the label.
        why: what was chosen and why, one sentence each.
    """

    texts: tuple[str, ...]
    label: str
    why: tuple[str, ...]


@dataclass(frozen=True)
class _Column:
    """What the cells of a column are like: how many are filled, how many differ, how long and how wordy they are."""

    name: str
    filled: int
    distinct: int
    chars: float
    longest: int
    lettered: float

    @property
    def repeats(self) -> bool:
        """Whether it could be a label: short values, few of them, each standing in two rows on average."""
        few = 2 <= self.distinct <= min(MOST_LABELS, self.filled // 2)
        return few and self.longest <= LABEL_CHARS

    @property
    def reads(self) -> bool:
        """Whether it could be a text: words, mostly other ones in each row."""
        return self.lettered > 0.5 and self.distinct > max(2, 0.3 * self.filled)


def sniff(table: Table, texts: Sequence[str] = (), label: str | None = None) -> Columns:
    """Tell the columns of a classification task.

    Args:
        table: the rows.
        texts: columns of the texts, where they are known.
        label: column of the label, where it is known.

    Raises:
        DataError: no column looks like a label, or none like a text; or a given one is not there.
    """
    measured = [_measured(table, name) for name in table.columns if SLOT.fullmatch(f"{{{name}}}") and name != MASK]
    columns = {column.name: column for column in measured if column.filled}
    lists = [name for name in table.columns if any(isinstance(row.get(name), list) for row in table.rows)]
    meant = [name for name in lists if name == label or (label is None and name.strip().lower() in LABEL_NAMES)]
    if meant:
        raise DataError(f"{table.name}: column {show(meant[0])} holds lists: {ONE_LABEL}")
    chosen = _given(table, label) if label is not None else _label(columns, [_given(table, name) for name in texts])
    named = tuple(_given(table, name) for name in texts) or _texts(columns, chosen)
    if chosen in named:
        raise DataError(f"{table.name}: column {show(chosen)} cannot be text and label at once")
    others = [name for name in table.columns if name not in (*named, chosen)]
    what = columns.get(chosen)
    return Columns(
        named,
        chosen,
        (
            f"label: column {show(chosen)}" + (f", with {what.distinct} different values" if what else ""),
            f"text: {'column' if len(named) == 1 else 'columns'} {listed(named)}"
            + "".join(f", {columns[name].chars:.0f} characters on average" for name in named[:1] if name in columns),
            *([f"not used: {listed(others)}"] if others else []),
        ),
    )


def answer_column(table: Table) -> str | None:
    """The column of whole answers in a table without labels: one with a usual name, else the only one of lists or objects. None where
    a column looks like a label, or none like answers."""
    try:
        sniff(table)
    except DataError:
        named = [name for name in table.columns if name.strip().lower() in ANSWER_NAMES]
        held = [name for name in table.columns if _nested(row.get(name) for row in table.rows)]
        found = named or [name for name in held if name.strip().lower() not in LABEL_NAMES]
        return found[0] if len(found) == 1 else None
    return None


def in_english(texts: Iterable[str]) -> bool:
    """Whether texts are English, as far as their small words tell.

    Args:
        texts: of one language.
    """
    words = [word for text in texts for word in re.findall(r"[^\W\d_]+", text.lower())]
    return sum(word in ENGLISH for word in words) >= ENGLISH_SHARE * len(words)


def _nested(cells: Iterable[Any]) -> bool:
    """Whether cells hold lists or objects, as far as they hold anything."""
    filled = [cell for cell in cells if cell is not None]
    return bool(filled) and all(isinstance(cell, (list, dict)) for cell in filled)


def _given(table: Table, name: str) -> str:
    found = table.column(name)
    if found is None:
        raise DataError(f"{table.name}: no column {show(name)}, it has {listed(table.columns)}")
    return found


def _measured(table: Table, name: str) -> _Column:
    cells = [text for row in table.rows if (text := _text(row.get(name)))]
    count = max(len(cells), 1)
    lengths = [len(cell) for cell in cells]
    lettered = sum(len(_LETTER.findall(cell)) >= 0.5 * len(cell.replace(" ", "")) for cell in cells) / count
    return _Column(name, len(cells), len(set(cells)), sum(lengths) / count, max(lengths, default=0), lettered)


def _text(value: Any) -> str:
    if value is None or isinstance(value, (list, dict)):
        return ""
    return nfc(str(value)).strip()


def _label(columns: dict[str, _Column], texts: Sequence[str]) -> str:
    """Of the columns with few short values one with a usual name, else the last one: exports put labels behind texts."""
    fitting = [column for column in columns.values() if column.repeats and column.name not in texts]
    if not fitting:
        raise DataError(
            f"no column looks like a label (2 to {MOST_LABELS} short values, each in several rows) among "
            f"{listed(list(columns))}: name it with --label COLUMN, or a column of whole answers with --answer COLUMN"
        )
    usual = [column for column in fitting if column.name.strip().lower() in LABEL_NAMES]
    worded = [column for column in fitting if column.lettered > 0.5]  # before numbers, which may count something
    return (usual or worded or fitting)[-1].name


def _texts(columns: dict[str, _Column], label: str) -> tuple[str, ...]:
    """The longest columns of words in the order of the table, without those that are short beside the longest one."""
    readable = [column for column in columns.values() if column.reads and column.name != label]
    if not readable:
        raise DataError(
            f"no column beside {show(label)} looks like a text among {listed(list(columns))}: name it with --text COLUMN"
        )
    longest = sorted(readable, key=lambda column: -column.chars)[:MOST_TEXTS]
    kept = [longest[0], *(column for column in longest[1:] if column.chars >= TEXT_CHARS)]
    return tuple(column.name for column in readable if column in kept)
