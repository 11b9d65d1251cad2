"""A disk that is full, a folder that may not be written, a clock that jumps: a clear line, and nothing is lost."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import small
from dying import begun, forked, forking
from small import resume, tune
from tandemtune.errors import RunError

BUDGET = 24


def recipe_in(place: Path) -> dict[str, dict[str, Any]]:
    return small.recipe(place, "gpt2", method__budget=BUDGET)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("full")


@pytest.fixture(scope="module")
def straight(place):
    tune(recipe_in(place), place / "straight")
    return small.artefacts(place / "straight")


def code_with_room(size: int, *arguments: str | Path, said: Path) -> int:
    """The exit code of the command line where no file may be longer than so many bytes."""

    def work() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
        called = small.call(*arguments)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        said.write_text(called.err, encoding="utf-8")
        os._exit(called.code)

    return os.waitstatus_to_exitcode(os.waitpid(forked(work), 0)[1])


@pytest.mark.few(3)
@forking
@pytest.mark.parametrize("size", [100, 700, 2000, 3000, 4000, 6000])
def test_files_that_cannot_grow(place, straight, tmp_path, size):
    """The limit tears the file that grows beyond it in half, as a full disk does: the recipe, the journal, the checkpoint ..."""
    folder, said = tmp_path / "run", tmp_path / "said"
    recipe = small.write_recipe(tmp_path / "r.json", recipe_in(place))
    code = code_with_room(size, "run", recipe, "--out", folder, "--quiet", said=said)
    lines = [line for line in said.read_text(encoding="utf-8").splitlines() if line.startswith("tandemtune: ")]
    assert code == 1 and len(lines) == 1 and os.strerror(errno.EFBIG) in lines[0], said.read_text(encoding="utf-8")
    assert "Traceback" not in said.read_text(encoding="utf-8")
    if begun(folder):
        assert f"tandemtune resume {folder}" in lines[0]
        resume(folder)
    else:
        assert not folder.exists()
        tune(recipe_in(place), folder)
    assert small.artefacts(folder) == straight
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize("count", [1, 2, 5, 9, 14])
def test_a_disk_that_does_not_take_a_write(place, straight, tmp_path, monkeypatch, count):
    """Whichever write to the disk fails, what was written before goes on."""
    folder, left, real = tmp_path / "run", [count], os.fsync

    def full(descriptor: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patched, pytest.raises(RunError, match=os.strerror(errno.ENOSPC)):
        patched.setattr(os, "fsync", full)
        tune(recipe_in(place), folder)
    if begun(folder):
        resume(folder)
    else:
        tune(recipe_in(place), folder)
    assert small.artefacts(folder) == straight


def test_an_adapter_that_cannot_be_written(place, straight, tmp_path, monkeypatch):
    """safetensors has an error of its own for a full disk."""
    from safetensors import SafetensorError

    from tandemtune.tunables import lora

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    folder = tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(RunError, match=r"No space left.*tandemtune resume"):
        patched.setattr(lora, "save_file", full)
        tune(recipe_in(place), folder)
    resume(folder)
    assert small.artefacts(folder) == straight


@forking
def test_a_folder_that_may_not_be_written(place, straight, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        tune(recipe_in(place), folder, small.Stop(step=2))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(path).startswith(str(folder)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", read_only)
        called = small.call("resume", folder, "--quiet")
    assert called.code == 1 and called.err.startswith(f"tandemtune: {folder} cannot be written: Read-only file system")
    assert len(called.err.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    resume(folder)
    assert small.artefacts(folder) == straight


def test_a_clock_that_jumps(place, straight, tmp_path, monkeypatch):
    """The time of day decides nothing, and time that was measured never runs backwards."""
    now = [1e9]

    def jumping() -> float:
        now[0] += 1e6 if len(str(now[0])) % 2 else -3e6
        return now[0]

    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", jumping)
        with pytest.raises(KeyboardInterrupt):
            tune(recipe_in(place), folder, small.Stop(step=3))
        found = resume(folder)
    assert small.artefacts(folder) == straight
    assert 0 <= found["cost"]["seconds"] < 600
