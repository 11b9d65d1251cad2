"""Reward functions of users: those that were written for trl work, and those that fail say where and lose nothing."""

from __future__ import annotations

import csv
import functools
import json
import re
import shutil
import subprocess
import sys
import time

import pytest

import small
import tandemtune
import writing
from grids import sparse
from small import journal, resume, tune
from tandemtune.config import load_config
from tandemtune.config.schema import UNBOUNDED
from tandemtune.errors import ConfigError, RewardError, RunError, UsageError
from tandemtune.objectives.reward import MinusReward
from tandemtune.plugins import register
from tandemtune.rewards import own
from tandemtune.rewards.base import Written, get

REWARD = {"method__objective": "reward"}


def file_of(place, body):
    path = place / "mine.py"
    path.write_text(body, encoding="utf-8")
    return path


def run_with(place, body, name="near", **changes):
    """A short run whose metric and reward is a function."""
    address = f"{file_of(place, body)}:{name}"
    return tune(
        writing.recipe(place, task__metric=address, **{**REWARD, "method__budget": 8, **changes}), place / "run"
    )


def asked(place, body, *completions, seconds=20.0, **given):
    """What a function says of some texts."""
    rows = [f"the row with text {number}" for number, _ in enumerate(completions, 1)]
    empty = [() for _ in completions]
    written = Written(["p" for _ in completions], completions, empty, **{"rows": rows, "ids": empty, **given})
    return get(f"{file_of(place, body)}:near", seconds).where_it_applies(written)


BREAKS = """
from pathlib import Path
MARK = Path(__file__).parent / "mark"
def near(prompts, completions, **columns):
    if MARK.exists():
        raise ValueError("now it is broken")
    return [float(len(text.split())) for text in completions]
"""
MENDED = BREAKS.replace('raise ValueError("now it is broken")', "pass")


class Breaks(tandemtune.Callback):
    """Makes the function fail after a turn."""

    def __init__(self, mark):
        self.mark = mark

    def on_turn(self, record, state, seconds, recorded):
        if record.step == 3:
            self.mark.touch()


def broken_run(place):
    recipe = writing.recipe(place, task__metric=f"{file_of(place, BREAKS)}:near", **REWARD)
    with pytest.raises(UsageError, match="correct it; a run that has begun is saved, resume it then"):
        tune(recipe, place / "cut", Breaks(place / "mark"))
    return recipe


def test_a_reward_that_stopped_a_run_is_mended_and_the_run_goes_on(tmp_path):
    recipe = broken_run(tmp_path)
    file_of(tmp_path, MENDED)
    result = resume(tmp_path / "cut")
    (note,) = [note for note in result["notes"] if "was mended after step 3" in note]
    assert note.startswith(f"the code of {tmp_path / 'mine.py'}:near")
    tune(recipe, tmp_path / "whole")
    assert journal(tmp_path / "cut") == journal(tmp_path / "whole")


def test_code_that_is_changed_without_a_reason_is_refused_before_and_after(tmp_path):
    broken_run(tmp_path)
    (tmp_path / "mark").unlink()
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "cut", small.Stop(step=5))  # it goes on with the same code
    file_of(tmp_path, MENDED)
    with pytest.raises(RunError, match="no longer those that the run began with"):
        resume(tmp_path / "cut")
    file_of(tmp_path, BREAKS)
    (tmp_path / "mark").touch()
    with pytest.raises(UsageError, match="correct it"):
        resume(tmp_path / "cut")  # it fails again before anything is scored
    file_of(tmp_path, MENDED)
    resume(tmp_path / "cut")


def test_what_trl_gives_a_function(tmp_path):
    body = """
def near(completions, completion_ids, trainer_state, log_extra=None, **kwargs):
    log_extra("text", completions)
    kwargs["log_metric"]("length", 1.0)
    with open(__file__ + ".log", "a") as log:
        print(trainer_state.global_step, file=log)
    return [float(len(ids)) for ids in completion_ids]
"""
    result = run_with(tmp_path, body, method__budget=16)
    assert result["tuned"]["test"] > 0 and {row["rewards"]["near"] for row in predictions(tmp_path)} <= set(range(6))
    assert {"0", "1", "2"} <= set((tmp_path / "mine.py.log").read_text().split())


ENDS = """
import json
def near(completions, completion_ids, **kwargs):
    with open(__file__ + ".log", "a") as log:
        for ids in completion_ids:
            print(json.dumps(ids), file=log)
    return [float(len(ids)) for ids in completion_ids]
"""


def test_the_mark_at_the_end_of_a_text_is_among_its_tokens(tmp_path):
    """So a function tells a text that the model ended from one that is as long as may be; of a text that ends by a stop text it does not."""
    result = run_with(tmp_path, ENDS, method__objective={"kind": "reward", "sampled_at": 5.0}, method__budget=40)
    assert result["steps"]
    ids = [json.loads(line) for line in (tmp_path / "mine.py.log").read_text().splitlines()]
    end = tandemtune.load(tmp_path / "run").scorer.backbone.model.config.eos_token_id
    ended = [one for one in ids if one and one[-1] == end]
    assert any(len(one) < 5 for one in ended), "texts that the model ended"
    assert all(len(one) == 5 for one in ids if one not in ended), "texts that are as long as may be"
    assert not any(end in one[:-1] for one in ids)


STATE = """
import json
def near(completions, trainer_state, **kwargs):
    with open(__file__ + ".log", "a") as log:
        print(json.dumps(vars(trainer_state)), file=log)
    return [float(len(text)) for text in completions]
"""


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("changes", "steps", "epochs"),
    [
        ({"method__budget": 17}, 3, 3),  # five a generation, the incumbent included
        ({"method__budget": 100, "method__steps": 3, "method__subsample": 2}, 3, 2),  # half of the rows each
        (
            {"method__then": [{"name": "es", "budget": 8, "popsize": 4, "objective": "reward"}], "method__budget": 10},
            4,
            4,
        ),
    ],
)
def test_how_far_a_run_is(tmp_path, changes, steps, epochs):
    result = run_with(tmp_path, STATE, **changes)
    told = [json.loads(line) for line in (tmp_path / "mine.py.log").read_text().splitlines()]
    assert {(one["max_steps"], one["num_train_epochs"]) for one in told} == {(steps, epochs)}
    share = 0.5 if "method__subsample" in changes else 1.0
    assert all(one["epoch"] == one["global_step"] * share for one in told)
    assert {one["global_step"] for one in told} == set(range(result["steps"])) and result["steps"] == steps
    (tmp_path / "mine.py.log").unlink()
    tandemtune.load(tmp_path / "run").evaluate(tmp_path / "test.jsonl")
    (later,) = (tmp_path / "mine.py.log").read_text().splitlines()
    assert json.loads(later) == {**told[0], "global_step": 0, "epoch": 0.0}


def test_what_nobody_knows_of_a_run_is_told(tmp_path):
    body = "def near(completions, trainer_state, **kwargs): return [trainer_state.{} for _ in completions]\n"
    with pytest.raises(UsageError, match="trainer_state has no max_steps here; there are global_step and epoch"):
        run_with(tmp_path, body.format("max_steps"), method__budget=UNBOUNDED, run__max_seconds=5)
    with pytest.raises(UsageError, match="no log_history here; there are global_step, max_steps, epoch and num_train"):
        run_with(tmp_path, body.format("log_history"))
    with pytest.raises(UsageError, match="has no max_steps here; there is global_step"):
        asked(tmp_path, body.format("max_steps"), "a")


@pytest.mark.few(4)
@pytest.mark.parametrize(
    "given",
    [
        "(float(len(text)) for text in completions)",
        "map(len, completions)",
        "tuple(map(len, completions))",
        "dict.fromkeys(completions, 1).keys() and dict(zip(completions, map(len, completions))).values()",
        "numpy.array([len(text) for text in completions], dtype='float32')",
        "numpy.array([[len(text)] for text in completions])",
        "[numpy.array([len(text)]) for text in completions]",
        "torch.tensor([float(len(text)) for text in completions], requires_grad=True)",
        "[torch.tensor(float(len(text))) for text in completions]",
        "torch.tensor([len(text) for text in completions]).bfloat16()",
        "[fractions.Fraction(len(text)) for text in completions]",
        "[decimal.Decimal(len(text)) for text in completions]",
    ],
)
def test_whatever_gives_a_number_for_each_text(tmp_path, given):
    imports = ", ".join(name for name in ("numpy", "torch", "fractions", "decimal") if name in given) or "json"
    assert asked(tmp_path, f"import {imports}\ndef near(completions, **kwargs): return {given}\n", "a", "bcd") == [1, 3]


@pytest.mark.parametrize(
    "given", ["'good'", "dict.fromkeys(completions, 1.0)", "{1.0, 2.0}", "None", "numpy.array(1.0)"]
)
def test_what_gives_no_number_for_each_text(tmp_path, given):
    body = f"import numpy\ndef near(completions, **kwargs): return {given}\n"
    with pytest.raises(UsageError, match="expected a list of 2 numbers"):
        asked(tmp_path, body, "a", "b")


def test_what_fails_on_the_way_names_its_row(tmp_path):
    body = """
def near(completions, **kwargs):
    for text in completions:
        if text == "bad":
            raise ValueError("the bad one")
        yield 1.0
"""
    with pytest.raises(UsageError, match=r"failed for the row with text 2 .completion 'bad'.: ValueError: the bad one"):
        asked(tmp_path, body, "a", "bad")


def predictions(place):
    return [json.loads(line) for line in (place / "run" / "predictions.jsonl").read_text().splitlines()]


def test_a_function_may_be_asynchronous(tmp_path):
    body = """
import asyncio
LOCK = []
async def near(completions, **kwargs):
    LOCK.append(asyncio.get_running_loop())
    await asyncio.sleep(0)
    assert len(set(LOCK)) == 1, "as with trl, one loop for all calls"
    return [float(len(text)) for text in completions]
"""
    reward = get(f"{file_of(tmp_path, body)}:near")
    for text in ("ab", "abc"):
        assert reward.each(Written([""], [text], [()])) == [len(text)]


def test_none_is_a_row_that_a_reward_does_not_apply_to(tmp_path):
    body = """
def near(completions, **kwargs):
    return [None, *[1.0] * (len(completions) - 1)]
def other(completions, **kwargs):
    return [0.5] * len(completions)
"""
    file = file_of(tmp_path, body)
    written = Written(["", ""], ["a", "b"], [(), ()], rows=["the row with text 'x'", "the row with text 'y'"])

    def loss(**weights):
        objective = MinusReward(rewards={f"{file}:{name}": weight for name, weight in weights.items()})
        return objective.judge(load_config(writing.recipe(tmp_path)).task and _task(tmp_path))(written)

    assert loss(near=2.0, other=1.0) == pytest.approx(-(2.0 * (0.0 + 1.0) / 2 + 0.5))
    with pytest.raises(UsageError, match=r"'near' gave None for the row with text 'x' .completion 'a'."):
        loss(near=1.0)
    with pytest.raises(UsageError, match="from a metric for each row"):
        get(f"{file}:near").score(written)


def _task(place):
    from tandemtune.wiring import make_task

    return make_task(load_config(writing.recipe(place)).task, "causal")


CHAT = "{% for m in messages %}{{ 'yes ' + m['content'] + ' no .' }}{% endfor %}{% if add_generation_prompt %}{{ ' maybe : ' }}{% endif %}"


@pytest.mark.few(1)
@pytest.mark.parametrize("system", [None, "you are good"])
def test_a_conversation_is_given_as_messages(tmp_path, system):
    model = tmp_path / "model"
    shutil.copytree(small.model_folder("llama"), model)
    told = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**told, "chat_template": CHAT}))
    body = """
MARK = __file__ + ".mark"
import os
def near(prompts, completions, text, **kwargs):
    for prompt, completion, one in zip(prompts, completions, text, strict=True):
        first = [{"role": "system", "content": "SYSTEM"}] * ("SYSTEM" != "None")
        assert prompt == [*first, {"role": "user", "content": f"the film {one} . it was"}], prompt
        assert [message["role"] for message in completion] == ["assistant"], completion
    if os.path.exists(MARK):
        raise ValueError("stop")
    return [float(len(completion[0]["content"])) for completion in completions]
"""
    body = body.replace("SYSTEM", str(system))
    changes = {"task__chat": True, "task__template": None, "task__max_tokens": 48, "task__system": system}
    templates = ["the film {text} . it was {mask}"]
    address = f"{file_of(tmp_path, body)}:near"
    recipe = writing.recipe(tmp_path, task__metric=address, method__budget=16, **{**REWARD, **changes})
    recipe["model"]["name"], recipe["task"]["templates"] = str(model), templates
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "run", small.Stop(step=1))
    resume(tmp_path / "run")  # its template is the whole conversation by then
    found = tandemtune.load(tmp_path / "run").evaluate(tmp_path / "test.jsonl")
    assert found.rows == 12


@pytest.mark.slow
def test_a_script_that_begins_runs_when_it_is_imported_is_not_run_twice(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(writing.recipe(tmp_path, method__budget=8)))
    script = tmp_path / "script.py"
    script.write_text(f"""
import json
import tandemtune
from tandemtune.objectives.reward import MinusReward
def near(completions, **kwargs):
    return [float(len(text)) for text in completions]
with open({str(tmp_path / "log")!r}, "a") as log:
    print(__name__, file=log)
tandemtune.tune(json.load(open({str(tmp_path / "recipe.json")!r})), out={str(tmp_path / "run")!r}, progress="none",
                objective=MinusReward(rewards=[near]))
""")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode and not (tmp_path / "run").exists()
    assert "cannot be loaded: UsageError: the file of the reward starts a run" in ended.stderr
    assert len((tmp_path / "log").read_text().splitlines()) == 2


def test_nothing_of_the_users_is_run_in_the_process_of_a_run(tmp_path, monkeypatch):
    body = "import sys\nsys.exit(3)\ndef near(completions, **kwargs): return [1.0 for _ in completions]\n"
    with pytest.raises(UsageError, match=r"cannot be loaded: SystemExit: 3 \(mine.py, line 2\)"):
        run_with(tmp_path, body)
    monkeypatch.setattr(own, "STARTING", 3.0)
    reward = {**REWARD, "task__reward_seconds": 2.0}
    recipe = writing.recipe(tmp_path, task__metric=f"{tmp_path / 'mine.py'}:near", **reward)
    file_of(tmp_path, "import time\ntime.sleep(1000)\ndef near(completions, **kwargs): ...\n")
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", recipe))
    assert called.code == 2 and "cannot be loaded: it took longer than 3 seconds to import" in called.err.replace(
        "\n", " "
    )


def test_a_file_may_take_as_long_to_import_as_a_call(tmp_path, monkeypatch):
    monkeypatch.setattr(own, "STARTING", 0.05)
    body = "import time\ntime.sleep({})\ndef near(completions, **kwargs): return [1.0 for _ in completions]\n"
    assert asked(tmp_path, body.format(0.5), "a", seconds=60.0) == [1.0]
    with pytest.raises(UsageError, match=r"longer than 0\.2 seconds to import: .*raise \[task\] reward_seconds"):
        asked(tmp_path, body.format(100), "a", seconds=0.2)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("mine.py:nera", "has no 'nera' (did you mean 'near'?)"),
        ("other.py:near", "FileNotFoundError: no Python file"),
        ("broken.py:near", "SyntaxError: invalid syntax"),
        ("no_such_package.mine:near", "No module named 'no_such_package'"),
        ("json.no_such_module:near", "No module named 'json.no_such_module'"),
    ],
)
def test_where_a_function_lies_is_found_without_running_it(tmp_path, address, says):
    file_of(tmp_path, "def near(completions): ...\n")
    (tmp_path / "broken.py").write_text("def near(:\n")
    place = address if address.startswith(("no_", "json")) else str(tmp_path / address)
    recipe = writing.recipe(tmp_path, task__metric=place, method__objective={"kind": "reward", "rewards": [place]})
    with pytest.raises(ConfigError) as told:
        load_config(recipe)
    assert says in str(told.value)


@pytest.mark.parametrize(
    "body",
    ["from json import dumps as near", "if True:\n    near = len", "from json import *", "globals()['near'] = len"],
)
def test_names_that_a_file_may_have_at_its_top(tmp_path, body):
    load_config(writing.recipe(tmp_path, task__metric=f"{file_of(tmp_path, body)}:near", **REWARD))


def test_a_function_that_is_metric_and_reward_has_one_process(tmp_path):
    body = """
import os
with open(__file__ + ".log", "a") as log:
    print(os.getpid(), file=log)
def near(completions, **kwargs):
    return [float(len(text)) for text in completions]
"""
    run_with(tmp_path, body, method__objective={"kind": "reward", "rewards": [f"{tmp_path / 'mine.py'}:near"]})
    assert len((tmp_path / "mine.py.log").read_text().splitlines()) == 1


def test_a_run_that_has_ended_is_used_without_its_reward(tmp_path):
    body = "def near(completions, **kwargs): return [float(len(text)) for text in completions]\n"
    place = {"method__objective": {"kind": "reward", "rewards": {f"{tmp_path / 'mine.py'}:near": 1.0}}}
    run_with(tmp_path, body, task__answer=None, **place)
    (tmp_path / "mine.py").unlink()
    assert small.call("generate", tmp_path / "run", "a film").code == 0
    predicted = small.call(
        "predict", tmp_path / "run", "--input", tmp_path / "test.jsonl", "--output", tmp_path / "o.jsonl"
    )
    assert predicted.code == 0
    assert small.call("export", tmp_path / "run", "--to", tmp_path / "exported").code == 0
    scored = small.call("evaluate", tmp_path / "run", tmp_path / "test.jsonl")
    assert scored.code == 2 and "cannot be loaded: FileNotFoundError: no Python file" in scored.err


def test_a_run_that_has_ended_labels_without_its_own_metric(tmp_path):
    file = file_of(tmp_path, "def near(predictions, gold): return 0.5\n")
    tune(small.recipe(tmp_path, method__budget=8, task__metric=f"{file}:near"), tmp_path / "run")
    file.unlink()
    for name in [name for name in sys.modules if name.startswith("tandemtune_file_")]:
        del sys.modules[name]  # as in a process that has not imported the file
    model = tandemtune.load(tmp_path / "run")
    assert model.predict(["a film"])[0].label in small.LABELS
    with pytest.raises(UsageError, match="no Python file"):
        model.evaluate(tmp_path / "test.jsonl")


def test_a_row_that_fails_is_shown_as_it_stands_in_the_file(tmp_path):
    """Whichever rows were drawn, and where they are judged one by one."""
    recipe = writing.recipe(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    text = rows[7]["text"]
    body = f"def near(completions, text, **kwargs): return [float('nan') if one == {text!r} else 1.0 for one in text]\n"
    with pytest.raises(UsageError, match="expected a finite number") as told:
        run_with(tmp_path, body, task__shots="all", task__dev_shots=1, task__seed=recipe["task"]["seed"])
    where = f"{tmp_path / 'train.jsonl'}, line 8"
    assert f"gave nan for the row with text {text!r} in {where} (completion " in str(told.value)


SLOW = """
import time
model = None
def near(completions, **kwargs):
    global model
    if model is None:
        time.sleep(0.8)
        model = 1
    time.sleep(10 if SLOW in completions or len(completions) > MOST else 0)
    return [1.0 for _ in completions]
"""


@pytest.mark.slow
def test_a_slow_first_call_is_no_rows_fault(tmp_path):
    with pytest.raises(UsageError, match=r"took longer than 2\.4 seconds for 4 texts: make it faster"):
        asked(tmp_path, "SLOW, MOST = 'none', 3\n" + SLOW, "a", "b", "c", "d", seconds=2.4)


@pytest.mark.parametrize("slow", sparse("abd", "d"))
def test_a_slow_row_is_shown(tmp_path, slow):
    with pytest.raises(UsageError, match=f"most of it for the row with text . .completion '{slow}'."):
        asked(tmp_path, f"SLOW, MOST = {slow!r}, 100\n" + SLOW, "a", "b", "c", "d", seconds=2.4)


def test_the_row_that_is_named_fails_in_the_very_same_way(tmp_path):
    """A function that cannot judge one text at all does not tell of another row, and what it said first is not lost."""
    body = """
import statistics
def near(completions, **kwargs):
    for text in completions:
        if text == "bad":
            raise ValueError("the bad one")
    return [len(text) - statistics.stdev(map(len, completions)) for text in completions]
"""
    with pytest.raises(UsageError, match=r"failed for the row with text 3 .completion 'bad'.: ValueError: the bad one"):
        asked(tmp_path, body, "a", "bb", "bad", "c")
    together = body.replace('text == "bad"', "len(completions) > 3")
    with pytest.raises(UsageError, match=r"failed for 4 texts together: ValueError: the bad one"):
        asked(tmp_path, together, "a", "bb", "bad", "c")


def test_no_longer_is_looked_for_a_row_than_the_limit(tmp_path):
    body = """
import time
def near(completions, **kwargs):
    if len(completions) > 1:
        raise ValueError("too many")
    time.sleep(1.0)
    return [1.0]
"""
    begun = time.monotonic()
    with pytest.raises(UsageError, match="failed for 12 texts together: ValueError: too many"):
        asked(tmp_path, body, *"abcdefghijkl", seconds=2.0)
    assert time.monotonic() - begun < 8


def test_a_wrong_number_of_rewards_is_told_of_the_row_that_gives_it(tmp_path):
    body = "def near(completions, **kwargs): return [1.0 for text in completions if text]\n"
    with pytest.raises(UsageError, match=r"gave 0 numbers for 1 text, .*, when asked about the row with text 2 .comp"):
        asked(tmp_path, body, "a", "", "c")
    body = "def near(completions, **kwargs): return [1.0]\n"
    with pytest.raises(UsageError, match="gave 1 number for 3 texts, expected one for each"):
        asked(tmp_path, body, "a", "b", "c")


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_number_without_end_is_none(tmp_path, digits):
    body = f"def near(completions, **kwargs): return [1.0, 10 ** {digits}]\n"
    with pytest.raises(UsageError, match=r"for the row with text 2 .completion 'b'., expected a finite number"):
        asked(tmp_path, body, "a", "b")


def test_columns_that_a_function_never_gets_are_told(tmp_path):
    names = [*own.GIVEN, "references"]
    for file, seed in (("train", 1), ("test", 2)):
        rows = [{**row, **dict.fromkeys(names, "mine")} for row in writing.rows(12, seed)]
        small.write_rows(tmp_path / f"{file}.jsonl", rows)
    body = "def near(*, length, **given): return [float('mine' in str(given)) for _ in length]\n"
    result = run_with(tmp_path, body, method__budget=8)
    (note,) = [note for note in result["notes"] if "rename the columns" in note]
    assert all(repr(name) in note for name in names) and "reach near" in note
    assert result["tuned"]["test"] == 0.0
    changes = {"task__metric": f"{tmp_path}/mine.py:near"}
    recipe = small.write_recipe(tmp_path / "recipe.json", writing.recipe(tmp_path, **changes))
    assert "rename the columns" in " ".join(small.call("validate", recipe).err.split())
    recipe = small.write_recipe(tmp_path / "recipe.json", writing.recipe(tmp_path))
    assert "rename the columns" not in " ".join(small.call("validate", recipe).err.split())


def test_a_program_that_a_reward_starts_reads_nothing(tmp_path):
    body = """
import subprocess, sys
def near(completions, **kwargs):
    done = subprocess.run([sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"], stdout=subprocess.PIPE)
    return [float(done.stdout) for _ in completions]
"""
    assert asked(tmp_path, body, "a", "b") == asked(tmp_path, body, "a", "b") == [0.0, 0.0]


def test_a_column_called_references_is_given_where_a_task_has_none(tmp_path):
    for name, seed in (("train", 1), ("test", 2)):
        small.write_rows(
            tmp_path / f"{name}.jsonl",
            [{"text": row["text"], "references": ["gold"]} for row in writing.rows(12, seed)],
        )
    body = "def near(completions, references, **kwargs): return [float(one == ['gold']) for one in references]\n"
    assert run_with(tmp_path, body, task__answer=None)["tuned"]["test"] == 1.0


def test_numbers_of_a_csv_file_are_numbers(tmp_path):
    for name, seed in (("train", 1), ("test", 2)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            rows = [
                [row["text"], i % 3, f"{i}.5", f"00{i}", "" if i else "1"]
                for i, row in enumerate(writing.rows(12, seed))
            ]
            csv.writer(file).writerows([["text", "whole", "part", "code", "some"], *rows])
    body = """
def near(completions, whole, part, code, some, **kwargs):
    kinds = [{type(value) for value in column} for column in (whole, part, code, some)]
    assert kinds == [{int}, {float}, {str}, {str}], kinds
    return [float(number) for number in whole]
"""
    files = {f"task__{name}": str(tmp_path / f"{name}.csv") for name in ("train", "test")}
    assert run_with(tmp_path, body, task__answer=None, **files)["tuned"]["test"] == 1.0


LENGTH = """
def near(completions, length, **kwargs):
    return [-abs(float(len(text.split()) - wanted)) for text, wanted in zip(completions, length)]
"""


def test_test_rows_without_a_column_that_the_metric_asks_for_are_refused_before_a_run(tmp_path):
    place = small.write_rows(tmp_path / "test.jsonl", [{"text": row["text"]} for row in writing.rows(12, 2)])
    with pytest.raises(
        RewardError, match=r"test rows: .*length.*; test rows are without .*'length', which training rows have"
    ):
        run_with(tmp_path, LENGTH, task__answer=None, task__test=str(place))
    assert not (tmp_path / "run").exists()
    assert run_with(tmp_path, LENGTH, task__answer=None, task__test=None)["steps"]


def _csv_files(place, train, test):
    """Two files whose rows have these cells in a column."""
    for name, seed, cells in (("train", 1, train), ("test", 2, test)):
        with (place / f"{name}.csv").open("w", newline="") as file:
            rows = [[row["text"], cell] for row, cell in zip(writing.rows(12, seed), cells, strict=True)]
            csv.writer(file).writerows([["text", "length"], *rows])
    return {f"task__{name}": str(place / f"{name}.csv") for name in ("train", "test")}


def test_a_column_is_of_one_kind_in_all_files(tmp_path):
    """One cell is blank in the test file alone: told with its line, and refused where a reward cannot do with texts."""
    files = _csv_files(tmp_path, range(1, 13), [*range(1, 7), "", *range(8, 13)])
    said = "'length' as texts, .*test.csv, line 8 holds ''; correct that"
    address = f"{file_of(tmp_path, LENGTH)}:near"
    recipe = writing.recipe(tmp_path, task__answer=None, task__metric=address, **REWARD, **files)
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", recipe))
    assert called.code == 0 and re.search(said, called.err + called.out)
    with pytest.raises(RewardError, match=said):
        tune(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fractions_in_one_file_are_fractions_in_all(tmp_path):
    files = _csv_files(tmp_path, range(1, 13), [1.5, *range(2, 13)])
    body = "def near(completions, length, **kwargs): return [float(type(one) is float) for one in length]\n"
    result = run_with(tmp_path, body, task__answer=None, **files)
    assert result["tuned"]["test"] == result["tuned"]["dev"] == 1.0


def test_whole_numbers_of_any_length_lose_no_digit(tmp_path):
    """One after another they differ in the last digit, which a fraction does not hold."""
    long = [10**18 + 1, 10**30 + 7, -(10**400) - 3, *range(9)]
    files = _csv_files(tmp_path, long, long)
    body = f"LONG = {long}\ndef near(completions, length, **kwargs): return [float(one in LONG) for one in length]\n"
    result = run_with(tmp_path, body, task__answer=None, **files)
    assert result["tuned"]["test"] == result["tuned"]["dev"] == result["tuned"]["train"] == 1.0


KIND = "def near(completions, length, **kwargs): return [float(type(one).__name__ == {kind!r}) for one in length]\n"


def _as_csv(place, cells):
    """A file to evaluate, whose rows have these cells in the column."""
    with place.open("w", newline="") as file:
        rows = [[row["text"], cell] for row, cell in zip(writing.rows(len(cells), 3), cells, strict=True)]
        csv.writer(file).writerows([["text", "length"], *rows])
    return place


@pytest.mark.grid
@pytest.mark.parametrize(
    ("kind", "train", "later"),
    [("float", [1.5, *range(2, 13)], [1, 2]), ("int", range(1, 13), [1, 2]), ("str", ["x", *range(2, 13)], [1, 2])],
)
@pytest.mark.parametrize("typed", [False, True])
def test_a_run_is_evaluated_on_columns_of_the_kind_that_it_learned_from(tmp_path, kind, train, later, typed):
    files = _csv_files(tmp_path, train, train)
    if typed:
        cells = [str(one) if kind == "str" else float(one) if kind == "float" else one for one in train]
        rows = [{"text": row["text"], "length": cell} for row, cell in zip(writing.rows(12, 1), cells, strict=True)]
        files = dict.fromkeys(files, str(small.write_rows(tmp_path / "train.jsonl", rows)))
        files["task__test"] = None
    run_with(tmp_path, KIND.format(kind=kind), task__answer=None, **files)
    called = small.call("evaluate", tmp_path / "run", _as_csv(tmp_path / "later.csv", later), "--json")
    assert called.code == 0, called.err
    assert json.loads(called.out)["score"] == 1.0


@pytest.mark.parametrize(
    ("kind", "train", "later", "score"),
    [
        ("int", range(1, 13), ["1", "2"], 1.0),
        ("float", [1.5, *range(2, 13)], ["1", 2], 1.0),
        ("str", ["007", *range(2, 13)], [7, 8], None),
    ],
)
def test_columns_of_a_file_with_types_are_of_the_kind_that_a_run_learned_from(tmp_path, kind, train, later, score):
    run_with(tmp_path, KIND.format(kind=kind), task__answer=None, **_csv_files(tmp_path, train, train))
    rows = [{"text": row["text"], "length": cell} for row, cell in zip(writing.rows(2, 3), later, strict=True)]
    called = small.call("evaluate", tmp_path / "run", small.write_rows(tmp_path / "later.jsonl", rows), "--json")
    if score is None:
        assert called.code == 2 and "holds the number 7 in the column 'length', which held texts" in " ".join(
            called.err.split()
        )
        return
    assert called.code == 0, called.err
    assert json.loads(called.out)["score"] == score


def test_a_cell_that_is_no_number_where_a_run_learned_from_numbers_is_told(tmp_path):
    body = "def near(completions, length, **kwargs): return [float(not isinstance(one, str)) for one in length]\n"
    run_with(tmp_path, body, task__answer=None, **_csv_files(tmp_path, range(1, 13), range(1, 13)))
    file = _as_csv(tmp_path / "later.csv", [1, "two"])
    called = small.call("evaluate", tmp_path / "run", file)
    assert called.code == 2 and f"{file}, line 3 holds 'two' in the column 'length'" in " ".join(called.err.split())
    facts = tmp_path / "run" / "run.json"  # of a run that did not keep it
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "columns": None}))
    called = small.call("evaluate", tmp_path / "run", file, "--json")
    assert called.code == 0 and json.loads(called.out)["score"] == 0.0


def test_columns_that_no_function_reads_may_hold_anything(tmp_path):
    files = _csv_files(tmp_path, range(1, 13), range(1, 13))
    template = {"task__answer": "text", "task__template": "{length} {mask}"}
    tune({**writing.recipe(tmp_path, **template, **files), "method": {"name": "manual"}}, tmp_path / "run")
    called = small.call("evaluate", tmp_path / "run", _as_csv(tmp_path / "later.csv", [1, "two"]))
    assert called.code == 0, called.err


@register("reward", "registered by a test")
def registered(completions, **kwargs):
    return [2.0 for _ in completions]


class Scores:
    def __call__(self, completions, **kwargs):
        return [1.0 for _ in completions]


scores = Scores()


@pytest.mark.slow
def test_other_callables(tmp_path):
    for one in (functools.partial(registered), Scores()):
        with pytest.raises(UsageError, match="has no name that another process could find it by: write a function"):
            MinusReward(rewards=[one])
    assert get("registered by a test").each(Written([""], ["a"], [()])) == [2.0]
    assert get(f"{__file__}:scores").each(Written([""], ["a"], [()])) == [1.0]
    changes = {"task__metric": "registered by a test", **REWARD}
    assert tune(writing.recipe(tmp_path, method__budget=8, **changes), tmp_path / "run")["tuned"]["test"] == 2.0


def test_a_module_is_found_where_the_run_finds_it(tmp_path, monkeypatch):
    file_of(tmp_path, "def near(completions): return [3.0 for _ in completions]\n").rename(tmp_path / "mine_of_path.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert get("mine_of_path:near").each(Written([""], ["a"], [()])) == [3.0]


def test_an_exception_says_where_it_was_raised(tmp_path, capfd):
    body = """
import json
def near(completions, **kwargs):
    return inner(completions)
def inner(completions):
    return json.loads("{")
"""
    with pytest.raises(UsageError, match=r"JSONDecodeError: .* \(mine.py, line 6\)"):
        asked(tmp_path, body, "a", "b")
    told = capfd.readouterr().err
    assert "in inner" in told and told.count("Traceback") == 1


def test_a_parameter_that_is_no_column_is_named_with_those_that_are_there(tmp_path):
    body = "def near(completions, wanted, weight=1.0):\n    return [weight for _ in completions]\n"
    with pytest.raises(UsageError, match="it asks for wanted, which is no column of the rows; there are place, "):
        asked(tmp_path, body, "a", columns={"place": ["here"]})
    assert asked(tmp_path, body, "a", columns={"wanted": ["here"]}) == [1.0]


@pytest.mark.parametrize("metric", ["exactmatch", 3])
def test_a_wrong_metric_is_one_problem(tmp_path, metric):
    recipe = writing.recipe(tmp_path, task__answer=None, task__metric=metric, **REWARD)
    with pytest.raises(ConfigError) as told:
        load_config(recipe)
    (problem,) = told.value.problems
    assert problem.startswith("[task] metric: ")


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ("exact_match", "name their column with --answer"),
        ("json_schema", "needs [task] answer_schema"),
        ("bleau", "unknown reward"),
    ],
)
def test_init_refuses_a_reward_that_cannot_judge(tmp_path, reward, says):
    pytest.importorskip("jsonschema")
    small.write_rows(tmp_path / "rows.jsonl", [{"text": row["text"]} for row in writing.rows(40, 3)])
    recipe = tmp_path / "recipe.toml"
    called = small.call(
        "init", tmp_path / "rows.jsonl", "--reward", reward, "--model", small.model_folder("llama"), "--out", recipe
    )
    assert called.code == 2 and says in called.err and not recipe.exists()
