"""Several templates for each known task, with the label words that go with each: data in a file of its own."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class KnownTemplate:
    """A template with its label words.

    Args:
        template: ends with ``{mask}``, for models that answer behind the text.
        words: one for each label, in the task's order.
    """

    template: str
    words: tuple[str, ...]


@functools.cache
def known_templates() -> dict[str, tuple[KnownTemplate, ...]]:
    """Templates by the name of their task."""
    path = Path(__file__).with_name("known_templates.toml")
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        task: tuple(KnownTemplate(row["template"], tuple(row["words"])) for row in rows) for task, rows in found.items()
    }
