"""Pages of comparisons: the numbers of `compared` and of the journals, whatever the members are called."""

from __future__ import annotations

import functools
import json
import math
import re
import shutil
import tomllib
from itertools import accumulate
from pathlib import Path

import made
import pytest
from pages import Page, check_alone, same

from tandemtune.errors import RunError
from tandemtune.report.comparison import compared, cost_rows, table_rows
from tandemtune.report.comparison_page import (
    POINTS,
    comparison_charts,
    comparison_page,
    comparison_report,
    mean_curve,
    read_comparison,
)
from tandemtune.report.history import Spot
from tandemtune.report.standings import CONTROLS
from tandemtune.runs.records import ComparedRuns, Evaluation
from tandemtune.runs.store import RunFolder
from tandemtune.runs.writing import write_json

BASES = {"sweep": "d=16", "mixed": "prompt tuning"}


@functools.cache
def whole(kind):
    return page_of(kind, made.comparison(kind)[1])


def page_of(kind, runs):
    found = compared(runs, BASES[kind], title="A title")
    return Page(comparison_page(found, runs, made.comparison(kind)[0])), found, runs


def opened(kind, runs=None):
    """The page of a comparison, what it shows, and its runs; of all that were made if none are given."""
    return whole(kind) if runs is None else page_of(kind, runs)


def save(place, found, runs):
    write_json(place / "comparison.json", found.plain())
    write_json(place / "records.json", ComparedRuns(runs=tuple(runs)).plain())


@pytest.mark.parametrize("kind", BASES)
def test_it_needs_nothing_but_itself(kind):
    page, found, runs = opened(kind)
    check_alone(page)
    assert "None" not in page.text and page.facts["finished runs"] == f"{len(runs)} of {len(runs)}"
    assert all(note in page.text for note in found.notes)


@pytest.mark.parametrize("kind", BASES)
def test_scores_and_tests_are_those_of_compared(kind):
    page, found, _ = opened(kind)
    headers, rows = table_rows(found)
    shown = page.table("Test accuracy, mean ± standard deviation over seeds")
    assert [row["method"] for row in shown] == list(found.methods)
    for row, whole in zip(shown, rows, strict=True):
        wanted = dict(zip(headers, whole, strict=True))
        assert all(wanted[name] == value for name, value in row.items())
        for column, cell in found.methods[row["method"]].columns.items():
            mean, _, std = row[column].partition(" ± ")
            assert same(mean, cell.mean) and same(std, cell.std)
        assert same(row["dev"], found.methods[row["method"]].dev)
    assert ("average" in shown[0]) == (kind == "mixed"), "the average of one column is that column"
    tested = {row["method"]: row for row in page.table(f"Test score minus {BASES[kind]}")}
    assert list(tested) == [name for name in found.methods if name != BASES[kind]]
    for name, row in tested.items():
        against = found.methods[name].against
        assert same(row["difference"].replace("+", ""), against.difference) and same(row["p"], against.p)
        assert row["wins"] == f"{against.wins:g} of {against.pairs}"


def starred(page):
    """(method, number of the column behind it) of the cells with a star in the table of scores."""
    table = page.source[page.source.index("<caption><span>Test accuracy, mean ±") : page.source.index('id="cost"')]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', table, re.DOTALL)
    return {(name, i) for name, cells in rows for i, cell in enumerate(cells.split("</td>")) if "(best)" in cell}


def test_the_best_methods_are_marked_by_test_and_no_control_is():
    best = "maao &lt;mutation&gt;"
    assert starred(opened("mixed")[0]) == {(best, 0), (best, 1), (best, 2), (best, 4)}, (
        "two tasks, their average, the rank"
    )


def test_a_sweep_is_marked_by_dev():
    turned = []
    for run in made.comparison("sweep")[1]:  # the best on dev is the worst on test
        tuned = made.scores(1 - run.result.tuned.test, run.result.tuned.dev, 0.4)
        turned.append(run.model_copy(update={"result": run.result.model_copy(update={"tuned": tuned})}))
    page = opened("sweep", turned)[0]
    assert starred(page) == {("d=200", 1), ("d=200", 2)}, "dev and rank"
    assert "ranks and stars are by the dev rows" in page.text
    rows = page.table("Values of d")
    assert [row["by dev"] for row in rows] == ["", "", "chosen"]
    assert float(rows[2]["mean test score"][:5]) < float(rows[0]["mean test score"][:5])


@pytest.mark.parametrize("kind", BASES)
def test_every_seed_is_a_dot(kind):
    page, found, runs = opened(kind)
    for column in found.columns:
        end = f": {column.name}" if kind == "mixed" else ""
        rows = {
            row[""]: row for row in page.table(f"Data of: Test accuracy by seed{end}, with 95 % intervals of the mean")
        }
        assert list(rows) == list(found.methods)
        for name, row in rows.items():
            values = [r.result.tuned.test for r in runs if (r.method, r.task) == (name, column.task)]
            if name in CONTROLS:
                assert row["single runs"] == "" and row["from"] == "–"
                continue
            shown = row["single runs"].split(", ")
            assert len(shown) == 3 and all(same(a, b) for a, b in zip(shown, values, strict=True))
            assert float(row["from"]) < sum(values) / 3 < float(row["to"])
    if kind == "mixed":
        rows = page.table("Data of: Average test accuracy by seed, with 95 % intervals of the mean")
        assert [row["single runs"].count(",") for row in rows] == [2, 2, 2, 0, 0, 0]
        assert all(same(row["test accuracy, average"], found.methods[row[""]].average) for row in rows)


@pytest.mark.parametrize("kind", BASES)
def test_scores_stand_against_costs(kind):
    page, found, runs = opened(kind)
    caption = "Data of: Mean test score against the mean cost of a run (★ on the Pareto front)"
    rows = {row[""]: row for row in page.table(caption)}
    assert list(rows) == list(found.contenders)
    for name, row in rows.items():
        costs = [run.result.cost for run in runs if run.method == name]
        tokens = sum(c.forward_tokens + c.backward_tokens for c in costs) / len(costs) / 1e6
        assert same(row["tokens (M)"], tokens) and same(row["mean test score"], found.methods[name].average)
        assert same(row["minutes"], sum(c.seconds for c in costs) / len(costs) / 60)
    assert "Pareto front" in page.text


@pytest.mark.parametrize("kind", BASES)
def test_costs_are_those_of_the_runs(kind):
    page, found, _ = opened(kind)
    assert [list(row.values()) for row in page.table("Mean cost of a run")] == cost_rows(found)[1]
    assert f"Ratios are to {BASES[kind]}, " in page.text


@pytest.mark.parametrize("kind", BASES)
def test_curves_are_means_of_the_journals(kind):
    page, found, runs = opened(kind)
    for column in found.columns:
        for title, lowest in (("Dev loss where the search stands", False), ("Lowest dev loss so far", True)):
            rows = page.table(f"Data of: {title}: {column.name}")
            for method in found.contenders:
                shown = [row[method].partition(" (")[0] for row in rows if row[method] != "–"]
                folders = [RunFolder(Path(r.folder)) for r in runs if (r.method, r.task) == (method, column.task)]
                looks = [[record.dev.loss for record in f.read_records() if record.dev] for f in folders]
                curves = [list(accumulate(each, min)) if lowest else each for each in looks]
                means = [sum(values) / 3 for values in zip(*curves, strict=True)]
                assert len(shown) == len(means) == 11 and all(same(a, b) for a, b in zip(shown, means, strict=True))
    backwards = any(name.startswith("Data of: Lowest dev loss so far, over all tokens") for name in page.captions())
    assert backwards == (kind == "mixed")


def test_a_sweep_is_drawn_over_its_values():
    page, found, _ = opened("sweep")
    rows = page.table("Data of: Score over d")
    assert [row["d"] for row in rows] == ["8", "16", "200"]
    for row in rows:
        method = found.methods[f"d={row['d']}"]
        assert same(row["dev, mean"], method.dev) and same(row["test, mean"].partition(" (")[0], method.average)
    assert "sweep" not in {given.get("id") for _, given in opened("mixed")[0].elements}


def test_sweeps_that_a_plan_names():
    _, runs = made.comparison("sweep")
    numbers = {"d=8": 1, "d=16": 2, "d=200": 3}
    page = opened("sweep", [made.swept(run, numbers[run.method]) for run in runs])[0]
    assert [row["method.d"] for row in page.table("Data of: Score over c-lora: method.d")] == ["1", "2", "3"]
    assert "Data of: Score over d" not in page.captions(), "drawn once"
    page, found, _ = opened("sweep", [made.swept(run, "<" + run.method) for run in runs])
    check_alone(page)
    rows = page.table("Data of: Score over c-lora: method.d: test")
    assert [row[""] for row in rows] == ["<d=8", "<d=16", "<d=200"]
    assert all(same(row["mean test score"], found.methods[row[""][1:]].average) for row in rows)


def lost(run, failure=None):
    return run.model_copy(update={"result": None, "failure": failure})


def test_missing_runs_are_named():
    _, runs = made.comparison("mixed")
    runs = [lost(runs[0], "it <failed>"), *runs[1:-1], lost(runs[-1])]
    page, found, _ = opened("mixed", runs)
    check_alone(page)
    assert page.facts["finished runs"] == "16 of 18"
    assert [row["run"] for row in page.table("Runs without a result")] == list(found.missing)
    assert "it <failed>" in page.text and "not run" in page.text
    assert "maao <mutation> (2 of 3 runs)" in page.table("Data of: Lowest dev loss so far: second & last")[0]


def test_nothing_is_finished():
    page = opened("mixed", [lost(run) for run in made.comparison("mixed")[1]])[0]
    check_alone(page)
    for said in ("No run is finished yet", "No journal of a finished run", "No run can be paired"):
        assert said in page.text
    assert len(page.table("Runs without a result")) == 18


def test_every_run_is_listed():
    page, _, runs = opened("mixed")
    rows = page.table("Every run")
    assert len(rows) == len(runs)
    for row, run in zip(rows, runs, strict=True):
        model = "" if run.result is None else run.result.model
        assert (row["task"], row["model"], row["method"], row["seed"]) == (run.task, model, run.method, str(run.seed))
        assert same(row["test"], run.result.tuned.test) and same(row["dev"], run.result.tuned.dev)


def test_settings_say_what_is_shared_and_what_differs():
    page = opened("mixed")[0]
    differing = {row["setting"]: row for row in page.table("What differs between methods")}
    kinds = differing["method.optimizer.kind"]
    assert kinds["c-lora"] == "cma-es" and kinds["prompt tuning"] == "adamw"
    assert differing["method.tunable.r"]["maao <mutation>"] == "–"
    shared = tomllib.loads(page.codes["Settings that all runs share"])
    assert shared["method"] == {"budget": 400, "dev_every": 1} and shared["task"]["seed"] == 5


def test_names_of_labels_may_have_dots(tmp_path):
    out, runs = made.comparison("sweep")
    moved = shutil.copytree(out, tmp_path / "moved")
    labels = {"1": ["bad"], "1.5": ["so"], "2": ["good"], "U.S.": ["here"]}
    for path in moved.rglob("recipe.json"):
        recipe = json.loads(path.read_text(encoding="utf-8"))
        recipe["task"]["labels"] = labels
        path.write_text(json.dumps(recipe), encoding="utf-8")
    gone = [run.model_copy(update={"folder": run.folder.replace(str(out), "/nowhere/at/all")}) for run in runs]
    page = Page(comparison_page(compared(gone, "d=16"), gone, moved))
    assert tomllib.loads(page.codes["Settings that all runs share"])["task"]["labels"] == labels


def test_names_that_would_hurt_a_page(tmp_path):
    worst = "</td><script>alert(1)</script><img src=x onerror=alert(1)>\" onfocus='x' & $_{ \x00\x1b"
    runs = []
    for run in made.comparison("sweep")[1]:
        result = run.result.model_copy(update={"metric": worst})
        names = {name: getattr(run, name) + worst for name in ("method", "task", "model")}
        runs.append(run.model_copy(update={**names, "result": result}))
    runs[0] = lost(runs[0], worst)
    page = Page(comparison_page(compared(runs, "d=16" + worst, title=worst), runs, tmp_path))
    check_alone(page)
    assert "<img" not in page.source and "<script" not in page.source and "\x1b" not in page.source


def test_a_comparison_that_was_moved(tmp_path):
    out, runs = made.comparison("sweep")
    moved = shutil.copytree(out, tmp_path / "moved")
    gone = [run.model_copy(update={"folder": run.folder.replace(str(out), "/nowhere/at/all")}) for run in runs]
    found = compared(gone, "d=16")
    assert comparison_page(found, gone, moved) == comparison_page(found, runs, out)
    page = Page(comparison_page(found, gone, tmp_path / "elsewhere"))
    check_alone(page)
    assert "there are no curves" in page.text and "No recipe can be read" in page.text


def test_a_run_folder_that_is_damaged_leaves_the_others(tmp_path):
    out, runs = made.comparison("sweep")
    moved = shutil.copytree(out, tmp_path / "moved")
    (moved / "first" / "d=8" / "1" / "journal.jsonl").write_bytes(b"nonsense\n{}\n")
    (moved / "first" / "d=8" / "2" / "recipe.json").write_bytes(b"nonsense")
    (moved / "first" / "d=16" / "1" / "run.json").write_bytes(b"nonsense")
    page = Page(comparison_page(compared(runs, "d=16"), runs, moved))
    check_alone(page)
    assert "2 runs have no journal that can be read" in page.text
    names = set(page.table("Data of: Lowest dev loss so far: first")[0])
    assert names == {"tokens through the model, forwards", "d=8 (2 of 3 runs)", "d=16 (2 of 3 runs)", "d=200"}


def spots(*pairs):
    return [Spot(0, 0, tokens, 2.0 * tokens, None, dev=Evaluation(loss=loss, score=0.5)) for tokens, loss in pairs]


def test_mean_curves_hold_where_runs_have_ended():
    one, other = spots((0, 4.0), (10, 2.0), (20, 1.0)), spots((0, 2.0), (30, 0.0))
    xs, ys, spread = mean_curve([one, other])
    assert (xs, ys) == ([0, 20, 25], [3.0, 1.0, 0.5])
    assert spread == pytest.approx([math.sqrt(2), math.sqrt(2), math.sqrt(0.5)])
    assert mean_curve([one], backward=True) == ([0, 30, 60], [4.0, 2.0, 1.0], [None, None, None])
    assert mean_curve([spots((0, 1.0), (5, 2.0), (9, 0.5))], lowest=True)[1] == [1.0, 1.0, 0.5]
    unknown = Spot(0, 0, None, None, None, dev=Evaluation(loss=1.0, score=0.5))
    assert mean_curve([]) == ([], [], []) == mean_curve([[unknown]])
    xs, ys, _ = mean_curve([spots(*((i, float(i)) for i in range(1000)))])
    assert len(xs) == POINTS and xs == ys and (xs[0], xs[-1]) == (0, 999)


@pytest.mark.slow
def test_the_same_from_the_disk(tmp_path):
    out, runs = made.comparison("mixed")
    found = compared(runs, "prompt tuning", title="t")
    text = comparison_page(found, runs, out)
    place = shutil.copytree(out, tmp_path / "there")
    save(place, found, runs)
    assert comparison_report(place) == text and read_comparison(place) == (found, runs)


def test_charts_have_names_and_something_to_show(tmp_path):
    out, runs = made.comparison("mixed")
    assert list(comparison_charts(compared(runs, "c-lora"), runs, out)) == [
        "scores", "scores-1", "scores-2", "score-against-cost", "dev-loss-1", "dev-loss-2",
    ]  # fmt: skip
    out, runs = made.comparison("sweep")
    assert "sweep-1" in comparison_charts(compared(runs, "d=16"), runs, out)
    assert comparison_charts(compared([lost(run) for run in runs], "d=16"), [lost(run) for run in runs], out) == {}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("comparison.json", "nonsense"),
        ("comparison.json", "[]"),
        ("comparison.json", "{}"),
        ("comparison.json", '{"schema": 2, "title": "x"}'),
        ("records.json", "{}"),
        ("records.json", '{"schema": 2, "runs": [{"method": "x"}]}'),
        ("records.json", None),
    ],
)
def test_a_comparison_that_is_damaged(tmp_path, name, content):
    _, runs = made.comparison("sweep")
    save(tmp_path, compared(runs, "d=16"), runs)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=name) as caught:
        comparison_report(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
