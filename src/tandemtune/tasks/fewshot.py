"""Few-shot rows: seeded, balanced, and the same on every machine."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Literal

from tandemtune.errors import DataError
from tandemtune.tasks.wording import nfc
from tandemtune.types import Example, Split


def split(examples: Sequence[Example], labels: Sequence[str], k: int, seed: int, *, dev_k: int | None = None) -> Split:
    """Draw k rows of each class to train on and the next ones to choose by.

    The rows are shuffled with the seed; the first `k` of each class become train, the next `dev_k` dev. A row
    with the text (`text_key`) of one already drawn is skipped, so that dev holds no copy of a train row.

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
        raise DataError(f"shots = {k} and dev_shots = {dev_k}: expected at least 1 and 0 rows of each class")
    purpose = f"{k} shots and {dev_k} dev_shots" if dev_k else f"{k} shots"
    settings = "shots or dev_shots" if dev_k else "shots"
    rows = _drawn(examples, labels, k + dev_k, seed, purpose, settings, avoid=())
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
        All rows in a shuffled order, without those whose text stands in dev and without copies (`others`), and dev.

    Raises:
        DataError: a row has no known label, or classes have too few rows for dev.
    """
    drawn = draw(examples if dev is None else dev, labels, dev_k, seed) if dev_k else ()
    return Split(others(examples, labels, seed, drawn), drawn)


def shared_out(
    examples: Sequence[Example], labels: Sequence[str], k: int | Literal["all"], dev_k: int, seed: int
) -> Split:
    """Draw rows of classes of which some have few: of each class at most half of its texts become dev.

    Args:
        examples: labelled rows of the training split.
        labels: label names in their fixed order.
        k: rows of each class to train on at most, or "all".
        dev_k: rows of each class for dev at most.
        seed: decides the rows and their order, at least 0.

    Returns:
        Train and dev, without a text in common.

    Raises:
        DataError: a row has no known label, a class has no row, or no class has two.
    """
    classes = _by_class(examples, labels, seed)
    short = [label for label, rows in classes.items() if not rows]
    if short or all(len(rows) < 2 for rows in classes.values()):
        lacking = f"none of {', '.join(map(repr, short))}" if short else "one of each class"
        raise DataError(f"too few rows with distinct texts: {lacking}: add rows")
    counts = {label: min(dev_k, len(rows) // 2) for label, rows in classes.items()}
    dev = _in_turn([rows[: counts[label]] for label, rows in classes.items()])
    if k == "all":
        return Split(others(examples, labels, seed, dev), dev)
    return Split(_in_turn([rows[counts[label] :][:k] for label, rows in classes.items()]), dev)


def _by_class(
    examples: Sequence[Example], labels: Sequence[str], seed: int, avoid: Iterable[Example] = ()
) -> dict[str, list[Example]]:
    """The rows of each class in a shuffled order, each text once."""
    classes: dict[str, list[Example]] = {label: [] for label in labels}
    seen = {text_key(example) for example in avoid}
    for index in _shuffled(len(examples), seed):
        example = examples[index]
        if example.label is None or example.label not in classes:
            raise DataError(f"example {index + 1} has the label {example.label!r}, expected one of {list(labels)}")
        text = text_key(example)
        if text not in seen:
            seen.add(text)
            classes[example.label].append(example)
    return classes


def _in_turn(classes: Sequence[Sequence[Example]]) -> tuple[Example, ...]:
    """The first row of every class, then the second of those that have one, and so on."""
    return tuple(row for turn in zip_longest(*classes) for row in turn if row is not None)


def others(
    examples: Sequence[Example], labels: Sequence[str], seed: int, avoid: Iterable[Example]
) -> tuple[Example, ...]:
    """All rows in a shuffled order, without those whose text stands in `avoid`, and of copies the first.

    A row whose copy stays would be no row that is left out when a readout is judged by its leave-one-out loss. Rows with one text and
    different labels or answers are no copies.

    Args:
        examples: labelled rows.
        labels: label names.
        seed: decides the order, at least 0.
        avoid: rows whose text is left out.

    Raises:
        DataError: there are no rows, none is left, or one has no known label.
    """
    kept = {text_key(example) for example in avoid}
    rows = [examples[index] for index in _shuffled(len(examples), seed)]
    wrong = next((row.label for row in rows if row.label not in labels), None)
    if wrong is not None or not rows:
        raise DataError(
            f"a row has the label {wrong!r}, expected one of {list(labels)}" if rows else "no rows to train on"
        )
    found: dict[tuple[object, ...], Example] = {}
    for row in rows:
        if text_key(row) not in kept:
            found.setdefault(_copy_key(row), row)
    if not found:
        raise DataError("all rows became dev rows, and none is left to train on: lower dev_shots, or add rows")
    return tuple(found.values())


def _copy_key(row: Example) -> tuple[object, ...]:
    """What rows share that say the same of one text."""
    return text_key(row), row.label, row.references, json.dumps(dict(row.columns), sort_keys=True, default=str)


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
        raise DataError(f"dev_shots = {k}: expected at least 1 row of each class")
    return _drawn(examples, labels, k, seed, f"{k} dev_shots", "dev_shots", avoid)


def hold_out(
    examples: Sequence[Example], labels: Sequence[str], share: float, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Set a share of the rows of each class aside for test.

    Rows with the same text (`text_key`) stay together, whatever their labels; they count for the class of the first.

    Args:
        examples: labelled rows.
        labels: label names.
        share: of the rows of each class, between 0 and 1.
        seed: decides which ones, at least 0.

    Returns:
        The other rows and the test rows, each in their original order. Every class has a text in both.

    Raises:
        DataError: the share is none, a row has no known label, or a class has fewer than two texts.
    """
    if not 0 < share < 1:
        raise DataError(f"test_share = {share}: expected a number between 0 and 1, for example 0.3")
    groups: dict[str, list[int]] = {}
    keys = [text_key(example) for example in examples]
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    classes: dict[str, list[str]] = {label: [] for label in labels}
    for key, members in groups.items():
        label = examples[members[0]].label
        if label is None or label not in classes:
            raise DataError(f"example {members[0] + 1} has the label {label!r}, expected one of {list(labels)}")
        classes[label].append(key)
    short = [f"{label!r} has {len(found)}" for label, found in classes.items() if len(found) < 2]
    if short:
        named = f"{', '.join(short)}, each class needs 2" if len(classes) > 1 else "expected at least 2"
        raise DataError(
            f"too few distinct texts to set some aside for test: {named}: "
            "add rows, or name a test file in place of test_share"
        )
    held: set[str] = set()
    for found in classes.values():
        wanted, taken = share * sum(len(groups[key]) for key in found), 0
        order = [found[index] for index in _shuffled(len(found), seed)]
        for key in order[:-1]:
            size = len(groups[key])
            if taken == 0 or taken + size / 2 <= wanted:
                held.add(key)
                taken += size
    rest = tuple(example for example, key in zip(examples, keys, strict=True) if key not in held)
    return rest, tuple(example for example, key in zip(examples, keys, strict=True) if key in held)


def subsample(examples: Sequence[Example], n: int | None, seed: int, least: int = 0) -> list[Example]:
    """Keep at most n rows, chosen by the seed, in their original order.

    Where all rows have labels, every label keeps its share of the rows, rounded up or down.

    Args:
        examples: rows to choose from.
        n: how many to keep, at least 1; None keeps all.
        seed: decides which ones, at least 0.
        least: how many rows of each label are kept where there are so many, before the others are shared out; of very many labels that
            may be more than `n` rows together.

    Returns:
        All rows if there are no more than `n`.

    Raises:
        DataError: `n` is below 1.
    """
    if n is not None and n < 1:
        raise DataError(f"a limit of {n} rows: expected at least 1, or no limit")
    if n is None or n >= len(examples):
        return list(examples)
    order = _shuffled(len(examples), seed)
    classes: dict[str | None, list[int]] = {}
    for index in order:
        classes.setdefault(examples[index].label, []).append(index)
    if None in classes:
        classes = {None: order}
    sizes = [len(indices) for indices in classes.values()]
    counts = shared(n, sizes)
    floors = [min(least, size) for size in sizes]
    if any(count < floor for count, floor in zip(counts, floors, strict=True)):
        beyond = [size - floor for size, floor in zip(sizes, floors, strict=True)]
        further = shared(max(0, n - sum(floors)), beyond) if any(beyond) else beyond
        counts = [floor + more for floor, more in zip(floors, further, strict=True)]
    kept = [index for count, indices in zip(counts, classes.values(), strict=True) for index in indices[:count]]
    return [examples[index] for index in sorted(kept)]


def shared(n: int, sizes: Sequence[int], ties: Sequence[int] = ()) -> list[int]:
    """How many of n rows are of each class: as many as its share, rounded up or down.

    Args:
        n: how many rows, at most all of them.
        sizes: how many there are of each class.
        ties: of classes that have the same claim to a row, the one with the lowest number here gets it; the first one if left out.
    """
    shares = [divmod(n * size, sum(sizes)) for size in sizes]
    left = n - sum(whole for whole, _ in shares)
    order = ties or range(len(sizes))
    rounded_up = sorted(range(len(sizes)), key=lambda number: (-shares[number][1], order[number]))[:left]
    return [whole + (number in rounded_up) for number, (whole, _) in enumerate(shares)]


def without_row(n: int, sizes: Sequence[int]) -> list[int]:
    """Which classes may have no row among n that are drawn as `shared` says, whoever gets a row where several could."""
    several = range(len(sizes))
    return [number for number in several if not shared(n, sizes, [int(other == number) for other in several])[number]]


def _drawn(
    examples: Sequence[Example],
    labels: Sequence[str],
    needed: int,
    seed: int,
    purpose: str,
    settings: str,
    avoid: Iterable[Example],
) -> tuple[Example, ...]:
    chosen: dict[str, list[Example]] = {label: [] for label in labels}
    seen = {text_key(example) for example in avoid}
    for index in _shuffled(len(examples), seed):
        example = examples[index]
        if example.label is None or example.label not in chosen:
            raise DataError(f"example {index + 1} has the label {example.label!r}, expected one of {list(labels)}")
        rows = chosen[example.label]
        text = text_key(example)
        if len(rows) < needed and text not in seen:
            seen.add(text)
            rows.append(example)
    short = [f"{label!r} has {len(rows)}" for label, rows in chosen.items() if len(rows) < needed]
    if short:
        named = (
            f"{', '.join(short)}, each class needs"
            if len(chosen) > 1
            else f"{len(chosen[labels[0]])}, there have to be"
        )
        raise DataError(
            f"too few rows with distinct texts: {named} {needed} ({purpose}): lower {settings}, or add rows"
        )
    return tuple(row for turn in zip(*chosen.values(), strict=True) for row in turn)


def _shuffled(n: int, seed: int) -> list[int]:
    # random() is the one draw whose stream Python promises never to change: the order rests on it alone.
    if seed < 0:
        raise DataError(f"seed = {seed}: expected a whole number of at least 0")
    source = random.Random(seed)
    keys = [source.random() for _ in range(n)]
    return sorted(range(n), key=keys.__getitem__)


def text_key(example: Example) -> str:
    """What two rows share whose texts differ at most in white space and in how accents are encoded."""
    fields = sorted((name, " ".join(nfc(text).split())) for name, text in example.fields.items())
    return "\0".join(part for field in fields for part in field)
