"""Every setting of a recipe as Markdown; the documentation holds a copy that a test compares."""

from __future__ import annotations

import json
from typing import Any

from tandemtune import plugins
from tandemtune.config.load import SECTIONS
from tandemtune.config.schema import PARTS
from tandemtune.plugins import Options


def reference() -> str:
    """Tables of all sections, and of the options of all members of their parts."""
    lines: list[str] = []
    for section, owner in SECTIONS.items():
        nouns = PARTS.get(section, {})
        lines += [f"## [{section}]", "", (owner.__doc__ or "").partition(": ")[2], ""]
        lines += _table(owner, nouns)
        for noun in nouns:
            lines += ["", f"### [{section}.{noun}]", ""]
            for name, member in plugins.members(noun).items():
                source = f" ({member.source})" if member.source else ""
                lines += [f"**`{name}`** {member.summary}{source}", ""]
                table = _table(member, {})
                lines += [*table, ""] if len(table) > 2 else []
        lines.append("")
    return "\n".join(lines)


def _table(owner: type[Options], nouns: dict[str, str]) -> list[str]:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for key, field in owner.model_fields.items():
        if field.exclude:
            continue
        if key in nouns:
            value: Any = nouns[key]
        else:
            value = None if field.is_required() else field.get_default(call_default_factory=True)
        required = field.is_required() and key not in nouns
        default = "required" if required else "" if value is None else f"`{json.dumps(value)}`"
        lines.append(f"| `{key}` | {default} | {field.description or ''} |")
    return lines
