"""Expected and measured ranks: by hand, with ties and gaps, and wherever they are shown."""

from __future__ import annotations

import io
import random
from itertools import combinations

import made
import pytest
from made import LOST, run_of
from pages import Page, check_alone
from rich.console import Console

from tandemtune.comparisons.expected import Expected
from tandemtune.report.comparison import as_markdown, compared, comparison_view
from tandemtune.report.comparison_page import comparison_page
from tandemtune.report.ranks import Ranking, rank_rows, rank_sentences, ranks


def found_of(published, measured, source="A paper, table 2."):
    """Expected against measured order; both are scores by task and method, a list of scores stands for seeds."""
    methods = dict.fromkeys(name for scores in measured.values() for name in scores)
    records = [
        run_of(method, seed, score, task)
        for task, scores in measured.items()
        for method in methods
        for seed, score in enumerate(scores[method] if isinstance(scores[method], list) else [scores[method]])
    ]
    return compared(records, next(iter(methods)), expected=Expected(source, published)).expected


def test_by_hand():
    found = found_of(
        {"t": {"a": 0.9, "b": 0.8, "c": 0.7}, "u": {"a": 0.6, "b": 0.5, "c": 0.4}},
        {"t": {"a": 0.2, "b": 0.3, "c": 0.1}, "u": {"a": 0.1, "b": 0.2, "c": 0.6}},
    )
    t, u, average = found.columns["t"], found.columns["u"], found.average
    assert t.methods["a"].model_dump() == {"expected": 0.9, "measured": 0.2, "expected_rank": 1, "measured_rank": 2}
    assert t.correlation == pytest.approx(1 - 6 * 2 / (3 * 8)) and t.swapped == (("a", "b"),)
    assert u.correlation == pytest.approx(-1) and u.swapped == (("a", "c"), ("a", "b"), ("b", "c"))
    assert {name: place.expected for name, place in average.methods.items()} == pytest.approx(
        {"a": 0.75, "b": 0.65, "c": 0.55}
    )
    assert [place.measured_rank for place in average.methods.values()] == [3, 2, 1]
    assert rank_rows(found) == (
        ["method", *(f"{name}, {what}" for name in ("t", "u", "average") for what in ("expected", "measured"))],
        [["a", "1", "2", "1", "3", "1", "3"], ["b", "2", "1", "2", "2", "2", "2"], ["c", "3", "3", "3", "1", "3", "1"]],
    )
    first = (
        "t: Spearman's rank correlation 0.50 (n = 3 methods); 1 of 3 pairs changes places, namely a (expected 1, measured 2) and "
        "b (expected 2, measured 1)."
    )
    assert rank_sentences(found)[:2] == [
        "Expected: A paper, table 2. Ranks are among the methods that have both scores; the average is over the tasks shown here.",
        first,
    ]
    assert "correlation -1.00 (n = 3 methods); 3 of 3 pairs change places, namely a (" in rank_sentences(found)[2]


def test_ties_share_ranks_and_do_not_change_places():
    found = found_of({"t": {"a": 0.5, "b": 0.5, "c": 0.1}}, {"t": {"a": 0.2, "b": 0.9, "c": 0.1}}).columns["t"]
    assert [place.expected_rank for place in found.methods.values()] == [1.5, 1.5, 3]
    assert found.correlation == pytest.approx(0.75**0.5) and found.swapped == ()
    level = found_of({"t": {"a": 0.5, "b": 0.4}}, {"t": {"a": 0.2, "b": 0.2}})
    assert level.columns["t"].correlation is None and level.average is None
    assert rank_sentences(level)[0] == "Expected: A paper, table 2. Ranks are among the methods that have both scores."
    assert rank_sentences(level)[1] == (
        "t: no rank correlation, since all methods tie (n = 2 methods); no pair changes places."
    )
    assert ranks({"a": 0.5, "b": 0.5 + 1e-6, "c": 0.7}) == {"a": 2.5, "b": 2.5, "c": 1}, "rounded scores"


def test_ranks_are_among_the_methods_that_have_both():
    measured = {"a": 0.5, "new": 0.9, "lost": [0.9, LOST], "b": 0.6, "c": 0.4}
    measured = {name: value if isinstance(value, list) else [value] * 2 for name, value in measured.items()}
    found = found_of({"t": {"c": 0.1, "lost": 0.9, "a": 0.5, "b": 0.4}}, {"t": measured, "without": measured})
    assert list(found.columns) == ["t"], "a task that nothing is expected of is left out"
    assert rank_rows(found)[1] == [["a", "1", "2"], ["lost", "-", "-"], ["b", "2", "1"], ["c", "3", "3"]]
    assert found.columns["t"].n == 3
    assert found.columns["t"].methods["lost"].model_dump() == {
        "expected": 0.9,
        "measured": None,
        "expected_rank": None,
        "measured_rank": None,
    }


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_for_an_order(count):
    found = found_of({"t": {"a": 0.9, "b": 0.8}}, {"t": {"a": 0.5 if count else LOST, "b": LOST}})
    assert found.columns["t"].correlation is None
    assert rank_sentences(found)[1] == f"t: too few methods have both scores (n = {count})."


def test_the_average_is_of_methods_that_have_all_columns():
    published = {"t": {"a": 0.9, "b": 0.5, "c": 0.4}, "u": {"a": 0.1, "b": 0.6, "d": 0.4}}
    scores = dict.fromkeys("abcd", 0.5)
    average = found_of(published, {"t": scores | {"a": 0.6}, "u": scores | {"b": 0.8}, "v": scores}).average
    assert list(average.methods) == ["a", "b"] and average.n == 2
    assert average.methods["b"].model_dump() == pytest.approx(
        {"expected": 0.55, "measured": 0.65, "expected_rank": 1, "measured_rank": 1}
    )
    lost = found_of(published, {"t": scores | {"b": LOST}, "u": scores}).average
    assert lost.n == 1 and lost.methods["b"].measured is None


def test_several_models_have_columns_of_their_own():
    records = [
        run_of(method, 1, score, "t", model)
        for model, scores in (("m", {"a": 0.9, "b": 0.8}), ("n", {"a": 0.1, "b": 0.8}))
        for method, score in scores.items()
    ]
    found = compared(records, "a", expected=Expected("s", {"t": {"a": 0.7, "b": 0.6}})).expected
    assert {name: order.correlation for name, order in found.columns.items()} == pytest.approx(
        {"m · t": 1, "n · t": -1}
    )
    assert found.average.swapped == (("a", "b"),)


def test_the_pairs_that_change_places_most_come_first():
    source = random.Random(5)
    names = list("abcdefgh")
    wanted, got = ({name: source.random() for name in names} for _ in range(2))
    order = found_of({"t": wanted}, {"t": got}).columns["t"]
    before, after = ranks(wanted), ranks(got)
    squares = sum((before[name] - after[name]) ** 2 for name in names)
    assert order.correlation == pytest.approx(1 - 6 * squares / (8 * 63))
    turned = {
        frozenset(p) for p in combinations(names, 2) if (before[p[0]] - before[p[1]]) * (after[p[0]] - after[p[1]]) < 0
    }
    assert {frozenset(pair) for pair in order.swapped} == turned and len(turned) > 3
    assert all(before[better] < before[worse] and after[better] > after[worse] for better, worse in order.swapped)
    sizes = [abs(before[x] - before[y]) + abs(after[x] - after[y]) for x, y in order.swapped]
    assert sizes == sorted(sizes, reverse=True)
    said = rank_sentences(Ranking(source="s", columns={"t": order}, average=None))[1]
    assert f"{len(turned)} of 28 pairs change places, most of all " in said
    assert said.count(" and ") == 3 and said.count("(expected ") == 6
    first, second = order.swapped[0]
    assert f"most of all {first} (expected {before[first]:g}, measured {after[first]:g}) and {second} (" in said


# ---- where they are shown ----------------------------------------------------------------------------------------


def shown(expected):
    out, runs = made.comparison("mixed")
    found = compared(runs, "prompt tuning", title="x", expected=expected)
    console = Console(file=io.StringIO(), width=200)
    console.print(comparison_view(found))
    return found, as_markdown(found), console.file.getvalue(), comparison_page(found, runs, out)


def test_tables_and_sentences_everywhere():
    expected = Expected(
        "<A paper> & more",
        {
            "first": {"c-lora": 0.9, "prompt tuning": 0.8},
            "second & last": {"maao <mutation>": 0.7, "c-lora": 0.6, "prompt tuning": 0.5},
        },
    )
    found, markdown, terminal, text = shown(expected)
    headers, rows = rank_rows(found.expected)
    sentences = rank_sentences(found.expected)
    assert len(sentences) == 4 and headers[-2:] == ["average, expected", "average, measured"]
    page = Page(text)
    check_alone(page)
    assert page.table("Expected and measured ranks") == [dict(zip(headers, row, strict=True)) for row in rows]
    assert '<th scope="col" class="number">first, expected</th>' in text and '<th scope="row">maao' in text
    for row in (headers, *rows):
        assert "| " + " | ".join(row) + " |" in markdown
    for sentence in sentences:
        assert sentence in page.text and f"\n- {sentence}\n" in markdown
        assert sentence in " ".join(terminal.split())
    assert "expected and measured ranks" in terminal and "\n\n\n" not in markdown


def test_nothing_is_shown_where_nothing_is_expected():
    found, markdown, terminal, text = shown(None)
    assert found.expected is None
    assert not any("expected" in shown_.lower() for shown_ in (markdown, terminal, text))
