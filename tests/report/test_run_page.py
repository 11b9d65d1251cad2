"""Pages of runs: whole, true to what the run folder holds, and the same to the byte."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import made
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import Page, check_alone, same

import small
from tandemtune.errors import RunError
from tandemtune.report.page import escape
from tandemtune.report.run_page import kept_spot, recipe_text, run_page, trail, unit_of
from tandemtune.runs.store import RunFolder

KINDS = list(made.KINDS)


def read(folder):
    return Page(run_page(RunFolder(folder)))


def opened(kind):
    folder = made.run(kind)
    return read(folder), json.loads((folder / "result.json").read_text(encoding="utf-8")), small.journal(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_it_needs_nothing_but_itself(kind):
    page = opened(kind)[0]
    check_alone(page)
    assert "None" not in page.text and "nan" not in page.text.lower().split()


@pytest.mark.parametrize("kind", KINDS)
def test_the_scores_are_those_of_the_result(kind):
    page, result, _ = opened(kind)
    rows = {row[""]: row for row in page.table("Before and after")}
    metric = result["metric"]
    for key, name in (("zero_shot", "zero-shot"), ("tuned", "tuned")):
        row, found = rows[name], result[key]
        for split in ("train", "dev", "test"):
            assert same(row[f"{split} {metric}"], found[split])
        assert same(row["train loss"], found["train_loss"]) and same(row["dev loss"], found["dev_loss"])
        calibrated = rows[f"{name}, calibrated"]
        for split in ("dev", "test"):
            assert same(calibrated[f"{split} {metric}"], found["calibrated"][split])
    assert same(rows["majority class"][f"test {metric}"], result["majority"])
    numbers = re.findall(r"\d\.\d{4}", page.text[page.text.index(" on 24 test rows") :].split("\n")[0])
    zero, tuned = result["zero_shot"], result["tuned"]
    told = [tuned["test"], tuned["calibrated"]["test"], zero["test"], zero["calibrated"]["test"], result["majority"]]
    assert [float(n) for n in numbers] == [round(value, 4) for value in told]
    best = max(row[f"test {metric}"] for row in rows.values())
    assert page.source.count("(best)") == sum(row[f"test {metric}"] == best for row in rows.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_costs_are_those_of_the_result(kind):
    page, result, _ = opened(kind)
    cost, rows = result["cost"], result["rows"]
    for name in ("candidates", "gradient steps", "forward tokens", "backward tokens"):
        assert page.facts[name] == f"{cost[name.replace(' ', '_')]:,}"
    assert page.facts["turns"] == str(result["steps"])
    assert page.facts["search"].startswith(f"{cost['seconds']:.1f} s")
    assert page.facts["peak memory of the process"] == f"{cost['peak_rss_mb']:,.1f} MB"
    assert page.facts["rows"] == f"{rows['train']} train, {rows['dev']} dev, {rows['test']} test"
    assert page.facts["stopped by"] == result["stop_reason"]
    assert page.facts["seed"] == "5" and page.facts["method"] == result["method"]
    for name, version in result["versions"].items():
        assert page.facts[name] == version
    asked = {name: page.facts.get(f"mentor: {name}") for name in ("answers", "tokens asked", "tokens answered")}
    if kind == "mentor":
        spent = [cost[f"mentor_{name}"] for name in ("calls", "prompt_tokens", "completion_tokens")]
        assert list(asked.values()) == [f"{value:,}" for value in spent] and spent[0] >= 2
    else:
        assert set(asked.values()) == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_curves_hold_every_look_at_dev(kind):
    page, _, lines = opened(kind)
    unit = unit_of(lines)
    steps = any(line["event"] == "step" for line in lines)
    assert unit == ("gradient steps" if steps else "candidates")
    titles = [f"Loss over {unit}", f"Dev accuracy over {unit}", "Loss over forward tokens"]
    titles += [] if kind == "proposer alone" else ["Loss over time"]
    assert [name for name in page.captions() if name.startswith("Data of: ") and "over" in name] == [
        f"Data of: {title}" for title in titles
    ]
    looks = [line["dev"]["loss"] for line in lines if line["dev"] is not None]
    for title in (titles[0], *titles[2:]):
        rows = page.table(f"Data of: {title}")
        shown = [row["dev loss"] for row in rows if row["dev loss"] != "–"]
        assert len(shown) == len(looks)
        assert all(same(a, b) for a, b in zip(sorted(shown), sorted(looks), strict=True))
    scores = [row["dev accuracy"] for row in page.table(f"Data of: {titles[1]}")]
    assert [float(score) for score in scores] == [line["dev"]["score"] for line in lines if line["dev"] is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_spots_grow_and_end_where_the_result_says(kind):
    folder = RunFolder(made.run(kind))
    lines, result = folder.read_lines(), folder.read_result()
    spots = trail(folder, lines)
    assert len(spots) == len(lines)
    for one, other in pairwise(spots):
        assert one.turn <= other.turn and one.work <= other.work
        assert one.tokens <= other.tokens and one.backward <= other.backward and one.seconds <= other.seconds
    last, cost = spots[-1], result["cost"]
    assert (round(last.tokens), round(last.backward)) == (cost["forward_tokens"], cost["backward_tokens"])
    assert last.work == (cost["gradient_steps"] or cost["candidates"]) and last.turn == result["steps"]
    assert last.seconds <= cost["seconds"]
    best = kept_spot(spots)
    assert best.turn == result["kept_step"]
    assert abs(best.dev - result["tuned"]["dev_loss"]) < 1e-4


def test_layers_are_shown_where_there_are_several():
    for kind, blocks in (("c-lora", ["layer 0", "layer 1", "layer 2", "layer 3"]), ("bbt", []), ("lora", [])):
        page, _, lines = opened(kind)
        if not blocks:
            assert "Turns of each layer" not in page.captions()
            continue
        rows = page.table("Turns of each layer")
        assert [row["block"] for row in rows] == blocks
        for number, row in enumerate(rows):
            mine = [line for line in lines if line["event"] == "generation" and line["layer"] == number]
            taken = [line for line in mine if line["accepted"]]
            assert (row["turns"], row["better point found"]) == (str(len(mine)), str(len(taken)))
            assert same(row["training loss fell by"], sum(line["incumbent"] - line["best"] for line in taken))
    assert next(row["block"] for row in opened("bbtv2")[0].table("Turns of each layer")) == "input"


@pytest.mark.parametrize("kind", made.ROUNDED)
def test_rounds_tell_what_the_journal_holds(kind):
    page, _, lines = opened(kind)
    rounds = [line for line in lines if line["event"] == "proposal"]
    proposed = [rows for name, rows in page.tables if name.startswith("What ") and name.endswith(" proposed")]
    assert len(rounds) >= 2 and [len(rows) - 1 for rows in proposed] == [len(line["drafts"]) for line in rounds]
    for line, rows in zip(rounds, proposed, strict=True):
        for index, (draft, row) in enumerate(zip(line["drafts"], rows[1:], strict=True)):
            assert row[0] == draft["text"]
            assert row[1] == ("taken" if index == line["taken"] else "not taken")
            values = [draft["loss"], draft["score"], draft["dev"]["loss"], draft["dev"]["score"]]
            assert all(same(shown, value) for shown, value in zip(row[2:], values, strict=True))
        if line["taken"] is None:
            assert "Nothing was taken" in page.text
        else:
            taken = line["drafts"][line["taken"]]
            said = f"“{taken['text']}”: dev loss {line['trained']['dev']['loss']:.4f} → {taken['dev']['loss']:.4f}."
            assert said in page.text
    refused = [row for name, rows in page.tables if name == "What was said and could not be tried" for row in rows[1:]]
    assert refused == [pair for line in rounds for pair in line["refused"]]
    marks = {row["mark"] for row in page.table(f"Data of: Loss over {unit_of(lines)}")}
    restarts = {part for mark in marks for part in mark.split(", ") if part.startswith("restart")}
    assert restarts == {f"restart {line['round']}" for line in rounds if line["taken"] is not None}
    assert any("kept" in mark.split(", ") for mark in marks)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "alternate" in made.KINDS[kind]])
def test_prompts_are_read_as_words(kind):
    page, _, lines = opened(kind)
    read_ = [line for line in lines if line.get("words")]
    rows = [row for name, rows in page.tables if name == "The trained prompt, read as words" for row in rows[1:]]
    assert len(rows) == len(read_) >= 1
    for line, row in zip(read_, rows, strict=True):
        words = line["words"]
        assert row[0] == str(line.get("step", 0)) and row[2] == words["text"]
        values = [words["soft_loss"], words["distance"], words["loss"], words["score"]]
        assert all(same(row[i], value) for i, value in zip((1, 3, 4, 5), values, strict=True))


def test_a_mentor_and_a_task_that_would_hurt_a_page():
    page, _, lines = opened("mentor")
    check_alone(page)
    texts = [draft["text"] for line in lines if line["event"] == "proposal" for draft in line["drafts"]]
    refused = [text for line in lines if line["event"] == "proposal" for text, _ in line["refused"]]
    assert any("<script>" in text for text in texts + refused), "the mentor's worst is in the journal"
    for text in [*texts, *refused, "<script>alert('task')</script> & \"x\""]:
        assert text in page.text and escape(text) in page.source
    assert "<script" not in page.source and "<img" not in page.source and "alert(1)" in page.source
    raw = (made.run("mentor") / "conversations.jsonl").read_text(encoding="utf-8")
    assert page.codes["conversations.jsonl"] == raw
    assert page.text.count("Answer to question ") == raw.count('"answered"') >= 2
    assert made.SAID.strip() in page.text


def test_hostile_texts_in_every_file(tmp_path):
    folder = made.copy("maao mutation", tmp_path)
    worst = '</script></style><script>alert(1)</script><img src=x onerror=alert(1)>" onfocus="x\' & \x00\x1b[31m\u202e'

    def spoiled(value):
        if isinstance(value, str):
            keep = {"start", "step", "generation", "proposal", "end", "always", "best", "prompt", "adamw", "mutation"}
            return value if value in keep else worst
        if isinstance(value, dict):
            return {key: spoiled(item) for key, item in value.items()}
        return [spoiled(item) for item in value] if isinstance(value, list) else value

    for name in ("recipe.json", "run.json", "result.json"):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(spoiled(content)), encoding="utf-8")
    lines = [json.dumps(spoiled(line)) + "\n" for line in small.journal(folder)]
    (folder / "journal.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "conversations.jsonl").write_text(
        json.dumps({"client": worst, "offers": []}) + "\n" + worst, encoding="utf-8"
    )
    page = read(folder)
    check_alone(page)
    assert "<img" not in page.source and page.source.count("<script") == 0 and "\x1b" not in page.source
    assert "\x00" not in page.source and "\ufffd" in page.source


@pytest.mark.parametrize("kind", ["c-lora", "lora", "bbt in rounds", "maao random", "proposer alone"])
def test_a_run_that_was_stopped_anywhere(tmp_path, kind):
    folder = made.copy(kind, tmp_path)
    (folder / "result.json").unlink()
    whole = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for count in range(len(whole)):
        torn = b"".join(whole[:count]) + whole[count][: len(whole[count]) // 2]
        (folder / "journal.jsonl").write_bytes(torn)
        page = read(folder)
        check_alone(page)
        assert "This run has not ended" in page.text and "Before and after" not in page.captions()
        assert page.codes["Command that goes on with it"] == f"tandemtune resume {folder}"
        lines = [json.loads(line) for line in whole[:count]]
        looks = [line["dev"] for line in lines if line["dev"] is not None]
        if looks:
            rows = {row[""]: row for row in page.table("Looks at the dev rows")}
            assert same(rows["start"]["dev loss"], looks[0]["loss"]) and same(
                rows["last look"]["dev loss"], looks[-1]["loss"]
            )
            assert same(rows["lowest dev loss"]["dev loss"], min(look["loss"] for look in looks))
            counted = [line["candidates"] for line in lines if "candidates" in line]
            assert page.facts["candidates"] == str(max(counted, default=0))
        else:
            assert "Nothing has been recorded yet" in page.text
        assert (folder / "journal.jsonl").read_bytes() == torn, "a report changes nothing"


def test_a_run_that_was_stopped_before_anything_was_written(tmp_path):
    folder = made.copy("c-lora", tmp_path)
    for path in list(folder.iterdir()):
        if path.is_file() and path.name != "recipe.json":
            path.unlink()
    page = read(folder)
    check_alone(page)
    assert "Nothing has been recorded yet" in page.text and page.facts["candidates"] == "0"


@pytest.mark.parametrize("content", [b"", b"{}\n", b"nonsense\n{}\n", b'{"step": "x", "seconds": null}\n', b"\xff\n\n"])
def test_a_clock_that_cannot_be_read_costs_a_figure_only(tmp_path, content):
    folder = made.copy("c-lora", tmp_path)
    (folder / "clock.jsonl").write_bytes(content)
    page = read(folder)
    assert "Data of: Loss over time" not in page.captions() and "Data of: Loss over forward tokens" in page.captions()


@pytest.mark.parametrize(
    "content", [b"", b"nonsense\n{}\n", b'{"asked": 3}\n', b'{"client": "\xff"}\n', b'{"client": "x"}\n{"answ']
)
def test_conversations_that_cannot_be_read_are_shown_as_they_are(tmp_path, content):
    folder = made.copy("mentor", tmp_path)
    (folder / "conversations.jsonl").write_bytes(content)
    page = read(folder)
    check_alone(page)
    assert page.codes["conversations.jsonl"] == content.decode("utf-8", "replace")


@pytest.mark.parametrize(
    "lines",
    [
        [{"answered": "k"}],
        [{"answered": "k", "reply": None}],
        [{"asked": "k", "request": {"messages": [["user", "hello"]]}}],
        [{"asked": "k", "request": {"messages": [{"role": "user", "content": "hello"}]}}, {"asked": "k"}],
        [{"failed": "k", "why": "no line", "paid": False}],
        [{"else": 1}],
    ],
)
def test_conversations_of_other_shapes(tmp_path, lines):
    folder = made.copy("mentor", tmp_path)
    (folder / "conversations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    check_alone(read(folder))


def test_losses_that_are_not_finite(tmp_path):
    folder = made.copy("bbt in rounds", tmp_path)
    lines = small.journal(folder)
    for line in lines:
        for key in ("train_loss", "best", "incumbent"):
            if key in line:
                line[key] = None
        if line["event"] == "proposal":
            line["trained"]["dev"]["loss"] = line["drafts"][0]["loss"] = line["drafts"][0]["dev"]["loss"] = None
        if line["dev"] is not None:
            line["dev"]["loss"] = None
        if line["event"] == "generation":
            line["accepted"] = False
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    check_alone(read(folder))
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    for key in ("zero_shot", "tuned"):
        result[key] |= {"train_loss": None, "dev_loss": None}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    check_alone(read(folder))


def test_a_run_without_test_rows(tmp_path):
    from tandemtune import tune

    recipe = made.recipe("c-lora", method__budget=10)
    del recipe["task"]["test"]
    result = tune(recipe, tmp_path / "run")
    page = read(tmp_path / "run")
    check_alone(page)
    assert "Accuracy on 8 dev rows: " in page.text and "test rows were scored" not in page.text
    assert "majority class" not in {row[""] for row in page.table("Before and after")} and result["majority"] is None


def test_a_damaged_journal_is_an_error(tmp_path):
    folder = made.copy("c-lora", tmp_path)
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join([lines[0], b"{nonsense}\n", *lines[2:]]))
    with pytest.raises(RunError, match=r"journal\.jsonl, line 2: damaged"):
        read(folder)


def test_the_same_bytes_in_every_process_and_no_torch():
    script = (
        "import sys; from pathlib import Path; from tandemtune.report.run_page import run_page; "
        "from tandemtune.report.comparison_page import comparison_page; from tandemtune.runs.store import RunFolder; "
        "[sys.stdout.buffer.write(run_page(RunFolder(Path(p))).encode()) for p in sys.argv[1:]]; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    folders = [made.run(kind) for kind in ("c-lora", "mentor", "proposer alone")]
    here = "".join(run_page(RunFolder(folder)) for folder in folders).encode()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC+{seed}", "LC_ALL": "C"}
        called = subprocess.run(
            [sys.executable, "-c", script, *map(str, folders)], env=environment, capture_output=True, check=True
        )
        assert called.stdout == here


@pytest.mark.parametrize("kind", ["c-lora", "maao mutation"])
def test_the_command_repeats_the_run(tmp_path, kind):
    folder = made.run(kind)
    words = shlex.split(read(folder).codes["Command that repeats the run"])
    assert words[:2] == ["tandemtune", "run"] and words[-2:] == ["--out", "runs/again"]
    called = small.call(*words[1:-1], tmp_path / "again", "--quiet")
    assert called.code == 0, called.err
    assert small.artefacts(tmp_path / "again") == small.artefacts(folder)


def test_the_command_repeats_a_run_without_its_mentor(tmp_path):
    folder = made.run("mentor")
    words = shlex.split(read(folder).codes["Command that repeats the run from its transcript"])
    called = small.call(*words[1:-1], tmp_path / "again", "--quiet")
    assert called.code == 0, called.err
    assert (tmp_path / "again" / "journal.jsonl").read_bytes() == (folder / "journal.jsonl").read_bytes()
    assert "Command that repeats the run from its transcript" not in read(tmp_path / "again").codes


def test_what_was_decided_here_is_in_the_command(tmp_path):
    folder = made.copy("c-lora", tmp_path)
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    recipe["model"] |= {"dtype": "auto", "threads": None}
    (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    assert "model.dtype=float32 model.threads=1 --out" in read(folder).codes["Command that repeats the run"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_recipe_can_be_read_back(kind):
    page, _, _ = opened(kind)
    recipe = json.loads((made.run(kind) / "recipe.json").read_text(encoding="utf-8"))
    wanted = {section: {k: v for k, v in table.items() if v is not None} for section, table in recipe.items()}
    assert tomllib.loads(page.codes["Recipe"]) == wanted


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    TEXT | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(TEXT, st.dictionaries(TEXT, VALUES, min_size=1, max_size=4), max_size=3))
def test_any_settings_can_be_read_back(tables):
    assert tomllib.loads(recipe_text(tables)) == tables


def test_report_at_the_command_line(tmp_path):
    folder = made.copy("maao mutation", tmp_path)
    before = small.artefacts(folder)
    called = small.call("report", folder)
    assert (called.code, called.out, called.err) == (0, f"{folder / 'report.html'}\n", "")
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text == run_page(RunFolder(folder))
    assert small.artefacts(folder) == before
    assert small.call("report", folder).code == 0, "a report is replaced"
    called = small.call("report", folder, "--out", tmp_path / "x.html")
    assert called.code == 0 and called.out == f"{tmp_path / 'x.html'}\n"
    assert (tmp_path / "x.html").read_text(encoding="utf-8") == text
    assert not list(tmp_path.glob(".*")) and not list(folder.glob(".report*"))


def test_report_never_replaces_what_is_no_report(tmp_path):
    folder = made.copy("c-lora", tmp_path)
    (tmp_path / "mine.html").write_text("<html>mine", encoding="utf-8")
    for place in (tmp_path / "mine.html", tmp_path, folder / "recipe.json"):
        called = small.call("report", folder, "--out", place)
        assert called.code == 2 and "is there already and is no report" in called.err
    called = small.call("report", folder, "--out", tmp_path / "nowhere" / "x.html")
    assert called.code == 2 and "does not exist: make it first" in called.err
    assert (tmp_path / "mine.html").read_text(encoding="utf-8") == "<html>mine"


def test_report_where_no_run_lies(tmp_path):
    for place in (tmp_path, tmp_path / "nothing"):
        called = small.call("report", place)
        assert called.code == 1 and "is no run folder" in called.err and not called.out
        assert not (place / "report.html").exists()


@pytest.mark.parametrize("kind", ["c-lora", "maao none"])
def test_show_draws_the_losses(kind):
    called = small.call("show", made.run(kind))
    assert called.code == 0 and "● train loss   ○ dev loss" in called.out
    lines = called.out.splitlines()
    begin = lines.index("loss")
    assert all(len(line) <= 80 for line in lines[begin : begin + 16])


def test_names_of_local_models_are_short_in_the_title():
    page = opened("c-lora")[0]
    title = re.search(r"<title>(.*?)</title>", page.source)[1]
    assert title == "small · bert · c-lora · seed 5"
    assert page.facts["model"] == str(Path(small.model_folder("bert")))
