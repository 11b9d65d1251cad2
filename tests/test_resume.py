"""A run that is killed anywhere and resumed ends, byte for byte, as if it never had been killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import small
from dying import begun, forking, in_child, picked
from small import resume, tune
from tandemtune.callbacks import Callback
from tandemtune.errors import RunError

BUDGET = 35  # seven generations: the last one has no look at dev of its own


def recipe_in(place: Path, **changes: Any) -> dict[str, dict[str, Any]]:
    return small.recipe(place, **{"method__budget": BUDGET, **changes})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def straight(place):
    """What the run leaves when nobody disturbs it."""
    tune(recipe_in(place), place / "straight")
    return small.artefacts(place / "straight")


@pytest.fixture(scope="module")
def moments(place, straight):
    """Names of all moments of an undisturbed run."""
    log = place / "moments.json"
    assert in_child(lambda: tune(recipe_in(place), place / "counted"), log=log) == 0
    assert small.artefacts(place / "counted") == straight
    return json.loads(log.read_text(encoding="utf-8"))


@pytest.mark.slow
@forking
def test_killed_at_every_kind_of_moment(place, straight, moments):
    chosen = picked(moments)
    assert {name.split()[1] for name in moments} == {
        "fsync",
        "replace",
        "rename",
        "rmtree",
        "savez",
        "save_file",
        "append",
        "tick",
    }
    assert len(chosen) >= 35
    for stop in chosen:
        folder, what = place / f"killed-{stop}", f"moment {stop}: {moments[stop]}"
        assert in_child(lambda folder=folder: tune(recipe_in(place), folder), stop) == -signal.SIGKILL, what
        if begun(folder):
            lines = len(small.journal(folder))
            resume(folder)
            assert len(small.journal(folder)) >= lines, what
        else:
            with pytest.raises(RunError, match="no run folder"):
                resume(folder)
            tune(recipe_in(place), folder)
        assert small.artefacts(folder) == straight, what
        left = {path.name for path in folder.iterdir() if path.name != ".lock"}
        assert not [name for name in left if name.endswith(".tmp")], what
        shutil.rmtree(folder)


@forking
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1000.0], ids=["checkpoints", "journal only"])
def test_killed_again_and_again(place, straight, moments, checkpoint_seconds):
    folder = place / f"again-{checkpoint_seconds}"
    recipe = recipe_in(place, run__checkpoint_seconds=checkpoint_seconds)
    appends = [i for i, name in enumerate(moments) if name == "after append"]
    assert in_child(lambda: tune(recipe, folder), appends[1 if checkpoint_seconds == 0 else 0]) == -signal.SIGKILL
    deaths = 1
    while in_child(lambda: resume(folder), 24) == -signal.SIGKILL:
        deaths += 1
        assert deaths < 30
    assert deaths >= 3
    assert small.artefacts(folder) == straight
    assert (folder / "checkpoint.npz").exists() == (checkpoint_seconds == 0)


@forking
def test_replayed_from_the_journal_alone(place, straight, moments):
    for stop in ("after append", "before append"):
        for part in (0.3, 0.6, 0.9):
            folder = place / "replayed"
            recipe = recipe_in(place, run__checkpoint_seconds=1000.0)
            log = place / "plain.json"
            if not log.exists():
                assert in_child(lambda recipe=recipe: tune(recipe, place / "plain"), log=log) == 0
            found = [i for i, name in enumerate(json.loads(log.read_text(encoding="utf-8"))) if name == stop]
            at = found[int(part * len(found))]
            assert in_child(lambda recipe=recipe, folder=folder: tune(recipe, folder), at) == -signal.SIGKILL
            assert not (folder / "checkpoint.npz").exists()
            resume(folder)
            assert small.artefacts(folder) == straight
            shutil.rmtree(folder)


def stopped(place: Path, folder: Path, after: int, **changes: Any) -> None:
    """A run that was stopped after some generations."""

    with pytest.raises(KeyboardInterrupt):
        tune(recipe_in(place, **changes), folder, small.Stop(step=after))


@pytest.mark.grid
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1000.0], ids=["checkpoints", "journal only"])
@pytest.mark.parametrize("keep", [0, 1, 0.5, -1])
def test_a_torn_last_line(place, straight, tmp_path, checkpoint_seconds, keep):
    folder = tmp_path / "run"
    stopped(place, folder, 4, run__checkpoint_seconds=checkpoint_seconds)
    journal = folder / "journal.jsonl"
    whole = journal.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    torn = last[: int(len(last) * keep) if isinstance(keep, float) else keep]
    journal.write_bytes(whole[: -len(last)] + torn)
    resume(folder)
    assert small.artefacts(folder) == straight


def test_a_journal_shorter_than_the_checkpoint(place, straight, tmp_path):
    stopped(place, tmp_path / "run", 4)
    (tmp_path / "run" / "checkpoint.npz").write_bytes((place / "straight" / "checkpoint.npz").read_bytes())
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    with pytest.raises(RunError, match="fewer than the checkpoint"):
        resume(tmp_path / "run")
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before
    (tmp_path / "run" / "checkpoint.npz").unlink()
    resume(tmp_path / "run")
    assert small.artefacts(tmp_path / "run") == straight


def test_a_damaged_checkpoint_can_be_deleted(place, straight, tmp_path):
    stopped(place, tmp_path / "run", 5)
    checkpoint = tmp_path / "run" / "checkpoint.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-40])
    with pytest.raises(RunError, match="delete it"):
        resume(tmp_path / "run")
    checkpoint.unlink()
    resume(tmp_path / "run")
    assert small.artefacts(tmp_path / "run") == straight


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"method__patience": 1, "method__dev_every": 1}, "patience"), ({"run__max_forward_tokens": 2000}, "max_forward")],
)
def test_other_bounds_hold_over_a_stop(place, tmp_path, changes, reason):
    recipe = recipe_in(place, method__covariance="separable", **changes)
    result = tune(recipe, tmp_path / "straight")
    assert result["stop_reason"].startswith(reason) and result["steps"] >= 2
    stopped(place, tmp_path / "run", result["steps"] - 1, method__covariance="separable", **changes)
    resume(tmp_path / "run")
    assert small.artefacts(tmp_path / "run") == small.artefacts(tmp_path / "straight")


def test_a_reason_to_stop_that_was_recorded_stays(place, tmp_path):
    """Time runs out in the search; a resumed run does not search on, whatever the clock says now."""

    class BeforeTesting(Callback):
        def on_testing(self):
            raise KeyboardInterrupt

    recipe = recipe_in(place, run__max_seconds=0.05, method__budget=100_000)
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "run", BeforeTesting())
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    (tmp_path / "run" / "clock.jsonl").unlink()
    assert resume(tmp_path / "run")["stop_reason"] == "max_seconds"
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before


def test_seconds_add_up_over_a_stop(place, tmp_path):
    stopped(place, tmp_path / "run", 3)
    clock = tmp_path / "run" / "clock.jsonl"
    lines = [json.loads(line) for line in clock.read_text(encoding="utf-8").splitlines()]
    clock.write_text("".join(json.dumps({**x, "seconds": x["seconds"] + 1000}) + "\n" for x in lines), encoding="utf-8")
    assert 1000 < resume(tmp_path / "run")["cost"]["seconds"] < 1060


def test_a_finished_run_is_left_alone(place, straight):
    folder = place / "straight"
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}
    result = resume(folder, small.Stop(lines=1))
    assert result == json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*"))} == before


def test_two_processes_on_one_folder(place, tmp_path):
    stopped(place, tmp_path / "run", 2)
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    with FileLock(str(tmp_path / "run" / ".lock")):
        with pytest.raises(RunError, match="another process"):
            resume(tmp_path / "run")
        with pytest.raises(RunError, match="another process"):
            tune(recipe_in(place), tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before


@forking
def test_a_folder_is_locked_while_a_run_works_in_it(place, tmp_path):
    """The second process really is one: forked from inside the first one's search."""
    codes: list[int] = []

    class Second(Callback):
        def on_turn(self, record, state, seconds, recorded):
            if record.step == 2:
                codes.append(subprocess_resume(tmp_path / "run"))

    def subprocess_resume(folder):
        script = f"import sys; sys.path.insert(0, {str(Path(small.__file__).parent)!r})\nfrom pathlib import Path\n"
        script += "from tandemtune.runs.store import RunFolder\nwith RunFolder.open(Path(sys.argv[1])).locked(): pass\n"
        made = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False)
        assert "another process is working" in made.stderr
        return made.returncode

    tune(recipe_in(place), tmp_path / "run", Second())
    assert codes == [1]


def test_other_versions_are_refused(place, straight, tmp_path, monkeypatch):
    stopped(place, tmp_path / "run", 3)
    from tandemtune import runner

    real = runner.versions()
    monkeypatch.setattr(runner, "versions", lambda: {**real, "torch": "1.0", "cmaes": "0.1"})
    with pytest.raises(RunError, match=r"other versions \(torch .* -> 1\.0, cmaes .* -> 0\.1\)"):
        resume(tmp_path / "run")
    monkeypatch.undo()
    resume(tmp_path / "run")
    assert small.artefacts(tmp_path / "run") == straight


def test_changed_rows_are_refused(tmp_path):
    stopped(tmp_path, tmp_path / "run", 3)
    good = (tmp_path / "train.jsonl").read_bytes()
    small.write_rows(tmp_path / "train.jsonl", small.rows(12, seed=77))
    with pytest.raises(RunError, match="no longer those that the run began with"):
        resume(tmp_path / "run")
    (tmp_path / "train.jsonl").write_bytes(good)
    resume(tmp_path / "run")
    tune(recipe_in(tmp_path), tmp_path / "straight")
    assert small.artefacts(tmp_path / "run") == small.artefacts(tmp_path / "straight")


def test_resume_from_another_folder(place, straight, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    recipe = recipe_in(place)
    recipe["task"] |= {"train": "train.jsonl", "test": "./test.jsonl"}

    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "run", small.Stop(step=1))
    monkeypatch.chdir(tmp_path)
    resume("run")
    assert small.artefacts(tmp_path / "run") == straight


def test_interrupted_at_the_command_line(place, straight, tmp_path, monkeypatch):
    from tandemtune.report.live import LiveReport

    def stop(self, record, *rest):
        if record.step == 3:
            raise KeyboardInterrupt

    recipe = small.write_recipe(tmp_path / "r.json", recipe_in(place))
    with monkeypatch.context() as patched:
        patched.setattr(LiveReport, "on_turn", stop)
        called = small.call("run", recipe, "--out", tmp_path / "run")
    assert called.code == 130
    assert called.err.startswith("tandemtune: stopped.") and f"tandemtune resume {tmp_path / 'run'}" in called.err
    called = small.call("resume", tmp_path / "run")
    assert called.code == 0, called.err
    assert small.artefacts(tmp_path / "run") == straight


def wait_for_lines(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    for _ in range(3000):
        with_lines = folder / "journal.jsonl"
        if with_lines.exists() and with_lines.read_bytes().count(b"\n") >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail("the run does not begin")


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_real_process_stopped_and_killed(place, tmp_path, killed):
    """`python -m tandemtune run`, stopped by ^C, resumed (and killed, and resumed) and done."""
    recipe = recipe_in(place, method__budget=250)
    tune(recipe, tmp_path / "straight")
    path, folder = small.write_recipe(tmp_path / "r.json", recipe), tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tandemtune", *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    with start("run", str(path), "--out", str(folder)) as first:
        wait_for_lines(folder, 4, first)
        first.send_signal(signal.SIGINT)
        _, err = first.communicate()
    assert first.returncode == 130 and "Traceback" not in err
    assert [line for line in err.splitlines() if line.startswith("tandemtune: stopped.")], err
    had = len(small.journal(folder))
    if killed:
        with start("resume", str(folder), "--quiet") as second:
            wait_for_lines(folder, had + 5, second)
            second.kill()
            second.communicate()
        assert second.returncode == -signal.SIGKILL
    resume(folder)
    assert small.artefacts(folder) == small.artefacts(tmp_path / "straight")
