"""The files of the page "Write your own", as they are printed."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / "docs" / "write-your-own.md"
FILES = ("annealing", "balanced", "nearness", "gains", "focal", "phrases", "test_mine")


def write_files(place: Path) -> None:
    """Write every file that the page shows with its name in the first line."""
    blocks = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert tuple(name for name, _ in blocks) == FILES
    for name, text in blocks:
        (place / f"{name}.py").write_text(text, encoding="utf-8")
