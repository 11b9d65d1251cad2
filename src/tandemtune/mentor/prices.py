"""What a million tokens cost at public endpoints, from a small dated table."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Price:
    """What a mentor costs.

    Args:
        asked: for a million tokens of questions.
        answered: for a million tokens of answers.
        currency: of both.
        dated: when the table was made that they are from; empty where a user gave them.
    """

    asked: float = 0.0
    answered: float = 0.0
    currency: str = "USD"
    dated: str = ""


def price_of(model: str, base_url: str | None) -> Price | None:
    """What the table has for a model at an endpoint.

    Args:
        model: the model's name there.
        base_url: the endpoint; None for OpenAI's own.
    """
    table = _table()
    found = table.get(urlsplit(base_url or "https://api.openai.com").hostname or "", {}).get(model)
    return None if found is None else Price(found[0], found[1], table["currency"], table["dated"])


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("prices.toml").read_text(encoding="utf-8"))
