"""The name of a base model that others can load: what an adapter carries, wherever its model came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tandemtune.assets as assets
import tandemtune.assets.manifest as manifest


@dataclass(frozen=True, slots=True)
class BaseName:
    """How an adapter names its base model.

    Args:
        name: a hub id where one is known, which PEFT and `transformers` load; else what the user gave.
        revision: the hub's commit, where it is known from the place that the model lay in.
        note: what a reader has to know about the name, in whole sentences; "" if nothing.
    """

    name: str
    revision: str | None = None
    note: str = ""


def base_name(given: str) -> BaseName:
    """The name that an adapter should carry for a model. Nothing is downloaded, and no home folder is spelled out.

    Args:
        given: ``pypi:KEY``, a local folder or a hub id, as the user wrote it.

    Returns:
        The model's id on the hub: of a ``pypi:`` model, or a folder that holds one, the one in its record; of a folder
        in the hub's own cache the one in its path. If there is none, a ``pypi:`` key or the folder as given: what a
        folder's configuration names may be the model that it was tuned from.

    Raises:
        UsageError: no asset of that key.
    """
    if given.startswith(assets.PREFIX):
        return _of_asset(assets.lookup(given))
    folder = Path(given).expanduser()
    if not folder.is_dir():
        return BaseName(given)
    key = manifest.key_of(folder)
    if key is not None and key in assets.CATALOGUE:
        return _of_asset(assets.CATALOGUE[key])
    return _of_hub_cache(folder) or BaseName(given, note=_local(given))


def _of_asset(asset: assets.Asset) -> BaseName:
    key = f"{assets.PREFIX}{asset.key}"
    exact = f'`tandemtune.assets.fetch("{key}")` gives the folder of the very weights'
    if not asset.upstream:
        return BaseName(
            key, note=f"No model hub is known to hold the base model {key}. {exact}: load that as the base."
        )
    if not asset.differs:
        return BaseName(asset.upstream)
    return BaseName(
        asset.upstream,
        note=f"The base model was {key}, a copy of {asset.upstream} whose weights {asset.differs}; on the original, "
        f"scores will be somewhat different. {exact} that were used.",
    )


def _of_hub_cache(folder: Path) -> BaseName | None:
    """A folder ``models--OWNER--NAME/snapshots/COMMIT``."""
    snapshot = folder.absolute()
    home = snapshot.parent.parent
    if snapshot.parent.name != "snapshots" or not home.name.startswith("models--"):
        return None
    return BaseName(home.name.removeprefix("models--").replace("--", "/"), revision=snapshot.name)


def _local(given: str) -> str:
    return f"The base model was read from a local folder ({Path(given).name}): name the place where it lies for you."
