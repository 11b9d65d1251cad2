"""What a model is given of an example: the words before they are cut, how many tokens they are, and how many may be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from tandemtune.errors import DataError
from tandemtune.models.marks import around
from tandemtune.tasks.templates import Template
from tandemtune.types import Example, Rendered

Truncate = Literal["end", "start", "middle"]
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx", "context_length")
"""What configurations call the largest number of tokens."""
UNBOUNDED = 1_000_000
SHORTEST = 4
"""Tokens that a prompt has at least."""
_WORD = re.compile(r"\w")


def prompt_text(tokenizer: Any, kind: str, template: Template, fields: Mapping[str, str]) -> tuple[str, Rendered]:
    """The words that a model reads, and where the texts stand in them: up to the answer, or all with the mask in its place."""
    rendered = template.render(fields, tokenizer.mask_token if kind == "masked" else "")
    return (rendered.text if kind == "masked" else rendered.text[: rendered.mask[0]].rstrip(" ")), rendered


def token_counter(tokenizer: Any, kind: str, template: Template) -> Callable[[Example], int]:
    """What counts the tokens of an example's whole prompt, uncut.

    Args:
        tokenizer: the model's.
        kind: "masked", "causal" or "seq2seq".
        template: the task's.
    """
    unread = len(around(tokenizer).behind) if kind == "causal" else 0

    def count(example: Example) -> int:
        text, _ = prompt_text(tokenizer, kind, template, example.fields)
        return len(tokenizer(text, verbose=False)["input_ids"]) - unread

    return count


def goes_on(name: str, kind: str, template: Template) -> str:
    """Why this kind of model cannot answer a template that goes on behind its answer; empty where it can, or nothing stands there.

    Args:
        name: of the model.
        kind: "masked", "causal" or "seq2seq".
        template: the task's.
    """
    if kind == "masked" or not any(part == "slot" or _WORD.search(value) for part, value in template.after_mask):
        return ""
    how = "reads from left to right" if kind == "causal" else "answers after it has read the text"
    return f"{name} is a {kind} model: it {how}, so {{mask}} must be the last word of the template, but {str(template)!r} goes on after it"


def writes_nothing(name: str) -> str:
    """Why a masked model cannot be asked for whole answers."""
    return f"{name} is a masked model, which writes no texts: choose a causal or sequence-to-sequence model"


def no_room(template: Template, limit: int, longest: int) -> DataError:
    """The error of a template that leaves no room for texts.

    Args:
        template: the task's.
        limit: tokens that a prompt may have.
        longest: tokens that the model allows.
    """
    return DataError(
        f"the template {str(template)!r} alone is longer than max_tokens = {limit}: "
        f"raise [task] max_tokens (the model allows {longest}) or shorten the template"
    )


def no_room_beside(behind: int, longest: int) -> str:
    """What is wrong with answers that leave no room for a prompt.

    Args:
        behind: tokens of the longest answer.
        longest: tokens that the model allows.
    """
    return f"[task] max_new_tokens: {behind} of the model's {longest} tokens leave no room for a prompt: lower it"


def longest_of(config: Any) -> int:
    """How many tokens a model's configuration allows (a large number if it says nothing).

    Args:
        config: of the whole model, or of its language part.
    """
    settings = config.get_text_config() if hasattr(config, "get_text_config") else config
    bounds = [getattr(settings, name, None) for name in _LENGTHS]
    return next((int(bound) for bound in bounds if bound), UNBOUNDED)


def shortened(
    texts: dict[str, str], cuts: Mapping[str, Sequence[int]], excess: int, truncate: Truncate
) -> dict[str, str]:
    """Texts without some tokens of the longest one: down to the second longest, or by its share of the excess.

    Args:
        texts: by column.
        cuts: where the tokens of each end, at least one in some text.
        excess: tokens that are too many in all.
        truncate: the part that the longest text loses.
    """
    lengths = sorted(((len(ends), name) for name, ends in cuts.items()), reverse=True)
    longest, name = lengths[0]
    second = lengths[1][0] if len(lengths) > 1 else 0
    drop = min(excess, max(1, longest - second, excess // len(lengths)))
    return {**texts, name: _without(texts[name], cuts[name], drop, truncate)}


def _without(text: str, ends: Sequence[int], drop: int, truncate: Truncate) -> str:
    """A text without some of its tokens; pieces of one character stay or go together.

    Args:
        text: the text.
        ends: where each of its tokens ends.
        drop: how many tokens go, at least 1.
        truncate: which ones.
    """
    first = len(ends) - drop if truncate == "end" else 0 if truncate == "start" else (len(ends) - drop) // 2
    last = first + drop
    while first > 0 and ends[first - 1] == ends[first]:
        first -= 1
    while last < len(ends) and ends[last - 1] == ends[last]:
        last += 1
    before = text[: ends[first - 1]] if first > 0 else ""
    if truncate == "end":
        return before
    behind = text[ends[last - 1] :] if last < len(ends) else ""
    return f"{before} {behind.lstrip()}" if before and behind else before or behind.lstrip()
