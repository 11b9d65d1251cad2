"""Rewards of answers in JSON: whether they keep to a schema, and how many fields of a reference they have right."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tandemtune.errors import UsageError
from tandemtune.rewards.base import Reward, Written, add

NOTHING = object()
"""What a text is that is no JSON: null is."""


def read_object(text: str) -> Any:
    """The JSON value that a text is, with nothing around it but blanks and a code fence; `NOTHING` if it is none."""
    inside = text.strip()
    if inside.startswith("```") and inside.endswith("```") and len(inside) >= 6:
        inside = inside[3:-3]
        inside = inside[4:] if inside[:4].lower() == "json" else inside
    try:
        return json.loads(inside, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NOTHING


def _refuse(name: str) -> None:
    """NaN and infinities, which Python reads and JSON does not have."""
    raise ValueError(name)


def field_f1(found: Any, reference: Any) -> float:
    """F1 of the fields of two objects: a key with its value counts once; values are compared as text without case, inside lists and objects,
    too, and a number is the same with and without a fraction of 0."""
    if not isinstance(found, Mapping) or not isinstance(reference, Mapping):
        return 0.0
    try:
        said, true = ({(str(key), _text(value)) for key, value in one.items()} for one in (found, reference))
    except RecursionError:  # lists in lists in lists ...
        return 0.0
    return 2 * len(said & true) / (len(said) + len(true)) if said or true else 1.0


def _text(value: Any) -> str:
    """A value as it is compared."""
    if isinstance(value, str):
        return " ".join(value.split()).lower()
    if isinstance(value, list):
        return json.dumps([_text(one) for one in value])
    if isinstance(value, Mapping):
        return json.dumps({key: _text(one) for key, one in value.items()}, sort_keys=True)
    whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if whole else value)


def _fields(written: Written) -> list[float]:
    return [
        max((field_f1(read_object(completion), read_object(one)) for one in several), default=0.0)
        for completion, several in zip(written.completions, written.references, strict=True)
    ]


def schema_problem(schema: Any) -> str:
    """What is wrong with a JSON schema, whichever draft its `$schema` names; empty if nothing is.

    Raises:
        ImportError: the package that reads schemas is not installed.
    """
    from jsonschema.exceptions import SchemaError

    validator = _validator(schema)
    kinds: list[Any] = [None, "", 0, [], {}]
    try:
        validator.check_schema(schema)
        problem = next(_problems_inside(validator, schema), "")
        for value in kinds:
            problem = problem or _unusable(validator, value)
    except SchemaError as error:
        return str(error.message)
    return problem


def _validator(schema: Any) -> Any:
    """What checks values against a schema, by the draft that it names (2020-12 if none), formats included as far as the packages for them are
    installed; nothing is fetched."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY

    kind = validator_for(schema, default=Draft202012Validator)
    return kind(schema, registry=REGISTRY, format_checker=kind.FORMAT_CHECKER)


def _problems_inside(validator: Any, schema: Any) -> Iterator[str]:
    """References of a schema, and of what they lead to, that lead nowhere."""
    from jsonschema_specifications import REGISTRY
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import specification_with

    specification = specification_with(validator.META_SCHEMA["$schema"])
    whole = specification.create_resource(schema)
    to_read, read = [(whole, REGISTRY.resolver_with_root(whole))], set()
    while to_read:
        part, resolver = to_read.pop()
        if id(part.contents) in read:
            continue
        read.add(id(part.contents))
        to_read += [(inner, resolver.in_subresource(inner)) for inner in part.subresources()]
        inside = part.contents if isinstance(part.contents, Mapping) else {}
        for key in ("$ref", "$dynamicRef", "$recursiveRef"):
            if not isinstance(place := inside.get(key), str):
                continue
            try:
                found = resolver.lookup(place)
            except Unresolvable as error:
                elsewhere = type(error) is Unresolvable  # else it is in the schema that nothing lies there
                yield f"{key} {place!r} leads " + (
                    "out of the schema, and nothing is fetched: put what lies there under $defs, and write '#/$defs/NAME'"
                    if elsewhere
                    else "to nothing in the schema: correct it, or put there what is meant"
                )
            else:
                validator.check_schema(found.contents)  # it may lie where the schema itself has no meaning
                to_read.append((specification.create_resource(found.contents), found.resolver))


def _unusable(validator: Any, value: Any) -> str:
    """Why a value cannot be checked; empty if it can."""
    try:
        validator.is_valid(value)
    except RecursionError:
        return "a $ref leads to itself without end: correct it"
    return ""


def _valid(written: Written) -> list[float]:
    schema = written.settings["answer_schema"]
    validator = _validator(schema)
    values = [read_object(completion) for completion in written.completions]
    return [float(value is not NOTHING and _keeps_to(validator, value, schema)) for value in values]


def _keeps_to(validator: Any, value: Any, schema: Any) -> bool:
    """Whether a value is what a schema says."""
    from referencing.exceptions import Unresolvable

    try:
        return bool(validator.is_valid(value))
    except OverflowError:  # a number, or a number in a regular expression, that is too large
        return False
    except (Unresolvable, RecursionError) as error:
        if (problem := schema_problem(schema)) or isinstance(error, Unresolvable):  # of a run of an earlier version
            raise UsageError(f"[task] answer_schema: {problem or error}") from None
        return False  # what was written has no end of lists in lists


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
