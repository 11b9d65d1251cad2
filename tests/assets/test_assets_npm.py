"""Packages of npm: a stand-in for its client that serves made-up files, and the emoji pictures that are made of them."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import images
import small
from tandemtune.assets import CATALOGUE, Asset, PackagedFile, Preparation, Tarball, emoji, fetch, register
from tandemtune.errors import AssetError, ConfigError

CLIENT = """#!{python}
import pathlib, shutil, sys
options = dict(zip(sys.argv[3::2], sys.argv[4::2]))
source = pathlib.Path({shelf!r}) / (sys.argv[2].replace("@", "-") + ".tgz")
if not source.exists():
    sys.exit("npm error code E404")
assert sys.argv[1] == "pack" and "--ignore-scripts" in sys.argv
shutil.copy(source, options["--pack-destination"])
"""
PICTURES = {f"package/img/{n}.png": bytes([n]) * 9 for n in range(4)}


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the stand-in serves from."""
    shelf, programs = tmp_path / "npm", tmp_path / "bin"
    shelf.mkdir()
    programs.mkdir()
    (programs / "npm").write_text(CLIENT.format(python=sys.executable, shelf=str(shelf)), encoding="utf-8")
    (programs / "npm").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(programs))
    return shelf


def packed(shelf: Path, name: str, files: Mapping[str, bytes], *members: tuple[str, str]) -> Tarball:
    place = shelf / f"{name}-1.0.0.tgz"
    with tarfile.open(place, "w:gz") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    sha256 = hashlib.sha256(place.read_bytes()).hexdigest()
    return Tarball(name, "1.0.0", sha256, tuple(PackagedFile(*member) for member in members))


def _sorted(raw: Path, made: Path) -> None:
    for part in ("train", "test"):
        (made / part).mkdir()
        for path in sorted((raw / "all").iterdir()):
            (made / part / path.name).write_bytes(path.read_bytes())


def added(*packages: Tarball, key: str = "toy-pictures", **changes: Any) -> Asset:
    settings = {"kind": "images", "prepare": Preparation(run=_sorted), "download_mb": 1, "disk_mb": 1, **changes}
    return register(Asset(key=key, summary="toys", licence="none", wheels=packages, **settings), replace=True)


def test_all_files_of_a_folder_are_taken_and_nothing_else(npm: Path, cache: Path) -> None:
    more = {"package/img/deeper/9.png": b"no", "package/index.js": b"no"}
    asset = added(packed(npm, "toys", {**PICTURES, **more}, ("package/img/", "all")))
    assert asset.name == "npm:toy-pictures"
    said: list[str] = []
    folder = fetch("npm:toy-pictures", progress=said.append)
    assert {path.name: path.read_bytes() for path in (folder / "train").iterdir()} == {
        Path(name).name: content for name, content in PICTURES.items()
    }
    assert said[0] == "downloading toys@1.0.0 (1 MB)"
    assert fetch("toy-pictures") == folder
    with pytest.raises(Exception, match="did you mean npm:toy-pictures"):
        fetch("pypi:toy-pictures")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "0" * 64}, r"expected SHA-256 0000.*It was not kept"),
        ({"version": "2.0.0"}, "the package registry has no such file"),
        ({"members": (PackagedFile("package/pictures/", "all"),)}, "expected files in the folder package/pictures/"),
    ],
)
def test_what_may_go_wrong_on_the_way(npm: Path, cache: Path, change: dict[str, Any], said: str) -> None:
    good = packed(npm, "toys", PICTURES, ("package/img/", "all"))
    added(Tarball(**{"name": good.name, "version": "1.0.0", "sha256": good.sha256, "members": good.members, **change}))
    with pytest.raises(AssetError, match=said):
        fetch("npm:toy-pictures")
    assert not (cache / "assets" / "toy-pictures").exists()


def test_without_the_client_it_is_named(npm: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added(packed(npm, "toys", PICTURES, ("package/img/", "all")))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(AssetError, match=r"toys@1\.0\.0: expected npm"):
        fetch("npm:toy-pictures")


def test_a_file_that_would_land_elsewhere_is_refused(npm: Path, cache: Path) -> None:
    added(packed(npm, "toys", {"package/img/..\\up.png": b"x"}, ("package/img/", "all")))
    with pytest.raises(AssetError, match="refused"):
        fetch("npm:toy-pictures")


def _emojis(count: int) -> tuple[list[dict[str, str]], dict[str, bytes]]:
    rows = [
        {"subcategory": group, "image": f"{group}-{n}.png"}
        for groups in emoji.CLASSES.values()
        for group in groups
        for n in range(count)
    ]
    return rows, {row["image"]: row["image"].encode() for row in rows}


def test_emojis_lie_in_a_folder_for_each_class_in_both_styles(npm: Path, cache: Path) -> None:
    rows, pictures = _emojis(emoji.FEWEST)
    rows.append({"subcategory": "animal-bird", "image": "in-one-style.png"})
    one = {f"package/img/google/64/{name}": content for name, content in {**pictures, "in-one-style.png": b"1"}.items()}
    other = {f"package/img/twitter/64/{name}": content[::-1] for name, content in pictures.items()}
    known = CATALOGUE["emoji-pictures"]
    first = packed(npm, "first", {**one, "package/emoji.json": json.dumps(rows).encode()})
    second = packed(npm, "second", other)
    members = [wheel.members for wheel in known.wheels]
    made = [
        Tarball(each.name, each.version, each.sha256, parts)
        for each, parts in zip((first, second), members, strict=True)
    ]
    added(*made, key="emoji-pictures", prepare=known.prepare)
    folder = fetch("npm:emoji-pictures")
    for part in ("train", "test"):
        assert sorted(path.name for path in (folder / part).iterdir()) == sorted(emoji.CLASSES)
        assert len(list((folder / part / "bird").iterdir())) == emoji.FEWEST
    assert (folder / "test" / "bird" / "animal-bird-0.png").read_bytes() == b"animal-bird-0.png"[::-1]


def test_too_few_pictures_or_another_list_are_told(tmp_path: Path) -> None:
    rows, _ = _emojis(3)
    for content, said in ((json.dumps(rows), "expected 20 pictures of the class bird"), ("{}x", "expected a list of")):
        (tmp_path / emoji.LIST).write_text(content, encoding="utf-8")
        with pytest.raises(AssetError, match=said):
            emoji.build(tmp_path, tmp_path)


def test_a_task_of_pictures_is_named_in_a_recipe(npm: Path, cache: Path, tmp_path: Path) -> None:
    from tandemtune.config import load_config
    from tandemtune.wiring import check

    images.write_pictures(tmp_path / "train", 8, 1)
    files = {
        f"package/{path.parent.name}/{path.name}": path.read_bytes() for path in (tmp_path / "train").rglob("*.png")
    }

    def build(raw: Path, made: Path) -> None:
        for part in ("train", "test"):
            for name in images.CLASSES:
                (made / part / name).mkdir(parents=True)
                for path in (raw / name).iterdir():
                    content = path.read_bytes() + part.encode()  # behind the picture
                    (made / part / name / path.name).write_bytes(content)

    members = [(f"package/{name}/", name) for name in images.CLASSES]
    added(packed(npm, "toys", files, *members), prepare=Preparation(run=build))
    made = images.recipe(tmp_path, task__name="npm:toy-pictures", task__train=None, task__test=None)
    made["task"] |= {"template": "a drawing of a {mask}."}
    task = check(load_config(made))
    assert task.name == "toy-pictures" and task.labels == ("deep_blue", "green", "red")
    assert str(task.template) == "{image} a drawing of a {mask}." and len(task.test()) == 24
    with pytest.raises(ConfigError, match="is a task of images, but the model is a masked language model"):
        check(load_config({**made, "model": {"name": str(small.model_folder("bert"))}}))
    with pytest.raises(ConfigError, match=r"no data 'npm:toys' .did you mean 'npm:toy-pictures'"):
        load_config({**made, "task": {"name": "npm:toys"}})
