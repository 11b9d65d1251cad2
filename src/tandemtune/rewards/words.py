"""Rewards that compare words: nothing has to be installed. The best of several references counts."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import cache

from tandemtune.rewards.base import Reward, add, best_over

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = string.punctuation + "\u2018\u2019\u201c\u201d"  # curly quotes, too
_SIGN = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_NUMBER = re.compile(
    r"(?:(?<![\w)\]])[-\u2212])?"  # what joins two numbers (a range, a date, a difference) is no sign
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])\.\d+)(?:[eE][+-]?\d+(?!\w))?"
)


def pieces(text: str) -> list[str]:
    """The words of a text of any script, the marks above, below and behind their letters among them; of Chinese and Japanese, which leave
    no blanks between words, the signs."""
    whole = unicodedata.normalize("NFC", text)
    marks = {char for char in whole if not char.isascii() and unicodedata.category(char)[0] == "M"}
    return _piece("".join(sorted(char for char in marks if not _SIGN.match(char)))).findall(whole)


@cache
def _piece(marks: str) -> re.Pattern[str]:
    letters = rf"[^\W_{_SIGN.pattern[1:-1]}]"
    return re.compile(
        rf"{_SIGN.pattern}|(?:{letters}|[{re.escape(marks)}])+" if marks else rf"{_SIGN.pattern}|{letters}+"
    )


def normal(text: str, *, articles: bool = False, marks: bool = False) -> str:
    """A text in small letters without punctuation, articles and double blanks (SQuAD's rule, arXiv 1606.05250).

    Args:
        text: any.
        articles: keep them.
        marks: keep punctuation.
    """
    small = unicodedata.normalize("NFC", text).lower()
    kept = small if marks else "".join(char for char in small if char not in _MARKS)
    return " ".join((kept if articles else _ARTICLES.sub(" ", kept)).split())


def words_of(completion: str, reference: str) -> tuple[list[str], list[str]]:
    """The words of two texts as they are compared: without articles and punctuation, as far as something is left of the reference, and where
    one of them has signs of Chinese or Japanese, which leave no blanks between words, each of these by itself."""
    for kept in ({}, {"articles": True}, {"articles": True, "marks": True}):
        said, true = normal(completion, **kept), normal(reference, **kept)
        if true:
            break
    if _SIGN.search(said + true):
        return pieces(said), pieces(true)
    return said.split(), true.split()


def token_f1(completion: str, reference: str) -> float:
    """F1 of the words of two texts, see `words_of`."""
    said, true = words_of(completion, reference)
    if not said or not true:
        return float(said == true)
    shared = sum((Counter(said) & Counter(true)).values())
    return 2 * shared / (len(said) + len(true))


def last_number(text: str) -> float | None:
    """The last number that stands in a text; None if there is none. Commas are part of it before groups of three digits."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("\u2212", "-")) if found else None


def _same_number(completion: str, reference: str) -> float:
    said, true = last_number(completion), last_number(reference)
    if said is None or true is None:
        return 0.0
    return float(said == true or abs(said - true) <= 1e-9 * max(1.0, min(abs(said), abs(true))))


def _same(completion: str, reference: str) -> float:
    said, true = words_of(completion, reference)
    return float(said == true)


def _held(completion: str, reference: str) -> float:
    said, true = (f" {' '.join(words)} " for words in words_of(completion, reference))
    return float(true in said)


def _added(name: str, summary: str, compare: Callable[[str, str], float]) -> Reward:
    """A reward that compares a text with one reference at a time."""
    return add(
        Reward(
            name,
            summary,
            lambda written: best_over(written.references, written.completions, compare),
            needs="references",
        )
    )


EXACT_MATCH = _added("exact_match", "1 where the text is a reference, but for case, punctuation and articles", _same)
CONTAINS = _added("contains", "1 where a reference stands in the text", _held)
TOKEN_F1 = _added("token_f1", "F1 of the words of the text and of the nearest reference", token_f1)
NUMBER = _added("number", "1 where the last number in the text is that of a reference", _same_number)
