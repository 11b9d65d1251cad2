"""The catalogue: what is built in is pinned, what comes from outside is checked and can be used like it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tandemtune.assets import CATALOGUE, Asset, PackagedFile, Preparation, Wheel, fetch, lookup, register
from tandemtune.errors import AssetError, UsageError

WHEEL = Wheel("toy-model", "1.0", "a" * 64, (PackagedFile("toy/config.json", "config.json"),))
TOY = Asset("toy", "model", "a toy", "MIT", (WHEEL,), 1, 1, architecture="ToyModel")


def test_every_built_in_record_can_be_used_and_is_pinned_by_hash() -> None:
    for key, asset in CATALOGUE.items():
        assert asset.key == key
        assert list(asset.problems()) == []
        assert asset.sha256


def test_every_built_in_model_says_where_it_comes_from_and_how_it_differs() -> None:
    unknown = {key for key, asset in CATALOGUE.items() if asset.kind not in ("data", "images") and not asset.upstream}
    assert unknown == {"splade-tiny", "clip-like-conse"}
    same = {key for key, asset in CATALOGUE.items() if asset.upstream and not asset.differs}
    assert same == {"all-minilm-l6-v2"}


def test_what_is_registered_is_found_and_fetched_like_the_rest(shelf: Any, cache: Path) -> None:
    rows = {"toy/train.jsonl": b'{"text": "a", "label": "b"}\n', "toy/test.jsonl": b'{"text": "c", "label": "d"}\n'}
    asset = Asset("toy-rows", "data", "toy rows", "MIT", (shelf.wheel("toy-rows", rows),), 1, 1)
    assert register(asset) is asset
    assert CATALOGUE["toy-rows"] is lookup("pypi:toy-rows") is asset
    assert (fetch("pypi:toy-rows") / "train.jsonl").read_bytes() == rows["toy/train.jsonl"]


def test_an_asset_can_bring_its_own_preparation(shelf: Any, cache: Path) -> None:
    def join(raw: Path, made: Path) -> None:
        (made / "model.gguf").write_bytes((raw / "a").read_bytes() + (raw / "b").read_bytes())

    wheel = shelf.wheel("toy-two", {"toy/a": b"GG", "toy/b": b"UF"})
    register(Asset("toy-two", "gguf", "a toy", "MIT", (wheel,), 1, 1, prepare=Preparation(join, "joining it")))
    said: list[str] = []
    assert (fetch("toy-two", progress=said.append) / "model.gguf").read_bytes() == b"GGUF"
    assert said[-1] == "preparing toy-two: joining it"


def test_a_key_is_given_once() -> None:
    register(TOY)
    register(replace(TOY))  # the same record: a module that is loaded twice, a cell that is run again
    with pytest.raises(UsageError, match=r"already called pypi:toy \(a toy\).*another key.*replace=True"):
        register(replace(TOY, summary="another toy"))
    assert CATALOGUE["toy"] == TOY
    register(replace(TOY, summary="another toy"), replace=True)
    assert CATALOGUE["toy"].summary == "another toy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "pypi:toy"}, r"key: expected small letters.*'pypi:toy'"),
        ({"key": "../toy"}, "key: expected small letters"),
        ({"key": ""}, "key: expected small letters"),
        ({"kind": "modell"}, "kind: expected one of model, image-text, embedding, data, images, gguf, got 'modell'"),
        ({"architecture": ""}, "architecture: missing"),
        ({"wheels": ()}, "wheels: expected at least one"),
        ({"wheels": (replace(WHEEL, sha256="a"),)}, r"toy-model==1\.0 has no SHA-256.*pip hash"),
        ({"wheels": (replace(WHEEL, members=()),)}, r"toy-model==1\.0 lists no members"),
        ({"sha256": (("weights", "a" * 64),)}, r"no member is called 'weights', there are config\.json"),
        ({"sha256": (("config.json", "z" * 64),)}, r"config\.json has no SHA-256"),
    ],
)
def test_a_record_that_cannot_be_used_is_refused(change: dict[str, Any], message: str) -> None:
    before = dict(CATALOGUE)
    with pytest.raises(UsageError, match=message):
        register(replace(TOY, **change))
    assert dict(CATALOGUE) == before


def test_all_problems_of_a_record_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        register(replace(TOY, key="A", kind="x", wheels=()))  # type: ignore[arg-type]
    assert str(caught.value).count("\n  - ") == 3


def test_something_else_than_a_record_is_refused() -> None:
    with pytest.raises(UsageError, match=r"expected a tandemtune\.assets\.Asset, got dict"):
        register({"key": "toy"})  # type: ignore[arg-type]


def test_the_catalogue_is_changed_by_register_alone() -> None:
    with pytest.raises(TypeError):
        CATALOGUE["toy"] = TOY  # type: ignore[index]


@pytest.mark.parametrize(
    ("kind", "files", "message"),
    [
        (
            "data",
            {"train.jsonl": b""},
            r"expected train\.jsonl and test\.jsonl.*data asset, but test\.jsonl is not there",
        ),
        ("gguf", {"weights.bin": b""}, r"model\.gguf is not there"),
        ("model", {"config.json": b"{}"}, "expected ToyModel, found no architecture"),
        ("model", {"config.json": b'{"architectures": ["Other"]}'}, "expected ToyModel, found Other"),
    ],
)
def test_a_folder_that_is_not_what_its_kind_promises_is_not_kept(
    shelf: Any, cache: Path, kind: str, files: dict[str, bytes], message: str
) -> None:
    wheel = shelf.wheel("toy-model", {f"toy/{name}": content for name, content in files.items()})
    shelf.add(wheel, kind=kind, architecture="ToyModel" if kind == "model" else "")
    with pytest.raises(AssetError, match=message):
        fetch("toy")
    assert not (cache / "assets" / "toy").exists()


def test_modules_that_are_missing_are_said_before_anything_is_downloaded(shelf: Any, cache: Path) -> None:
    wants = Preparation(needs=("json", "no_such_module"), install="pip install no-such-module")
    shelf.add(shelf.wheel("toy-model", {"toy/model.gguf": b"x"}), prepare=wants)
    with pytest.raises(
        AssetError, match=r"pypi:toy has to be converted.*needs no_such_module: pip install no-such-module"
    ):
        fetch("toy")
    assert not cache.exists()
