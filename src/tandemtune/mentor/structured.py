"""Prompts in JSON, wherever it stands in an answer, also with comments, with a comma too many, or cut off."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tandemtune.mentor.thoughts import THOUGHT

_MOST_TRIES = 200  # places at which JSON may begin
_START = re.compile(r"\{\s*\"|\[\s*[\"{\[]")
_TOKEN = re.compile(
    r'(?P<string>"(?:[^"\\]|\\.)*+\\?(?:"|(?P<open>\Z)))|(?P<comment>//[^\n]*|/\*.*?\*/|#[^\n]*)|(?P<mark>[\[\]{},])'
    r'|[^"/#\[\]{},]+|.',
    re.DOTALL,
)
_CLOSER = {"[": "]", "{": "}"}
_BETWEEN = re.compile(r"[\s,;*•-]*(?:\d{1,3}[.):])?\s*")  # what may stand between objects of one list
_BEHIND = " \t\r\n`"  # what may stand behind the last value
_LOOSE = json.JSONDecoder(strict=False)

_NEW = r"(?:(?:new|final|best|improved|better|candidate|proposed|suggested|optimi[sz]ed|revised|generated)[\s_-]*)?"
_PROMPTS = re.compile(rf"{_NEW}prompts", re.IGNORECASE)
_PROMPT = re.compile(rf"{_NEW}prompts?[\s_#-]*(?:\d{{1,3}}|[a-z])?", re.IGNORECASE)
_TEXT = re.compile(r"(?:prompt|text|instruction|candidate|template)[\s_-]*(?:text)?", re.IGNORECASE)
_ITEMS = re.compile(
    r"(?:texts|instructions|candidates|templates|proposals|suggestions|options|items|answers?|results?|output)",
    re.IGNORECASE,
)
_ORDINAL = re.compile(r"(?:option|candidate|item|text|instruction)?[\s_#-]*(?:\d{1,3}|[a-h])", re.IGNORECASE)
_THOUGHT_KEY = re.compile(rf"\b{THOUGHT}\b", re.IGNORECASE)


class Unclear(Exception):  # noqa: N818
    """An answer that can be read in several ways; the text says why, with "it" for the answer."""


@dataclass(frozen=True, slots=True)
class _Value:
    start: int
    end: int
    value: Any


def prompts_by_key(text: str, *, last: bool = False) -> list[str]:
    """Prompts under a key `prompts` or `prompt`, wherever it stands; of several such values the last.

    Args:
        text: an answer.
        last: only a value with which the text ends.

    Returns:
        The prompts, none if there is no such key.

    Raises:
        Unclear: one value has several such keys.
    """
    groups: list[list[str]] = []
    before: _Value | None = None  # a single prompt, with which a list of objects may go on
    end = 0
    for found in _values(text):
        prompts = _under_key(found.value)
        if not prompts:
            continue
        single = isinstance(found.value, dict) and len(prompts) == 1
        if single and before is not None and _BETWEEN.fullmatch(text, before.end, found.start):
            groups[-1] += prompts
        else:
            groups.append(prompts)
        before, end = found if single else None, found.end
    if last and text[end:].strip(_BEHIND):
        return []
    return groups[-1] if groups else []


def prompts_of_list(text: str) -> list[str]:
    """Prompts of a JSON value without that key which has its lines for itself: a list, or an object that holds one list.

    Raises:
        Unclear: there are several such values.
    """
    whole = [
        found
        for found in _values(text)
        if not text[text.rfind("\n", 0, found.start) + 1 : found.start].strip()
        and not text[found.end :].split("\n", 1)[0].strip()
    ]
    lists = [prompts for found in whole if (prompts := _unnamed(found.value))]
    if len(lists) > 1:
        raise Unclear("it holds several lists")
    return lists[0] if lists else []


def objects_with(text: str, key: str, *, last: bool = False) -> list[dict[str, Any]]:
    """Objects of JSON that have a key, at any depth and in their order; thoughts are not looked into.

    Args:
        text: an answer.
        key: what they have.
        last: only those of a value with which the text ends.
    """
    return [
        entry
        for found in _values(text)
        if not last or not text[found.end :].strip(_BEHIND)
        for entry in _having(found.value, key)
    ]


def _having(value: Any, key: str) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [entry for each in value for entry in _having(each, key)]
    if not isinstance(value, dict):
        return []
    if key in value:
        return [value]
    inner = [each for name, each in value.items() if not _THOUGHT_KEY.search(name.replace("_", " "))]
    return _having(inner, key)


def _values(text: str) -> Iterator[_Value]:
    """JSON values that are not parts of others; at last the first that is not quite JSON, mended."""
    place, broken = 0, None
    for _ in range(_MOST_TRIES):
        start = _START.search(text, place)
        if start is None:
            break
        place = start.start()
        try:
            value, end = _LOOSE.raw_decode(text, place)
        except (ValueError, RecursionError):
            broken = place if broken is None else broken
            place += 1
        else:
            yield _Value(place, end, value)
            place = end
    if broken is not None:
        body, length = _mended(text[broken:])
        try:
            yield _Value(broken, broken + length, _LOOSE.decode(body))
        except (ValueError, RecursionError):
            return


def _mended(text: str) -> tuple[str, int]:
    """JSON without comments and commas too many; one that is cut off ends behind its last whole element.

    Returns:
        The text of the value, and how many characters of `text` it came from.
    """
    kept: list[str] = []
    opened: list[str] = []
    whole = 0  # pieces up to the last place at which an element ends or a list begins
    for token in _TOKEN.finditer(text):
        piece = token.group()
        if token["comment"] is not None:
            continue
        if token["open"] is not None:
            break
        if token["mark"] is None:
            kept.append(piece)
            continue
        if piece == ",":
            whole = len(kept)
            kept.append(piece)
            continue
        if piece in _CLOSER:
            opened.append(piece)
        elif opened and _CLOSER[opened[-1]] == piece:
            opened.pop()
            while not kept[-1].strip() or kept[-1] == ",":
                kept.pop()
        else:
            break
        kept.append(piece)
        whole = len(kept)
        if not opened:
            return "".join(kept), token.end()
    closers = "".join(_CLOSER[each] for each in reversed(opened))
    return "".join(kept[:whole]) + closers, len(text)


def _under_key(value: Any) -> list[str] | None:
    """Prompts under the key; None if it is nowhere in the value. What is named as a thought is not looked into."""
    if isinstance(value, list):
        lists = [found for each in value if (found := _under_key(each)) is not None]
        return [prompt for found in lists for prompt in found] if lists else None
    if not isinstance(value, dict):
        return None
    many = [each for key, each in value.items() if _PROMPTS.fullmatch(key)]
    if len(many) > 1:
        raise Unclear("it holds several lists of prompts")
    own = many or [each for key, each in value.items() if _PROMPT.fullmatch(key)]
    if own:
        return [prompt for each in own for prompt in _items(each)]
    deeper = [
        found
        for key, each in value.items()
        if not _THOUGHT_KEY.search(key.replace("_", " ")) and (found := _under_key(each)) is not None
    ]
    if len(deeper) > 1:
        raise Unclear("it holds several lists of prompts")
    return deeper[0] if deeper else None


def _items(value: Any) -> list[str]:
    """Prompts in what stands under the key: a text, a list, or an object that numbers them."""
    if isinstance(value, str):
        return _inner(value) if value.lstrip().startswith(("[", "{")) else [value]
    if isinstance(value, list):
        return [text for each in value for text in (_entry(each) if isinstance(each, dict) else _strings(each))]
    if isinstance(value, dict):
        return _entry(value) or _numbered(value)
    return []


def _inner(text: str) -> list[str]:
    """Prompts of JSON that stands in a string."""
    try:
        value = _LOOSE.decode(text)
    except (ValueError, RecursionError):
        return []
    return [] if isinstance(value, str) else _under_key(value) or _items(value)


def _unnamed(value: Any) -> list[str]:
    if isinstance(value, list):
        return _items(value)
    if not isinstance(value, dict):
        return []
    lists = [each for key, each in value.items() if _ITEMS.fullmatch(key) and isinstance(each, list | dict)]
    return _items(lists[0]) if len(lists) == 1 else _numbered(value)


def _entry(entry: dict[str, Any]) -> list[str]:
    """The prompt of an object that says more about it."""
    for key in (_PROMPT, _TEXT):
        found = [each for name, each in entry.items() if key.fullmatch(name) and isinstance(each, str)]
        if found:
            return found[:1]
    return []


def _numbered(value: dict[str, Any]) -> list[str]:
    entries = [each for key, each in value.items() if _ORDINAL.fullmatch(key)]
    return [text for each in entries for text in (_entry(each) if isinstance(each, dict) else _strings(each))]


def _strings(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else []
