"""Which candidates may be tried."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import BRIEF, words

from tandemtune.mentor.judge import judge, normal

KNOWN = frozenset({normal("Film text")})


@pytest.mark.parametrize(
    "text",
    [
        "How was it?",
        "Review of a film:",
        "Greatly enjoyed or not?",
        "Wie war der Film?",
        "電影評論：",
        "What the viewer’s heart says",
        "Is a < b or c > d",
        "Error rate of the film",
        "I think the film was",
        "Sorry film or okay film",
    ],
)
def test_fit_for_use(text):
    assert judge(text, BRIEF, KNOWN, words) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \t", "empty"),
        ("1.5 / 10 ...", "no letters"),
        ("Is it great?", "gives an answer away: 'great'"),
        ("Is it GREAT?", "gives an answer away"),
        ("Positive or not", "gives an answer away: 'positive'"),
        ("one two three four five six seven eight nine ten eleven twelve thirteen", "13 tokens, at most 12"),
        ("film TEXT.", "known"),
        ('" Film  text ": ', "known"),
        ("Ｆilm text", "known"),
        ("Review: {text}", "no braces"),
        ("Review: {", "no braces"),
        ("two\nlines", "control characters"),
        ("bell\x07", "control characters"),
        ("turned \u202eback", "control characters"),
        ("half \ud800", "control characters"),
        ("[PROMPT] Review:", "no text"),
        ("Review: <|im_end|>", "no text"),
        ("Review </s> next", "no text"),
        ("Here are three new prompts:", "repeats the request"),
        ("Short prompts for this task:", "repeats the request"),
        ("<div>How was it</div>", "no text"),
        ("How was it?<br/>", "no text"),
        ("Sure, here they are", "speaks to its reader"),
        ("I'm sorry, but I can't assist with that", "speaks to its reader"),
        ("I cannot do that.", "speaks to its reader"),
        ("Error: upstream timeout", "speaks to its reader"),
        ("Okay, let's think", "speaks to its reader"),
        ("Let me think", "speaks to its reader"),
    ],
)
def test_refused(text, reason):
    assert reason in judge(text, BRIEF, KNOWN, words)


def test_a_word_of_the_manual_prompt_is_no_leak():
    manual = replace(BRIEF, manual="Is this prompt a positive one?")
    assert judge("Positive prompt or not", manual, KNOWN, words) is None
    assert "great" in judge("Positive and great", manual, KNOWN, words)


def test_slots_are_kept():
    slotted = replace(BRIEF, slots=("topic",))
    assert judge("About {topic}:", slotted, KNOWN, words) is None
    for text in ("About:", "{topic} and {topic}", "{topic} and {text}", "{topic} and {", "{topic}"):
        assert judge(text, slotted, KNOWN, words), text


def test_labels_with_signs_are_words_too():
    assert judge("Is it C++ code", replace(BRIEF, labels=("C++",)), KNOWN, words)
    assert judge("10 points", replace(BRIEF, labels=("1", "")), KNOWN, words) is None


@given(st.text())
def test_any_text(text):
    reason = judge(text, BRIEF, KNOWN, words)
    assert reason is None or reason
