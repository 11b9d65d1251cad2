"""The cache folder: where ready assets lie, and where one process at a time prepares one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from tandemtune.errors import AssetError

PARTIAL = ".partial"
KEPT_DAYS = 7
_WHEELS, _WORK = "wheels", "work"


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where one asset is prepared. It is held by one process at a time.

    Args:
        wheels: verified wheels by hash; they outlive an error, an interrupt or a kill, until the asset is ready.
        work: an empty folder for everything else, removed at the end whatever happened.
    """

    wheels: Path
    work: Path

    def kept_megabytes(self) -> int:
        """Size of the kept wheels in whole megabytes."""
        return sum(path.stat().st_size for path in self.wheels.iterdir()) // 1_000_000

    def drop_wheels(self) -> None:
        """Remove the kept wheels: the asset is ready, or they are of no use."""
        for path in self.wheels.iterdir():
            path.unlink()


def assets_folder(cache_dir: str | Path | None = None) -> Path:
    """Where ready assets lie.

    Args:
        cache_dir: the cache; without it TANDEMTUNE_CACHE, and without that the user's cache folder.

    Returns:
        The folder that holds one folder per asset. It need not exist yet.
    """
    return cache_folder(cache_dir) / "assets"


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """The cache of everything that can be made again: `cache_dir`, TANDEMTUNE_CACHE, or the user's cache folder."""
    chosen = cache_dir or os.environ.get("TANDEMTUNE_CACHE") or platformdirs.user_cache_path("tandemtune")
    return Path(chosen).expanduser().absolute()


def kept_images() -> Path:
    """Where images are written to that lie inside tables: the cache's own folder for them."""
    return cache_folder() / "images"


@contextmanager
def workplace(folder: Path, key: str, *, on_wait: Callable[[], None]) -> Iterator[Workplace]:
    """Hold the place where one asset is prepared.

    Args:
        folder: where ready assets lie; made if it does not exist.
        key: the asset.
        on_wait: called if another process holds the place, before it is waited for.

    Yields:
        The place, without anything but wheels that were kept.
    """
    home = folder / PARTIAL
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home, key, on_wait):
        _sweep(home)
        place = Workplace(home / key / _WHEELS, home / key / _WORK)
        shutil.rmtree(place.work, ignore_errors=True)  # a process that was killed may have left it
        place.wheels.mkdir(parents=True, exist_ok=True)
        place.work.mkdir()
        try:
            yield place
        finally:
            shutil.rmtree(place.work, ignore_errors=True)
            if not any(place.wheels.iterdir()):
                shutil.rmtree(home / key, ignore_errors=True)


def require_space(folder: Path, megabytes: int) -> None:
    """Check the free space of a disk.

    Args:
        folder: an existing folder on it.
        megabytes: what is needed.

    Raises:
        AssetError: there is less.
    """
    free = shutil.disk_usage(folder).free // 1_000_000
    if free < megabytes:
        raise AssetError(
            f"not enough space in {folder}: {megabytes} MB are needed, {free} MB are free; make room, or "
            "let TANDEMTUNE_CACHE name a folder on a larger disk"
        )


def install(made: Path, ready: Path) -> None:
    """Move a finished folder into place in one step. A folder that lies there, which cannot be used, makes way.

    Args:
        made: the finished folder, in a workplace.
        ready: where it belongs.
    """
    if ready.exists():
        ready.rename(made.with_name("unusable"))
    made.rename(ready)


@contextmanager
def _locked(home: Path, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
    lock = FileLock(_lock_of(home, key))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock_of(home: Path, key: str) -> str:
    return str(home / f"{key}.lock")


def _sweep(home: Path) -> None:
    """Remove what processes left that were killed, and wheels that nobody came back for in `KEPT_DAYS` days."""
    oldest = time.time() - KEPT_DAYS * 86400
    for path in home.iterdir():
        if not path.is_dir():
            continue
        # A place that is held, or belongs to another user of the machine, is left alone.
        with suppress(Timeout, OSError), FileLock(_lock_of(home, path.name), timeout=0):
            shutil.rmtree(path / _WORK, ignore_errors=True)
            wheels = path / _WHEELS
            if not wheels.is_dir() or wheels.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)
