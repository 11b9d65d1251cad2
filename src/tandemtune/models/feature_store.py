"""Vectors of images, computed once for each model, processor and file, and kept on disk."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tandemtune.assets.workspace import cache_folder
from tandemtune.errors import DataError
from tandemtune.models.image_text import ImageTextBackbone
from tandemtune.tasks.pictures import opened, plain

PERIOD = 5.0
"""Seconds between lines about progress."""
WRITTEN = 64
"""Vectors that are written together."""
TOLD = 5
"""Broken images that a message names."""


class FeatureStore:
    """Vectors of images by the hash of their file.

    Args:
        backbone: computes them.
        progress: called with a short line while many are computed.
    """

    def __init__(self, backbone: ImageTextBackbone, progress: Callable[[str], None] | None = None) -> None:
        self._backbone, self._progress = backbone, progress
        self._known: dict[str, Tensor] = {}
        self.place = cache_folder() / "image-features" / f"{_short(backbone.image_sha256)}.sqlite"

    def of(self, sources: Sequence[Any]) -> Tensor:
        """Vectors [N, D] of images, float32, of length one.

        Args:
            sources: paths, or pictures of Pillow's.

        Raises:
            DataError: images cannot be read; names the first of them.
        """
        paths = [str(source) for source in sources if isinstance(source, str | Path)]
        self._compute([path for path in dict.fromkeys(paths) if path not in self._known])
        rows = [
            self._known[str(source)]
            if isinstance(source, str | Path)
            else self._backbone.image_features([plain(source)])[0]
            for source in sources
        ]
        return torch.stack(rows).to(self._backbone.device) if rows else torch.empty(0, 1, device=self._backbone.device)

    def _compute(self, paths: Sequence[str]) -> None:
        """Look vectors up on disk, compute those that are not there, and write them."""
        if not paths:
            return
        with closing(self._open()) as kept:
            fresh: list[tuple[str, bytes]] = []
            broken: list[str] = []
            begin = told = time.monotonic()
            for number, (path, sha256, content) in enumerate(_read(paths, broken), 1):
                row = kept.execute("SELECT vector FROM features WHERE sha256 = ?", (sha256,)).fetchone()
                if row is not None:
                    self._known[path] = torch.from_numpy(np.frombuffer(row[0], np.float32).copy())
                    continue
                try:
                    picture = opened(content, path)
                except DataError as error:
                    broken.append(str(error))
                    continue
                if broken:  # nothing will come of it, but all of them are told
                    continue
                self._known[path] = self._backbone.image_features([picture])[0]
                fresh.append((sha256, self._known[path].numpy().tobytes()))
                if len(fresh) == WRITTEN:
                    _write(kept, fresh)
                if self._progress is not None and time.monotonic() - told > PERIOD:
                    told = time.monotonic()
                    left = (told - begin) / number * (len(paths) - number)
                    self._progress(f"image vectors: {number:,} of {len(paths):,}, about {left:.0f} s to go")
            _write(kept, fresh)
        if broken:
            more = f" (and {len(broken) - TOLD} more images)" if len(broken) > TOLD else ""
            raise DataError("; ".join(broken[:TOLD]) + more)

    def _open(self) -> sqlite3.Connection:
        """The file of vectors; memory where it cannot be used."""
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            kept = sqlite3.connect(self.place, timeout=60.0)
            kept.execute("CREATE TABLE IF NOT EXISTS features (sha256 TEXT PRIMARY KEY, vector BLOB NOT NULL)")
            kept.execute("SELECT count(*) FROM features").fetchone()
        except (OSError, sqlite3.Error) as error:
            if self._progress is not None:
                self._progress(f"image vectors cannot be kept in {self.place} ({error}): they are computed anew")
            kept = sqlite3.connect(":memory:")
            kept.execute("CREATE TABLE features (sha256 TEXT PRIMARY KEY, vector BLOB NOT NULL)")
        return kept


def _read(paths: Sequence[str], broken: list[str]) -> Iterator[tuple[str, str, bytes]]:
    for path in paths:
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            broken.append(f"{path} cannot be read: {error.strerror or error}")
            continue
        yield path, hashlib.sha256(content).hexdigest(), content


def _write(kept: sqlite3.Connection, fresh: list[tuple[str, bytes]]) -> None:
    try:
        with kept:
            kept.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", fresh)
    except sqlite3.Error:
        return  # a full disk costs time, and nothing else
    finally:
        fresh.clear()


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
