"""Every setting of a recipe as Markdown; the documentation holds a copy that a test compares."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic.fields import FieldInfo

from tandemtune import plugins
from tandemtune.config.method import SearchSettings, Then
from tandemtune.config.parts import PARTS
from tandemtune.config.sections import SECTIONS
from tandemtune.plugins import Options


def reference() -> str:
    """Tables of all sections, and of the options of all members that come with this package."""
    lines: list[str] = []
    for section, owner in SECTIONS.items():
        nouns = PARTS.get(section, {})
        lines += [f"## [{section}]", "", _sentence((owner.__doc__ or "").partition(": ")[2]), ""]
        lines += [*_table(owner, nouns), ""]
        for noun in nouns:
            lines += [f"### [{section}.{noun}]", "", *_members(noun)]
        if section == "method":
            own = {key: field for key, field in Then.model_fields.items() if key not in SearchSettings.model_fields}
            shared = ", ".join(f"`{key}`" for key in SearchSettings.model_fields)
            lines += ["### [[method.then]]", "", _sentence((Then.__doc__ or "").partition(": ")[2])]
            lines += [f"It has {shared} of [method], options of its parts, and:", "", *_rows(own, {}), ""]
    return "\n".join(lines)


def _members(noun: str) -> list[str]:
    """All members by name, those with the same options before one table."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, member in sorted(plugins.members(noun).items()):
        if member.__module__.startswith("tandemtune."):
            source = f" ({member.source})" if member.source else ""
            groups.setdefault(tuple(_table(member, {})), []).append(f"- `{name}`: {member.summary}{source}")
    lines: list[str] = []
    for table, names in sorted(groups.items(), key=lambda group: group[1]):
        lines += [*names, "", *([*table, ""] if len(table) > 2 else [])]
    return lines


def _table(owner: type[Options], nouns: dict[str, str]) -> list[str]:
    return _rows(owner.model_fields, nouns)


def _rows(fields: Mapping[str, FieldInfo], nouns: dict[str, str]) -> list[str]:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    parts = [key for key in nouns if key in fields]
    rest = [key for key in fields if key not in nouns and key != "name"]
    named = ["name"] if "name" in fields else []
    for key in [*named, *parts, *rest] if len(parts) > 1 else fields:
        field = fields[key]
        if field.exclude:
            continue
        told = json.dumps(nouns[key]) if key in nouns else plugins.default_of(field)
        default = f"`{told}`" if told and told != "required" else told
        meaning = plugins.meaning_of(field).replace("|", r"\|")
        lines.append(f"| `{key}` | {default} | {meaning} |")
    return lines


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
