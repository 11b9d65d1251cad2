"""How a recipe names parts (optimizer, tunable, ...), which bring options and rules of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from tandemtune import plugins
from tandemtune.errors import UsageError
from tandemtune.plugins import Member

PARTS: dict[str, dict[str, str]] = {
    "method": {"optimizer": "cma-es", "tunable": "lora", "subspace": "random", "objective": "ce", "readout": "none"},
    "alternate": {"proposer": "mentor"},
    "run": {"executor": "local"},
}
"""Sections with parts: the nouns, and the member that is taken where a recipe names none."""
THEN = "method.then"
"""What messages call an entry of `then`, with its number behind."""
PARTS_OF_THEN = {noun: PARTS["method"][noun] for noun in ("optimizer", "subspace", "objective")}
"""The parts that an entry of `then` may name; the others are those of the whole run."""


def parts_of(section: str) -> dict[str, str]:
    """The nouns of a section (or of an entry of `then`), and the member that is taken where a recipe names none."""
    return PARTS_OF_THEN if section.startswith(THEN) else PARTS.get(section, {})


class PartOf:
    """How pydantic reads and writes a part: ``{kind = "...", option = ...}``, just a name, or a member itself.

    Args:
        noun: which kind of part.
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.read, serialization=core_schema.plain_serializer_function_ser_schema(written)
        )

    def read(self, value: Any) -> Member:
        """The member that a recipe names, with its options checked."""
        if isinstance(value, Member):
            if value.noun != self.noun:
                raise ValueError(f"{type(value).__name__}(...) is a {value.noun}, expected one of kind {self.noun}")
            return value
        table = {"kind": value} if isinstance(value, str) else value
        if not isinstance(table, Mapping) or not isinstance(table.get("kind"), str):
            raise ValueError(f'expected a name or a table such as {{ kind = "..." }}, got {value!r}')
        try:
            member: type[Member] = plugins.find(self.noun, table["kind"])
        except UsageError as error:
            raise ValueError(str(error)) from None
        return member.model_validate({key: option for key, option in table.items() if key != "kind"})


def written(part: Member) -> dict[str, Any]:
    """A part as a recipe has it."""
    return {"kind": plugins.address_of(type(part)), **part.model_dump(mode="json")}
