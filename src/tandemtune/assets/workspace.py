"""The cache folder: temporary folders that vanish, finished ones that appear in one step."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
import psutil

from tandemtune.errors import AssetError

_PREFIX = ".work"
_ATTEMPTS = 5


def assets_folder(cache_dir: str | Path | None = None) -> Path:
    """Where ready assets lie.

    Args:
        cache_dir: the cache; without it TANDEMTUNE_CACHE, and without that the user's cache folder.

    Returns:
        The folder that holds one folder per asset. It need not exist yet.
    """
    chosen = cache_dir or os.environ.get("TANDEMTUNE_CACHE") or platformdirs.user_cache_path("tandemtune")
    return Path(chosen).expanduser().absolute() / "assets"


@contextmanager
def temporary(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`, removed at the end whatever happened.

    Args:
        folder: made if it does not exist.

    Yields:
        The temporary folder; its name tells machine and process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}-{_machine()}-{os.getpid()}-", dir=folder))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove temporary folders whose process was killed on this machine; others are left alone.

    Args:
        folder: where to look. Nothing happens if it is missing or cannot be written.
    """
    for path in folder.glob(f"{_PREFIX}-{_machine()}-*-*"):
        owner = path.name.split("-")[2]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


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


def install(made: Path, ready: Path, *, is_ready: Callable[[Path], bool]) -> None:
    """Move a finished folder into place in one step; if another process was first, keep its folder.

    Args:
        made: the finished folder, inside a temporary one on the same disk.
        ready: where it belongs.
        is_ready: whether a folder found at `ready` can be used; if not, it makes way.

    Raises:
        AssetError: the place could not be taken.
    """
    for attempt in range(_ATTEMPTS):
        try:
            made.rename(ready)
            return
        except FileNotFoundError:
            raise
        except OSError as error:
            if is_ready(ready):
                return
            if not ready.exists():
                raise
            _move_aside(ready, made.with_name(f"unusable-{attempt}"), error)
    raise AssetError(f"{ready} could not be put in place: something else keeps taking it; remove it")


def _move_aside(path: Path, to: Path, cause: OSError) -> None:
    try:
        path.rename(to)
    except FileNotFoundError:
        return
    except OSError:
        raise cause from None


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
