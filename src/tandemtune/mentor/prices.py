"""What a million tokens cost at public endpoints, from a small dated table."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
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
        dated: when the table was made that one of them is from; empty where a user gave them.
        whole: whether both are known, and not 0 because nobody has said otherwise.
    """

    asked: float = 0.0
    answered: float = 0.0
    currency: str = "USD"
    dated: str = ""
    whole: bool = True


def price_of(model: str, base_url: str | None) -> Price | None:
    """What the table has for a model at an endpoint.

    Args:
        model: the model's name there.
        base_url: the endpoint; None for OpenAI's own.
    """
    table = _table()
    found = table.get(urlsplit(base_url or "https://api.openai.com").hostname or "", {}).get(model)
    return None if found is None else Price(found[0], found[1], table["currency"], table["dated"])


def priced(asked: float | None, answered: float | None, currency: str, table: Price | None) -> Price:
    """What a mentor costs: what was given, else what the table has in that currency, else nothing.

    Args:
        asked: for a million tokens of questions, as given.
        answered: for a million tokens of answers.
        currency: of what was given.
        table: what the table has for the model.
    """
    missing = asked is None or answered is None
    alone = asked is None and answered is None
    if table is None or not missing or not (alone or table.currency.casefold() == currency.casefold()):
        return Price(asked or 0.0, answered or 0.0, currency, whole=not missing)
    return replace(
        table,
        asked=table.asked if asked is None else asked,
        answered=table.answered if answered is None else answered,
    )


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("prices.toml").read_text(encoding="utf-8"))
