"""What the sections have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field

import tandemtune.assets as assets
from tandemtune.plugins import near

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def shortened(value: Any) -> str:
    """A value as a message shows it."""
    try:
        return cut(repr(value), 60)
    except (ValueError, RecursionError):
        return f"an unprintable {type(value).__name__}"


def cut(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def asset_problems(name: str, kind: str, *others: str) -> Iterable[str]:
    """A ``pypi:`` or ``npm:`` name that does not exist or is of another kind."""
    names = [asset.name for asset in assets.CATALOGUE.values() if asset.kind in (kind, *others)]
    if name.startswith(assets.PREFIXES) and name not in names:
        yield f"name: no {kind} {name!r}{near(name, names)}, expected {', '.join(names)}"


def raise_all(problems: Iterable[str]) -> None:
    """Report several problems as one error of a section."""
    lines = list(problems)
    if lines:
        raise ValueError("\n".join(lines))
