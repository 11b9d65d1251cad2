"""The rated film review sentences as a two-class task with a held-out part."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from tandemtune.errors import AssetError

UNCLEAR = 0.5
_SALT = "tandemtune movie-reviews 1"
_HEADER = ["id", "sentiment", "text"]


def build(source: Path, folder: Path, *, test_rows: int = 2000) -> None:
    """Write `train.jsonl` and `test.jsonl` with rows ``{"text", "label"}``.

    The label is "positive" where the mean human rating (from -4 to 4) is above zero and "negative" below.
    Sentences rated between -0.5 and 0.5 are left out: people did not agree on them either. A text that
    occurs twice is kept once, or not at all if its labels differ. Which rows are held out depends on a
    hash of their text only, so it does not change with the order of the source; the test file holds
    equally many rows of both classes. Both files are in hash order, so that any prefix is a fair sample.

    Args:
        source: tab separated file with the columns id, sentiment and text.
        folder: an existing folder to write to.
        test_rows: rows of the test file, an even number.

    Raises:
        AssetError: the file is not of the expected form, or holds too few rows.
    """
    labels = _labels(_read(source))
    order = sorted(labels, key=_rank)
    half = test_rows // 2
    held_out: set[str] = set()
    for label in ("negative", "positive"):
        texts = [text for text in order if labels[text] == label]
        if len(texts) <= half:
            raise AssetError(f"{source.name}: expected more than {half} clearly {label} sentences, found {len(texts)}")
        held_out.update(texts[:half])
    _write(folder / "test.jsonl", ((text, labels[text]) for text in order if text in held_out))
    _write(folder / "train.jsonl", ((text, labels[text]) for text in order if text not in held_out))


def clean(text: str) -> str:
    """Make one space of every run of white space, and one double quote of two apostrophes.

    Args:
        text: a sentence of the source, which writes quotation marks as two apostrophes.

    Returns:
        The sentence as it is meant to be read.
    """
    return re.sub(r"\s+", " ", text).strip().replace("''", '"')


def _read(source: Path) -> Iterable[tuple[float, str]]:
    with source.open(encoding="utf-8", newline="") as lines:
        for number, line in enumerate(lines, start=1):
            cells = line.rstrip("\r\n").split("\t")
            if number == 1:
                if cells != _HEADER:
                    raise AssetError(f"{source.name}, line 1: expected the header {_HEADER}, found {cells}")
                continue
            try:
                _, rating, text = cells
                yield float(rating), text
            except ValueError:
                raise AssetError(
                    f"{source.name}, line {number}: expected an id, a rating and a text between tabs, "
                    f"found {line.strip()[:80]!r}"
                ) from None


def _labels(rows: Iterable[tuple[float, str]]) -> dict[str, str]:
    seen: dict[str, set[str]] = {}
    for rating, raw in rows:
        text = clean(raw)
        if text and abs(rating) >= UNCLEAR:
            seen.setdefault(text, set()).add("positive" if rating > 0 else "negative")
    return {text: next(iter(labels)) for text, labels in seen.items() if len(labels) == 1}


def _rank(text: str) -> bytes:
    return hashlib.sha256(f"{_SALT}\n{text}".encode()).digest()


def _write(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for text, label in rows:
            out.write(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n")
