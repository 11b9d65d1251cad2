"""`asset.json`: what a ready folder holds. A folder without a fitting one counts as absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tandemtune.assets.entries import Asset
from tandemtune.assets.hashing import sha256_of

NAME = "asset.json"


def write(folder: Path, asset: Asset) -> None:
    """Describe a finished folder: key, licence, origin, and size and SHA-256 of every file.

    Args:
        folder: the finished folder.
        asset: what it holds.
    """
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    about = {
        "summary": asset.summary,
        "licence": asset.licence,
        "upstream": asset.upstream,
        "differs": asset.differs,
    }
    content = {**_origin(asset), **about, "files": files}
    (folder / NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def is_ready(folder: Path, asset: Asset) -> bool:
    """Tell whether a folder can be used as it is.

    Every listed file has to be there in its full size. The hashes are left for whoever wants to look
    closer: reading half a gigabyte at every start would cost more than it tells.

    Args:
        folder: where the asset should lie.
        asset: what it should hold.

    Returns:
        Whether the manifest is readable, speaks of this very asset, and all its files are there.
    """
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        same = all(content[field] == value for field, value in _origin(asset).items())
        files = content["files"]
        return (
            same
            and bool(files)
            and all((folder / name).stat().st_size == entry["bytes"] for name, entry in files.items())
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def key_of(folder: Path) -> str | None:
    """The key of the asset that a folder holds; None if it holds none.

    Args:
        folder: any folder.
    """
    try:
        key = json.loads((folder / NAME).read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return key if isinstance(key, str) else None


def _origin(asset: Asset) -> dict[str, Any]:
    wheels = [{"name": w.name, "version": w.version, "sha256": w.sha256} for w in asset.wheels]
    return {"key": asset.key, "revision": asset.revision, "wheels": wheels}
