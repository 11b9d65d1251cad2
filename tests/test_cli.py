"""The command line: every command, what it prints, and its exit code."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from rich.console import Console

import small
import tandemtune
from tandemtune import assets, plugins
from tandemtune.cli import main
from tandemtune.config import recipes
from tandemtune.evaluators.label_words import LabelWordEvaluator
from tandemtune.methods import METHODS
from tandemtune.report.live import LiveReport
from tandemtune.runs.store import RunFolder
from tandemtune.tasks.catalogue import TASKS

NOUNS = ("optimizer", "tunable", "subspace", "objective", "readout", "proposer", "metric")
TURNS = ("step", "generation")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run made by the command line: its folder and what was said."""
    place = tmp_path_factory.mktemp("cli")
    recipe = small.write_recipe(place / "mine.json", small.recipe(place))
    return place / "run", small.call("run", recipe, "--out", place / "run")


def test_run_says_what_happens(done):
    folder, called = done
    assert called.code == 0, called.err
    assert called.err == (
        f"the run lies in {folder}; label texts with: tandemtune predict {folder} --input texts.jsonl "
        "--output out.jsonl\n"
    )
    assert "masked model of 4 layers, float32 on cpu, 1 thread;" in called.out
    assert "label words terrible, great" in called.out and "8 training rows" in called.out
    assert "start: train loss " in called.out and "stopped by budget" in called.out
    assert "zero-shot" in called.out and "\x1b" not in called.out


def test_lines_off_the_terminal_can_be_parsed(done):
    lines = [line for line in done[1].out.splitlines() if line.startswith("step=")]
    looks = [line for line in small.journal(done[0]) if line["event"] == "generation" and line["dev"]]
    assert len(lines) == len(looks) == 6
    for line, look in zip(lines, looks, strict=True):
        facts = dict(pair.split("=", 1) for pair in line.split(" "))
        assert (int(facts["step"]), int(facts["layer"])) == (look["step"], look["layer"])
        assert int(facts["candidates"]) == look["costs"]["candidates"] and facts["phase"] == "c-lora"
        assert float(facts["dev_loss"]) == pytest.approx(look["dev"]["loss"], abs=1e-4)
        assert set(facts) == {
            *("step", "phase", "sweep", "layer", "candidates", "train_loss", "dev_loss", "dev"),
            *("best_dev_loss", "left"),
        }


def test_quiet_says_the_result_only(tmp_path):
    recipe = small.write_recipe(tmp_path / "mine.json", small.recipe(tmp_path, method__budget=10))
    called = small.call("run", recipe, "--out", tmp_path / "run", "--quiet")
    assert called.code == 0 and "step=" not in called.out and "loading" not in called.out
    assert called.out.splitlines()[0].strip().startswith("small · ") and "zero-shot" in called.out


def test_default_folder_and_overrides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small.write_recipe(tmp_path / "mine.json", small.recipe(tmp_path))
    called = small.call("run", "mine.json", "budget=10", "task.seed=8", "task.template={text} . it is {mask} .")
    assert called.code == 0, called.err
    folder = tmp_path / "runs" / "mine-seed8"
    assert RunFolder.open(folder).read_recipe()["task"]["template"] == "{text} . it is {mask} ."
    assert len(small.journal(folder)) == 4


def test_an_existing_folder_is_refused(tmp_path, done):
    recipe = small.write_recipe(tmp_path / "mine.json", small.recipe(tmp_path, method__budget=10))
    before = small.artefacts(done[0])
    called = small.call("run", recipe, "--out", done[0])
    assert called.code == 2 and called.out == ""
    assert called.err.startswith("tandemtune: ") and "exists already and is not overwritten" in called.err
    assert small.artefacts(done[0]) == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"x")
    called = small.call("run", recipe, "--out", tmp_path / "photos", "--overwrite")
    assert called.code == 2 and "holds no run, so --overwrite does not touch it" in called.err
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["holiday.jpg"]
    (tmp_path / "empty").mkdir()
    assert small.call("run", recipe, "--out", tmp_path / "empty", "-q").code == 0
    assert small.call("run", recipe, "budget=5", "--out", tmp_path / "empty", "-q", "--overwrite").code == 0
    assert len(small.journal(tmp_path / "empty")) == 3


def test_resume_of_a_finished_run(done):
    before = small.artefacts(done[0])
    called = small.call("resume", done[0])
    assert called.code == 0 and f"the run in {done[0]} has ended already; nothing to do" in called.out
    assert small.artefacts(done[0]) == before


@pytest.mark.parametrize("command", ["resume", "show"])
def test_no_run_there(tmp_path, command):
    for place in (tmp_path, tmp_path / "nothing"):
        called = small.call(command, place)
        assert called.code == 2 and called.err.startswith(f"tandemtune: {place} is no run folder") and not called.out


def test_show_a_finished_run(done):
    called = small.call("show", done[0])
    assert called.code == 0 and called.err == ""
    for words in ("on the way", "layer by layer", "training loss fell by", "tuned, calibrated", "stopped by budget"):
        assert words in called.out
    found = json.loads(small.call("show", "--json", done[0]).out)
    lines = small.journal(done[0])
    assert found["finished"] and found["steps"] == 12 and found["candidates"] == found["planned"] == 60
    assert found["result"] == json.loads((done[0] / "result.json").read_text(encoding="utf-8"))
    assert [look["step"] for look in found["looks"]] == [0, 2, 4, 6, 8, 10, 12]
    generations = lines[1:-1]
    for layer, entry in found["layers"].items():
        mine = [line for line in generations if line["layer"] == int(layer)]
        taken = [line for line in mine if line["accepted"]]
        assert (entry["turns"], entry["taken"]) == (len(mine), len(taken))
        assert entry["gain"] == pytest.approx(sum(line["incumbent"] - line["best"] for line in taken))
    assert len(found["layers"]) == 4


def test_show_an_unfinished_run(tmp_path, done):
    lines = (done[0] / "journal.jsonl").read_bytes().splitlines(keepends=True)
    folder = tmp_path / "run"
    RunFolder.create(folder, RunFolder.open(done[0]).read_recipe())
    shutil.copy(done[0] / "run.json", folder)
    called = small.call("show", folder)
    assert called.code == 0 and "not finished: 0 of 60 candidates" in called.out
    assert f"tandemtune resume {folder}" in called.out.replace("\n", "")
    found = json.loads(small.call("show", folder, "--json").out)
    assert (found["finished"], found["result"], found["looks"]) == (False, None, [])
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:6]) + lines[6][:20])
    called = small.call("show", folder)
    assert called.code == 0 and "not finished: 25 of 60 candidates" in called.out and "on the way" in called.out
    assert json.loads(small.call("show", folder, "--json").out)["candidates"] == 25
    assert (folder / "journal.jsonl").read_bytes().endswith(lines[6][:20]), "show changes nothing"


def test_show_a_damaged_run(tmp_path, done):
    folder = tmp_path / "run"
    RunFolder.create(folder, RunFolder.open(done[0]).read_recipe())
    (folder / "journal.jsonl").write_text("nonsense\n{}\n", encoding="utf-8")
    called = small.call("show", folder)
    assert called.code == 1 and "journal.jsonl, line 1: damaged" in called.err


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("models", [assets.PREFIX + key for key, asset in assets.CATALOGUE.items() if asset.kind == "model"]),
        ("tasks", [*TASKS]),
        ("methods", [*METHODS]),
        ("recipes", [*recipes()]),
        *((f"{noun}s", plugins.names(noun)) for noun in NOUNS),
    ],
)
def test_ls(what, names, monkeypatch):
    called = small.call("ls", what)
    assert called.code == 0 and called.err == ""
    rows = [line.split("\t") for line in called.out.splitlines()]
    own = [row[0] for row in rows if row[0] in names]  # a test before may have brought parts of its own
    assert own == names and len({len(row) for row in rows}) == 1
    assert all(len(row[1]) > 8 for row in rows)
    shown = Console(file=io.StringIO(), force_terminal=True, width=300)
    monkeypatch.setattr("tandemtune.cli.looking.console", lambda: shown)
    assert small.call("ls", what).code == 0
    assert all(name in shown.file.getvalue() for name in names)


def test_ls_nonsense():
    called = small.call("ls", "nonsense")
    assert called.code == 2 and called.out == ""
    assert called.err == (
        "tandemtune: nothing called 'nonsense' can be listed: choose methods, optimizers, tunables, subspaces, objectives, "
        "readouts, proposers, metrics, rewards, yardsticks, trackers, executors, templates, tasks, models, mentors, recipes, runs\n"
    )
    assert "(did you mean 'optimizers'?)" in small.call("ls", "optimizer").err


def test_ls_alone_says_what_there_is():
    nouns = small.call("ls").out.split()
    assert {"methods", "templates", "mentors", *(f"{noun}s" for noun in NOUNS)} <= set(nouns)
    for noun in set(nouns) - {"runs"}:
        called = small.call("ls", noun)
        assert called.code == 0 and len(called.out.splitlines()) >= 1 and called.out != "none\n", noun


def test_ls_of_rewards_has_the_one_that_is_none_of_the_metrics():
    assert "\njudge\t" in small.call("ls", "rewards").out
    assert "leave 'judge' out" in small.call("ls", "rewards", "judge").err


def test_help_speaks_of_answers():
    assert "write answers to them" in " ".join(small.call("predict", "--help").out.split())


def test_ls_of_one_that_is_not_there():
    assert "unknown optimizer 'cmaes' (did you mean 'cma-es'?)" in small.call("ls", "optimizers", "cmaes").err
    assert "metrics have no options of their own" in small.call("ls", "metrics", "accuracy").err


def test_validate(tmp_path):
    recipe = small.write_recipe(tmp_path / "mine.json", small.recipe(tmp_path))
    called = small.call("validate", recipe)
    assert (called.code, called.out.splitlines()[-1], called.err) == (0, f"{recipe}: fine", "")
    assert called.out.startswith("rows used: 8 train, 8 dev, 24 test; 8 idle\n")
    called = small.call("validate", recipe, "shots=100")
    assert called.code == 2 and "too few rows" in called.err and called.out == ""
    assert small.call("validate", recipe, "shots=100", "--no-data").code == 0
    called = small.call("validate", recipe, "budget=many", "--no-data")
    assert called.code == 2 and "[method] budget" in called.err


def test_validate_sees_the_same_paths_as_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    content = small.recipe(tmp_path, task__train="~/train.jsonl", task__test="~/test.jsonl")
    assert small.call("validate", small.write_recipe(tmp_path / "mine.json", content)).code == 0
    called = small.call("validate", tmp_path / "mine.json", "model.name=./no-such-model")
    assert called.code == 2 and "model folder ./no-such-model does not exist" in called.err


@pytest.mark.parametrize("name", [*recipes()])
def test_packaged_recipes_are_valid(name):
    assert small.call("validate", name, "--no-data").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["nonsense"],
        ["run", "quickstart", "--nonsense"],
        ["predict"],
        ["show", "--json"],
        ["ls", "a", "b", "c"],
    ],
)
def test_wrong_use(arguments):
    called = small.call(*arguments)
    assert called.code == 2 and called.out == "" and "Usage" in called.err and "Traceback" not in called.err


@pytest.mark.parametrize("command", ["", "run", "resume", "predict", "show", "ls", "validate"])
def test_help(command):
    called = small.call(*[part for part in (command, "--help") if part])
    assert called.code == 0 and "Usage" in called.out and called.err == ""


def test_version_and_completion():
    called = small.call("--version")
    assert called.code == 0 and called.out == f"tandemtune {tandemtune.__version__}\n"
    help_of_all = small.call("--help").out
    assert "--install-completion" in help_of_all and "--show-completion" in help_of_all


def test_no_arguments_show_help():
    called = small.call()
    assert "Exit codes" in called.out + called.err and "Traceback" not in called.err


def test_python_m():
    command = [sys.executable, "-m", "tandemtune", "--help"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Tune pretrained models in closed form, with forward passes only, with gradients" in " ".join(
        made.stdout.split()
    )
    for name in ("run", "resume", "predict", "show", "ls", "validate"):
        assert re.search(rf"^\W*{name}\b", made.stdout, re.MULTILINE), name


def test_importing_costs_no_torch():
    script = (
        "import sys, tandemtune, tandemtune.cli, tandemtune.report.text, tandemtune.report.live\n"
        "import tandemtune.api, tandemtune.plugins, tandemtune.callbacks, tandemtune.system, tandemtune.runs.store\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert set(tandemtune.__all__) >= {'tune', 'resume', 'load'}\n"
        "for name in tandemtune.__all__: getattr(tandemtune, name)\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_public_name():
    import tandemtune

    with pytest.raises(AttributeError, match="nonsense"):
        tandemtune.nonsense  # noqa: B018


def test_errors_of_the_machine_are_one_line(tmp_path, monkeypatch, done):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device", "journal.jsonl")

    recipe = small.write_recipe(tmp_path / "mine.json", small.recipe(tmp_path, method__budget=10))
    monkeypatch.setattr("tandemtune.runs.journal.Journal.append", full)
    called = small.call("run", recipe, "--out", tmp_path / "run")
    assert called.code == 1 and len(called.err.splitlines()) == 1
    assert called.err.startswith("tandemtune: journal.jsonl cannot be read or written: No space left on device. ")
    assert f"tandemtune resume {tmp_path / 'run'}" in called.err


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99999999999 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_too_little_memory_within_a_run_loses_nothing(tmp_path, monkeypatch, error):
    recipe = small.write_recipe(tmp_path / "mine.json", small.recipe(tmp_path))
    assert small.call("run", recipe, "--out", tmp_path / "plain", "-q").code == 0
    real, calls = LabelWordEvaluator.evaluate, []

    def evaluate(*arguments, **options):
        calls.append(1)
        if len(calls) == 8:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(LabelWordEvaluator, "evaluate", evaluate)
    called = small.call("run", recipe, "--out", tmp_path / "run", "-q")
    assert called.code == 1 and called.err.startswith("tandemtune: out of memory: ") and called.err.count("\n") == 1
    assert "max_memory" in called.err and f"go on with: tandemtune resume {tmp_path / 'run'}" in called.err
    assert small.call("resume", tmp_path / "run", "-q").code == 0
    for name in ("journal.jsonl", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_interrupted_before_the_folder_is_made(tmp_path, monkeypatch):
    recipe = small.write_recipe(tmp_path / "mine.json", small.recipe(tmp_path))

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("tandemtune.autotune.build", stop)
    called = small.call("run", recipe, "--out", tmp_path / "run")
    assert called.code == 130 and called.err == "tandemtune: stopped before the run began\n"
    assert not (tmp_path / "run").exists()


def test_a_signal_to_end_is_told_as_an_interrupt_is(tmp_path, monkeypatch):
    recipe = small.write_recipe(tmp_path / "mine.json", small.recipe(tmp_path))

    def stop(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("tandemtune.autotune.build", stop)
    called = small.call("run", recipe, "--out", tmp_path / "run")
    assert called.code == 143 and called.err == "tandemtune: stopped before the run began\n"
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    evaluate, calls = LabelWordEvaluator.evaluate, iter(range(1000))
    monkeypatch.setattr(
        LabelWordEvaluator, "evaluate", lambda *a, **o: stop() if next(calls) == 5 else evaluate(*a, **o)
    )
    called = small.call("run", recipe, "--out", tmp_path / "run")
    assert called.code == 143 and f"go on with: tandemtune resume {tmp_path / 'run'}" in called.err
    monkeypatch.undo()
    assert small.call("resume", tmp_path / "run", "-q").code == 0


def test_an_interrupt_that_the_command_line_swallows_is_told(monkeypatch, capsys):
    def swallowed():
        raise SystemExit(130)  # as click does

    monkeypatch.setattr("tandemtune.cli.app.app", swallowed)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130 and capsys.readouterr().err == "tandemtune: stopped\n"


def test_names_with_brackets_are_shown_as_they_are(tmp_path):
    place = tmp_path / "[odd]" / "[/x]"
    place.mkdir(parents=True)
    content = small.recipe(tmp_path, task__name="[/red] task [bold]", method__budget=10)
    called = small.call("run", small.write_recipe(tmp_path / "mine.json", content), "--out", place / "run")
    assert called.code == 0, called.err
    assert "[/red] task [bold]" in called.out
    for arguments in (["show", place / "run"], ["resume", place / "run"]):
        called = small.call(*arguments)
        assert called.code == 0 and "[/red] task [bold]" in called.out
    assert str(place / "run") in called.out


def panel(monkeypatch):
    """A terminal, and the report on it that draws every turn."""
    monkeypatch.setattr("tandemtune.report.live.REFRESH", 0.0)
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    return console.file, LiveReport(console)


def test_a_live_panel_on_a_terminal(tmp_path, monkeypatch):
    screen, live = panel(monkeypatch)
    with live:
        small.tune(small.recipe(tmp_path), tmp_path / "run", live)
    shown = screen.getvalue()
    assert "60 of 60 candidates" in shown and "best dev loss" in shown and "step=" not in shown
    assert "small · " in shown


ROUNDS = {
    "method__name": "maao",
    "method__prompt_tokens": 3,
    "method__dev_every": 2,
    "method__lr": 0.25,
    "alternate__rounds": 2,
    "alternate__round_steps": 2,
    "alternate__final_steps": 3,
    "alternate__snapshots": 2,
    "alternate__proposals": 2,
    "alternate__accept": "if_better",
}
STORIES = {
    "mutation": {**ROUNDS, "alternate__proposer": "mutation"},
    "perturbed": {**ROUNDS, "alternate__proposer": "perturbed"},
    "no proposer": {**ROUNDS, "alternate__proposer": "none"},
    "cma-es doer": {**ROUNDS, "alternate__proposer": "random", "method__optimizer": "cma-es", "method__lr": None},
    "proposals alone": {**ROUNDS, "alternate__proposer": "mutation", "alternate__round_steps": 0}
    | {"alternate__final_steps": 0},
    "prompt-tuning": {"method__name": "prompt-tuning", "method__steps": 7, "method__lr": 0.25},
    "p-tuning-v2": {"method__name": "p-tuning-v2", "method__steps": 7},
    "lora": {"method__name": "lora", "method__steps": 7, "method__lr": 0.05},
}


@pytest.fixture(scope="module", params=STORIES, ids=str)
def told(request, tmp_path_factory):
    """A run of another method by the command line: folder, journal and what was said."""
    place = tmp_path_factory.mktemp("told")
    recipe = small.write_recipe(place / "mine.json", small.recipe(place, **STORIES[request.param]))
    called = small.call("run", recipe, "--out", place / "run")
    assert called.code == 0, called.err
    return place / "run", small.journal(place / "run"), called


def test_run_tells_every_method(told):
    """A line for each look at dev, and each proposal with its drafts."""
    _, lines, called = told
    looks = [line for line in lines if line["event"] in ("step", "generation") and line["dev"]]
    said = [line for line in called.out.splitlines() if line.startswith("step=")]
    assert len(said) == len(looks)
    for line, look in zip(said, looks, strict=True):
        facts = dict(pair.split("=", 1) for pair in line.split(" "))
        assert int(facts["step"]) == look["step"]
        assert float(facts["dev_loss"]) == pytest.approx(look["dev"]["loss"], abs=1e-4)
        assert facts["phase"] == look["phase"]
    rounds = [line for line in called.out.splitlines() if line.startswith("round ")]
    assert len(rounds) == sum(line["event"] == "proposal" for line in lines)
    for line in lines:
        for draft in line.get("drafts", ()):
            assert f"proposed {draft['text']!r}: dev loss {draft['dev']['loss']:.3f}" in called.out


def test_show_tells_the_story(told):
    folder, lines, _ = told
    called = small.call("show", folder)
    assert called.code == 0 and called.err == ""
    shown = " ".join(called.out.split())
    found = json.loads(small.call("show", folder, "--json").out)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert found["finished"] and found["result"] == result
    assert "stopped by" in shown and "nothing was searched" not in shown
    turns = [line for line in lines if line["event"] in ("step", "generation")]
    assert found["steps"] == result["steps"] == len(turns)
    assert [look["step"] for look in found["looks"]] == [0, *(line["step"] for line in turns if line["dev"])]
    assert found["candidates"] == result["cost"]["candidates"]
    proposals = [line for line in lines if line["event"] == "proposal"]
    assert bool(found["story"]) == bool(proposals) == ("round by round" in shown)
    for line in proposals:
        assert f"round {line['round']}: the trained prompt has a dev loss of {line['trained_dev']['loss']:.3f}" in shown
    taken = [line["taken"] for line in proposals]
    assert sum(entry.endswith("-> taken") for entry in found["story"]) == sum(index is not None for index in taken)
    assert sum("the search goes on from the trained prompt" in entry for entry in found["story"]) == taken.count(None)
    words = [line["words"]["text"] for line in lines if line.get("words") and proposals]
    readings = [entry for entry in found["story"] if "in words" in entry]
    assert len(readings) == len(words)
    assert all(repr(text) in entry for entry, text in zip(readings, words, strict=True))
    if result["kept_record"] > 0:
        assert "No point was better on dev" not in shown


def test_show_tells_an_unfinished_story(told, tmp_path):
    """After every line that it may have been stopped at, and with the next line torn."""
    folder, lines, _ = told
    whole = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    recipe, planned = RunFolder.open(folder).read_recipe(), sum(line["event"] in TURNS for line in lines)
    for count in sorted({0, 1, 2, len(whole) // 2, len(whole) - 1}):
        place = tmp_path / f"run-{count}"
        RunFolder.create(place, recipe)
        shutil.copy(folder / "run.json", place)
        (place / "journal.jsonl").write_bytes(b"".join(whole[:count]) + whole[count][:20])
        called = small.call("show", place)
        assert called.code == 0 and called.err == "", called.err
        assert "not finished: " in called.out and f"tandemtune resume {place}" in called.out.replace("\n", "")
        found = json.loads(small.call("show", place, "--json").out)
        turns = [line for line in lines[:count] if line["event"] in ("step", "generation")]
        assert not found["finished"] and found["steps"] == len(turns) and found["result"] is None
        said = re.search(r"not finished: (\d+)(?: of (\d+))? steps", " ".join(called.out.split()))
        assert said and (int(said[1]), int(said[2] or 0)) == (len(turns), planned)


def test_a_live_panel_counts_in_one_unit(tmp_path, monkeypatch):
    """What is done is never more than there is to do, also where generations take turns with proposals."""
    for name in ("mutation", "cma-es doer", "prompt-tuning"):
        screen, live = panel(monkeypatch)
        with live:
            small.tune(small.recipe(tmp_path, **STORIES[name]), tmp_path / name, live)
        counts = re.findall(r"(\d+) of (\d+) (\w+) · (\S+) ", screen.getvalue())
        assert counts and all(int(done) <= int(total) for done, total, *_ in counts), name
        assert all(not left.startswith("-") for *_, left in counts), name
        assert counts[-1][0] == counts[-1][1] == "7", name
