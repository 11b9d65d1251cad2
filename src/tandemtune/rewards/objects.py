"""Rewards of answers in JSON: whether they keep to a schema, and how many fields of a reference they have right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tandemtune.rewards.base import Reward, Written, add


def read_object(text: str) -> Any:
    """The JSON value that a text is, with nothing around it but blanks and a code fence; None if it is none."""
    inside = text.strip()
    if inside.startswith("```") and inside.endswith("```") and len(inside) >= 6:
        inside = inside[3:-3].removeprefix("json")
    try:
        return json.loads(inside, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> None:
    """NaN and infinities, which Python reads and JSON does not have."""
    raise ValueError(name)


def field_f1(found: Any, reference: Any) -> float:
    """F1 of the fields of two objects: a key with its value counts once; values are compared as text without case."""
    if not isinstance(found, Mapping) or not isinstance(reference, Mapping):
        return 0.0
    said, true = ({(str(key), _plain(value)) for key, value in one.items()} for one in (found, reference))
    return 2 * len(said & true) / (len(said) + len(true)) if said or true else 1.0


def _plain(value: Any) -> str:
    return " ".join(value.split()).lower() if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _fields(written: Written) -> list[float]:
    return [
        max((field_f1(read_object(completion), read_object(one)) for one in several), default=0.0)
        for completion, several in zip(written.completions, written.references, strict=True)
    ]


def _valid(written: Written) -> list[float]:
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(written.settings["answer_schema"])
    values = [read_object(completion) for completion in written.completions]
    return [float(value is not None and validator.is_valid(value)) for value in values]


JSON_SCHEMA = add(
    Reward(
        "json_schema",
        "1 where the text is JSON that keeps to [task] answer_schema",
        _valid,
        needs="answer_schema",
        package="jsonschema",
    )
)
JSON_FIELDS = add(
    Reward(
        "json_fields",
        "F1 of the fields of a JSON object, against a reference that is one",
        _fields,
        needs="references",
    )
)
