"""Links of README and documentation that lead elsewhere, with the pages that have them: python docs/links.py

`make docs` prints them, for somebody with a network to follow; what is no address at all is an error.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\]\(([^)\s]*://[^)\s]*)\)|<(\w+://[^>\s]*)>")


def external() -> dict[str, list[str]]:
    """Pages by address, addresses in order."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    found: dict[str, list[str]] = {}
    for page in sorted(pages):
        for one in _LINK.finditer(page.read_text(encoding="utf-8")):
            found.setdefault(one[1] or one[2], []).append(page.relative_to(ROOT).as_posix())
    return dict(sorted(found.items()))


def sound(address: str) -> bool:
    """Whether it could be followed: encrypted, and a host's name with a domain."""
    parts = urlsplit(address)
    return parts.scheme == "https" and re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc) is not None


def main() -> int:
    """List all links; 1 if one of them is no address."""
    found = external()
    for address, pages in found.items():
        sys.stdout.write("\t".join([address, *dict.fromkeys(pages)]) + "\n")
    wrong = [address for address in found if not sound(address)]
    for address in wrong:
        sys.stderr.write(f"no address: {address} in {', '.join(found[address])}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
