"""Comparisons: runs in processes that are stopped and killed."""

from __future__ import annotations

import csv
import functools
import importlib
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from filelock import FileLock

import small
from plans import OWN, plan_of
from report import made
from tandemtune.comparisons import StoppedError, check_plan, execute, records_of
from tandemtune.comparisons.plan import Plan
from tandemtune.errors import ConfigError, RunError
from tandemtune.report.comparison import as_markdown, compared, write
from tandemtune.report.comparison_page import comparison_report
from tandemtune.runs.store import RunFolder

running = importlib.import_module("tandemtune.comparisons.execute")
processes = importlib.import_module("tandemtune.comparisons.processes")
planning = importlib.import_module("tandemtune.comparisons.plan")
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")


def test_a_huge_plan_is_read_in_seconds(tmp_path):
    begin = time.monotonic()
    plan = plan_of(tmp_path, f"seeds = {list(range(300))}\nsweep = {{ d = {list(range(20, 220, 20))} }}\n" + OWN)
    records = records_of(plan)
    assert len(plan.cells) == 3000 and {record.failure for record in records} == {"not run"}
    found = compared(records, plan.baseline)
    assert len(as_markdown(found).splitlines()) < 60 and time.monotonic() - begin < 20


def test_on_a_cluster_each_run_reserves_the_most_threads_of_any(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "cores", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    asked = []

    def elsewhere(threads, place):
        asked.append(threads)
        raise RunError("no cluster here")

    for given, threads in (("", 64), ('"model.threads" = 4\n', 4)):
        place = tmp_path / str(threads)
        place.mkdir()
        plan = plan_of(
            place,
            "seeds = [1]\n[methods]\nmanual = {}\n" + OWN.replace("[all]\n", f"[all]\n{given}"),
        )
        with pytest.raises(RunError, match="no cluster here"):
            execute(plan, lambda line: None, elsewhere)
        assert asked[-1] == threads


# ---- runs, played by a process that needs no torch ---------------------------------------------------------------

PLAYED = r"""
import json, os, sys, time
from pathlib import Path
asked = sys.stdin.buffer
asked.readline()
request = json.loads(asked.readline())
words = request["arguments"]
folder = Path(words[1] if words[0] == "resume" else words[3])
recipe = folder / "recipe.json"
if words[0] == "run":
    folder.mkdir(parents=True)
    recipe.write_text(Path(words[1]).read_text())
seen = {"threads": os.environ["OMP_NUM_THREADS"], "words": words, "session": os.getsid(0) == os.getpid()}
(folder / "seen.json").write_text(json.dumps(seen))
steps = json.loads(recipe.read_text())["method"]["patience"]
code, said = 0, ""
if steps == 1:
    code, said = 1, "Traceback\nValueError: bad"
if steps == 2:
    code, said = 2, "noise\ntandemtune: recipe: 2 problems\n  - one\n  - two"
if steps == 3:
    os.kill(os.getpid(), 9)
if steps == 4:
    asked.read()
    (folder / "told").write_text("")
    code = 130
if steps == 5:
    time.sleep(0.4)
if code:
    Path(request["log"]).write_text(said)
else:
    (folder / "result.json").write_text(RESULT)
print(json.dumps({"code": code, "again": False}), flush=True)
"""
"""A worker that plays one run."""
RESULT = json.dumps(made.result(test=0.5, seconds=6.0).plain())


@pytest.fixture
def played(tmp_path, monkeypatch):
    """Plans whose runs are played: (text of [methods], further top-level lines) -> plan."""
    monkeypatch.setattr(processes, "_WORKER", f"RESULT = {RESULT!r}\n{PLAYED}")
    for module in (running, processes):
        monkeypatch.setattr(module, "GRACE", 3.0)
    for module in (running, planning):
        monkeypatch.setattr(module, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return lambda methods, more="", *overrides: plan_of(
        tmp_path, f"seeds = [1, 2]\n{more}\n[methods]\n{methods}\n" + OWN, *overrides
    )


def seen(plan: Plan, index: int = 0) -> dict[str, Any]:
    return json.loads((plan.cells[index].folder / "seen.json").read_text(encoding="utf-8"))


def stamps(plan: Plan) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(plan.out.rglob("*.json"))}


def test_ended_runs_are_not_repeated(played):
    plan, said = played("lora = {}"), []
    records = execute(plan, said.append)
    assert [record.result.tuned.test for record in records] == [0.5, 0.5]
    assert said[0] == "2 runs, 1 at a time, 8 threads each"
    assert said[2] == "2 of 2: small / lora / 2: accuracy 0.5 on test, 6 s"
    before = stamps(plan)
    more, said = played("lora = {}\nbbt = {}"), []
    execute(more, said.append)
    assert said[0].endswith("; 2 have ended before") and said[1].startswith("3 of 4: ")
    assert {path: stamp for path, stamp in stamps(more).items() if path in before} == before
    said = []
    assert execute(more, said.append) == records_of(more) and said == ["all 4 runs have ended already; nothing to do"]
    left = sorted(path.name for path in (plan.out / "small" / "lora").iterdir())
    assert left == ["1", "2"], "no helper files are left"


def test_a_run_of_several_sweeps_is_made_once(played):
    plan, said = played("c-lora = {}\nx = { sweep = { d = [100, 20], r = [1, 2] } }"), []
    assert [cell.folder.parts[-2] for cell in plan.cells][::2] == ["c-lora", "c-lora", "x-d=20", "x-r=1", "c-lora"]
    records = execute(plan, said.append)
    assert len(list(plan.out.rglob("result.json"))) == 6 and all(record.result for record in records)
    assert [record.method for record in records][::2] == plan.methods
    assert said[0].startswith("10 runs") and said[1].startswith("3 of 10: small / c-lora / 1, small / x, d=100 / 1, ")
    assert execute(plan, said.append) == records and said[-1] == "all 10 runs have ended already; nothing to do"


def test_failing_runs_leave_the_others_alone(played):
    plan = played("a = { patience = 1 }\nb = { patience = 2 }\nc = { patience = 3 }\nd = {}", "jobs = 3")
    found = [record.failure for record in execute(plan, lambda line: None)][::2]
    log = plan.out / "small" / "a" / "1.log"
    assert found == [f"ValueError: bad (all of it in {log})", "recipe: 2 problems - one - two", found[2], None]
    assert found[2].startswith("killed by SIGKILL") and "Traceback" in log.read_text(encoding="utf-8")
    written = write(plan, records_of(plan))
    assert len(written.missing) == 6 and "begun, not ended" in (plan.out / "runs.csv").read_text(encoding="utf-8")


def test_what_a_plan_expects_is_in_the_files_and_starts_no_run_again(played):
    plan, text = (
        played("lora = {}\nbbt = {}"),
        "expected = { source = 'A paper', tasks = { small = { lora = 90, bbt = 80 } } }",
    )
    execute(plan, lambda line: None)
    before = stamps(plan)
    files = [plan.out / name for name in ("table.md", "comparison.json", "report.html")]
    write(plan, records_of(plan))
    assert "xpected" not in files[0].read_text(encoding="utf-8")
    assert json.loads(files[1].read_text(encoding="utf-8"))["expected"] is None
    more, said = played("lora = {}\nbbt = {}", f"reference = 'bbt'\n{text}"), []
    write(more, execute(more, said.append))
    files[2].write_text(comparison_report(plan.out), encoding="utf-8")
    assert said == ["all 4 runs have ended already; nothing to do"] and before.items() <= stamps(more).items()
    for path in files:
        content = path.read_text(encoding="utf-8")
        assert "A paper" in content and ("to bbt" in content) == (path.suffix != ".json"), path
    saved = json.loads(files[1].read_text(encoding="utf-8"))
    assert saved["reference"] == "bbt" and saved["expected"]["columns"]["small"]["n"] == 2


def test_begun_runs_are_resumed(played):
    plan = played("lora = {}")
    folder = plan.cells[0].folder
    RunFolder.create(folder, plan.cells[0].config.model_dump(mode="json"))
    assert records_of(plan)[0].failure == "begun, not ended"
    execute(plan, lambda line: None)
    assert seen(plan)["words"][:2] == ["resume", str(folder)] and seen(plan, 1)["words"][0] == "run"


@pytest.mark.parametrize(
    ("more", "overrides", "threads", "recipe"),
    [
        ("jobs = 1", (), "8", 8),
        ("jobs = 3", (), "2", 2),
        ("jobs = 9", (), "1", 1),
        ("jobs = 2", ("model.threads=5",), "5", 5),
    ],
)
def test_processes_share_the_cores(played, more, overrides, threads, recipe):
    plan, said = played("lora = {}", more, *overrides), []
    execute(plan, said.append)
    assert seen(plan)["threads"] == threads
    assert RunFolder(plan.cells[0].folder).read_recipe()["model"]["threads"] == recipe
    assert any("share 8 processor cores" in line for line in said) == (more == "jobs = 9")
    assert all(record.result for record in records_of(played("lora = {}", "jobs = 4", *overrides)))


def test_the_environment_bounds_threads(played, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert played("lora = {}").threads == 3 and played("lora = {}", "jobs = 4").threads == 2


def test_jobs_run_side_by_side(played):
    plan = played("a = { patience = 5, d = 20 }\nb = { patience = 5, d = 40 }", "jobs = 4")
    execute(plan, lambda line: None)
    spans = sorted(
        tuple((cell.folder / name).stat().st_mtime for name in ("seen.json", "result.json")) for cell in plan.cells
    )
    assert len(spans) == 4
    assert any(begin < end for (_, end), (begin, _) in itertools.pairwise(spans)), "one begins before another has ended"


def test_the_number_of_jobs_may_be_given_on_the_command_line(played, monkeypatch):
    plan = played("a = { d = 20 }")
    for name in ("train", "test"):
        small.write_rows(plan.out.parent / f"{name}.jsonl", small.rows(80, 1, ("no", "yes")))
    monkeypatch.chdir(plan.out.parent)
    called = small.call("compare", "plan.toml", "--jobs", "2", "--out", plan.out)
    assert called.code == 0 and "2 runs, 2 at a time, 4 threads each" in called.err


@posix
def test_interrupted(played):
    """Ctrl-C ends all processes once, starts no other, and says how to go on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    plan, said = played("quick = {}\nslow = { patience = 4 }\nlater = { d = 20 }", "jobs = 2"), []
    slow = [cell.folder / "seen.json" for cell in plan.cells if cell.method == "slow"]

    def press():
        while not all(path.exists() for path in slow):
            time.sleep(0.02)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(StoppedError, match="stopped: 2 of 6 runs have ended; the same command goes on") as caught:
        execute(plan, said.append)
    assert caught.value.exit_code == 130 and "stopping" in said[-1]
    assert all((path.parent / "told").exists() for path in slow), "they were told, not killed"
    assert not any(cell.folder.exists() for cell in plan.cells if cell.method == "later")
    assert json.loads(slow[0].read_text(encoding="utf-8"))["session"], "a terminal's Ctrl-C does not reach them twice"
    with FileLock(str(plan.out / ".lock"), timeout=0):
        pass
    signal.signal(signal.SIGINT, before)


def test_two_comparisons_on_one_folder(played):
    plan = played("lora = {}")
    plan.out.mkdir()
    with FileLock(str(plan.out / ".lock")), pytest.raises(RunError, match="another comparison is running"):
        execute(plan, lambda line: None)
    execute(plan, lambda line: None)
    with FileLock(str(plan.out / ".lock")):
        assert len(execute(plan, lambda line: None)) == 2, "tables of what has ended need no lock"


def test_a_run_that_another_process_works_on(played, monkeypatch):
    plan = played("lora = {}")
    cell = plan.cells[0]
    folder = RunFolder.create(cell.folder, cell.config.model_dump(mode="json"))
    monkeypatch.setattr(running, "GRACE", -4.0)
    with folder.locked():
        records = execute(plan, lambda line: None)
    assert records[0].failure == f"another process is working in {cell.folder}" and records[1].result
    monkeypatch.setattr(running, "GRACE", 5.0)
    lock = FileLock(str(cell.folder / ".lock"), thread_local=False)
    lock.acquire()
    threading.Timer(0.5, lock.release).start()
    assert execute(plan, lambda line: None)[0].result, "what a killed comparison left has a moment to end"


def test_a_changed_plan_overwrites_nothing(played):
    execute(played("lora = {}\nbbt = {}"), lambda line: None)
    RunFolder(played("lora = {}").cells[1].folder).result.unlink()  # one has ended, one has begun
    changed = played("bbt = {}\nlora = { 'method.steps' = 9, 'method.r' = 1 }")
    before = stamps(changed)
    with pytest.raises(RunError) as caught:
        execute(changed, lambda line: None)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["small / lora / 1", "small / lora / 2"]
    assert "(method.steps 60 there, 9 in the plan; method.tunable.r 2 there, 1 in the plan)" in lines[0]
    with pytest.raises(ConfigError, match="small / lora / 2"):
        check_plan(changed, lambda line: None)
    assert stamps(changed) == before
    assert len(execute(played("bbt = {}"), lambda line: None)) == 2, "what is left of the plan can be shown"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("'task.class_weights' = { no = 2.0, yes = 1.0 }", ""),
        ("'task.class_weights' = { no = 2.0, yes = 1.0 }", "'task.class_weights' = 'balanced'"),
        ("'task.labels' = { no = 'bad', yes = 'fine' }", ""),
    ],
)
def test_a_setting_that_is_taken_out_of_a_plan_is_a_change(played, before, after):
    execute(played(f"lora = {{ {before} }}"), lambda line: None)
    for other in (after, before.replace("2.0", "3.0").replace("'fine'", "'great'")):
        with pytest.raises(RunError, match=r"has another recipe \(task\.(class_weights|labels)"):
            execute(played(f"lora = {{ {other} }}"), lambda line: None)
    execute(played(f"lora = {{ {before} }}"), lambda line: None)


def rewritten(plan: Plan, change: Any) -> None:
    for cell in plan.cells:
        path = cell.folder / "recipe.json"
        recipe = json.loads(path.read_text(encoding="utf-8"))
        change(recipe)
        path.write_text(json.dumps(recipe), encoding="utf-8")


def test_what_a_recipe_does_not_say_has_its_default(played):
    plan = played("lora = {}")
    execute(plan, lambda line: None)

    def shorter(recipe):
        del recipe["method"]["patience"], recipe["method"]["optimizer"]["warmup"], recipe["task"]["shots"]
        del recipe["mentor"]

    rewritten(plan, shorter)
    assert all(record.result for record in records_of(plan))
    for change in ("warmup = 1", "'task.shots' = 3", "'mentor.retries' = 1"):
        with pytest.raises(RunError, match="has another recipe"):
            records_of(played(f"lora = {{ {change} }}"))
    rewritten(plan, lambda recipe: recipe["method"].update(gone=3))
    with pytest.raises(RunError, match=r"\[method\] gone: unknown key"):
        records_of(plan)
    rewritten(plan, lambda recipe: [recipe["method"].pop("gone"), recipe["model"].pop("name")])
    with pytest.raises(RunError, match=r"\[model\] name: missing"):
        records_of(plan)


def test_a_comparison_whose_last_runs_another_one_has_just_ended(played, monkeypatch):
    """Between the first look and the lock: nothing is left to do, and nothing is started."""
    plan = played("lora = {}")
    alone = running._alone

    @contextmanager
    def late(out):
        for cell in plan.cells:
            RunFolder.create(cell.folder, cell.config.model_dump(mode="json"))
            (cell.folder / "result.json").write_text(RESULT, encoding="utf-8")
        with alone(out):
            yield

    monkeypatch.setattr(running, "_alone", late)
    assert all(record.result for record in execute(plan, lambda line: None))
    assert not any((cell.folder / "seen.json").exists() for cell in plan.cells)


def test_damaged_runs_are_named(played):
    plan = played("lora = {}")
    execute(plan, lambda line: None)
    (plan.cells[0].folder / "result.json").write_text("{", encoding="utf-8")
    assert "cannot be read" in records_of(plan)[0].failure and records_of(plan)[1].result
    (plan.cells[1].folder / "recipe.json").write_text("[]", encoding="utf-8")
    with pytest.raises(RunError, match=r"small / lora / 2: .*is damaged"):
        records_of(plan)


# ---- the real thing ----------------------------------------------------------------------------------------------


@functools.cache
def real_plan(place: Path, budget: int = 160) -> Path:
    """Two methods, one task, two seeds, with files that are named from the working folder."""
    shutil.copytree(small.model_folder(), place / "model")
    content = small.recipe(place)
    task = content["task"] | {"train": "train.jsonl", "test": "test.jsonl"}
    del task["seed"]
    path = place / "real.toml"
    text = f"""
    seeds = [5, 6]
    baseline = "lora"
    title = "A small comparison"
    [all]
    model = {{ name = "model", dtype = "float32" }}
    run.checkpoint_seconds = 0
    [methods]
    c-lora = {{ "method.budget" = {budget}, d = 8, r = 1, popsize = 4, layers = "all", dev_every = 2 }}
    lora = {{ "method.steps" = 4, dev_every = 2 }}
    """
    path.write_text(text + tomli_w.dumps({"tasks": {"small": {"task": task}}}), encoding="utf-8")
    return path


def results(place: Path) -> dict[str, bytes]:
    return {str(p.relative_to(place)): p.read_bytes() for p in sorted((place / "runs").rglob("result.json"))}


@pytest.mark.slow
def test_a_comparison_of_real_runs(tmp_path, monkeypatch):
    real_plan(tmp_path, budget=20)
    monkeypatch.chdir(tmp_path)
    called = small.call("compare", "real.toml")
    assert called.code == 0, called.err
    tables_say_what_the_runs_say(tmp_path / "runs" / "real")


@pytest.mark.slow  # played runs are killed, fail and are gone on with above, real ones are compared before
@posix
def test_a_comparison_killed_resumed_failing_and_complete(tmp_path, monkeypatch):
    real_plan(tmp_path)
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs" / "real"
    first, second = (runs / "small" / "c-lora" / seed for seed in ("5", "6"))

    # killed in the middle of its second run: the run's process ends, too, and nothing that was finished is lost
    command = [sys.executable, "-m", "tandemtune", "compare", "real.toml"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        journal = second / "journal.jsonl"
        while not (journal.exists() and journal.read_bytes().count(b"\n") > 3):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.kill()
        said = process.communicate()[1]
    assert "1 of 4: small / c-lora / 5: accuracy" in said
    with FileLock(str(second / ".lock"), timeout=running.GRACE + 5):
        lines = journal.read_bytes()
    done = results(tmp_path)
    assert [*done] == ["runs/real/small/c-lora/5/result.json"] and not (second / "result.json").exists()
    stamp = (first / "result.json").stat().st_mtime_ns

    # started again, with something in the way of the last run: the others are made, and the table says what is missing
    (runs / "small" / "lora" / "6").mkdir(parents=True)
    (runs / "small" / "lora" / "6" / "holiday.jpg").write_bytes(b"x")
    called = small.call("compare", "real.toml")
    assert called.code == 1, called.err
    assert "4 runs, 1 at a time" in called.err and "; 1 has ended before" in called.err
    assert "1 of 4 runs failed" in called.err and "c-lora / 5: accuracy" not in called.err
    assert "1 run is missing:" in called.out and "exists already and is not overwritten" in called.out
    assert journal.read_bytes().startswith(lines.rpartition(b"\n")[0]) and journal.read_bytes() != lines
    assert (runs / "small" / "lora" / "6" / "holiday.jpg").read_bytes() == b"x"

    # complete
    shutil.rmtree(runs / "small" / "lora" / "6")
    called = small.call("compare", "real.toml")
    assert called.code == 0 and "3 have ended before" in called.err and "missing" not in called.out
    assert (first / "result.json").stat().st_mtime_ns == stamp and len(results(tmp_path)) == 4
    shown = small.call("compare", "real.toml", "--show", "--svg", "drawn", "--png", "drawn")
    assert shown.code == 0 and shown.out == called.out
    drawn = {path.suffix: path.read_bytes() for path in Path("drawn").iterdir()}
    assert b"<svg" in drawn[".svg"] and drawn[".png"].startswith(b"\x89PNG")
    before = results(tmp_path), {path: path.stat().st_mtime_ns for path in runs.glob("small/**/*")}
    assert small.call("compare", "real.toml").code == 0
    assert ({p: p.stat().st_mtime_ns for p in runs.glob("small/**/*")}, results(tmp_path)) == before[::-1]
    tables_say_what_the_runs_say(runs)

    # a changed plan
    called = small.call("compare", "real.toml", "method.r=2")
    assert (
        called.code == 2 and "small / c-lora / 5: the run in runs/real/small/c-lora/5 has another recipe" in called.err
    )
    assert results(tmp_path) == before[0]


def tables_say_what_the_runs_say(runs: Path) -> None:
    """CSV, JSON and Markdown against the runs' own results."""
    found = {
        (method, seed): json.loads((runs / "small" / method / str(seed) / "result.json").read_text(encoding="utf-8"))
        for method in ("c-lora", "lora")
        for seed in (5, 6)
    }
    rows = list(csv.DictReader(io.StringIO((runs / "runs.csv").read_text(encoding="utf-8"))))
    assert [(row["method"], int(row["seed"])) for row in rows] == [*found]
    for row, result in zip(rows, found.values(), strict=True):
        cost = result["cost"]
        for column, value in {
            "test": result["tuned"]["test"],
            "test_calibrated": result["tuned"]["calibrated"]["test"],
            "dev": result["tuned"]["dev"],
            "zero_shot": result["zero_shot"]["test"],
            "zero_shot_calibrated": result["zero_shot"]["calibrated"]["test"],
            "majority": result["majority"],
            "minutes": cost["seconds"] / 60,
            "peak MB": cost["peak_rss_mb"],
            "forward tokens (M)": cost["forward_tokens"] / 1e6,
            "backward tokens (M)": cost["backward_tokens"] / 1e6,
            "candidates": cost["candidates"],
            "gradient steps": cost["gradient_steps"],
        }.items():
            assert float(row[column]) == pytest.approx(value, abs=1e-6), column
        assert (row["stop_reason"], row["failure"]) == (result["stop_reason"], "")
    records = json.loads((runs / "records.json").read_text(encoding="utf-8"))
    assert [record["result"] for record in records["runs"]] == [*found.values()]
    content = json.loads((runs / "comparison.json").read_text(encoding="utf-8"))
    assert content["title"] == "A small comparison"
    markdown = (runs / "table.md").read_text(encoding="utf-8")
    for method in ("c-lora", "lora"):
        one, two = (found[method, seed]["tuned"]["test"] for seed in (5, 6))
        cell = content["methods"][method]["columns"]["small"]
        assert cell["mean"] == pytest.approx((one + two) / 2) and cell["std"] == pytest.approx(abs(one - two) / 2**0.5)
        assert f"| {method} | {cell['mean']:.3f} ± {cell['std']:.3f} |" in markdown
    ratio = sum(found["c-lora", s]["cost"]["seconds"] for s in (5, 6)) / sum(
        found["lora", s]["cost"]["seconds"] for s in (5, 6)
    )
    assert content["methods"]["c-lora"]["ratios"]["minutes"] == pytest.approx(ratio)


def test_check_starts_nothing(tmp_path, monkeypatch):
    plan = real_plan(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert small.call("compare", plan, "--check").out == f"{plan}: fine, 4 runs\n"
    called = small.call("compare", plan, "--check", "task.shots=100", "task.train=none.jsonl")
    assert called.code == 2 and "small / c-lora / 5: " in called.err
    with plan.open("a", encoding="utf-8") as file:  # what only one of the methods does with the rows
        file.write('[methods.solved]\n"method.name" = "readout"\n"method.prior" = [0.2, 0.3, 0.5]\n')
    called = small.call("compare", plan, "--check")
    assert called.code == 2 and "small / solved / 5: " in called.err and "prior [0.2, 0.3, 0.5]" in called.err
    assert not (tmp_path / "runs").exists()
