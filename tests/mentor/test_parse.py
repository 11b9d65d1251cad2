"""From any answer to candidates."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tandemtune.mentor.parse import parse

AB = ("Movie review:", "How was it?")


@pytest.mark.parametrize(
    "text",
    [
        '{"prompts": ["Movie review:", "How was it?"]}',
        '["Movie review:", "How was it?"]',
        '[{"prompt": "Movie review:", "loss": 0.2}, {"prompt": "How was it?"}]',
        'Here you are:\n```json\n{"prompts": [\n  "Movie review:",\n  "How was it?"\n]}\n```\nGood luck!',
        '{"prompts": ["Movie review:", "How was it?", "Half a pro',
        '{"reason": "x", "prompts": ["Movie review:", "How was it?", ',
        "Sure! Here are two:\n1. Movie review:\n2. How was it?\nLet me know!",
        "1) Movie review:\n2) How was it?",
        "- Movie review:\n- How was it?",
        "* **Movie review:**\n* **How was it?**",
        '• "Movie review:"\n• “How was it?”',
        "Prompt 1: Movie review:\nPrompt 2: How was it?",
        "Movie review:\n\nHow was it?\n",
        "1. `Movie review:` (loss 0.31)\n2. How was it? (expected loss: 0.2, accuracy 0.9)",
        "- Movie review: (loss 0.30)\n- How was it? - loss 0.25",
        "<think>1. not this\n2. nor this</think>\n1. Movie review:\n2. How was it?",
        "I think 1. aloud</think>\n1. Movie review:\n2. How was it?",
        "```\nMovie review:\nHow was it?\n```",
        '"Movie review:",\n"How was it?"',
        "1.   Movie \t review:\r\n2. How\u00a0was it?",
    ],
)
def test_two_prompts_in_many_dresses(text):
    assert parse(text) == AB


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("   \n\n", ()),
        ("```json\n```", ()),
        ("<think>and so on, without end", ()),
        ('{"prompts": []}', ()),
        ('{"prompts": ["half', ()),
        ("{}", ("{}",)),
        ("- 3.5 stars or 4?", ("3.5 stars or 4?",)),
        ('It is "good" or not', ('It is "good" or not',)),
        ("Is the loss big (or small)?", ("Is the loss big (or small)?",)),
        ("- \n-\n--", ()),
    ],
)
def test_odd_ones(text, found):
    assert parse(text) == found


def test_the_last_line_of_an_answer_that_was_cut_is_left_out():
    assert parse("- Movie review:\n- How was it?\n- Was it go", cut=True) == AB


def test_ten_thousand_lines():
    begin = time.monotonic()
    found = parse("\n".join(f"{n}. prompt number {n}" for n in range(10_000)))
    assert len(found) == 200 and found[0] == "prompt number 0" and time.monotonic() - begin < 1


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10**6,
        "[" * 10**5,
        "<think>" * 10**5,
        '"' * 10**5,
        "\\" * 10**5,
        "( " * 10**5,
        "- " * 10**5,
        "`" * 10**5,
        '{"' * 10**5,
    ],
)
def test_size_does_not_stop_it(text):
    begin = time.monotonic()
    assert all(len(each) <= 500 for each in parse(text)) and time.monotonic() - begin < 2


PIECES = st.sampled_from(
    ["{", "[", '"', "\\", "```", "\n", "<think>", "</think>", "1. ", "- ", "(loss ", ")", ":", ",", "prompts", "**"]
)


@given(st.text() | st.lists(PIECES | st.text(max_size=3)).map("".join), st.booleans())
@example("[" * 5000, False)
@example('{"a": [{"b": NaN}, null, 1]}', False)
@settings(max_examples=300, deadline=None)
def test_any_text(text, cut):
    found = parse(text, cut=cut)
    assert len(found) <= 200
    for each in found:
        assert each and len(each) <= 500 and "\n" not in each


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30), max_size=8))
@settings(max_examples=100, deadline=None)
def test_json_that_was_cut_anywhere_gives_a_beginning_of_the_whole(prompts):
    text = json.dumps({"prompts": prompts})
    whole = parse(text)
    start = text.index("[") + 1
    for end in range(start, len(text)):
        found = parse(text[:end])
        assert found == whole[: len(found)]
