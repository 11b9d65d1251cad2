"""Few-shot rows: seeded, balanced, and the same on every machine."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from tandemtune.errors import DataError
from tandemtune.types import Example, Split


def split(examples: Sequence[Example], labels: Sequence[str], k: int, seed: int, *, dev_k: int | None = None) -> Split:
    """Draw k rows of each class to train on and the next ones to choose by.

    The rows are shuffled with the seed; the first `k` of each class become train, the next `dev_k` dev. A row
    whose text is identical to one already drawn is skipped, so that dev holds no copy of a train row.

    Args:
        examples: labelled rows of the training split.
        labels: label names in their fixed order.
        k: rows of each class to train on, at least 1.
        seed: decides the shuffle, at least 0.
        dev_k: rows of each class for dev; None means `k`, 0 means none.

    Returns:
        The two sets, classes interleaved: the first row of every class, then the second of every class.

    Raises:
        DataError: a row has no known label, or classes have too few rows (all of them named).
    """
    if dev_k is None:
        dev_k = k
    if k < 1 or dev_k < 0:
        raise DataError(f"k = {k} and dev_k = {dev_k}: expected k >= 1 and dev_k >= 0 rows of each class")
    purpose = f"{k} to train on and {dev_k} for dev" if dev_k else f"{k} to train on"
    rows = _drawn(examples, labels, k + dev_k, seed, purpose, avoid=())
    middle = k * len(set(labels))
    return Split(train=rows[:middle], dev=rows[middle:])


def everything(
    examples: Sequence[Example], labels: Sequence[str], dev_k: int, seed: int, *, dev: Sequence[Example] | None = None
) -> Split:
    """Train on all rows but those that dev is drawn from.

    Args:
        examples: labelled rows of the training split.
        labels: label names in their fixed order.
        dev_k: rows of each class for dev.
        seed: decides the rows of dev and the order of the others, at least 0.
        dev: rows that dev is drawn from; None draws it from `examples`.

    Returns:
        All rows in a shuffled order, without those whose text stands in dev, and dev.

    Raises:
        DataError: a row has no known label, or classes have too few rows for dev.
    """
    drawn = _drawn(examples if dev is None else dev, labels, dev_k, seed, f"{dev_k} for dev", avoid=()) if dev_k else ()
    kept = {_text(example) for example in drawn}
    rows = [examples[index] for index in _shuffled(len(examples), seed)]
    wrong = next((row.label for row in rows if row.label not in labels), None)
    if wrong is not None or not rows:
        raise DataError(
            f"a row has the label {wrong!r}, expected one of {list(labels)}" if rows else "no rows to train on"
        )
    return Split(tuple(row for row in rows if _text(row) not in kept), drawn)


def draw(
    examples: Sequence[Example],
    labels: Sequence[str],
    k: int,
    seed: int,
    *,
    avoid: Iterable[Example] = (),
) -> tuple[Example, ...]:
    """Draw k rows of each class after a seeded shuffle, none with the text of another or of `avoid`.

    Args:
        examples: labelled rows.
        labels: label names in their fixed order.
        k: rows of each class, at least 1.
        seed: decides the shuffle, at least 0.
        avoid: rows whose text must not be drawn again.

    Returns:
        The rows, classes interleaved.

    Raises:
        DataError: a row has no known label, or classes have too few rows (all of them named).
    """
    if k < 1:
        raise DataError(f"k = {k}: expected at least 1 row of each class")
    return _drawn(examples, labels, k, seed, "all for dev", avoid)


def subsample(examples: Sequence[Example], n: int | None, seed: int) -> list[Example]:
    """Keep at most n rows, chosen by the seed, in their original order.

    Args:
        examples: rows to choose from.
        n: how many to keep, at least 1; None keeps all.
        seed: decides which ones, at least 0.

    Returns:
        All rows if there are no more than `n`.

    Raises:
        DataError: `n` is below 1.
    """
    if n is not None and n < 1:
        raise DataError(f"a limit of {n} rows: expected at least 1, or no limit")
    if n is None or n >= len(examples):
        return list(examples)
    return [examples[index] for index in sorted(_shuffled(len(examples), seed)[:n])]


def _drawn(
    examples: Sequence[Example],
    labels: Sequence[str],
    needed: int,
    seed: int,
    purpose: str,
    avoid: Iterable[Example],
) -> tuple[Example, ...]:
    chosen: dict[str, list[Example]] = {label: [] for label in labels}
    seen = {_text(example) for example in avoid}
    for index in _shuffled(len(examples), seed):
        example = examples[index]
        if example.label is None or example.label not in chosen:
            raise DataError(f"example {index + 1} has the label {example.label!r}, expected one of {list(labels)}")
        rows = chosen[example.label]
        text = _text(example)
        if len(rows) < needed and text not in seen:
            seen.add(text)
            rows.append(example)
    short = [f"{label!r} has {len(rows)}" for label, rows in chosen.items() if len(rows) < needed]
    if short:
        raise DataError(
            f"too few rows with distinct texts: {', '.join(short)}, each class needs {needed} ({purpose}): "
            "lower k or add rows"
        )
    return tuple(row for turn in zip(*chosen.values(), strict=True) for row in turn)


def _shuffled(n: int, seed: int) -> list[int]:
    # random() is the one draw whose stream Python promises never to change: the order rests on it alone.
    if seed < 0:
        raise DataError(f"seed = {seed}: expected a whole number of at least 0")
    source = random.Random(seed)
    keys = [source.random() for _ in range(n)]
    return sorted(range(n), key=keys.__getitem__)


def _text(example: Example) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(example.fields.items()))
