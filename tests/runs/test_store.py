"""The run folder: when it may be made, who may write in it, and what is cleaned up."""

from __future__ import annotations

import subprocess
import sys

import pytest
from filelock import FileLock

from tandemtune.errors import RunError
from tandemtune.runs.store import RunFolder

RECIPE = {"task": {"name": "sst2"}}


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.name != ".lock")


@pytest.mark.parametrize("depth", ["run", "a/b/run"])
def test_create_makes_the_folder_and_writes_the_recipe(tmp_path, depth):
    folder = RunFolder.create(tmp_path / depth, RECIPE)
    assert files(tmp_path / depth) == ["recipe.json"]
    assert folder.read_recipe() == RECIPE
    assert RunFolder.open(tmp_path / depth).read_recipe() == RECIPE
    assert folder.read_facts() is None and folder.read_result() is None
    assert folder.read_records() == [] and folder.read_seconds() == 0.0 and folder.load_checkpoint() is None


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_folder_may_be_used(tmp_path, overwrite):
    RunFolder.create(tmp_path, RECIPE, overwrite=overwrite)
    assert files(tmp_path) == ["recipe.json"]


def test_a_run_is_not_replaced_unasked(tmp_path):
    RunFolder.create(tmp_path / "run", RECIPE)
    (tmp_path / "run" / "journal.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(RunError, match="exists already and is not overwritten"):
        RunFolder.create(tmp_path / "run", {"other": 1})
    assert RunFolder.open(tmp_path / "run").read_recipe() == RECIPE
    with RunFolder.create(tmp_path / "run", {"other": 1}, overwrite=True).gone_unless_begun():
        pass
    assert files(tmp_path / "run") == ["recipe.json"]
    assert RunFolder.open(tmp_path / "run").read_recipe() == {"other": 1}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_run_is_never_touched(tmp_path, overwrite):
    place = tmp_path / "photos"
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "holiday.jpg").write_bytes(b"x")
    (place / "recipe.json").mkdir()
    with pytest.raises(RunError, match="not"):
        RunFolder.create(place, RECIPE, overwrite=overwrite)
    assert files(place) == ["deep", "holiday.jpg", "recipe.json"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_way(tmp_path, overwrite):
    (tmp_path / "run").write_text("mine", encoding="utf-8")
    for place in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(RunError):
            RunFolder.create(place, RECIPE, overwrite=overwrite)
    assert (tmp_path / "run").read_text(encoding="utf-8") == "mine"


def test_a_place_where_no_folder_can_be_made_is_found_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match=r"run cannot be made, since .*file is no folder: choose another --out"):
        RunFolder.check_free(tmp_path / "file" / "deep" / "run")
    monkeypatch.setattr("os.access", lambda place, how: False)
    with pytest.raises(RunError, match=r"run cannot be made, since .* may not be written"):
        RunFolder.check_free(tmp_path / "deep" / "run")


@pytest.mark.parametrize("linked", [False, True])
def test_a_run_that_does_not_begin_leaves_the_one_that_it_was_to_replace(tmp_path, linked):
    place = tmp_path / "run"
    if linked:
        (tmp_path / "disk").mkdir()
        place.symlink_to(tmp_path / "disk")
    RunFolder.create(place, RECIPE)
    (place / "journal.jsonl").write_text("{}\n", encoding="utf-8")
    (place / "adapter").mkdir()
    before = files(place)
    new = RunFolder.create(place, {"other": 1}, overwrite=True)
    with pytest.raises(KeyboardInterrupt), new.working(), new.gone_unless_begun():
        (place / "run.json").write_text("{}", encoding="utf-8")
        raise KeyboardInterrupt
    assert files(place) == before and RunFolder.open(place).read_recipe() == RECIPE
    new = RunFolder.create(place, {"other": 1}, overwrite=True)
    with pytest.raises(KeyboardInterrupt), new.working(), new.gone_unless_begun():
        (place / "journal.jsonl").write_text("{}\n", encoding="utf-8")
        raise KeyboardInterrupt
    assert files(place) == ["journal.jsonl", "recipe.json"] and RunFolder.open(place).read_recipe() == {"other": 1}
    RunFolder.create(place, RECIPE, overwrite=True)  # and one that is killed
    RunFolder.open(place).clean()
    assert files(place) == ["recipe.json"]


def test_a_recipe_that_cannot_be_written_leaves_no_folder(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tandemtune.runs.store.write_json", full)
    with pytest.raises(RunError, match="cannot be written: No space left"):
        RunFolder.create(tmp_path / "run", RECIPE)
    assert not (tmp_path / "run").exists()


def test_a_run_in_progress_is_not_replaced(tmp_path):
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    with FileLock(str(tmp_path / "run" / ".lock")), pytest.raises(RunError, match="another process is working"):
        RunFolder.create(tmp_path / "run", {"other": 1}, overwrite=True)
    assert folder.read_recipe() == RECIPE


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
def test_open_refuses_what_is_no_run(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(RunError, match="is no run folder"):
        RunFolder.open(tmp_path / name)


def test_one_process_at_a_time(tmp_path):
    folder = RunFolder.create(tmp_path, RECIPE)
    script = (
        "import sys\nfrom pathlib import Path\nfrom tandemtune.runs.store import RunFolder\n"
        "with RunFolder.open(Path(sys.argv[1])).locked():\n    print('in', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(RunError, match="another process is working"), folder.locked():
            pytest.fail("two processes in one folder")
        other.kill()
        other.wait()
    with folder.locked():  # a killed process holds nothing
        pass
    with folder.locked():
        pass


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    folder = RunFolder.create(tmp_path, RECIPE)
    (tmp_path / ".checkpoint.npz.123.tmp").write_bytes(b"half")
    (tmp_path / ".adapter.123.tmp").mkdir()
    (tmp_path / ".adapter.123.tmp" / "half.safetensors").write_bytes(b"half")
    (tmp_path / ".hidden").write_text("mine", encoding="utf-8")
    (tmp_path / "notes.tmp").write_text("mine", encoding="utf-8")
    folder.clean()
    assert files(tmp_path) == [".hidden", "notes.tmp", "recipe.json"]


def test_an_adapter_is_replaced_whole_or_not_at_all(tmp_path):
    folder = RunFolder.create(tmp_path, RECIPE)
    with folder.replacing_adapter() as place:
        (place / "one").write_text("1", encoding="utf-8")
        assert not folder.adapter.exists()
    with pytest.raises(ValueError), folder.replacing_adapter() as place:
        (place / "two").write_text("2", encoding="utf-8")
        raise ValueError
    assert files(folder.adapter) == ["one"]
    with folder.replacing_adapter() as place:
        (place / "three").write_text("3", encoding="utf-8")
    assert files(folder.adapter) == ["three"]
    assert files(tmp_path) == ["adapter", "recipe.json", "three"]


def test_seconds_survive_a_torn_clock(tmp_path):
    folder = RunFolder.create(tmp_path, RECIPE)
    folder.tick(step=1, seconds=1.5)
    folder.tick(step=2, seconds=2.5)
    assert folder.read_seconds() == 2.5
    with folder.clock.open("ab") as file:
        file.write(b'{"step": 3, "sec')
    assert folder.read_seconds() == 2.5
    folder.tick(step=3, seconds=4.0)
    assert folder.read_seconds() == 4.0


@pytest.mark.parametrize("content", ["{", "[1]", "", "\x00"])
def test_damaged_json_is_named(tmp_path, content):
    folder = RunFolder.create(tmp_path, RECIPE)
    for path, read in ((folder.recipe, folder.read_recipe), (folder.facts, folder.read_facts)):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(RunError, match=path.name):
            read()
