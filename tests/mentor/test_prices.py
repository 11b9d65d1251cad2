"""Prices of public endpoints, and those that a recipe gives."""

from __future__ import annotations

import pytest

import small
from tandemtune.config import load_config
from tandemtune.config.schema import MentorSection
from tandemtune.errors import ConfigError
from tandemtune.mentor import clients
from tandemtune.mentor.clients import budget_of
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


def refused(place, **mentor):
    with pytest.raises(ConfigError) as caught:
        load_config({**small.recipe(place), "mentor": mentor})
    return str(caught.value)


@pytest.mark.parametrize(
    "mentor", [{"client": "endpoint", "mentor": "mine", "base_url": "http://127.0.0.1:1/v1"}, {"client": "file"}]
)
def test_a_cap_on_money_without_prices_is_refused_when_the_recipe_is_read(tmp_path, mentor):
    assert "give price_in and price_out" in refused(tmp_path, **mentor, money_cap=1.0)
    place = small.write_recipe(
        tmp_path / "recipe.json", {**small.recipe(tmp_path), "mentor": {**mentor, "money_cap": 1.0}}
    )
    called = small.call("validate", place, "--no-data")
    assert called.code == 2 and "[mentor] money_cap: 1, but nothing says what" in called.err
    for name, missing in (("price_in", "price_out"), ("price_out", "price_in")):
        assert f"{missing} is left out" in refused(tmp_path, **mentor, money_cap=1.0, **{name: 2.0})
    both = {**mentor, "money_cap": 1.0, "price_in": 1.0, "price_out": 0.0}
    assert load_config({**small.recipe(tmp_path), "mentor": both}).mentor.money_cap == 1.0


def test_what_one_price_leaves_out_is_in_the_table():
    """Else a cap would not count the answers."""
    price = section(price_in=0.1, money_cap=1.0).price
    assert (price.asked, price.answered) == (0.1, 0.6) and price.dated
    assert (section(price_out=0.0).price.asked, section(price_out=0.0).price.answered) == (0.15, 0.0)
    assert section(price_in=1.0, price_out=2.0).price.dated == ""


@pytest.mark.parametrize("client", ["local", "recorded"])
def test_where_nobody_is_paid_a_cap_on_money_caps_nothing(tmp_path, client):
    mentor = {"client": client, "money_cap": 1.0}
    section_ = load_config({**small.recipe(tmp_path), "mentor": mentor}).mentor
    assert budget_of(section_).max_money is None
    assert budget_of(section_.model_copy(update={"price_in": 2.0})).max_money == 1.0


@pytest.mark.parametrize(
    ("settings", "context"),
    [
        ({}, 2048),
        ({"thinking": True, "style": "chat"}, 2048 + 8192),
        ({"max_completion_tokens": 500}, 2548),
        ({"thinking": True, "style": "chat", "context": 4096}, 4096),
    ],
)
def test_a_local_model_gets_the_room_and_the_time_of_the_recipe(tmp_path, monkeypatch, settings, context):
    made: list[dict] = []
    monkeypatch.setattr(clients, "LlamaClient", lambda path, **given: made.append(given))
    mentor = {"client": "local", "mentor": str(tmp_path / "m.gguf"), "timeout": 7.0, "cpu_threads": 2, **settings}
    clients.client_of(load_config({**small.recipe(tmp_path), "mentor": mentor}).mentor)
    assert made == [{"threads": 2, "timeout": 7.0, "context": context}]


def test_a_currency_that_the_table_does_not_have_is_refused_without_prices(tmp_path):
    said = refused(tmp_path, client="endpoint", mentor="gpt-4o", currency="EUR", money_cap=5.0)
    assert "[mentor] currency: EUR, but the prices of gpt-4o" in said and "are in USD" in said
    assert section(currency="usd").price.currency == "USD"
    assert section(base_url="http://127.0.0.1:1/v1", currency="EUR").price.asked == 0, (
        "not in the table, and nothing is capped"
    )
