"""Cloze templates: ``"{text} It was {mask}."`` with named fields and one mask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tandemtune.errors import DataError
from tandemtune.tasks.wording import nfc
from tandemtune.types import Rendered

MASK = "mask"
SLOT = re.compile(r"\{([^{}\s](?:[^{}\r\n]*[^{}\s])?)\}")
"""A column's name in braces: any letters, blanks within it."""
_PARTS = re.compile(r"(?P<brace>\{\{|\}\})|" + SLOT.pattern)


@dataclass(frozen=True)
class Template:
    """A parsed template: literal pieces and slots in order.

    Text that is filled in is never parsed again, so a review that contains ``{mask}`` is harmless.

    Args:
        pieces: alternating ``(kind, value)`` with kind "literal" or "slot".
    """

    pieces: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, source: str) -> Template:
        """Read a template.

        Args:
            source: literal text with ``{field}`` slots and exactly one ``{mask}``; ``{{`` and ``}}`` are braces of the text. A field is the name of a column in any
                script, blanks within it included; how its accents are encoded makes no difference (NFC).

        Raises:
            DataError: no mask, several masks, no field, or stray braces.
        """
        pieces: list[tuple[str, str]] = []
        literal, end, stray = "", 0, ""
        for match in _PARTS.finditer(source):
            between = source[end : match.start()]
            stray = stray or (between if "{" in between or "}" in between else "")
            literal, end = literal + between, match.end()
            if match["brace"]:
                literal += match["brace"][0]
                continue
            if literal:
                pieces.append(("literal", literal))
            pieces.append(("slot", nfc(match[2])))
            literal = ""
        rest = source[end:]
        stray = stray or (rest if "{" in rest or "}" in rest else "")
        if literal + rest:
            pieces.append(("literal", literal + rest))
        masks = sum(piece == ("slot", MASK) for piece in pieces)
        if masks != 1:
            raise DataError(
                f"template {source!r} has {masks} {{mask}} slots, expected exactly one: "
                'write for example "{text} It was {mask}."'
            )
        if not any(kind == "slot" and value != MASK for kind, value in pieces):
            raise DataError(
                f"template {source!r} names no field of the examples, for example {{text}} (double braces are braces of the text)"
            )
        if stray:
            raise DataError(
                f"template {source!r} has a brace that is no slot, near {stray!r}: a slot is the name of a column in braces, with "
                "no blank next to a brace; braces of the text itself are doubled"
            )
        return cls(tuple(pieces))

    def __str__(self) -> str:
        return "".join(
            value.replace("{", "{{").replace("}", "}}") if kind == "literal" else f"{{{value}}}"
            for kind, value in self.pieces
        )

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the example columns that the template needs, in order, each once."""
        names = (value for kind, value in self.pieces if kind == "slot" and value != MASK)
        return tuple(dict.fromkeys(names))

    @property
    def before_mask(self) -> str:
        """Literal text directly before the mask ("" if a field stands there)."""
        index = self.pieces.index(("slot", MASK))
        return self.pieces[index - 1][1] if index and self.pieces[index - 1][0] == "literal" else ""

    @property
    def after_mask(self) -> tuple[tuple[str, str], ...]:
        """Pieces behind the mask."""
        return self.pieces[self.pieces.index(("slot", MASK)) + 1 :]

    def render(self, fields: Mapping[str, str], mask: str) -> Rendered:
        """Fill the template.

        Args:
            fields: text of every field that the template names.
            mask: what stands at the answer's place: the model's mask token, or "" for a causal model.

        Returns:
            The text, the mask's span and the span of each field (its last use).

        Raises:
            DataError: a field is missing.
        """
        text = ""
        span = (0, 0)
        spans: dict[str, tuple[int, int]] = {}
        for kind, value in self.pieces:
            if kind == "literal":
                text += value
                continue
            if value != MASK and value not in fields:
                raise DataError(f"the template needs the field {value!r}, the example has {sorted(fields)}")
            piece = mask if value == MASK else fields[value]
            here = (len(text), len(text) + len(piece))
            text += piece
            if value == MASK:
                span = here
            else:
                spans[value] = here
        return Rendered(text=text, mask=span, spans=spans)
