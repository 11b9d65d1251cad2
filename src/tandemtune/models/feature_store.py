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
TABLES = ("features", "pooled")
"""Vectors of images, and what the image tower pools of them."""
LOOKED_UP = (
    "SELECT vector FROM features WHERE sha256 = ?",
    "SELECT one.vector, other.vector FROM features AS one JOIN pooled AS other USING (sha256) WHERE sha256 = ?",
)
"""Without and with what is pooled."""


class FeatureStore:
    """Vectors of images by the hash of their file.

    Args:
        backbone: computes them.
        progress: called with a short line while many are computed.
    """

    def __init__(self, backbone: ImageTextBackbone, progress: Callable[[str], None] | None = None) -> None:
        self._backbone, self._progress = backbone, progress
        self._known: dict[tuple[str, bool], Tensor] = {}
        self._stamps: dict[str, _Stamp] = {}
        self.place = cache_folder() / "image-features" / f"{_short(backbone.image_sha256)}.sqlite"

    def of(self, sources: Sequence[Any], pooled: bool = False) -> Tensor:
        """Vectors [N, D] of images, float32, of length one.

        Args:
            sources: paths, or pictures of Pillow's.
            pooled: put what the image tower pools behind them: [N, D + T].

        Raises:
            DataError: images cannot be read; names the first of them.
        """
        paths = dict.fromkeys(str(source) for source in sources if isinstance(source, str | Path))
        for path in paths:
            self._forget_if_changed(path)
        self._compute([path for path in paths if (path, pooled) not in self._known], pooled)
        shown = [plain(source) for source in sources if not isinstance(source, str | Path)]
        others = iter(_joined(self._backbone.image_features(shown), pooled) if shown else ())
        rows = [self._known[str(s), pooled] if isinstance(s, str | Path) else next(others) for s in sources]
        return torch.stack(rows).to(self._backbone.device) if rows else torch.empty(0, 1, device=self._backbone.device)

    def _forget_if_changed(self, path: str) -> None:
        """Look at a file again that another image was written to; one that has gone is still known."""
        stamp = _stamp(path)
        if stamp is not None and self._stamps.get(path) != stamp:
            self._stamps[path] = stamp
            for pooled in (False, True):
                self._known.pop((path, pooled), None)

    def _compute(self, paths: Sequence[str], pooled: bool) -> None:
        """Look vectors up on disk, compute those that are not there, and write them."""
        if not paths:
            return
        with closing(self._open()) as kept:
            waiting: list[_Opened] = []
            fresh: list[_Fresh] = []
            broken: list[str] = []
            begin = told = time.monotonic()
            for number, (path, sha256, content) in enumerate(_read(paths, broken), 1):
                row = kept.execute(LOOKED_UP[pooled], (sha256,)).fetchone()
                if row is not None:
                    self._known[path, pooled] = torch.from_numpy(np.frombuffer(b"".join(row), np.float32).copy())
                    continue
                try:
                    picture = opened(content, path)
                except DataError as error:
                    broken.append(str(error))
                    continue
                if broken:  # nothing will come of it, but all of them are told
                    continue
                waiting.append((path, sha256, picture))
                if len(waiting) == self._backbone.at_once:
                    fresh += self._looked_at(waiting, pooled)
                if len(fresh) >= WRITTEN:
                    _write(kept, fresh)
                if self._progress is not None and time.monotonic() - told > PERIOD:
                    told = time.monotonic()
                    left = (told - begin) / number * (len(paths) - number)
                    self._progress(f"image vectors: {number:,} of {len(paths):,}, about {left:.0f} s to go")
            if waiting and not broken:
                fresh += self._looked_at(waiting, pooled)
            _write(kept, fresh)
        if broken:
            more = f" (and {len(broken) - TOLD} more images)" if len(broken) > TOLD else ""
            raise DataError("; ".join(broken[:TOLD]) + more)

    def _looked_at(self, waiting: list[_Opened], pooled: bool) -> list[_Fresh]:
        """Compute the vectors of pictures that wait, together; none waits any more."""
        vectors, towers = self._backbone.image_features([picture for _, _, picture in waiting])
        for (path, _, _), vector in zip(waiting, _joined((vectors, towers), pooled), strict=True):
            self._known[path, pooled] = vector.clone()
        found = [
            (sha256, vector.numpy().tobytes(), tower.numpy().tobytes())
            for (_, sha256, _), vector, tower in zip(waiting, vectors, towers, strict=True)
        ]
        waiting.clear()
        return found

    def _open(self) -> sqlite3.Connection:
        """The file of vectors; memory where it cannot be used."""
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            kept = sqlite3.connect(self.place, timeout=60.0)
            _prepare(kept)
        except (OSError, sqlite3.Error) as error:
            if self._progress is not None:
                self._progress(f"image vectors cannot be kept in {self.place} ({error}): they are computed anew")
            kept = sqlite3.connect(":memory:")
            _prepare(kept)
        return kept


_Stamp = tuple[int, int]
_Fresh = tuple[str, bytes, bytes]
"""Hash of a file, and its vectors as they are written."""
_Opened = tuple[str, str, Any]
"""Path and hash of a file, and its picture."""


def _stamp(path: str) -> _Stamp | None:
    """Size and time of a file, which tell whether it is the one that was read; None where there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _prepare(kept: sqlite3.Connection) -> None:
    for table in TABLES:
        kept.execute(f"CREATE TABLE IF NOT EXISTS {table} (sha256 TEXT PRIMARY KEY, vector BLOB NOT NULL)")
        kept.execute(f"SELECT count(*) FROM {table}").fetchone()


def _joined(found: tuple[Tensor, Tensor], pooled: bool) -> Tensor:
    """The vectors of pictures [n, D], with what the tower pools behind them where that is wanted [n, D + T]."""
    return torch.cat(found, dim=1) if pooled else found[0]


def _read(paths: Sequence[str], broken: list[str]) -> Iterator[tuple[str, str, bytes]]:
    for path in paths:
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            broken.append(f"{path} cannot be read: {error.strerror or error}")
            continue
        yield path, hashlib.sha256(content).hexdigest(), content


def _write(kept: sqlite3.Connection, fresh: list[_Fresh]) -> None:
    try:
        with kept:
            for place, table in enumerate(TABLES, 1):
                rows = [(each[0], each[place]) for each in fresh]
                kept.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", rows)
    except sqlite3.Error:
        return  # a full disk costs time, and nothing else
    finally:
        fresh.clear()


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
