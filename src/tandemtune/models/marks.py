"""Marks of a tokenizer: those that it puts round every text, and those that a text may only seem to spell out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tandemtune.errors import ModelError

_LIKE_A_MARK = re.compile(r"[^\w\s].*\w.*[^\w\s]", re.DOTALL)
"""Added words and runs of blanks are text; "<think>" and "[INST]" are not."""


@dataclass(frozen=True)
class Around:
    """Ids that a tokenizer puts before and behind every text."""

    before: tuple[int, ...]
    behind: tuple[int, ...]


def around(tokenizer: Any, *, target: bool = False) -> Around:
    """Which marks stand round a text: found by tokenizing one with marks and without.

    Args:
        tokenizer: a tokenizer of `transformers`.
        target: round what a decoder has to write, where the tokenizer tells that from what is read.

    Raises:
        ModelError: it cannot be told.
    """
    what = "text_target" if target else "text"
    for text in ("a", "it was a film"):
        plain, marked = (
            list(tokenizer(**{what: text}, add_special_tokens=marks)["input_ids"]) for marks in (False, True)
        )
        places = [i for i in range(len(marked) - len(plain) + 1) if plain and marked[i : i + len(plain)] == plain]
        if places:
            return Around(tuple(marked[: places[0]]), tuple(marked[places[0] + len(plain) :]))
    raise ModelError(
        f"{type(tokenizer).__name__} cuts a text in other pieces when it puts its marks round it, so it cannot be told which "
        "tokens are marks: save the model with a tokenizer that adds marks around the pieces of a text"
    )


def separator(tokenizer: Any) -> tuple[int, ...]:
    """Token ids that part two texts: a line break where the tokenizer has one, else two blanks, else nothing.

    Tokenizers that throw both away (BERT's, T5's) begin a new word anyway.
    """
    for text in ("\n", "  "):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        kept = tuple(i for i in ids if text[0] in tokenizer.decode([i], clean_up_tokenization_spaces=False))
        if kept:
            return kept
    return ()


def control_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of all marks that a text could spell out: special tokens, and whatever was added in the form of a mark."""
    special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=False))
    added = {
        index: token.content
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special or _LIKE_A_MARK.fullmatch(token.content.strip())
    }
    return frozenset(index for index, content in {**special, **added}.items() if len(content.strip()) > 1)


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Special tokens, which decoding leaves out, and their ids."""
    ids = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=False))
    ids |= {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return ids


def as_words(text: str, special: Iterable[str]) -> str:
    """A text with a blank in each special token of more than one sign that it spells out, so that none is in its tokens.

    Args:
        text: the text.
        special: contents of the special tokens.
    """
    for mark in sorted((one for one in special if len(one.strip()) > 1 and one in text), key=len, reverse=True):
        spans = [(found.start(), found.end()) for found in re.finditer(re.escape(mark), text)]
        text = broken(text, spans)
    return text


def broken(text: str, spans: Sequence[tuple[int, int]], *, shorter: bool = False) -> str:
    """A text with a blank behind the first sign of each span.

    Args:
        text: the text.
        spans: where it spells out a mark, as (begin, end); a mark may have begun before the text.
        shorter: leave that sign out instead, for tokenizers that do not see blanks.
    """
    for begin, end in sorted(spans, reverse=True):
        first = max(begin, 0)
        while first < end - 1 and text[first].isspace():
            first += 1
        if shorter:
            text = text[:first] + text[first + 1 :]
        else:
            place = first + 1 if begin >= 0 else first
            text = f"{text[:place]} {text[place:]}"
    return text
