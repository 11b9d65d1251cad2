"""Records that travel between the parts. They hold data and know no model, optimizer or file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled (or unlabelled) input.

    Args:
        fields: text columns by name, for example ``{"text": ..., "text_b": ...}``.
        label: the label's name, or None where it is unknown.
        references: right answers of a task that is answered with texts; empty where there are none.
        columns: the row's other columns, which rewards of texts may ask for.
        numbers: columns of numbers that a file without types holds as text.
        at: where it stands, for messages: file and line; empty where it comes from no file.
    """

    fields: Mapping[str, str]
    label: str | None = None
    references: tuple[str, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    at: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as plain text.

    Args:
        text: the whole prompt, the answer's place included where the model has a mask token.
        mask: character span of the answer's place in `text`.
        spans: character span of each filled-in field, by field name.
    """

    text: str
    mask: tuple[int, int]
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as token ids, without padding.

    Args:
        ids: token ids, special tokens included.
        answer: index in `ids` whose hidden state predicts the label word.
        lost: tokens by which the prompt was too long before its texts were cut.
    """

    ids: tuple[int, ...]
    answer: int
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Split:
    """Few-shot rows drawn with one seed: `train` to search on, `dev` to choose by; `unlabelled` for a penalty that looks at others."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    unlabelled: tuple[Example, ...] = ()


def seed_for(*parts: int) -> int:
    """A well-mixed 32-bit seed out of several small numbers."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1)[0])
