"""Which part may know of which: imports go down only, so that no cycle can come about."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tandemtune

ROOT = Path(__file__).parent.parent / "src" / "tandemtune"
GUIDE = Path(__file__).parent.parent / "CONTRIBUTING.md"
LAYERS = tuple(
    tuple(line.split())
    for line in GUIDE.read_text(encoding="utf-8").partition("```text\n")[2].partition("\n```")[0].splitlines()
)
"""Modules and packages from the lowest to the highest; those of one layer know each other as little as any higher one."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def parts() -> list[str]:
    """Modules and packages right under the package's own folder."""
    found = [path.stem for path in ROOT.glob("*.py") if not path.stem.startswith("__")]
    return sorted(found + [path.parent.name for path in ROOT.glob("*/__init__.py")])


def imported(part: str) -> dict[str, list[str]]:
    """Parts that a part imports, also inside functions and for types only: part -> places."""
    files = [ROOT / f"{part}.py"] if (ROOT / f"{part}.py").exists() else sorted((ROOT / part).rglob("*.py"))
    found: dict[str, list[str]] = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tandemtune":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.startswith("tandemtune.")]
            for name in names:
                other = name.split(".")[1]
                if other in LEVEL and other != part:
                    found.setdefault(other, []).append(f"{file.relative_to(ROOT)}:{node.lineno}")
    return found


def test_every_part_has_a_layer() -> None:
    assert set(parts()) - {"recipes"} == set(LEVEL)


@pytest.mark.parametrize("part", LEVEL)
def test_imports_go_down_only(part: str) -> None:
    upward = {other: places for other, places in imported(part).items() if LEVEL[other] >= LEVEL[part]}
    assert not upward, f"{part} (layer {LEVEL[part]}) imports what lies beside or above it"


def test_no_public_name_is_a_module_too() -> None:
    """An imported module becomes an attribute of its package, and what had that name before is gone."""
    assert not set(tandemtune.__all__) & set(parts())
