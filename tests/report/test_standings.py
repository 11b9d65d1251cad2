"""Statistics of comparisons by hand, and the tables that show them."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import random
import re
from statistics import mean

import pytest
from made import LOST, run_of, scores, swept
from rich.console import Console

from tandemtune.comparisons.expected import Expected
from tandemtune.report.comparison import (
    as_csv,
    as_latex,
    as_markdown,
    as_table_csv,
    comparison_view,
    cost_rows,
    sweep_charts,
    sweep_rows,
    table_rows,
)
from tandemtune.report.paired import SAMPLE, Paired, mean_interval, paired, score_bounds
from tandemtune.report.standings import ColumnScore, ComparisonTable, compared


def scored(table: dict[str, dict[str, list[float | None]]], baseline: str = "a") -> ComparisonTable:
    """A comparison of scores by method, task and seed 1, 2, ..."""
    runs = [
        run_of(method, seed, value, task)
        for method, tasks in table.items()
        for task, values in tasks.items()
        for seed, value in enumerate(values, 1)
    ]
    return compared(runs, baseline)


def shown(found: ComparisonTable) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(comparison_view(found))
    return console.file.getvalue()  # type: ignore[attr-defined]


def pair_of(one: list[float], other: list[float]) -> Paired:
    found = paired(*({("t", seed): value for seed, value in enumerate(each)} for each in (one, other)))
    assert found is not None
    return found


def p_of(differences: list[float]) -> float:
    return pair_of(differences, [0.0] * len(differences)).p


def test_mean_and_sample_deviation_by_hand():
    row = scored({"a": {"t": [0.7, 0.8, 0.9], "u": [0.5, 0.5, 0.8]}}).methods["a"]
    assert row.columns["t"].mean == pytest.approx(0.8) and row.columns["t"].std == pytest.approx(0.1)
    assert row.columns["u"].std == pytest.approx(math.sqrt((0.01 + 0.01 + 0.04) / 2))
    assert row.average == pytest.approx(0.7)
    assert row.average_std == pytest.approx(math.sqrt((0.1**2 + 0.05**2 + 0.15**2) / 2))  # of 0.6, 0.65, 0.85


def test_one_seed_has_no_deviation():
    found = scored({"a": {"t": [0.7]}})
    row = found.methods["a"]
    assert (row.columns["t"].std, row.average, row.average_std) == (None, 0.7, None)
    assert (
        dict(zip(*(lines[0] if n else lines for n, lines in enumerate(table_rows(found))), strict=True))["t"] == "0.700"
    )


def test_a_missing_run_leaves_no_average_and_no_rank():
    found = scored({"a": {"t": [0.7, 0.9], "u": [0.5, LOST]}, "b": {"t": [0.6, 0.6], "u": [0.4, 0.4]}})
    a, b = found.methods["a"], found.methods["b"]
    assert (a.average, a.average_std, a.rank, a.dev) == (None, None, None, None) and b.average == pytest.approx(0.5)
    assert (a.columns["t"].rank, b.columns["t"].rank, b.columns["u"].rank, b.rank) == (1, 2, 1, 1.5)
    assert table_rows(found)[1][0][:6] == ["a", "0.800 ± 0.141", "0.500 (1 of 2)", "–", "–", "–"]
    assert found.missing == ("u, a, seed 2 (lost)",) and any("(n of m)" in note for note in found.notes)
    assert b.against and b.against.pairs == 3


def test_scores_that_are_no_numbers_count_as_missing():
    for odd in (None, math.nan):
        row = scored({"a": {"t": [0.7, 0.9]}, "b": {"t": [0.5, odd]}}).methods["b"]
        assert (row.columns["t"].values, row.columns["t"].of, row.columns["t"].rank) == ((0.5,), 2, None)
        assert row.average is None
    nothing = scored({"a": {"t": [LOST, LOST]}})
    assert table_rows(nothing)[1][0] == ["a", "–", "–", "–", "", "", ""] and cost_rows(nothing)[1] == []
    assert "2 runs are missing" in shown(nothing)
    assert "missing: t, a, seed 1 (lost)" in as_markdown(nothing)


def test_ranks_share_ties():
    found = scored({"a": {"t": [0.5]}, "b": {"t": [0.9]}, "c": {"t": [0.9]}, "d": {"t": [0.1]}})
    assert [found.methods[name].rank for name in "abcd"] == [3, 1.5, 1.5, 4]
    assert scored({"a": {"t": [0.1, 0.2]}, "b": {"t": [0.2, 0.1]}}).methods["b"].rank == 1.5
    thirds = scored({"a": {"t": [0.333333, 0.333333, 0.333333]}, "b": {"t": [0.0, 0.0, 1.0]}})
    assert [thirds.methods[name].rank for name in "ab"] == [1.5, 1.5], "scores are rounded to six digits"
    assert all(found.methods[name].rank is None for name in found.methods if name.startswith("("))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.2], 1.0),
        ([0.1, 0.2], 2 / 4),
        ([0.1, 0.2, 0.3], 2 / 8),
        ([-0.1, -0.2, -0.3], 2 / 8),
        ([0.3, -0.1], 1.0),
        ([0.3, 0.1, -0.1], 6 / 8),  # sums of all signs: 0.5 twice, 0.3 four times, 0.1 twice
        ([0.1] * 5, 2 / 32),
        ([0.1, 0.1, 0.1, 0.1, -0.1], 12 / 32),  # |sum| 3 or 5 of the five signs
        ([0.0, 0.0, 0.0], 1.0),
        ([0.1, 0.0, 0.2], 4 / 8),
        ([0.01] * 14, 2 / 2**14),
        ([1 / 3, 0.333334, -0.333333], 1.0),  # equal but for rounding: as [1, 1, -1]
    ],
)
def test_sign_flips_by_hand(differences, p):
    assert p_of(differences) == pytest.approx(p, abs=1e-12)


def test_many_pairs_are_sampled_and_the_same_each_time():
    assert p_of([0.01] * 15) <= 3 / SAMPLE and p_of([0.01] * 15) >= 1 / (SAMPLE + 1)
    source = random.Random(3)
    differences = [round(source.gauss(0.01, 0.03), 3) for _ in range(16)]
    exact = mean(
        abs(sum(map(lambda s, d: s * d, signs, differences))) >= abs(sum(differences)) - 1e-9
        for signs in itertools.product((1, -1), repeat=16)
    )
    assert p_of(differences) == pytest.approx(exact, abs=0.012) and p_of(differences) == p_of(differences)


def test_wins_ties_and_negative_zero():
    one, other = {1: 0.5, 2: 0.4, 3: 0.7, 4: 0.1}, {1: 0.5, 2: 0.3, 3: 0.8, 5: 0.9}
    found = paired(*({("t", seed): value for seed, value in each.items()} for each in (one, other)))
    assert found is not None and (found.pairs, found.wins, found.ties) == (3, 1.5, 1)
    assert found.difference == pytest.approx(0.0, abs=1e-12)
    assert paired({("t", 1): 0.5}, {("t", 2): 0.5}) is None
    rows = table_rows(scored({"a": {"t": [0.5, 0.6]}, "b": {"t": [0.4998, 0.6]}}))[1]
    assert rows[1][-3:] == ["+0.000", "1.000", "0.5 of 2"], "no -0.000"
    assert str(pair_of([-0.0], [0.0]).difference) == "0.0"


def test_pairs_are_of_the_same_model_task_and_seed():
    runs = [run_of("a", 1, 0.5, "t", "m"), run_of("b", 1, 0.9, "t", "n"), run_of("b", 2, 0.9, "t", "m")]
    assert compared(runs, "a").methods["b"].against is None
    found = compared([*runs, run_of("b", 1, 0.6, "t", "m")], "a")
    assert [column.name for column in found.columns] == ["m · t", "n · t"]
    against = found.methods["b"].against
    assert against and against.pairs == 1 and against.difference == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("count", "t"), [(3, 4.3027), (4, 3.1824), (5, 2.7764), (7, 2.4469), (11, 2.2281), (31, 2.0423)]
)
def test_intervals_of_means_are_students(count, t):
    values = [0.5 + 0.001 * (-1) ** i for i in range(count)]
    low, high = mean_interval(values, (0.0, 1.0)) or (0.0, 0.0)
    spread = math.sqrt(sum((v - mean(values)) ** 2 for v in values) / (count - 1))
    assert (high - low) / 2 == pytest.approx(t * spread / math.sqrt(count), rel=0.005)
    assert (high + low) / 2 == pytest.approx(mean(values))


def test_two_seeds_say_too_little_for_an_interval_and_scores_end_at_one():
    assert mean_interval([0.5, 0.6], (0.0, 1.0)) is None
    assert (mean_interval([0.99, 0.9, 0.99], (0.0, 1.0)) or ())[1] == 1.0


def test_scores_of_ones_own_have_no_ends_but_those_that_are_told():
    for values in ([3.1, 3.4, 3.2], [-0.4, -0.1, -0.2]):
        low, high = mean_interval(values, score_bounds(["helpfulness"])) or (0.0, 0.0)
        assert (low + high) / 2 == pytest.approx(mean(values)), "cut at neither end"
        assert mean_interval(values, (0.0, 1.0)) == (low, high), "nor where they lie outside what was told"
    assert score_bounds(["accuracy", "rouge_l"]) == (0.0, 1.0)
    assert score_bounds(["accuracy", "helpfulness"]) == (-math.inf, math.inf)


def test_controls_stand_in_every_table():
    found = scored({"a": {"t": [0.7, 0.9]}, "b": {"t": [LOST, LOST]}})
    assert [row[:2] for row in table_rows(found)[1]] == [
        ["a", "0.800 ± 0.141"],
        ["b", "–"],
        ["(majority class)", "0.400 ± 0.000"],
        ["(zero-shot)", "0.500 ± 0.000"],
        ["(zero-shot, calibrated)", "0.490 ± 0.000"],
    ]
    against = found.methods["(zero-shot)"].against
    assert against and against.difference == pytest.approx(-0.3)
    assert list(found.contenders) == ["a", "b"]


def test_the_readout_of_the_pretrained_model_is_a_control_where_methods_have_one():
    found = compared([run_of("a", 1, 0.5, zero_shot_readout=scores(0.7, 0.6, 0.4)), run_of("b", 1, 0.4)], "a")
    assert table_rows(found)[1][-1][:2] == ["(zero-shot, readout)", "0.700"]
    assert list(found.contenders) == ["a", "b"]


def test_batch_calibration_is_a_control_where_runs_have_it():
    by_batch = scores(0.5, 0.5, 0.1).model_copy(update={"test_by_batch": 0.58})
    found = compared([run_of("a", 1, 0.5, zero_shot=by_batch), run_of("b", 1, 0.4)], "a")
    assert ["(zero-shot, calibrated by batch)", "0.580"] in [row[:2] for row in table_rows(found)[1]]


def test_a_control_that_no_run_has_is_no_row_of_dashes():
    written = scores(0.5, 0.5, 0.1)
    written = written.model_copy(update={"calibrated": None})
    found = compared([run_of("a", 1, 0.5, zero_shot=written, majority=None)], "a")
    assert [name for name in found.methods if name.startswith("(")] == ["(zero-shot)"]


def test_controls_come_from_the_baseline_and_a_note_tells_where_others_differ():
    found = compared([run_of("b", 1, 0.5, zero_shot=scores(0.9, 0.9, 0.1)), run_of("a", 1, 0.5)], "a")
    assert found.methods["(zero-shot)"].average == 0.5
    assert [note for note in found.notes if note.startswith("b: its zero-shot scores")]


def test_notes_on_budget_versions_and_few_pairs():
    runs = [run_of("a", 1, 0.5), run_of("b", 1, 0.5, stop_reason="steps", versions={"torch": "3"})]
    assert compared(runs, "a", reason="budget").notes == (
        "p of 1 pairs cannot be below 1: telling methods apart takes more seeds or tasks.",
        "b: 1 of 1 runs ended before the budget was spent (steps).",
        "Runs were made with different versions: torch 2.13, 3.",
    )
    assert compared([run_of(m, s, 0.5) for m in "ab" for s in range(6)], "a", reason="budget").notes == ()
    odd = compared([run_of("a", 1, 0.5, unknown=("method.left",))], "a")
    assert "Some runs were made with settings that this version does not know: method.left." in odd.notes


def test_costs_and_ratios_are_of_the_runs_that_both_have():
    runs = [
        run_of("a", 1, 0.5, seconds=60.0, peak_rss_mb=100.0),
        run_of("a", 2, 0.5, seconds=600.0, peak_rss_mb=100.0),
        run_of("b", 1, 0.5, seconds=30.0, peak_rss_mb=150.0),
        run_of("b", 2, LOST),
    ]
    headers, rows = cost_rows(compared(runs, "a"))
    assert headers[:6] == ["method", "runs", "time", "time, ratio", "peak MB", "peak MB, ratio"]
    assert "backward tokens (M)" not in headers and "mentor tokens" not in headers, "what nobody spent is left out"
    assert rows == [
        ["a", "2", "5 min 30 s", "1.0", "100", "1.0", "0.0200", "400"],
        ["b", "1", "30 s", "0.50", "150", "1.5", "0.0200", "400"],
    ]
    lost = compared([run_of("b", 1, 0.5), run_of("a", 1, LOST)], "a").methods["b"]
    assert lost.ratios == {"minutes": None, "peak MB": None}


def test_ratios_are_to_the_reference_and_tests_against_the_baseline():
    runs = [
        run_of(method, seed, score, seconds=seconds, peak_rss_mb=seconds)
        for method, score, seconds in (("a", 0.5, 60.0), ("b", 0.6, 30.0), ("c", 0.7, 120.0))
        for seed in (1, 2)
    ]
    found = compared(runs, "a", reference="b")
    rows = cost_rows(found)[1]
    assert [(row[3], row[5]) for row in rows] == [("2.0", "2.0"), ("1.0", "1.0"), ("4.0", "4.0")]
    assert "Ratios are to b," in as_markdown(found) and "ratios are to b" in shown(found) and found.baseline == "a"
    assert [row[-3] for row in table_rows(found)[1]][:3] == ["", "+0.100", "+0.200"], "scores know no reference"
    lost = compared([*runs[:2], run_of("b", 1, LOST)], "a", reference="b")
    assert cost_rows(lost)[1][0][3] == "–"


def test_many_missing_runs_are_counted():
    found = compared([run_of("a", seed, LOST) for seed in range(50)], "a")
    assert "and 30 more, see runs.csv" in as_markdown(found) and len(found.missing) == 50


def test_names_cannot_break_tables():
    run = run_of("[red]a|b", 1, 0.5, 'x,"y"')
    found = compared([run], "[red]a|b", title="[bold]title")
    assert "| [red]a\\|b | 0.500 |" in as_markdown(found)
    for text in (as_csv([run]), as_table_csv(found)):
        assert next(csv.DictReader(io.StringIO(text)))["task"] == 'x,"y"'
    assert "[red]a|b" in shown(found) and "[bold]title" in shown(found)
    bad = compared([run_of("50% & $x_1^2~\\{y}#", 1, 0.5)], "50% & $x_1^2~\\{y}#")
    row = next(line for line in as_latex(bad).splitlines() if line.startswith("50"))
    assert row.startswith(
        r"50\% \& \$x\_1\textasciicircum{}2\textasciitilde{}\textbackslash{}\{y\}\# & 0.500 & 0.700 \\"
    )


def test_latex_and_csv_have_models_tasks_test_and_dev():
    runs = [
        run_of(method, seed, test + seed / 100, task, model, dev=test - 0.1)
        for model in ("m", "n")
        for task in ("t", "u")
        for method, test in (("a", 0.5), ("b", 0.6))
        for seed in (1, 2)
    ]
    found = compared(runs, "a")
    lines = as_latex(found).splitlines()
    assert lines[1] == r"\begin{tabular}{llrrrr}" and lines[-1] == r"\end{tabular}"
    assert lines[4] == r"model & method & test & dev & test & dev \\" and lines.count(r"\midrule") == 2
    best = r"\textbf{0.615 $\pm$ 0.007} & 0.500 $\pm$ 0.000"
    assert rf"n & b & {best} & {best} \\" in lines and r"m & (majority class)" in as_latex(found)
    columns = [line.count("&") for line in lines if line.endswith(r"\\")]
    assert columns[0] == 3 and set(columns[1:]) == {5}
    rows = list(csv.DictReader(io.StringIO(as_table_csv(found))))
    assert len(rows) == 2 * 2 * 5
    last = next(row for row in rows if (row["model"], row["task"], row["method"]) == ("n", "u", "b"))
    assert (last["runs"], last["test"], last["dev"], last["rank_by_test"]) == ("2", "0.615", "0.5", "1.0")
    each = list(csv.DictReader(io.StringIO(as_csv([*runs, run_of("c", 1, LOST)]))))
    assert len(each) == 17 and each[0]["model"] == "m" and each[0]["dev"] == "0.4" and each[0]["dev_loss"] == "0.4"
    assert each[-1]["failure"] == "lost" and each[-1]["test"] == ""
    alone = [run_of("a", 1, 0.5), run_of("b", 1, LOST)]
    models = {row["model"] for row in csv.DictReader(io.StringIO(as_table_csv(compared(alone, "a"))))}
    assert models == {alone[0].result.model} != {""}, "a plan with one model does not name it; its runs do"


def sweep_of_two() -> ComparisonTable:
    """A value that looks best on test and another one that is best on dev, over two tasks."""
    runs = [
        swept(run_of(f"d={value}", seed, test, task, dev=dev), value)
        for value, test, dev in ((500, 0.9, 0.6), (20, 0.7, 0.8), (100, 0.8, 0.7))
        for task in ("t", "u")
        for seed in (1, 2)
    ]
    return compared(runs, "d=500")


def test_a_sweep_is_chosen_and_ranked_by_dev():
    found = sweep_of_two()
    assert found.ranked_by == "dev" and found.sweeps[0].chosen == "d=20"
    assert [found.methods[f"d={d}"].rank for d in (500, 20, 100)] == [3, 1, 2]
    headers, rows = sweep_rows(found, found.sweeps[0])
    assert headers[0] == "method.d"
    assert rows == [
        ["500", "0.600", "0.900 ± 0.000", ""],
        ["20", "0.800", "0.700 ± 0.000", "chosen"],
        ["100", "0.700", "0.800 ± 0.000", ""],
    ]
    assert "rank by dev" in table_rows(found)[0] and "rank" in table_rows(scored({"a": {"t": [0.5]}}))[0]
    bold = [line for line in as_latex(found).splitlines() if "textbf" in line]
    assert len(bold) == 1 and bold[0].startswith(r"d=20 & 0.700 $\pm$ 0.000 & \textbf{0.800 $\pm$ 0.000}")
    assert "## c-lora: method.d" in as_markdown(found) and "sweep of c-lora: method.d" in shown(found)


def test_a_sweep_without_test_rows_is_ranked_all_the_same():
    values = ((500, 0.6), (20, 0.8), (100, 0.7))
    runs = [swept(run_of(f"d={d}", seed, None, dev=dev), d) for d, dev in values for seed in (1, 2)]
    found = compared(runs, "d=500")
    assert [found.methods[f"d={d}"].rank for d, _ in values] == [3, 1, 2] and found.sweeps[0].chosen == "d=20"
    lost = compared([*runs, swept(run_of("d=20", 3, math.inf), 20)], "d=500")
    assert [lost.methods[f"d={d}"].rank for d, _ in values] == [2, None, 1]


def test_a_sweep_with_a_missing_run_chooses_nothing():
    runs = [swept(run_of(f"d={v}", s, 0.5 if (v, s) != (8, 2) else LOST), v) for v in (4, 8) for s in (1, 2)]
    assert compared(runs, "d=4").sweeps[0].chosen is None


def test_sweeps_are_drawn_over_numbers_and_as_bars_over_words():
    numbers = sweep_charts(sweep_of_two())[0]
    assert [one.name for one in numbers.series] == ["dev, mean", "test, mean", "t", "u"]  # type: ignore[union-attr]
    assert list(numbers.series[0].xs) == [20, 100, 500] and numbers.x_log  # type: ignore[union-attr]
    assert list(numbers.series[0].ys) == pytest.approx([0.8, 0.7, 0.6])  # type: ignore[union-attr]
    words = compared([swept(run_of(name, 1, 0.5), name) for name in ("all", "last:33%")], "all")
    assert [chart.bars[1][0] for chart in sweep_charts(words)] == ["last:33%"] * 2  # type: ignore[union-attr]
    assert "last:33%" in shown(words) and "● dev, mean" in shown(sweep_of_two())


def test_methods_named_after_a_value_are_a_sweep():
    found = compared([run_of(name, 1, 0.5) for name in ("d=100", "d=5e2", "other", "r=1")], "other")
    assert [(sweep.key, sweep.values, sweep.methods) for sweep in found.sweeps] == [
        ("d", (100.0, 500.0), ("d=100", "d=5e2"))
    ]
    assert compared([run_of("d=100", 1, 0.5), run_of("other", 1, 0.5)], "other").sweeps == ()


def test_a_comparison_survives_its_file():
    expected = Expected("A paper", {"t": {"d=500": 0.9, "d=20": 0.8}})
    runs = [swept(run_of(f"d={v}", s, 0.5 + v / 1000), v) for v in (20, 500) for s in (1, 2, 3)]
    found = compared(runs, "d=20", title="T", expected=expected)
    again = ComparisonTable.read(json.loads(json.dumps(found.plain())), "comparison.json")
    assert again == found and found.plain()["schema"] == 2
    assert isinstance(again.methods["d=20"].columns["t"], ColumnScore)
    assert not re.search("NaN|Infinity", json.dumps(found.plain()))
