"""Prices of public endpoints, and those that a recipe gives."""

from __future__ import annotations

from tandemtune.config.schema import MentorSection
from tandemtune.mentor.prices import price_of


def section(**settings):
    return MentorSection(client="endpoint", mentor="gpt-4o-mini", **settings)


def test_the_table_is_asked_where_nobody_says_otherwise():
    price = section().price
    assert (price.asked, price.answered, price.currency) == (0.15, 0.6, "USD") and price.dated
    assert section(base_url="http://127.0.0.1:1/v1").price.asked == 0
    assert price_of("no-such-model", None) is None


def test_what_a_recipe_gives_goes_above_the_table():
    price = section(price_in=1.0, currency="EUR").price
    assert (price.asked, price.answered, price.currency, price.dated) == (1.0, 0.0, "EUR", "")
