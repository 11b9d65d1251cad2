"""SHA-256 of files too large to read at once."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Hash a file in small pieces.

    Args:
        path: the file.

    Returns:
        The hash in hexadecimal.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
