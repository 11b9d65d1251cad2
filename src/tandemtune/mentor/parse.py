"""From what a mentor said to candidate prompts. Takes any text; whether a candidate is fit for use is decided in `judge`."""

from __future__ import annotations

import json
import re
from typing import Any

_MOST = 200  # candidates that are looked at
_LINE = 500  # characters of one that are kept
_ANSWER = 200_000  # characters that are looked at

_THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_JSON = re.compile(r"\{\s*\"|\[\s*[\"{\]]")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?')
_MARK = re.compile(r"^(?:[-•–—]|[*+](?=\s)|\(?\d{1,3}[.):](?!\d)|\(?[a-hA-H]\)|[Pp]rompt\s*\d{1,3}\s*[:.)])\s*")
_NOTE = re.compile(
    r"\s*[(\[][^()\[\]]{0,60}\b(?:loss|accuracy|acc|score|f1|words?|tokens?)\b[^()\[\]]{0,60}[)\]]\s*$", re.IGNORECASE
)
_BARE_NOTE = re.compile(r"\s*[-–—,;|]?\s*\b(?:loss|accuracy|score|f1)\s*[=:≈]?\s*\d[\d.]*\s*%?$", re.IGNORECASE)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`", "„": "“"}


def parse(text: str, *, cut: bool = False) -> tuple[str, ...]:
    """Find the prompts in an answer: JSON, also fenced or cut off, else numbered, bulleted or plain lines.

    Args:
        text: what was said.
        cut: it ended at the length limit, so its last line may be half a prompt.

    Returns:
        Candidates in order, white space flattened; at most some hundred of bounded length.
    """
    text = _THOUGHT.sub("\n", text[:_ANSWER])
    text = text.rpartition("</think>")[2]
    fenced = _FENCE.search(text)
    if fenced and fenced.group(1).strip():
        text = fenced.group(1)
    found = _from_json(text)
    if found is None:
        found = _from_lines(text, cut)
    flat = (_bare(" ".join(each[: 4 * _LINE].split())) for each in found[:_MOST])
    return tuple(each[:_LINE] for each in flat if each)


def _from_json(text: str) -> list[str] | None:
    """Strings of a JSON answer, None if it is none. Of one that was cut off, the strings that are whole."""
    start = _JSON.search(text)
    if start is None:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start.start())
        found = _strings(value)
    except (ValueError, RecursionError):
        body = text[start.start() :]
        pieces = [piece for piece, name in _STRING.findall(body[body.find("[") + 1 :]) if not name]
        found = [s for piece in pieces[:_MOST] if (s := _unescaped(piece)) is not None]
    return found if found or text.lstrip().startswith(("{", "[")) else None


def _strings(value: Any) -> list[str]:
    """Prompts in a JSON value: a list of strings or of objects with one string, or an object that holds such a list."""
    if isinstance(value, dict):
        lists = [each for each in value.values() if isinstance(each, list)]
        value = lists[0] if lists else list(value.values())
    if not isinstance(value, list):
        return []
    found: list[str] = []
    for each in value[:_MOST]:
        texts = [t for t in each.values() if isinstance(t, str)] if isinstance(each, dict) else [each]
        found += [t for t in texts[:1] if isinstance(t, str)]
    return found


def _unescaped(piece: str) -> str | None:
    try:
        return str(json.loads(f'"{piece}"', strict=False))
    except ValueError:
        return None


def _from_lines(text: str, cut: bool) -> list[str]:
    """Lines of a plain answer; where some are marked as items of a list, only those."""
    lines = [line.strip() for line in text.split("\n", 2 * _MOST)[: 2 * _MOST]]
    if cut and lines:
        lines.pop()
    lines = [line for line in lines if line and not line.startswith("```")]
    marked = [line for line in lines if _MARK.match(line)]
    return marked or lines


def _bare(line: str) -> str:
    """A prompt without list marks, notes, emphasis and quotes around it."""
    line = line.replace("**", "").strip()
    while mark := _MARK.match(line):
        line = line[mark.end() :]
    line = _BARE_NOTE.sub("", _NOTE.sub("", line))
    if line.endswith(('",', "',")):
        line = line[:-1]
    while len(line) >= 2 and _QUOTES.get(line[0]) == line[-1] and line[0] not in line[1:-1]:
        line = line[1:-1].strip()
    return line
