"""A shelf of small made-up wheels that the real pip finds without a network."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tandemtune.assets import Asset, PackagedFile, Wheel, known, register


@dataclass
class Shelf:
    """Where fake wheels lie, and how they get into the known."""

    folder: Path

    def wheel(self, name: str, files: Mapping[str, bytes], members: Mapping[str, str] | None = None) -> Wheel:
        """Build a wheel that holds `files`; `members` maps path to name (default: all, by base name)."""
        module = name.replace("-", "_")
        info = f"{module}-1.0.dist-info"
        content = {
            **files,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
            "Requires-Dist: a-package-that-nobody-has\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(f"{path},sha256={_record(data)},{len(data)}\n" for path, data in content.items())
        content[f"{info}/RECORD"] = record.encode()
        file = self.folder / f"{module}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, data in content.items():
                archive.writestr(path, data)
        chosen = members if members is not None else {path: Path(path).name for path in files}
        return Wheel(name, "1.0", _sha256(file), tuple(PackagedFile(path, to) for path, to in chosen.items()))

    def file_of(self, wheel: Wheel) -> Path:
        """The wheel file that was built for a record."""
        return self.folder / f"{wheel.name.replace('-', '_')}-1.0-py3-none-any.whl"

    def add(self, *wheels: Wheel, key: str = "toy", **fields: object) -> Asset:
        """Register an asset made of these wheels, for the length of the test; it is a model if they hold a config."""
        names = {member.to for wheel in wheels for member in wheel.members}
        model = {"kind": "model", "architecture": "ToyModel"} if "config.json" in names else {"kind": "gguf"}
        settings = {"download_mb": 1, "disk_mb": 1, **model, **fields}
        asset = Asset(key=key, summary="a toy", licence="none", wheels=wheels, **settings)  # type: ignore[arg-type]
        return register(asset, replace=True)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _record(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """A shelf that is the only place pip looks at."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return Shelf(folder)


@pytest.fixture(autouse=True)
def same_catalogue() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = dict(known._table)
    yield
    known._table.clear()
    known._table.update(before)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, named by the environment variable."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TANDEMTUNE_CACHE", str(folder))
    return folder
