"""What a user should know of the right answers that a model is to learn to write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tandemtune.tasks.wording import show

Cut = Callable[[str], Sequence[int]]
"""Tokens of an answer, without marks."""


def notes_on(references: Sequence[str], tokenizer: Any, cut: Cut, most: int, stop: Sequence[str]) -> Iterator[str]:
    """One sentence for each thing that keeps a model from writing references as they are.

    Args:
        references: of the labelled rows.
        tokenizer: the model's.
        cut: turns them into tokens, as they follow a prompt.
        most: longest answer in tokens.
        stop: texts that end one.
    """
    every = f"of {len(references):,} references"
    tokens = {reference: cut(reference) for reference in references}
    lost, signs = unknown(references, tokenizer, tokens.__getitem__, cut)
    if lost:
        shown = f", such as {' '.join(signs)}" if signs else ""
        yield f"{len(lost):,} {every} hold what the tokenizer does not know{shown}: the model can neither learn nor write that"
    long = [reference for reference in references if len(tokens[reference]) > most]
    if long:
        yield (
            f"{len(long):,} {every} have more than max_new_tokens = {most} tokens: the model learns and writes their beginnings only; "
            "raise it for whole ones"
        )
    stopped = [reference for reference in references if any(one in reference for one in stop)]
    if stopped:
        said = ", ".join(show(one) for one in stop if any(one in reference for reference in stopped))
        yield f"{len(stopped):,} {every} hold what ends an answer ({said}): nothing from there on is ever written"


def unknown(
    references: Sequence[str], tokenizer: Any, cut: Cut, cut_sign: Cut | None = None
) -> tuple[list[str], list[str]]:
    """References that a tokenizer cannot write, and a few signs that it does not know.

    Args:
        references: right answers.
        tokenizer: the model's.
        cut: turns them into tokens.
        cut_sign: the same for single signs, where it differs.
    """
    mark = tokenizer.unk_token_id
    lost = [reference for reference in references if mark is not None and mark in cut(reference)]
    signs = [sign for sign in dict.fromkeys("".join(lost)) if not sign.isspace() and not sign.isalnum()]
    return lost, [sign for sign in signs if mark in (cut_sign or cut)(sign)][:5]
