"""Numbers and texts as people read them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

from rich.cells import cell_len

Content = str | int | float | None
HUGE = 1e100
"""Beyond it, axes overflow."""

# What XML 1.0 has no place for; HTML has none for them either.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """Text without the characters that neither HTML nor SVG can hold (control characters, lone surrogates): "\ufffd" instead."""
    return _FORBIDDEN.sub("\ufffd", text)


def shortened(text: str, most: int) -> str:
    """Text on one line, cut to so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def fitted(text: str, room: int) -> str:
    """Text on one line without control characters, cut to a number of columns."""
    plain = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text).strip()
    if cell_len(plain) <= room:
        return plain
    kept = ""
    for character in plain:
        if cell_len(kept + character) > room - 1:
            break
        kept += character
    return kept.rstrip() + "…"


def drawable(value: float | None) -> float | None:
    """A number that axes can hold; None for NaN, infinity, and what is beyond `HUGE`."""
    if value is None:
        return None
    plain = float(value)
    return plain if math.isfinite(plain) and abs(plain) <= HUGE else None


def number(value: Content, digits: int = 6) -> str:
    """A number for people: "1,234", "0.0713", "2.5e-7", "NaN", "–" for None.

    Args:
        value: a number; text is returned unchanged.
        digits: significant digits of what is not whole.

    Returns:
        Text, the same everywhere.
    """
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) < 1e15 and value == int(value):
        return f"{int(value):,}"
    short = f"{value:.{digits}g}"
    if "e" in short:
        mantissa, exponent = short.split("e")
        return f"{mantissa}e{int(exponent)}"
    return short


def rough(value: float | None, digits: int = 3) -> str:
    """A measured quantity to so many significant digits: "1,230", "12.3", "0.0123"."""
    if value is None or not 1e-6 <= abs(value) < 1e12:
        return number(value, digits)
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


def score(value: float | None) -> str:
    """A score or a loss to three decimals; "–" for None."""
    return "–" if value is None else f"{value:z.3f}"


def aligned(values: Sequence[Content], digits: int = 4) -> list[str]:
    """Numbers that stand together, with the same decimals where that loses nothing.

    Args:
        values: numbers; text is returned unchanged.
        digits: significant digits of the largest; the smallest keeps at least two.

    Returns:
        A text for each.
    """
    sizes = [
        abs(value)
        for value in values
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value
    ]
    top, least = max(sizes, default=0.0), min(sizes, default=0.0)
    if all(isinstance(size, int) or size == int(size) for size in sizes) or not 1e-4 <= least <= top < 1e9:
        return [number(value, digits) for value in values]
    decimals = max(digits - 1 - math.floor(math.log10(top)), 1 - math.floor(math.log10(least)), 0)
    while decimals and all(round(size, decimals) == round(size, decimals - 1) for size in sizes):
        decimals -= 1
    return [
        f"{value:,.{decimals}f}" if isinstance(value, float) and math.isfinite(value) else number(value)
        for value in values
    ]


def duration(seconds: float) -> str:
    """Seconds for people: "0.15 s", "48 s", "3 min 20 s", "2 h 05 min"."""
    whole = round(seconds)
    if 0 < seconds < 0.95:
        return f"{rough(seconds, 2)} s"
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
