"""The final answer of a model that thinks aloud: without its thoughts, its other channels and the marks of turns."""

from __future__ import annotations

import re

# What models call their thoughts: in tags, in channels, and as keys of JSON.
THOUGHT = r"(?:think(?:ing)?|thoughts?|reason(?:ing|s)?|reflections?|rationale|scratchpad|analysis|explanation)"
_NAME = rf"(?:[a-z]{{1,12}}[:_.-]){{0,3}}{THOUGHT}(?:[_-][a-z]{{1,12}})?"
_END = r"(?:\|?>|\]|▷|⟩)"
_OPENED = (
    rf"(?:<\|?|\[|◁|⟨)(?!end_){_NAME}(?:\s[^<>\[\]\n]{{0,200}})?{_END}|<details\b[^<>]{{0,200}}>|<\|channel>{_NAME}"
)
_CLOSED = rf"(?:<\|?/|\[/|◁/|⟨/|(?:<\|?|\[)(?=end_)){_NAME}{_END}|</details>|<channel\|>"
_OPENING = re.compile(_OPENED, re.IGNORECASE)
_CLOSING = re.compile(_CLOSED, re.IGNORECASE)
_PAIR = re.compile(rf"(?:{_OPENED}).*?(?:{_CLOSED})", re.IGNORECASE | re.DOTALL)

_CHANNEL = re.compile(
    r"<\|channel\|>\s*(\w+)(?:[^<]|<\|constrain\|>)*<\|message\|>(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
_UNMARKED_CHANNEL = re.compile(r"\s*analysis[A-Z]")  # how a channel begins where the server drops its marks
_FIRST_MARKS = re.compile(r"(?:\s*(?:<\|\w+\|>|<start_of_turn>|<s>)(?:\s*(?:assistant|model)\b)?)+")
_END_OF_TURN = re.compile(
    r"<\|(?:im_end|im_start|eot_id|eom_id|end|endoftext|end_of_text|end_of_turn|return|call|user)\|>|</s>|<end_of_turn>|<eos>",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"<(answer|final_answer|final|output|response|result|solution|prompts)>(.*?)(?:</\1>|\Z)", re.IGNORECASE | re.DOTALL
)


def final_answer(text: str) -> str:
    """The part of an answer that is meant for the reader.

    Args:
        text: what was said.

    Returns:
        What stands behind the thoughts, in the final channel, and in an element named `answer` or the like where there is one;
        "" if there is nothing but thoughts.
    """
    text = _without_thoughts(_final_channel(text))
    first = _FIRST_MARKS.match(text)
    text = text[first.end() :] if first else text
    text = _END_OF_TURN.split(text, maxsplit=1)[0]
    answers = [body for _, body in _ANSWER.findall(text) if body.strip()]
    return answers[-1] if answers else text


def _final_channel(text: str) -> str:
    if _UNMARKED_CHANNEL.match(text):
        return text.rpartition("assistantfinal")[2] if "assistantfinal" in text else ""
    if "<|channel|>" not in text:
        return text
    spoken = [(name, body) for name, body in _CHANNEL.findall(text) if name.lower() != "analysis"]
    final = [body for name, body in spoken if name.lower() == "final"]
    return final[-1] if final else spoken[-1][1] if spoken else ""


def _without_thoughts(text: str) -> str:
    """What stands behind the last thought; where nothing does, what stands around the thoughts."""
    closed = _last_end(text)
    if closed and not text[closed:].strip():
        text = _PAIR.sub("\n", text)
        closed = _last_end(text)
    text = text[closed:]
    opening = _OPENING.search(text)
    return text[: opening.start()] if opening else text


def _last_end(text: str) -> int:
    return max((found.end() for found in _CLOSING.finditer(text)), default=0)
