"""Pages of runs: whole, true to what the run folder holds, and the same to the byte."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise

import made
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape
from pages import Page, check_alone, same
from rich.console import Console

import small
import writing
from grids import sparse
from tandemtune.errors import RunError
from tandemtune.report.history import best_spot, trail, unit_of
from tandemtune.report.recipes import as_toml, used
from tandemtune.report.run_page import run_charts, run_html_summary, run_page
from tandemtune.report.text import result_table
from tandemtune.runs.records import GenerationRecord, ProposalRecord, StartRecord, StepRecord
from tandemtune.runs.store import RunFolder
from tandemtune.runs.writing import write_json


def read(folder) -> Page:
    return Page(run_page(RunFolder(folder)))


@functools.cache
def opened(kind):
    folder = RunFolder(made.run(kind))
    return read(folder.path), folder.read_result(), folder.read_records()


@pytest.mark.parametrize("kind", made.KINDS)
def test_it_needs_nothing_but_itself(kind):
    page = opened(kind)[0]
    check_alone(page)
    assert "None" not in page.text and "nan" not in page.text.lower().split()


@pytest.mark.parametrize("kind", ["c-lora", "mentor"])
def test_the_scores_are_those_of_the_result(kind):
    page, result, _ = opened(kind)
    rows = {row[""]: row for row in page.table("Before and after")}
    for name, found in (("zero-shot", result.zero_shot), ("tuned", result.tuned)):
        for split in ("train", "dev", "test"):
            assert same(rows[name][f"{split} accuracy"], getattr(found, split))
        assert same(rows[name]["train loss"], found.train_loss) and same(rows[name]["dev loss"], found.dev_loss)
        after = rows[f"{name}, calibrated"]
        assert same(after["dev accuracy"], found.calibrated.dev) and same(after["test accuracy"], found.calibrated.test)
    assert same(rows["most frequent class"]["test accuracy"], result.majority)
    assert (
        "Accuracy on 40 test rows: 0.800 after tuning, 0.600 before (0.590 with contextual calibration); "
        "always answering with the most frequent class gives 0.550." in page.text
    )
    assert page.source.count("(best)") == 1 and "does at least as well" not in page.text


def test_the_first_chart_has_scores_with_intervals_on_a_full_axis():
    page = opened("c-lora")[0]
    assert page.source.index("<figure>") < page.source.index("Before and after")
    rows = {row[""]: row for row in page.table("Data of: Test accuracy, with 95 % intervals from the number of rows")}
    assert list(rows) == ["tuned", "tuned, calibrated", "zero-shot", "zero-shot, calibrated", "most frequent class"]
    assert (rows["tuned"]["from"], rows["tuned"]["to"]) == ("0.652", "0.895"), "Wilson's interval of 32 of 40"
    assert rows["most frequent class"]["from"] == "–"
    chart = run_charts(RunFolder(made.run("c-lora")))["scores"]
    assert chart.limits == (0.0, 1.0)  # type: ignore[attr-defined]


def test_a_run_that_is_no_better_than_no_tuning_says_so(tmp_path):
    folder = made.write_run(tmp_path / "run", tuned=made.scores(0.55, 0.5, 0.7), kept_record=0, kept_step=0)
    page = read(folder.path)
    assert (
        "No tuning does at least as well here: the pretrained model (0.600), the pretrained model with calibration (0.590), "
        "always the most frequent class (0.550)." in page.text
    )
    assert "No point was better on dev than the one that the search began with" in page.text


def test_a_readout_that_does_as_well_untuned_and_a_split_story_are_told(tmp_path):
    """In the page as in the terminal: what is below a simpler row of the same table has a sentence."""
    folder = made.write_run(
        tmp_path / "run",
        tuned=made.scores(0.8, 0.4, 0.4),
        tuned_words=made.scores(0.85, 0.5, 0.4),
        zero_shot_readout=made.scores(0.82, 0.6, 0.4),
    )
    sentences = (
        "No tuning does at least as well here: a readout of the pretrained model (0.820).",
        "The readout at the end lost some of it here: the label words alone have 0.850.",
        "test from 0.600 to 0.800: points are chosen by the dev loss",
    )
    console = Console(file=io.StringIO(), width=300)
    console.print(result_table(folder.read_result()))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for sentence in sentences:
        assert sentence in read(folder.path).text
        assert sentence in shown


@pytest.mark.parametrize(("metric", "positive"), sparse([("macro_f1", None), ("f1", "positive")], [("f1", "positive")]))
def test_f1_has_bootstrap_intervals_out_of_the_predictions(tmp_path, metric, positive):
    # 8 + 24 of 10 + 30 rows are right: F1 is 16/24 and 48/56
    value = round((16 / 24 + 48 / 56) / 2 if positive is None else 48 / 56, 6)
    folder = made.write_run(tmp_path / "run", metric=metric, tuned=made.scores(value, 0.7, 0.4))
    write_json(folder.recipe, made.recipe("c-lora", metric=metric, positive=positive))
    row = read(folder.path).table(f"Data of: Test {metric}, with 95 % intervals from the number of rows")[0]
    assert row[""] == "tuned" and float(row["from"]) < value < float(row["to"])
    made.write_predictions(folder, made.predictions(right=30))
    assert f"Data of: Test {metric}" in read(folder.path).captions(), "predictions of another model say nothing"


def test_written_tokens_are_among_the_costs(tmp_path):
    changes = {"method__objective": "metric", "method__budget": 10}
    result = small.tune(writing.recipe(tmp_path, **changes), tmp_path / "run")
    count = result["cost"]["generated_tokens"]
    assert count and read(tmp_path / "run").facts["written tokens"] == f"{count:,}"
    RunFolder(tmp_path / "run").result.unlink()  # as if it had not ended
    turns = [line for line in small.journal(tmp_path / "run") if line["event"] == "generation"]
    assert read(tmp_path / "run").facts["written tokens"] == f"{turns[-1]['costs']['generated']:,}"


@pytest.mark.parametrize("kind", made.KINDS)
def test_the_costs_are_those_of_the_result(kind):
    page, result, _ = opened(kind)
    for name in ("candidates", "gradient steps", "forward tokens", "backward tokens"):
        value = getattr(result.cost, name.replace(" ", "_"))
        assert page.facts.get(name) == (f"{value:,}" if value else None)
    assert page.facts["steps"] == "20" and page.facts["search"] == "1 min 15 s"
    assert page.facts["peak memory of the process"] == "512 MB"
    assert page.facts["rows"] == "32 train, 32 dev, 40 test" and page.facts["stopped by"] == "budget"
    assert page.facts["seed"] == "5" and page.facts["method"] == result.method and page.facts["torch"] == "2.13"
    asked = [page.facts.get(f"proposer: {name}") for name in ("answers", "tokens asked", "tokens answered")]
    assert asked == (["2", "240", "80"] if kind == "mentor" else [None] * 3)


def test_where_it_errs():
    page = opened("c-lora")[0]
    assert "8 of 40 test rows are labelled wrongly." in page.text
    counts = page.table("Confusion matrix of the test rows")
    assert [list(row.values()) for row in counts] == [["negative", "8", "2"], ["positive", "6", "24"]]
    classes = page.table("Precision, recall and F1 of each class")
    assert [list(row.values()) for row in classes] == [
        ["negative", "10", "14", "0.571", "0.800", "0.667"],
        ["positive", "30", "26", "0.923", "0.800", "0.857"],
    ]
    assert [row["F1"] for row in page.table("Data of: F1 of each class on the test rows")] == ["0.6667", "0.8571"]
    errors = page.table("The most confident errors")
    assert [row["row"] for row in errors] == [str(n) for n in range(1, 9)]
    assert errors[0]["text"] == f"mail 0 {made.STRANGE}" and errors[0]["probability"] == "0.950"
    assert (errors[1]["gold"], errors[1]["predicted"]) == ("positive", "negative")


def test_errors_are_left_out_where_nobody_wrote_them_down(tmp_path):
    page = read(made.write_run(tmp_path / "run", told=False).path)
    check_alone(page)
    assert "Where it errs" not in page.text and "errors" not in {given.get("id") for _, given in page.elements}


def test_texts_of_several_fields_are_named_and_cut(tmp_path):
    folder = made.write_run(tmp_path / "run")
    first = made.predictions()[0].model_copy(update={"fields": {"title": "t", "body": "word " * 200}})
    made.write_predictions(folder, [first])
    row = read(folder.path).table("The only error")[0]
    assert (
        row["text"].startswith("title: t · body: word word") and len(row["text"]) == 400 and row["text"].endswith("…")
    )


@pytest.mark.parametrize("kind", made.KINDS)
def test_curves_hold_every_look_at_dev(kind):
    page, _, records = opened(kind)
    unit = unit_of(records)
    assert unit == ("gradient steps" if kind in ("lora", "mentor") else "candidates")
    titles = [f"Loss over {unit}", f"Dev accuracy over {unit}", "Loss over forward tokens", "Loss over time"]
    assert [name for name in page.captions() if name.startswith("Data of: ") and " over " in name] == [
        f"Data of: {title}" for title in titles
    ]
    looks = [record.dev for record in records if record.dev is not None]
    for title in (titles[0], *titles[2:]):
        rows = page.table(f"Data of: {title}")
        shown = [row["dev loss"] for row in rows if row["dev loss"] != "–"]
        assert len(shown) == len(looks)
        assert all(same(a, b) for a, b in zip(sorted(shown), sorted(look.loss for look in looks), strict=True))
    scores = [row["dev accuracy"] for row in page.table(f"Data of: {titles[1]}") if row["dev accuracy"] != "–"]
    assert all(same(a, look.score) for a, look in zip(scores, looks, strict=True))


def test_the_population_is_a_band():
    page, _, records = opened("c-lora")
    turns = [record for record in records if isinstance(record, GenerationRecord)]
    bands = [row["most candidates"] for row in page.table("Data of: Loss over candidates")][1:]
    for turn, band in zip(turns, bands, strict=True):
        losses = sorted(loss for loss in turn.losses if loss is not None)
        low, _, high = band.partition(" to ")
        assert same(low, losses[round(0.1 * 18)]) and same(high, losses[round(0.9 * 18)])
    assert "from the 10 % to the 90 % quantile" in page.text
    assert "quantile" not in opened("lora")[0].text


def test_a_wild_population_does_not_flatten_the_curves(tmp_path):
    folder = made.write_run(tmp_path / "run")
    lines = made.records("c-lora")
    lines = [
        line.model_copy(update={"losses": tuple((loss or 1) * 1000 for loss in line.losses)})
        if isinstance(line, GenerationRecord)
        else line
        for line in lines
    ]
    made.write_journal(folder, lines)
    low, high = run_charts(folder)["loss"].y_limits  # type: ignore[attr-defined]
    train = [line.train_loss for line in lines if isinstance(line, GenerationRecord)]
    assert high - low < 3.2 * (0.82 - min(train))


@pytest.mark.parametrize("kind", made.KINDS)
def test_spots_grow_and_end_where_the_result_says(kind):
    folder = RunFolder(made.run(kind))
    records, result = folder.read_records(), folder.read_result()
    spots = trail(folder, records)
    assert len(spots) == len(records)
    for one, other in pairwise(spots):
        assert one.step <= other.step and one.work <= other.work
        assert one.tokens <= other.tokens and one.backward <= other.backward and one.seconds <= other.seconds
    last = spots[-1]
    assert (last.tokens, last.backward) == (result.cost.forward_tokens, result.cost.backward_tokens)
    assert last.work == (result.cost.gradient_steps or result.cost.candidates) and last.step == result.steps
    best = best_spot(spots)
    assert best.dev.loss == min(record.dev.loss for record in records if record.dev)
    marks = [row["mark"] for row in opened(kind)[0].table(f"Data of: Loss over {unit_of(records)}") if row["mark"]]
    assert marks == (["restart 2", "lowest dev loss"] if kind == "mentor" else ["lowest dev loss"])


def test_layers_are_shown_where_there_are_several():
    page, _, records = opened("c-lora")
    rows = page.table("Turns of each layer")
    assert [row["block"] for row in rows] == ["layer 0", "layer 1", "layer 2", "layer 3"]
    for number, row in enumerate(rows):
        mine = [r for r in records if isinstance(r, GenerationRecord) and r.layer == number]
        taken = [r for r in mine if r.accepted]
        assert (row["turns"], row["better point found"]) == (str(len(mine)), str(len(taken)))
        assert same(row["training loss fell by"], sum(r.incumbent - r.train_loss for r in taken))
    assert "layers" in run_charts(RunFolder(made.run("c-lora"))) and "Layer by layer" not in opened("lora")[0].text


def test_rounds_are_told_in_order():
    page, _, records = opened("mentor")
    rounds = [record for record in records if isinstance(record, ProposalRecord)]
    drafts = [
        row for name, rows in page.tables if name == "What the mentor (strange <mentor>) proposed" for row in rows[1:]
    ]
    assert [row[:2] for row in drafts] == [
        [made.STRANGE, "not taken"],
        ["a good film", "not taken"],
        [made.STRANGE, "not taken"],
        ["a good film", "taken"],
    ]
    assert drafts[1][2:] == ["0.410", "0.600", "0.400", "0.720"]
    assert "Nothing was taken: the search goes on from where it stood." in page.text
    assert "“a good film”: dev loss 0.610 → 0.400." in page.text
    refused = [row for name, rows in page.tables if name == "What was said and could not be tried" for row in rows[1:]]
    assert refused == [list(pair) for record in rounds for pair in record.refused]
    words = [row for name, rows in page.tables if name == "The trained prompt, read as words" for row in rows[1:]]
    read_ = [r for r in records if isinstance(r, StartRecord | StepRecord) and r.words is not None]
    assert [row[2] for row in words] == [record.words.text for record in read_] and len(words) == 5
    assert "if its dev loss is below that of the trained prompt" in page.text


def test_what_would_hurt_a_page_that_believed_it():
    page = opened("mentor")[0]
    check_alone(page)
    assert made.STRANGE in page.text and str(escape(made.STRANGE)) in page.source
    assert "<script" not in page.source and "<img" not in page.source
    raw = (made.run("mentor") / "conversations.jsonl").read_text(encoding="utf-8")
    assert page.codes["conversations.jsonl"] == raw
    assert page.text.count("Answer to question 1 (10 tokens asked, 4 answered, stop)") == 1


def test_hostile_texts_in_every_file(tmp_path):
    folder = made.copy("mentor", tmp_path)
    worst = '</script></style><script>alert(1)</script><img src=x onerror=alert(1)>" onfocus="x\' & \x00\x1b[31m\u202e {{ x }}'
    keep = {"start", "step", "generation", "proposal", "end", "steps"}

    def spoiled(value):
        if isinstance(value, str):
            return value if value in keep else worst
        if isinstance(value, dict):
            return {key: spoiled(item) for key, item in value.items()}
        return [spoiled(item) for item in value] if isinstance(value, list) else value

    for path in (folder / "recipe.json", folder / "run.json", folder / "result.json"):
        path.write_text(json.dumps(spoiled(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    for path in (folder / "journal.jsonl", folder / "predictions.jsonl"):
        lines = [json.dumps(spoiled(json.loads(line))) + "\n" for line in path.read_text(encoding="utf-8").splitlines()]
        path.write_text("".join(lines), encoding="utf-8")
    (folder / "conversations.jsonl").write_text(json.dumps({"client": worst}) + "\n" + worst, encoding="utf-8")
    page = read(folder)
    check_alone(page)
    assert "<img" not in page.source and page.source.count("<script") == 0 and "\x1b" not in page.source
    assert "\x00" not in page.source and "\ufffd" in page.source and "{{ x }}" in page.text


@pytest.mark.grid
@pytest.mark.parametrize("kind", ["c-lora", "mentor"])
@pytest.mark.parametrize("count", [0, 1, 3, 9, 22])
def test_a_run_that_was_stopped_anywhere(tmp_path, kind, count):
    folder = RunFolder(made.copy(kind, tmp_path))
    folder.result.unlink()
    whole = folder.journal.read_bytes().splitlines(keepends=True)
    count = min(count, len(whole) - 1)
    torn = b"".join(whole[:count]) + whole[count][: len(whole[count]) // 2]
    folder.journal.write_bytes(torn)
    page = read(folder.path)
    check_alone(page)
    assert "This run is not finished" in page.text and "Before and after" not in page.captions()
    assert page.codes["Command that continues it"] == f"tandemtune resume {folder.path}"
    looks = [record.dev for record in folder.read_records() if record.dev is not None]
    if looks:
        rows = {row[""]: row for row in page.table("Evaluations on the dev rows")}
        assert same(rows["start"]["dev loss"], looks[0].loss)
        assert same(rows["last evaluation"]["dev loss"], looks[-1].loss)
        assert same(rows["lowest dev loss"]["dev loss"], min(look.loss for look in looks))
        assert (
            page.facts["forward tokens"]
            == f"{sum('costs' in json.loads(x) for x in whole[:count] if b'round' not in x) * 1000:,}"
        )
    else:
        assert "Nothing has been recorded yet" in page.text
    assert folder.journal.read_bytes() == torn, "a report changes nothing"


def test_a_run_that_was_stopped_before_anything_was_written(tmp_path):
    folder = made.copy("c-lora", tmp_path)
    for path in list(folder.iterdir()):
        if path.is_file() and path.name != "recipe.json":
            path.unlink()
    page = read(folder)
    check_alone(page)
    assert "Nothing has been recorded yet" in page.text and page.facts["candidates"] == "0"
    assert run_charts(RunFolder(folder)) == {} and "small · c-lora" in run_html_summary(folder)


@pytest.mark.parametrize(
    "content",
    sparse(
        [b"", b"{}\n", b"nonsense\n{}\n", b'{"step": "x", "seconds": null}\n', b"\xff\n\n"],
        [b'{"step": "x", "seconds": null}\n', b"\xff\n\n"],
    ),
)
def test_a_clock_that_cannot_be_read_costs_a_figure_only(tmp_path, content):
    folder = made.copy("c-lora", tmp_path)
    (folder / "clock.jsonl").write_bytes(content)
    page = read(folder)
    assert "Data of: Loss over time" not in page.captions() and "Data of: Loss over forward tokens" in page.captions()


@pytest.mark.parametrize(
    "content",
    sparse(
        [b"", b"nonsense\n{}\n", b'{"asked": 3}\n', b'{"client": "\xff"}\n', b'{"client": "x"}\n{"answ'],
        [b'{"asked": 3}\n', b'{"client": "\xff"}\n'],
    ),
)
def test_conversations_that_cannot_be_read_are_shown_as_they_are(tmp_path, content):
    folder = made.copy("mentor", tmp_path)
    (folder / "conversations.jsonl").write_bytes(content)
    page = read(folder)
    check_alone(page)
    assert page.codes["conversations.jsonl"] == content.decode("utf-8", "replace")


@pytest.mark.few(2)
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


@pytest.mark.parametrize("kind", ["c-lora", "mentor"])
def test_losses_that_are_not_finite(tmp_path, kind):
    folder = made.write_run(
        tmp_path / "run", kind, zero_shot=made.scores(0.5, 0.5, None), tuned=made.scores(0.5, 0.5, None)
    )
    losses = {"loss", "train_loss", "soft_loss", "trained_loss", "best", "incumbent"}

    def lost(value):
        if isinstance(value, dict):
            return {key: None if key in losses else lost(item) for key, item in value.items()}
        return [lost(item) for item in value] if isinstance(value, list) else value

    lines = folder.journal.read_text(encoding="utf-8").splitlines()
    folder.journal.write_text("".join(json.dumps(lost(json.loads(line))) + "\n" for line in lines), encoding="utf-8")
    page = read(folder.path)
    check_alone(page)
    assert ("Loss over candidates: there is nothing to draw yet." in page.text) == (kind == "c-lora")


def test_a_run_without_test_rows(tmp_path):
    page = read(made.write_run(tmp_path / "run", test=None, told=False).path)
    check_alone(page)
    assert "Accuracy on 32 dev rows: 0.750 after tuning" in page.text and "test rows were scored" not in page.text
    assert "most frequent class" not in {row[""] for row in page.table("Before and after")}
    dots = {row[""]: row for row in page.table("Data of: Dev accuracy, with 95 % intervals from the number of rows")}
    assert "0.500" in dots["chance"].values() and "0.750" in dots["tuned"].values()


@pytest.mark.parametrize("name", ["journal.jsonl", "predictions.jsonl"])
def test_a_damaged_file_is_an_error(tmp_path, name):
    folder = made.copy("c-lora", tmp_path)
    lines = (folder / name).read_bytes().splitlines(keepends=True)
    for wrong in (b"{nonsense}\n", b'{"event": "generation"}\n'):
        (folder / name).write_bytes(b"".join([lines[0], wrong, *lines[2:]]))
        with pytest.raises(RunError, match=rf"{name}, line 2: damaged"):
            read(folder)


@pytest.mark.slow
def test_the_same_bytes_in_every_process_and_no_torch():
    script = (
        "import sys; from pathlib import Path; from tandemtune.report.run_page import run_page; "
        "from tandemtune.report.comparison_page import comparison_page; from tandemtune.runs.store import RunFolder; "
        "assert 'matplotlib' not in sys.modules; "
        "[sys.stdout.buffer.write(run_page(RunFolder(Path(p))).encode()) for p in sys.argv[1:]]; "
        "assert not {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    folders = [made.run(kind) for kind in ("c-lora", "mentor")]
    here = "".join(run_page(RunFolder(folder)) for folder in folders).encode()
    environment = {**os.environ, "PYTHONHASHSEED": "1", "TZ": "UTC+1", "LC_ALL": "C"}
    called = subprocess.run(
        [sys.executable, "-c", script, *map(str, folders)], env=environment, capture_output=True, check=True
    )
    assert called.stdout == here


def test_commands_that_repeat_the_run():
    folder = made.run("mentor")
    codes = read(folder).codes
    words = shlex.split(codes["Command that repeats the run"])
    decided = ["model.dtype=float32", "model.threads=1"]
    assert words == ["tandemtune", "run", str(folder / "recipe.json"), *decided, "--out", "runs/again"]
    replay = shlex.split(codes["Command that repeats the run from its transcript"])
    assert replay[5:7] == ["mentor.client=recorded", f"mentor.mentor={folder / 'conversations.jsonl'}"]
    assert "Command that repeats the run from its transcript" not in read(made.run("lora")).codes


@pytest.mark.parametrize("kind", made.KINDS)
def test_only_settings_that_the_method_used_are_shown(kind):
    shown = tomllib.loads(opened(kind)[0].codes["Recipe"])
    whole = made.recipe(kind)
    assert list(shown) == ["model", "task", "method", *(["alternate", "mentor"] if kind == "mentor" else []), "run"]
    assert shown["method"]["optimizer"] == whole["method"]["optimizer"] and "steps" not in shown["method"]
    assert ("budget" in shown["method"]) == (kind not in ("lora", "mentor"))
    assert shown == json.loads(
        json.dumps(used(whole, "candidates" if "budget" in shown["method"] else "steps"))
    ) and "price" not in shown.get("mentor", {})


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    TEXT | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(TEXT, st.dictionaries(TEXT, VALUES, min_size=1, max_size=4), max_size=3))
def test_any_settings_can_be_read_back(tables):
    assert tomllib.loads(as_toml(tables)) == tables


def test_names_of_local_models_are_short_in_the_title():
    page = opened("c-lora")[0]
    assert re.search(r"<title>(.*?)</title>", page.source)[1] == "mails · small · c-lora · seed 5"
    assert page.facts["model"] == "/models/small"


def test_charts_have_names_and_something_to_show():
    assert list(run_charts(RunFolder(made.run("c-lora")))) == [
        "scores", "classes", "loss", "dev-score", "loss-over-tokens", "loss-over-time", "layers",
    ]  # fmt: skip


def test_a_summary_is_a_small_fragment(tmp_path):
    text = run_html_summary(made.run("c-lora"))
    assert "mails · small · c-lora · seed 5" in text and "0.800 after tuning" in text
    assert text.count("<svg") == 2 and "<html" not in text and "<script" not in text and len(text) < 60_000
    stopped = run_html_summary(made.write_run(tmp_path / "run", finished=False).path)
    assert "not finished: 160 candidates and 8 steps so far; the recipe allows 400 candidates." in stopped
    assert stopped.count("<svg") == 1
