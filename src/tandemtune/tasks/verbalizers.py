"""Label words: which vocabulary entries stand for which label. One verbalizer serves the loss and the metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tandemtune.errors import DataError
from tandemtune.tasks.templates import Template

_BLANKS = "▁Ġ \t\n\u00a0"
"""A blank, and how the pieces of tokenizers write it."""


@dataclass(frozen=True)
class Verbalizer:
    """Label words resolved against one tokenizer and one template.

    Args:
        labels: label names, in the task's order.
        token_ids: vocabulary ids of all label words, each once [W].
        members: for each label the positions in `token_ids` whose logits are averaged.
        notes: what a user should know, for example that only a word's first piece is read.
    """

    labels: tuple[str, ...]
    token_ids: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...] = ()

    def weights(self) -> list[list[float]]:
        """Matrix [W][C] that turns label-word logits into label logits (mean over a label's words)."""
        table = [[0.0] * len(self.labels) for _ in self.token_ids]
        for label, positions in enumerate(self.members):
            for position in positions:
                table[position][label] = 1.0 / len(positions)
        return table


def resolve(
    tokenizer: Any, template: Template, words: Mapping[str, Sequence[str]], *, alone: bool = False
) -> Verbalizer:
    """Find the piece of each label word that would really follow the template.

    A word behind a blank is another vocabulary entry than the bare word in most tokenizers, so the word is tokenized in
    its place. Of a word of several pieces the first is read.

    Args:
        tokenizer: a tokenizer of `transformers`.
        template: the task's template.
        words: label words by label.
        alone: the answer is a text of its own, which a decoder writes; else it follows the template's words.

    Raises:
        DataError: a word the tokenizer does not know or cuts behind its blank, or two labels whose words begin with the same
            piece.
    """
    before = "" if alone else template.before_mask
    spaced = before.endswith(" ")
    stem = before.rstrip(" ")
    first_piece = alone or template.pieces[0] == ("slot", "mask")
    if not stem and not first_piece:
        stem = "text"  # some words stand before the mask; which ones does not change how a word is cut
    stem_ids = _ids(tokenizer, stem) if stem else []
    notes: list[str] = []
    owner: dict[int, tuple[str, str]] = {}
    members: list[tuple[int, ...]] = []
    token_ids: list[int] = []
    for label, choices in words.items():
        positions: list[int] = []
        for word in choices:
            pieces = _pieces(tokenizer, stem, stem_ids, (" " if spaced else "") + word)
            piece = pieces[0] if pieces else None
            if piece is None or piece == tokenizer.unk_token_id:
                raise DataError(
                    f"label word {word!r} of label {label!r} is unknown to the tokenizer: choose another word"
                )
            if not tokenizer.convert_ids_to_tokens(piece).strip(_BLANKS):
                rest = "".join(tokenizer.convert_ids_to_tokens(pieces[1:]))
                way = (
                    "choose another word"
                    if alone
                    else "leave out the blank before {mask} in the template, or choose a word that"
                )
                raise DataError(
                    f"label word {word!r} of label {label!r}: the tokenizer cuts the blank before it off as a piece of its own, "
                    f"{tokenizer.convert_ids_to_tokens(piece)!r} and {rest!r}, and a blank alone stands for no word: "
                    f"{way if alone else way + ' is one piece with its blank'}"
                )
            if piece in owner and owner[piece][0] != label:
                other_label, other_word = owner[piece]
                raise DataError(
                    f"label words {other_word!r} ({other_label}) and {word!r} ({label}) begin with the same piece "
                    f"{tokenizer.convert_ids_to_tokens(piece)!r}, so the model cannot tell them apart: "
                    "choose words with different beginnings"
                )
            if len(pieces) > 1:
                shown = tokenizer.convert_ids_to_tokens(piece)
                notes.append(f"label word {word!r} has {len(pieces)} pieces; its first, {shown!r}, is read")
            if piece not in owner:
                owner[piece] = (label, word)
                positions.append(len(token_ids))
                token_ids.append(piece)
        members.append(tuple(positions))
    return Verbalizer(tuple(words), tuple(token_ids), tuple(members), tuple(notes))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _pieces(tokenizer: Any, stem: str, stem_ids: list[int], word: str) -> list[int]:
    whole = _ids(tokenizer, stem + word)
    if whole[: len(stem_ids)] == stem_ids:
        return whole[len(stem_ids) :]
    return _ids(tokenizer, word)
