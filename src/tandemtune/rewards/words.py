"""Rewards that compare words: nothing has to be installed. The best of several references counts."""

from __future__ import annotations

import re
import string
from collections import Counter

from tandemtune.rewards.base import Reward, Written, add, best_over

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(
    r"(?:(?<![\w)\]])[-\u2212])?"  # what joins two numbers (a range, a date, a difference) is no sign
    r"(?:\d[\d,]*(?:\.\d+)?|(?<![\w.])\.\d+)(?:[eE][+-]?\d+(?!\w))?"
)


def normal(text: str) -> str:
    """A text in small letters without punctuation, articles and double blanks (SQuAD's rule, arXiv 1606.05250)."""
    kept = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def token_f1(completion: str, reference: str) -> float:
    """F1 of the words of two texts (SQuAD's rule, arXiv 1606.05250)."""
    said, true = normal(completion).split(), normal(reference).split()
    if not said or not true:
        return float(said == true)
    shared = sum((Counter(said) & Counter(true)).values())
    return 2 * shared / (len(said) + len(true))


def last_number(text: str) -> float | None:
    """The last number that stands in a text; None if there is none."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("\u2212", "-")) if found else None


def _same_number(completion: str, reference: str) -> float:
    said, true = last_number(completion), last_number(reference)
    if said is None or true is None:
        return 0.0
    return float(said == true or abs(said - true) <= 1e-9 * max(1.0, min(abs(said), abs(true))))


def _exact(written: Written) -> list[float]:
    return best_over(written.references, written.completions, lambda one, other: float(normal(one) == normal(other)))


def _contains(written: Written) -> list[float]:
    return best_over(
        written.references,
        written.completions,
        lambda one, other: float(f" {normal(other)} " in f" {normal(one)} "),
    )


EXACT_MATCH = add(
    Reward(
        "exact_match",
        "1 where the text is a reference, but for case, punctuation and articles",
        _exact,
        needs="references",
    )
)
CONTAINS = add(Reward("contains", "1 where a reference stands in the text", _contains, needs="references"))
TOKEN_F1 = add(
    Reward(
        "token_f1",
        "F1 of the words of the text and of the nearest reference",
        lambda written: best_over(written.references, written.completions, token_f1),
        needs="references",
    )
)
NUMBER = add(
    Reward(
        "number",
        "1 where the last number in the text is that of a reference",
        lambda written: best_over(written.references, written.completions, _same_number),
        needs="references",
    )
)
