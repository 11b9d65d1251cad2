"""Words for messages about data: values on one line, lists that stay short, and "did you mean"."""

from __future__ import annotations

import difflib
import re
import reprlib
import unicodedata
from collections.abc import Sequence
from pathlib import Path

_SHOWN = 60
_BLANKS = re.compile(r"[\s_-]+")


ONE_LABEL = (
    "several labels of one row (multi-label) are not supported: keep one label a row, or make one task for each label, of the "
    "rows that have it and those that do not"
)


def nfc(text: str) -> str:
    """A name with composed accents, the form in which names are compared."""
    return unicodedata.normalize("NFC", text)


def did_you_mean(value: str, known: Sequence[str]) -> str:
    """A hint in brackets where a known name differs little, in case or blanks only for example; "" otherwise."""
    folded = {_folded(name): name for name in known}
    near = difflib.get_close_matches(_folded(value[:200]), list(folded), n=1)
    return f" (did you mean {show(folded[near[0]])}?)" if near else ""


def _folded(name: str) -> str:
    return _BLANKS.sub("", unicodedata.normalize("NFKC", name).casefold())


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names in quotes, the first of them where there are many."""
    shown = ", ".join(show(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural where it is not 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def kind(value: object) -> str:
    """What JSON calls a value of this type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    kinds: dict[type, str] = {str: "string", list: "list", dict: "object"}
    return kinds.get(type(value), type(value).__name__)


def show(value: object) -> str:
    """A value for a message: its repr, on one line, shortened."""
    shown = repr(value[: 2 * _SHOWN]) if isinstance(value, str) else reprlib.repr(value)
    shown = " ".join(shown.split("\n"))
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."


def shown_name(source: str | Path) -> str:
    """The name of a file on one line."""
    name = str(source)
    return name if name.isprintable() and name else repr(name)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened."""
    lines = str(error).strip().splitlines()
    text = "".join(c if c.isprintable() else "?" for c in lines[0]) if lines else type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
