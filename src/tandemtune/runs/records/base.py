"""What all records of a run have in common: how they are written and read, and numbers that JSON has no word for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandemtune.errors import RunError

SCHEMA = 2
"""Number of the form in which records are written; a change that old readers would misread raises it."""
DIGITS = 6
"""Decimals of scores and losses in results."""

Loss = float | None


class Record(BaseModel):
    """Base of all records: immutable, complete, nothing that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def plain(self) -> dict[str, Any]:
        """The record as JSON has it; optional fields that are not set are left out."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def read(cls, content: Mapping[str, Any], where: Path | str) -> Self:
        """A record out of JSON.

        Raises:
            RunError: the content is not such a record; names the file and the first field that is wrong.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise RunError(f"{where}: {first_problem(error)}") from None


class Versioned(Record):
    """Base of records that stand in files of their own; they say in which form they are written."""

    schema_: Annotated[int, Field(alias="schema")] = SCHEMA

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    def plain(self) -> dict[str, Any]:
        """The record as JSON has it, its schema number first."""
        return {"schema": self.schema_, **self.model_dump(mode="json", exclude={"schema_"}, by_alias=True)}

    @classmethod
    def read(cls, content: Mapping[str, Any], where: Path | str) -> Self:
        """A record out of JSON.

        Raises:
            RunError: it was written in another form, or is damaged.
        """
        check_schema(content.get("schema"), str(where))
        return super().read(content, where)


def rounded(value: float | None) -> float | None:
    """A number as a result has it."""
    return round(value, DIGITS) if value is not None and math.isfinite(value) else None


def to_loss(value: float) -> Loss:
    """A loss as a record has it: None stands for NaN and infinity."""
    value = float(value)
    return value if math.isfinite(value) else None


def from_loss(value: Loss) -> float:
    """A recorded loss as a number: None was NaN or infinite, and counts as infinite."""
    return math.inf if value is None else value


def check_schema(found: Any, where: str) -> None:
    """Refuse what was written in another form.

    Raises:
        RunError: another number, or none.
    """
    if found != SCHEMA:
        came = "none" if found is None else repr(found)
        raise RunError(
            f"{where}: written in another form (schema {came}, this version reads {SCHEMA}): read it with the version of "
            "TandemTune that made it, or make the run anew"
        )


def first_problem(error: ValidationError) -> str:
    """The first field that is wrong, and what to do."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"damaged, {place}: {first['msg']}; restore the file"
