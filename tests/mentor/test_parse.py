"""From any answer to candidates."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tandemtune.mentor.parse import Reading, continued, read, read_thoughts

AB = ("Movie review:", "How was it?")


def listed(*prompts):
    return "\n".join(f"{number}. {prompt}" for number, prompt in enumerate(prompts, start=1))


def as_json(*prompts):
    return json.dumps({"prompts": prompts}, ensure_ascii=False)


# Forms of answers around two prompts a and b. What else stands in them holds the word "stray", which no prompt may hold.
FORMS = {
    # JSON, in which the key decides
    "JSON": as_json,
    "JSON over lines": lambda a, b: json.dumps({"prompts": [a, b]}, indent=2),
    "a list alone": lambda a, b: f"Here they are, strays apart:\n{json.dumps([a, b])}\nStray enough?",
    "objects": lambda a, b: json.dumps([{"prompt": a, "loss": 0.2}, {"prompt": b}]),
    "objects with reasons": lambda a, b: json.dumps({"prompts": [{"reason": "stray", "prompt": p} for p in (a, b)]}),
    "objects with titles": lambda a, b: json.dumps([{"id": "stray 1", "title": "stray", "text": p} for p in (a, b)]),
    "thoughts first": lambda a, b: json.dumps({"thoughts": ["stray", "a stray"], "tool": "stray", "prompts": [a, b]}),
    "thoughts with a draft": lambda a, b: json.dumps({"analysis": {"prompt": "stray"}, "result": {"prompts": [a, b]}}),
    "the old ones, too": lambda a, b: json.dumps({"tried": [{"prompt": "stray", "loss": 1}], "prompts": [a, b]}),
    "one key for each": lambda a, b: json.dumps({"prompt_1": a, "prompt_2": b, "explanation": "stray"}),
    "numbered keys": lambda a, b: json.dumps({"prompts": {"1": a, "2": b}}),
    "another key": lambda a, b: json.dumps({"candidates": [a, b], "note": "stray"}),
    "new prompts": lambda a, b: json.dumps({"old_prompts": ["stray"], "new_prompts": [a, b]}),
    "a call of a tool": lambda a, b: (
        f'<tool_call>\n{{"name": "stray", "arguments": {as_json(a, b)}}}\n</tool_call>'
    ),
    "JSON lines": lambda a, b: f"{json.dumps({'prompt': a})}\n{json.dumps({'prompt': b})}",
    "a draft, then the answer": lambda a, b: f"First {as_json('stray', 'stray two')}, or better:\n{as_json(a, b)}",
    "the form repeated": lambda a, b: f'As {{"prompts": ["...", ...]}} without strays: {as_json(a, b)}',
    "JSON behind a list": lambda a, b: f"{listed('some stray', 'a stray')}\n\n{as_json(a, b)}",
    "JSON with comments": lambda a, b: f'{{"prompts": [ // stray, "stray"\n{json.dumps(a)}, # stray\n{json.dumps(b)} /* , */]}}',
    "a comma too many": lambda a, b: f'{{"prompts": [{json.dumps(a)}, {json.dumps(b)},],}}',
    "JSON cut off in a string": lambda a, b: as_json(a, b)[:-2] + ', "and a stray, that is',
    "JSON cut off in an object": lambda a, b: json.dumps([{"prompt": a}, {"prompt": b}, {"prompt": "stray"}])[:-9],
    "JSON in a string": lambda a, b: json.dumps({"prompts": json.dumps([a, b])}),
    "lines in a string": lambda a, b: json.dumps({"prompts": listed(a, b)}),
    # fences
    "a fence": lambda a, b: f"Here you are, stray:\n```json\n{as_json(a, b)}\n```\nStray luck!",
    "a fence of lines": lambda a, b: f"Stray:\n```\n{a}\n{b}\n```\nStray luck!",
    "the second of two": lambda a, b: f"Old:\n```\nstray\n```\nNew:\n```text\n{a}\n{b}\n```",
    "JSON, then how to use it": lambda a, b: f"```json\n{as_json(a, b)}\n```\nUse:\n```python\nstray(1)\nstray(2)\n```",
    "tildes": lambda a, b: f"~~~\n{listed(a, b)}\n~~~",
    # tags and labels
    "tags": lambda a, b: f"<prompt>{a}</prompt>\n<prompt>{b}</prompt>",
    "tags with attributes": lambda a, b: f'<prompt id="1">{a}</prompt><prompt id="stray">{b}</prompt>',
    "numbered tags": lambda a, b: f"<prompt_1>{a}</prompt_1><prompt_2>\n{b}\n</prompt_2> stray",
    "tags behind steps": lambda a, b: f"{listed('a stray', 'two strays')}\nSo: <INS>{a}</INS><INS>{b}</INS>",
    "a list of HTML": lambda a, b: f"<ol>\n<li>{a}</li>\n<li>{b}</li>\n</ol>",
    "an answer's element": lambda a, b: f"- stray\n<answer>\n{listed(a, b)}\n</answer>\nstray",
    "labels": lambda a, b: f"Prompt 1: {a}\nPrompt 2: {b}",
    "labels in bold": lambda a, b: f"**Prompt 1:** {a}\n\n**Prompt 2:** {b}\n\nWhich stray is it?",
    "labels with reasons": lambda a, b: f"Prompt: {a}\nRationale: stray\n\nPrompt: {b}\nRationale: stray",
    "labels in a list": lambda a, b: f"1. **Prompt**: {a}\n   - Reason: stray\n2. **Prompt**: {b}\n   - Reason: stray",
    "labels with letters": lambda a, b: f"* Prompt A: {a}\n* Prompt B: {b}",
    "labels above": lambda a, b: f"### Prompt 1\n{a}\n\n### Prompt 2\n\n{b}\n",
    "labels above in bold": lambda a, b: f"**Prompt 1**\n> {a}\n\n**Prompt 2**\n> {b}\n\nHow stray is that?",
    "labels above fences": lambda a, b: f"**Prompt 1:**\n```\n{a}\n```\n**Prompt 2:**\n```\n{b}\n```",
    # lists
    "numbers": listed,
    "numbers in brackets": lambda a, b: f"(1) {a}\n(2) {b}",
    "numbers apart": lambda a, b: f"1) {a}\n\n2) {b}\n",
    "words around": lambda a, b: f"Sure, two stray lines:\n\n{listed(a, b)}\n\nTell me if stray!",
    "words right behind": lambda a, b: f"Sure! Here are two strays:\n{listed(a, b)}\nTell me if stray!",
    "bullets": lambda a, b: f"• {a}\n• {b}",
    "dashes": lambda a, b: f"- {a}\n- {b}",
    "stars": lambda a, b: f"* **{a}**\n* **{b}**",
    "letters": lambda a, b: f"a) {a}\nb) {b}",
    "capital letters": lambda a, b: f"A. {a}\nB. {b}",
    "options": lambda a, b: f"Option A: {a}\nOption B: {b}",
    "candidates": lambda a, b: f"Candidate 1: {a}\nCandidate 2: {b}",
    "headings": lambda a, b: f"## Candidate 1\n{a}\n## Candidate 2\n{b}",
    "options in a list": lambda a, b: f"- **Option 1:** {a}\n- **Option 2:** {b}",
    "boxes": lambda a, b: f"- [ ] {a}\n- [x] {b}",
    "bold numbers": lambda a, b: f"**1.** {a}\n**2.** {b}",
    "titles in bold": lambda a, b: f"1. **Stray mood:** {a}\n2. **Stray**: {b}",
    "quotes and comments": lambda a, b: f'1. "{a}" - a stray\n2. “{b}” (stray)',
    "quotes": lambda a, b: f'1. "{a}"\n2. `{b}`',
    "losses": lambda a, b: f"1. {a} (loss 0.31)\n2. {b} (expected loss: 0.2, accuracy 0.9)",
    "full-width numbers": lambda a, b: f"１．{a}\n２．{b}",
    "circled numbers": lambda a, b: f"① {a}\n② {b}",
    "Chinese numbers": lambda a, b: f"1、{a}\n2、{b}",
    "white space": lambda a, b: f"1.   {a}\t\r\n2. {b}\u00a0",
    "a heading that counts": lambda a, b: f"Here are two stray ones:\n{a}\n{b}",
    "a heading that counts, words behind": lambda a, b: f"Here are 2 strays:\n\n{a}\n{b}\n\nTell me if stray!",
}  # fmt: skip

# How models think and speak before an answer.
THOUGHTS = {
    "nothing": lambda answer: answer,
    "think": lambda answer: f"<think>\n{listed('maybe stray', 'or stray')}\n</think>\n\n{answer}",
    "think that only ends": lambda answer: f"{as_json('maybe stray', 'stray')}</think>{answer}",
    "thinking twice": lambda answer: f"<thinking>1. stray</thinking>So, stray:<thinking>2. stray</thinking>\n{answer}",
    "thought behind": lambda answer: f"{answer}\n<reflection>1. stray</reflection>",
    "attributes": lambda answer: f'<think time="3">1. stray</think>{answer}',
    "seed": lambda answer: f"<seed:think>{listed('stray', 'stray two')}</seed:think>{answer}",
    "signs": lambda answer: f"◁think▷1. maybe stray◁/think▷\n{answer}",
    "angle brackets": lambda answer: f"⟨think⟩1. maybe stray⟨/think⟩{answer}",
    "a heading": lambda answer: f"Reasoning: it is stray.\n\n{answer}" if answer.startswith(("1.", "{")) else answer,
    "brackets": lambda answer: f"[THINK]1. maybe stray[/THINK]{answer}",
    "start and end": lambda answer: f"<|START_THINKING|>1. stray<|END_THINKING|>{answer}",
    "begin and end": lambda answer: f"<|begin_of_thought|>1. stray<|end_of_thought|>\n{answer}",
    "details": lambda answer: f'<details type="reasoning"><summary>Stray</summary>\n> 1. stray\n</details>\n{answer}',
    "channel": lambda answer: f"<|channel>thought\n1. stray<channel|>{answer}",
    "channels": lambda answer: (
        f"<|channel|>analysis<|message|>1. maybe stray\n2. stray<|end|><|start|>assistant<|channel|>final<|message|>{answer}<|return|>"
    ),
    "channels with a call": lambda answer: (
        f"<|channel|>analysis<|message|>stray<|end|><|start|>assistant<|channel|>commentary to=functions.stray "
        f"<|constrain|>json<|message|>{answer}<|call|>"
    ),
    "channels without marks": lambda answer: f"analysisWe want stray.\n1. stray\n2. strayassistantfinal{answer}",
    "marks of turns": lambda answer: f"<|im_start|>assistant\n{answer}<|im_end|>\n<|im_start|>user\n1. stray\n",
    "end of turn": lambda answer: f"{answer}</s>",
}  # fmt: skip

WORDS = st.sampled_from(
    ["film", "review", "Was", "it", "the", "viewer's", "mood", "e.g.", "U.S.", "10 or", "(or not)", "well-made", "so,", "电影", "größte",
     "naïve", "was:", "C++", "1990s", "heart/mind", "don't", "«so» then", "and"]
)  # fmt: skip
PROMPTS = st.builds(
    lambda first, words, end: " ".join([first, *words]) + end,
    st.sampled_from(["How", "film", "Überall", "电影", "Movie review:", "Is", "the", "It's"]),
    st.lists(WORDS, max_size=6),
    st.sampled_from(["", "?", ":", ".", " :", "...", "!"]),
)


@pytest.mark.parametrize("form", FORMS)
@given(PROMPTS, PROMPTS, st.sampled_from(sorted(THOUGHTS)))
@settings(max_examples=25, deadline=None)
def test_exactly_the_prompts_of_a_form_come_out(form, a, b, thoughts):
    assert read(THOUGHTS[thoughts](FORMS[form](a, b))) == Reading((a, b))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("thoughts", THOUGHTS)
def test_every_form_behind_every_kind_of_thought(form, thoughts):
    assert read(THOUGHTS[thoughts](FORMS[form](*AB))) == Reading(AB)


@given(st.lists(PROMPTS, min_size=2, max_size=8), st.sampled_from(["1. ", "- ", "", '"']))
@settings(max_examples=100, deadline=None)
def test_as_many_as_there_are(prompts, mark):
    marked = {"1. ": listed(*prompts), '"': as_json(*prompts)}
    text = marked.get(mark, "\n".join(mark + prompt for prompt in prompts))
    found = read(text, wanted=len(prompts))
    assert found == Reading(tuple(prompts)) or (not mark and prompts[0].endswith(":") and found.problem)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n\n",
        "I'm sorry, but I can't assist with that.",
        "Sorry, I am not able to understand your query. Please try again.",
        "Sorry.\nPlease ask something else.",
        "Okay, let's think about what works best here.\nShort ones do.",
        "Okay, let's think about this:\nshort ones work best\nlong ones do not",
        "<think>and so on, without end",
        "<think>1. a draft\n2. another</think>",
        "1. a draft\n2. another</think>",
        "analysisWe want two.\n1. a draft\n2. another",
        "<|channel|>analysis<|message|>1. a draft\n2. another",
        '{"error": "rate limited"}',
        '{"error": {"message": "rate limited", "code": 429}}',
        "Error: upstream timeout",
        "Traceback (most recent call last):\n  File x\nValueError: no",
        "<div>how does it feel</div>",
        "<html><body>\n502 Bad Gateway\n</body></html>",
        "How was it?",
        "{}",
        '{"prompts": []}',
        '{"prompts": ["half',
        '{"name": "search", "arguments": {"query": "how to write"}}',
        '{"thoughts": ["the best is short"], "answer": "How was it?"}',
        '{"reason": ["short"]}',
        "```json\n```",
        "```python\nprint('How was it?')\n```",
        "1. first a draft\n2. another\n\nThe new ones:\n1. How was it?\n2. Well?",
        "Steps:\n1. be short\n2. be clear\n\n- How was it?\n- Well?",
        "1. A short one\n   How was it?\n2. A long one\n   How was it, all in all?",
        "1. **Short** - How was it?\n2. **Long** - How was it, all in all?",
        '1. Short: "How was it?"\n2. Long: "How was it, all in all?"',
        "1. How was it? - a short one\n2. Well? (shorter)",
        "Thinking Process:\n\n1. **The task:** a draft\n2. **The words:** another",
        "Here's my reasoning:\n- a draft\n- another",
        '1. "Well", "well" or not?\n2. How was it?',
        "1. How was it? 2. Well?",
        "1. How was it?\\n2. Well?",
        "| # | Line |\n|---|---|\n| 1 | How was it? |",
        "Here are two:\nHow was it?\nWell?\nTell me if these do.",
        "Here they are:\nHow was it?\nWell?",
        "Prompt 1: short\nHow was it?\nPrompt 2: long\nHow was it, all in all?",
        "Prompt 1: a draft\nPrompt 2: another\n\nPrompt 1: How was it?",
        "```\na draft\nanother\na third\n```\n```\nHow was it?\n```",
        '{"short": {"prompts": ["How was it?"]}, "long": {"prompts": ["How was it, all in all?"]}}',
    ],
)
@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_what_is_not_certain_is_not_read(text, wanted):
    found = read(text, wanted=wanted)
    assert found.prompts == () and found.problem


def test_plain_lines_are_read_where_their_number_is_known():
    assert read("How was it?\n\nMovie review:\n", wanted=2).prompts == AB[::-1]
    assert read("How was it?\nMovie review:", wanted=3).prompts == ()
    assert read("Two of them:\nMovie review:\nHow was it?", wanted=3).prompts == AB
    assert read("Movie review:\nHow was it?", wanted=2).prompts == (), "its first line may be a heading"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("- 3.5 stars or 4?\n- Well?", ("3.5 stars or 4?", "Well?")),
        ('- It is "good" or not', ('It is "good" or not',)),
        ("- Is the loss big (or small)?", ("Is the loss big (or small)?",)),
        ("- How **was** it?", ("How was it?",)),
        ("- Movie review: (loss 0.30)\n- How was it? - loss 0.25", AB),
        ("- Movie review: (loss 0.30, accuracy 0.800)\n- How was it? loss 0.25, mean reward -0.5", AB),
        ('{"prompts": ["a\\nb"]}', ("a b",)),
        ('{"prompt": "How was it?"}', ("How was it?",)),
    ],
)
def test_prompts_stay_as_they_are(text, found):
    assert read(text).prompts == found


def test_the_last_line_of_an_answer_that_was_cut_is_left_out():
    assert read("- Movie review:\n- How was it?\n- Was it go", cut=True).prompts == AB


def test_thoughts_hold_an_answer_only_at_their_end_and_with_its_key():
    assert read_thoughts(f"1. a draft\nSo:\n```json\n{as_json(*AB)}\n```\n").prompts == AB
    for text in (f"{as_json('a draft')}, or shorter?", listed(*AB), '["a", "b"]', ""):
        assert read_thoughts(text).prompts == ()


def test_a_list_that_was_continued():
    assert continued("- Movie review:\n- How was it?\n").prompts == AB
    assert continued("- Movie review:\nwell\n- How was it?\n- Was it go", cut=True).prompts == AB
    assert continued("").problem


def test_ten_thousand_lines():
    begin = time.process_time()
    found = read(listed(*(f"prompt number {n}" for n in range(10_000)))).prompts
    assert len(found) == 200 and found[0] == "prompt number 0" and time.process_time() - begin < 1


@pytest.mark.parametrize(
    "piece",
    ["x", "[", "<think>", "</think>", '"', "\\", "( ", "- ", "`", '{"', '{"a":', "**", "<prompt>", "<|channel|>", "<answer>", "//",
     "<details ", "a-", "1. a ", "```\n", '{"prompt": "a"} ', "[[", "Prompt: a\n"],
)  # fmt: skip
def test_size_does_not_stop_it(piece):
    begin = time.process_time()
    for text in (piece * 10**5, piece * 5000 + "</think>", "[ // " + piece * 10**5):
        assert all(len(each) <= 500 for each in read(text).prompts)
    assert time.process_time() - begin < 2


PIECES = st.sampled_from(
    [
        "{",
        "[",
        '"',
        "\\",
        "```",
        "\n",
        "<think>",
        "</think>",
        "1. ",
        "- ",
        "(loss ",
        ")",
        ":",
        ",",
        "prompts",
        "**",
        "Prompt 1",
        "#",
        "//",
    ]
)


@given(st.text() | st.lists(PIECES | st.text(max_size=3)).map("".join), st.booleans(), st.integers(1, 3))
@example("[" * 5000, False, 1)
@example('{"a": [{"b": NaN}, null, 1]}', False, 1)
@settings(max_examples=300, deadline=None)
def test_any_text(text, cut, wanted):
    found = read(text, cut=cut, wanted=wanted)
    assert len(found.prompts) <= 200 and bool(found.prompts) != bool(found.problem)
    for each in found.prompts:
        assert each and len(each) <= 500 and "\n" not in each


@given(st.lists(PROMPTS, max_size=8))
@settings(max_examples=100, deadline=None)
def test_json_that_was_cut_anywhere_gives_a_beginning_of_the_whole(prompts):
    text = as_json(*prompts)
    for end in range(text.index("[") + 1, len(text)):
        found = read(text[:end]).prompts
        assert found == tuple(prompts)[: len(found)] and len(found) >= text[:end].count('", "')
