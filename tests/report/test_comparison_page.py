"""Pages of comparisons: the numbers of `compared` and of the journals, whatever the members are called."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
from itertools import accumulate
from pathlib import Path

import made
import pytest
from pages import Page, check_alone, same

import small
from tandemtune import tune
from tandemtune.errors import RunError
from tandemtune.plan import read_plan
from tandemtune.report.comparison import compared, cost_rows, table_rows
from tandemtune.report.comparison_page import POINTS, comparison_page, comparison_report, mean_curve
from tandemtune.report.run_page import Spot, toml_value, trail
from tandemtune.runs.files import write_json
from tandemtune.runs.store import RunFolder

BASES = {"sweep": "d=16", "mixed": "prompt tuning"}


def records_of(kind):
    out, records = made.comparison(kind)
    return out, copy.deepcopy(list(records))


def opened(kind, records=None, title="A title"):
    out, whole = records_of(kind)
    records = whole if records is None else records
    found = compared(records, BASES[kind])
    return Page(comparison_page(found, records, title, out)), found, records


@pytest.mark.parametrize("kind", BASES)
def test_it_needs_nothing_but_itself(kind):
    page, found, _ = opened(kind)
    check_alone(page)
    assert "None" not in page.text and page.facts["runs that have ended"] == (
        "6 of 6" if kind == "sweep" else "12 of 12"
    )
    assert all(note in page.text for note in found["notes"])


@pytest.mark.parametrize("kind", BASES)
def test_scores_and_tests_are_those_of_compared(kind):
    page, found, _ = opened(kind)
    headers, rows = table_rows(found)
    shown = page.table("Test accuracy, mean ± standard deviation over seeds")
    assert [row["method"] for row in shown] == list(found["methods"])
    for row, whole in zip(shown, rows, strict=True):
        wanted = dict(zip(headers, whole, strict=True))
        assert all(wanted[name] == value for name, value in row.items())
        cells = found["methods"][row["method"]]["columns"]
        for column, cell in cells.items():
            mean, _, std = row[column].partition(" ± ")
            assert same(mean, cell["mean"]) and same(std, cell["std"])
    assert ("average" in shown[0]) == (kind == "mixed"), "the average of one column is that column"
    tested = {row["method"]: row for row in page.table(f"Test score minus {BASES[kind]}")}
    assert list(tested) == [name for name in found["methods"] if name != BASES[kind]]
    for name, row in tested.items():
        against = found["methods"][name]["against"]
        assert same(row["difference"].replace("+", ""), against["difference"]) and same(row["p"], against["p"])
        assert row["wins"] == f"{against['wins']:g} of {against['pairs']}"


@pytest.mark.parametrize("kind", BASES)
def test_the_best_methods_are_marked_and_no_control_is(kind):
    page, found, _ = opened(kind)
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", page.source)
    starred = {(name, i) for name, cells in rows for i, cell in enumerate(cells.split("</td>")) if "(best)" in cell}
    methods = [name for name in found["methods"] if not name.startswith("(")]
    wanted = set()
    for i, column in enumerate(found["columns"]):
        means = {name: found["methods"][name]["columns"][column]["mean"] for name in methods}
        top = max(means.values())
        wanted |= {(name.replace("<", "&lt;").replace(">", "&gt;"), i) for name in methods if means[name] > top - 1e-9}
    assert {pair for pair in starred if pair[1] < len(found["columns"])} == wanted


@pytest.mark.parametrize("kind", BASES)
def test_costs_are_those_of_the_runs(kind):
    page, found, records = opened(kind)
    headers, rows = cost_rows(found)
    assert [list(row.values()) for row in page.table("Mean cost of a run")] == rows
    for title, key, unit in (("Minutes of search", "minutes", "min"), ("Peak memory of the process", "peak MB", "MB")):
        bars = {row[""]: row for row in page.table(f"Data of: {title}")}
        assert list(bars) == list(dict.fromkeys(record["method"] for record in records))
        for name, row in bars.items():
            results = [record["result"] for record in records if record["method"] == name]
            values = [r["cost"]["seconds"] / 60 if key == "minutes" else r["cost"]["peak_rss_mb"] for r in results]
            assert same(row[f"{title.lower()}, mean of a run ({unit})"], sum(values) / len(values))
    assert f"minutes, ratio to {BASES[kind]}" in headers and f"Ratios are to {BASES[kind]}, " in page.text


@pytest.mark.parametrize("kind", BASES)
def test_curves_are_means_of_the_journals(kind):
    page, found, records = opened(kind)
    for column in found["columns"]:
        for title, lowest in (("Dev loss where the search stands", False), ("Lowest dev loss so far", True)):
            rows = page.table(f"Data of: {title}: {column}")
            for method in dict.fromkeys(record["method"] for record in records):
                shown = [row[method].partition(" ± ")[0] for row in rows if row[method] != "–"]
                folders = [r["folder"] for r in records if (r["method"], r["task"]) == (method, column)]
                looks = [[line["dev"]["loss"] for line in small.journal(Path(f)) if line["dev"]] for f in folders]
                assert len({len(each) for each in looks}) == 1 and len(looks) == 2
                curves = [list(accumulate(each, min)) if lowest else each for each in looks]
                means = [sum(values) / 2 for values in zip(*curves, strict=True)]
                assert len(shown) == len(means) and all(same(a, b) for a, b in zip(shown, means, strict=True))
    backwards = any(name.startswith("Data of: Lowest dev loss so far, over all tokens") for name in page.captions())
    assert backwards == (kind == "mixed")


def test_a_sweep_is_drawn_over_its_values():
    page, found, _ = opened("sweep")
    rows = page.table("Data of: Test score over d")
    assert [row["d"] for row in rows] == ["8", "16", "200"]
    for row in rows:
        cell = found["methods"][f"d={row['d']}"]["columns"]["first"]
        mean, _, std = row["first"].partition(" ± ")
        assert same(mean, cell["mean"]) and same(std, cell["std"])
    assert rows[0]["(zero-shot)"] == rows[-1]["(zero-shot)"] != "–"
    assert "sweep" not in {attributes.get("id") for _, attributes in opened("mixed")[0].elements}


def test_sweeps_that_a_plan_names():
    _, records = records_of("sweep")
    numbers = {"d=8": 1, "d=16": 2, "d=200": 3}
    for record in records:
        record["sweep"] = {"of": "c-lora", "key": "method.d", "value": numbers[record["method"]]}
    page = opened("sweep", records)[0]
    assert [row["method.d"] for row in page.table("Data of: Test score over c-lora: method.d")] == ["1", "2", "3"]
    assert "Data of: Test score over d" not in page.captions(), "drawn once"
    for record in records:
        record["sweep"]["value"] = "<" + record["method"]
    page, found, _ = opened("sweep", records)
    check_alone(page)
    rows = page.table("Data of: Test score over c-lora: method.d: first")
    assert [row[""] for row in rows] == ["<d=8", "<d=16", "<d=200"]
    assert all(same(r["test score"], found["methods"][r[""][1:]]["columns"]["first"]["mean"]) for r in rows)


def test_missing_runs_are_named():
    _, records = records_of("mixed")
    for index, failure in ((0, "it <failed>"), (11, None)):
        del records[index]["result"]
        if failure:
            records[index]["failure"] = failure
    page, found, _ = opened("mixed", records)
    check_alone(page)
    assert page.facts["runs that have ended"] == "10 of 12"
    assert [row["run"] for row in page.table("Runs without a result")] == found["missing"]
    assert "it <failed>" in page.text and "not run" in page.text
    assert "maao <mutation> (1 of 2 runs)" in page.table("Data of: Lowest dev loss so far: second & last")[0]


def test_nothing_has_ended():
    _, records = records_of("mixed")
    for record in records:
        del record["result"]
    page = opened("mixed", records)[0]
    check_alone(page)
    for said in ("No run has ended yet", "No journal of an ended run", "No run can be paired"):
        assert said in page.text
    assert len(page.table("Runs without a result")) == 12


def test_every_run_is_listed():
    page, _, records = opened("mixed")
    rows = page.table("Every run")
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        result = record["result"]
        assert (row["task"], row["method"], row["seed"]) == (record["task"], record["method"], str(record["seed"]))
        assert same(row["test"], result["tuned"]["test"]) and same(row["dev"], result["tuned"]["dev"])
        assert same(row["peak MB"], result["cost"]["peak_rss_mb"])


def test_settings_say_what_is_shared_and_what_differs():
    page = opened("mixed")[0]
    differing = {row["setting"]: row for row in page.table("What differs between methods")}
    assert (
        differing["method.optimizer"]["c-lora"] == "cma-es"
        and differing["method.optimizer"]["prompt tuning"] == "adamw"
    )
    assert differing["alternate.rounds"]["maao <mutation>"] == "2"
    tasks = page.table("What differs between tasks")
    assert tasks == [
        {
            "setting": "task.template",
            **{k: small.TEMPLATES["masked"] if k == "first" else v["template"] for k, v in made.TASKS.items()},
        }
    ]
    shared = page.codes["Settings that all runs share"]
    assert "budget = 60" in shared and "optimizer" not in shared and "template" not in shared and "seed" not in shared


def test_names_that_would_hurt_a_page(tmp_path):
    _, records = records_of("sweep")
    worst = "</td><script>alert(1)</script><img src=x onerror=alert(1)>\" onfocus='x' & \x00\x1b"
    for record in records:
        for name in ("method", "task", "model"):
            record[name] += worst
        record["result"]["metric"] = worst
    records[0] = {k: v for k, v in records[0].items() if k != "result"} | {"failure": worst}
    page = Page(comparison_page(compared(records, "d=16" + worst), records, worst, tmp_path))
    check_alone(page)
    assert "<img" not in page.source and "<script" not in page.source and "\x1b" not in page.source


def test_a_comparison_that_was_moved(tmp_path):
    out, records = records_of("sweep")
    moved = shutil.copytree(out, tmp_path / "moved")
    gone = [{**record, "folder": record["folder"].replace(str(out), "/nowhere/at/all")} for record in records]
    found = compared(gone, "d=16")
    assert comparison_page(found, gone, "t", moved) == comparison_page(found, records, "t", out)
    page = Page(comparison_page(found, gone, "t", tmp_path / "elsewhere"))
    check_alone(page)
    assert "there are no curves" in page.text and "No recipe can be read" in page.text


def test_a_run_folder_that_is_damaged_leaves_the_others(tmp_path):
    out, records = records_of("sweep")
    moved = shutil.copytree(out, tmp_path / "moved")
    (moved / "first" / "d=8" / "1" / "journal.jsonl").write_bytes(b"nonsense\n{}\n")
    (moved / "first" / "d=8" / "2" / "recipe.json").write_bytes(b"nonsense")
    (moved / "first" / "d=16" / "1" / "run.json").write_bytes(b"nonsense")
    page = Page(comparison_page(compared(records, "d=16"), records, "t", moved))
    check_alone(page)
    assert "2 runs have no journal that can be read" in page.text
    names = set(page.table("Data of: Lowest dev loss so far: first")[0])
    assert names == {"tokens through the model, forwards", "d=8 (1 of 2 runs)", "d=16 (1 of 2 runs)", "d=200"}


def spots(*pairs):
    return [Spot(0, 0, tokens, 2.0 * tokens, None, dev=loss) for tokens, loss in pairs]


def test_mean_curves_hold_where_runs_have_ended():
    one, other = spots((0, 4.0), (10, 2.0), (20, 1.0)), spots((0, 2.0), (30, 0.0))
    xs, ys, spread = mean_curve([one, other])
    assert (xs, ys) == ([0, 20, 25], [3.0, 1.0, 0.5])
    assert spread == pytest.approx([math.sqrt(2), math.sqrt(2), math.sqrt(0.5)])
    assert mean_curve([one], backward=True) == ([0, 30, 60], [4.0, 2.0, 1.0], [None, None, None])
    assert mean_curve([spots((0, 1.0), (5, 2.0), (9, 0.5))], lowest=True)[1] == [1.0, 1.0, 0.5]
    assert mean_curve([]) == ([], [], []) == mean_curve([[Spot(0, 0, None, None, None, dev=1.0)]])
    xs, ys, _ = mean_curve([spots(*((i, float(i)) for i in range(1000)))])
    assert len(xs) == POINTS and xs == ys and (xs[0], xs[-1]) == (0, 999)


def test_the_same_bytes_again(tmp_path):
    out, records = records_of("mixed")
    found = compared(records, "prompt tuning")
    text = comparison_page(found, records, "t", out)
    assert text == comparison_page(found, records, "t", out)
    place = shutil.copytree(out, tmp_path / "there")
    write_json(place / "comparison.json", {"title": "t", **found})
    write_json(place / "records.json", records)
    assert comparison_report(place) == text, "the same from the disk"


def test_report_at_the_command_line(tmp_path):
    out, records = records_of("sweep")
    place = shutil.copytree(out, tmp_path / "mine")
    write_json(place / "comparison.json", compared(records, "d=16"))
    write_json(place / "records.json", records)
    called = small.call("report", place)
    assert (called.code, called.out, called.err) == (0, f"{place / 'report.html'}\n", "")
    page = Page((place / "report.html").read_text(encoding="utf-8"))
    assert "<title>mine</title>" in page.source and "Data of: Test score over d" in page.captions()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("comparison.json", "nonsense"),
        ("comparison.json", "[]"),
        ("comparison.json", "{}"),
        ("records.json", "{}"),
        ("records.json", '[{"method": "x"}]'),
        ("records.json", None),
    ],
)
def test_a_comparison_that_is_damaged(tmp_path, name, content):
    out, records = records_of("sweep")
    write_json(tmp_path / "comparison.json", compared(records, "d=16"))
    write_json(tmp_path / "records.json", records)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(RunError):
        comparison_report(tmp_path)
    called = small.call("report", tmp_path)
    assert called.code == 1 and called.err.startswith("tandemtune: ") and len(called.err.splitlines()) == 1
    assert out.is_dir()


def test_tokens_of_a_curve_are_those_of_the_result():
    _, records = records_of("mixed")
    for record in records:
        folder = RunFolder(Path(record["folder"]))
        last = trail(folder, folder.read_lines())[-1]
        assert round(last.tokens) == record["result"]["cost"]["forward_tokens"]


def test_saved_numbers_are_not_needed_as_python_made_them():
    out, records = records_of("mixed")
    found = json.loads(json.dumps(compared(records, "prompt tuning")))
    assert comparison_page(found, records, "t", out) == comparison_page(
        compared(records, "prompt tuning"), records, "t", out
    )


def test_compare_writes_the_page(tmp_path):
    base = small.recipe(tmp_path, method__budget=10)
    shared = [
        f"{json.dumps(f'{s}.{k}')} = {toml_value(v)}" for s, t in base.items() for k, v in t.items() if k != "seed"
    ]
    plan = tmp_path / "plan.toml"
    tables = [
        "seeds = [1]",
        'title = "Two & two"',
        "[all]",
        *shared,
        "[methods]",
        "a = {}",
        'b = { "method.r" = 2 }',
        "[tasks]",
        "t = {}",
    ]
    plan.write_text("\n".join(tables), encoding="utf-8")
    for cell in read_plan(plan, tmp_path / "out").cells:
        cell.folder.parent.mkdir(parents=True, exist_ok=True)
        tune(cell.config.model_dump(mode="json"), cell.folder)
    called = small.call("compare", plan, "--out", tmp_path / "out")
    assert called.code == 0, called.err
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    check_alone(page)
    assert "<h1>Two &amp; two</h1>" in text and page.facts["runs that have ended"] == "2 of 2"
    called = small.call("report", tmp_path / "out", "--out", tmp_path / "again.html")
    assert called.code == 0 and (tmp_path / "again.html").read_text(encoding="utf-8") == text
