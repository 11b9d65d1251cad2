"""What the rows of a task are like: classes, duplicates, rows of test that stand in training, empty and long texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from tandemtune.tasks.fewshot import text_key
from tandemtune.tasks.wording import counted
from tandemtune.types import Example

CountTokens = Callable[[Example], int]


@dataclass(frozen=True)
class Lengths:
    """How long the prompts of some rows are.

    Args:
        limit: longest prompt that is not cut, in tokens.
        longest: tokens of the longest prompt.
        cut: rows whose prompt is longer than the limit.
        lost: tokens beyond the limit, of all these rows together.
    """

    limit: int
    longest: int
    cut: int
    lost: int


@dataclass(frozen=True)
class PartReport:
    """What some rows are like.

    Args:
        source: where they come from.
        rows: how many.
        classes: rows of each label; empty for unlabelled rows.
        copies: rows whose text stands in an earlier row.
        disputed: texts that stand under several labels.
        empty: rows in which at least one text is empty.
        lengths: where tokens were counted.
    """

    source: str
    rows: int
    classes: Mapping[str, int]
    copies: int
    disputed: int
    empty: int
    lengths: Lengths | None = None


@dataclass(frozen=True)
class DataReport:
    """What the rows of a task are like.

    Args:
        parts: by name ("train", "dev", "test"), each with all its rows.
        shared: by two names, the rows of the second whose text stands in the first.
        used: by name, how many rows a run draws of them; empty where nothing was drawn.
        shared_used: like `shared`, with the rows that are drawn alone.
    """

    parts: Mapping[str, PartReport]
    shared: Mapping[tuple[str, str], int]
    used: Mapping[str, int]
    shared_used: Mapping[tuple[str, str], int]

    def notes(self) -> list[str]:
        """One sentence for each thing that a user should know before a run, the gravest first; empty if there is none."""
        return [
            *self._shared_notes(),
            *(note for name, part in self.parts.items() for note in _part_notes(name, part)),
        ]

    def _shared_notes(self) -> list[str]:
        found = []
        for (one, other), count in self.shared.items():
            drawn = self.shared_used.get((one, other), 0)
            if not count or (other != "test" and not drawn):  # dev is drawn so that it shares no text with train
                continue
            among = f", {drawn} of them among the {one} rows that are used" if (one, other) in self.shared_used else ""
            found.append(
                f"{other}: {count:,} of {counted(self.parts[other].rows, 'row')} ({self.parts[other].source}) "
                f"also {'stands' if count == 1 else 'stand'} in {one} ({self.parts[one].source}){among}: "
                "scores on them say little about new texts"
            )
        return found


def data_report(
    parts: Mapping[str, Sequence[Example]],
    *,
    sources: Mapping[str, str] | None = None,
    used: Mapping[str, Sequence[Example]] | None = None,
    count_tokens: CountTokens | None = None,
    limit: int | None = None,
) -> DataReport:
    """Count what a user should know of the rows of a task. Texts are compared by `text_key`.

    Args:
        parts: rows by name, in the order train, dev, test.
        sources: where they come from; None repeats the names.
        used: the rows that a run draws, by the same names; those of test need not be given.
        count_tokens: tokens of a row's whole prompt, uncut; None counts none.
        limit: longest prompt that is not cut; needed with `count_tokens`.
    """
    used = used or {}
    keys = {name: [text_key(row) for row in rows] for name, rows in parts.items()}
    drawn = {name: {text_key(row) for row in rows} for name, rows in used.items()}
    shared, shared_used = {}, {}
    for one, other in combinations(parts, 2):
        within = set(keys[one])
        shared[one, other] = sum(key in within for key in keys[other])
        if one in drawn:
            rows = [text_key(row) for row in used.get(other, ())] if other in used else keys[other]
            shared_used[one, other] = sum(key in drawn[one] for key in rows)
    return DataReport(
        {
            name: _part(rows, (sources or {}).get(name, name), keys[name], count_tokens, limit)
            for name, rows in parts.items()
        },
        shared,
        {name: len(rows) for name, rows in used.items()},
        shared_used,
    )


def _part(
    rows: Sequence[Example], source: str, keys: Sequence[str], count_tokens: CountTokens | None, limit: int | None
) -> PartReport:
    labels: dict[str, set[str | None]] = {}
    for key, row in zip(keys, rows, strict=True):
        labels.setdefault(key, set()).add(row.label)
    lengths = None
    if count_tokens is not None and limit is not None:
        counts = [count_tokens(row) for row in rows]
        beyond = [count - limit for count in counts if count > limit]
        lengths = Lengths(limit, max(counts, default=0), len(beyond), sum(beyond))
    return PartReport(
        source=source,
        rows=len(rows),
        classes=dict(Counter(row.label for row in rows if row.label is not None)),
        copies=len(rows) - len(labels),
        disputed=sum(len(found) > 1 for found in labels.values()),
        empty=sum(any(not text.strip() for text in row.fields.values()) for row in rows),
        lengths=lengths,
    )


def _part_notes(name: str, part: PartReport) -> list[str]:
    notes = []
    if part.disputed:
        notes.append(f"{name} ({part.source}): {counted(part.disputed, 'text')} under several labels")
    if part.copies:
        notes.append(f"{name} ({part.source}): {counted(part.copies, 'row')} with a text that an earlier row has")
    if part.empty:
        notes.append(f"{name} ({part.source}): {counted(part.empty, 'row')} with an empty text")
    if part.lengths and part.lengths.cut:
        long = part.lengths
        notes.append(
            f"{name} ({part.source}): {long.cut:,} of {counted(part.rows, 'row')} longer than {long.limit} tokens and cut, "
            f"by {long.lost / long.cut:.0f} tokens on average; the longest has {long.longest:,}"
        )
    return notes
