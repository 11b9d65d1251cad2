"""Facts about the machine and the process: cores really given, peak memory, versions."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

PACKAGES = ("tandemtune", "torch", "transformers", "cmaes", "numpy", "safetensors")


def cores() -> int:
    """Processor cores that this process may use: its affinity, bounded by a container's quota."""
    given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, _, period = quota.read_text(encoding="ascii").strip().partition(" ")
        if limit.isdecimal() and period.isdecimal():
            given = min(given, max(1, int(limit) // int(period)))
    return given


def default_threads() -> int:
    """Processor threads where nobody names them: what OMP_NUM_THREADS says, else all cores that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(wanted) if wanted.isdecimal() and int(wanted) > 0 else cores()


def peak_rss_mb() -> float:
    """Largest resident memory of this program so far, in megabytes.

    On Linux the kernel's high-water mark is read: what getrusage tells includes the process that started this program.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # not a Unix system
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def forget_peak() -> None:
    """Count the largest resident memory from here on, where the kernel lets (Linux: proc(5), /proc/self/clear_refs)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def free_memory_mb() -> float | None:
    """Memory that this process can still take, in megabytes: the machine's, bounded by a container's; None where nobody says."""
    found: list[int] = []
    told = Path("/proc/meminfo")
    if told.is_file():
        fields = dict(line.split(":", 1) for line in told.read_text(encoding="ascii").splitlines() if ":" in line)
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and (most := limit.read_text(encoding="ascii").strip()).isdecimal():
        found.append(int(most) - int(used.read_text(encoding="ascii")))
    if not found:
        with suppress(ImportError):
            import psutil

            found.append(psutil.virtual_memory().available)
    return min(found) / 1e6 if found else None


def versions() -> dict[str, str]:
    """Versions of everything that a run's numbers may depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def fingerprint() -> dict[str, str]:
    """`versions`, and this package's own code: what another process must have, too, that is to compute the same."""
    return {**versions(), "code of tandemtune": _code()}


@functools.cache
def _code() -> str:
    """A short hash of the package's files."""
    root, found = Path(__file__).parent, hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".toml")):
        found.update(f"{path.relative_to(root).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()[:12]
