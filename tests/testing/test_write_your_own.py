"""Members from outside: those of the page "Write your own", by file and as a package, are run, killed, resumed and compared."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from written_pages import FILES, write_files

import small
import writing
from tandemtune import plugins
from tandemtune.callbacks import Callback
from tandemtune.config import load_config
from tandemtune.errors import ConfigError, RunError, UsageError
from tandemtune.runner import go_on, run

ROUNDS = {
    "method__name": "maao",
    "method__prompt_tokens": 3,
    "method__r": None,
    "method__d": None,
    "method__popsize": None,
    "method__layers": None,
    "method__budget": None,
    "alternate__rounds": 2,
    "alternate__round_steps": 3,
    "alternate__final_steps": 3,
    "alternate__proposals": 2,
}
SEARCH = {"method__popsize": 4, "method__budget": 40}
OWN = {
    "optimizer": {**SEARCH, "method__optimizer": "annealing.py:Annealing"},
    "metric": {**SEARCH, "task__metric": "balanced.py:balanced_accuracy"},
    "tunable": {**SEARCH, "method__tunable": "gains.py:GainsOfLayers", "method__r": None},
    "objective": {**SEARCH, "method__objective": {"kind": "focal.py:Focal", "gamma": 1.5}},
    "objective-gradient": {
        **dict.fromkeys(("method__d", "method__popsize", "method__budget")),
        "method__objective": "focal.py:Focal",
        "method__optimizer": "adamw",
        "method__steps": 8,
    },
    "proposer": {**ROUNDS, "alternate__proposer": "phrases.py:Phrases"},
}


class Stops(Callback):
    """Ends a run after some turns, as a crash would."""

    def __init__(self, turns: int) -> None:
        self.turns = turns

    def on_turn(self, *given) -> None:
        self.turns -= 1
        if self.turns == 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the page's files, and with runs of each: one whole, one stopped and resumed by another process."""
    place = tmp_path_factory.mktemp("own")
    write_files(place)
    before = Path.cwd()
    os.chdir(place)
    try:
        for name, changes in OWN.items():
            config = load_config(small.recipe(place, **changes))
            run(config, place / name / "whole", Callback())
            with pytest.raises(KeyboardInterrupt):
                run(config, place / name / "part", Stops(3))
            assert not (place / name / "part" / "result.json").exists()
    finally:
        os.chdir(before)
    return place


def elsewhere(code: str, *paths: Path, **options) -> subprocess.CompletedProcess:
    """Python in another process and another folder."""
    source = str(Path(plugins.__file__).parent.parent)
    given = {**os.environ, "PYTHONPATH": os.pathsep.join([source, *map(str, paths)]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=given, capture_output=True, text=True, timeout=200, **options
    )


@pytest.mark.slow  # test_api.py has an objective and a metric that another process goes on with
def test_each_is_resumed_by_another_process_to_the_bit(place):
    folders = [str(place / name / "part") for name in OWN]
    ended = elsewhere(
        "from pathlib import Path\nfrom tandemtune.callbacks import Callback\nfrom tandemtune.runner import go_on\n"
        f"for folder in {folders!r}: go_on(Path(folder), Callback())",
        cwd=place.parent,
    )
    assert ended.returncode == 0, ended.stderr
    for name in OWN:
        assert small.artefacts(place / name / "part") == small.artefacts(place / name / "whole"), name


def test_the_run_says_whose_code_it_was(place):
    for name, file in (
        ("optimizer", "annealing"),
        ("metric", "balanced"),
        ("tunable", "gains"),
        ("proposer", "phrases"),
    ):
        facts = json.loads((place / name / "whole" / "run.json").read_text(encoding="utf-8"))
        (address,) = facts["plugins"]
        assert address.startswith(f"{place / file}.py:") and len(facts["plugins"][address]) == 64
    result = json.loads((place / "metric" / "whole" / "result.json").read_text(encoding="utf-8"))
    assert result["metric"].endswith("balanced_accuracy")
    facts = json.loads((place / "tunable" / "whole" / "run.json").read_text(encoding="utf-8"))
    assert facts["tunable"]["parameters"] == 4 * 32


def test_changed_code_is_refused(place, tmp_path):
    write_files(tmp_path)
    address = f"{tmp_path / 'annealing.py'}:Annealing"
    config = load_config(small.recipe(tmp_path, **SEARCH, method__optimizer=address))
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", Stops(2))
    file = tmp_path / "annealing.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("self.heat *=", "self.heat += 0 *"), encoding="utf-8")
    with pytest.raises(RunError, match=r"annealing\.py:Annealing .*no longer"):
        go_on(tmp_path / "run", Callback())
    file.write_text(text, encoding="utf-8")
    go_on(tmp_path / "run", Callback())


def test_each_keeps_the_promises_that_the_page_says_it_keeps(place, monkeypatch):
    monkeypatch.syspath_prepend(str(place))
    try:
        suite = importlib.import_module("test_mine")
        tests = [found for name, found in vars(suite).items() if name.startswith("test_")]
        assert len(tests) == 5
        for test in tests:
            test()
    finally:
        for name in FILES:
            sys.modules.pop(name, None)


def test_the_reward_is_searched_on(place, tmp_path):
    address = f"{place / 'nearness.py'}:nearness"
    recipe = writing.recipe(tmp_path, task__answer=None, task__metric=address, method__objective="reward")
    result = small.tune(recipe, tmp_path / "run")
    assert result["metric"] == "nearness" and result["tuned"]["test"] <= 0


@pytest.mark.slow
def test_it_is_compared_with_ours(place, tmp_path):
    from tandemtune import compare

    made = small.recipe(tmp_path, method__budget=20, task__metric=f"{place / 'balanced.py'}:balanced_accuracy")
    task = {f"task.{key}": value for key, value in made.pop("task").items() if key != "seed"}
    plan = {
        "all": {f"{section}.{key}": value for section, table in made.items() for key, value in table.items()},
        "tasks": {"small": task},
        "seeds": [1],
        "methods": {"ours": {}, "own": {"method.optimizer": f"{place / 'annealing.py'}:Annealing"}},
    }
    compare(plan, out=tmp_path / "out", jobs=1)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "out").rglob("result.json")]
    assert len(results) == len(plan["methods"]) * len(plan["seeds"])
    assert {result["metric"] for result in results} == {"balanced_accuracy"}
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


# what goes wrong


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method__optimizer": "annealing.py:Anealing"}, "has no 'Anealing' (did you mean 'Annealing'?)"),
        ({"method__optimizer": "annealing:Annealing"}, "for the file in this folder write 'annealing.py:Annealing'"),
        ({"method__optimizer": "missing.py:Annealing"}, "no Python file"),
        ({"method__optimizer": "broken.py:Annealing"}, "cannot be loaded: ZeroDivisionError"),
        ({"method__optimizer": "gains.py:GainsOfLayers"}, "GainsOfLayers is a tunable"),
        (
            {"method__optimizer": "annealing.py:Walk"},
            "expected a class derived from Optimizer of tandemtune.optimizers.base",
        ),
        ({"method__optimizer": {"kind": "annealing.py:Annealing", "cold": 1}}, "cold: unknown key"),
        ({"method__optimizer": {"kind": "annealing.py:Annealing", "cooling": 2.0}}, "less than or equal to 1"),
        ({"method__optimizer": "annealing.py:Annealing", "method__popsize": 1}, "greater than or equal to 2"),
        ({"method__optimizer": "nameless.py:Blind"}, "does not say how many candidates"),
        ({"task__metric": "balanced.py:balanced"}, "did you mean 'balanced_accuracy'?"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_runs(changes, words, tmp_path, monkeypatch):
    write_files(tmp_path)
    (tmp_path / "broken.py").write_text("1 / 0", encoding="utf-8")
    (tmp_path / "nameless.py").write_text(
        "from tandemtune.optimizers.base import Optimizer\nclass Blind(Optimizer):\n    summary = 'no popsize'\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config(small.recipe(tmp_path, **changes))
    assert words in str(caught.value)


def test_a_class_that_no_other_process_could_find_is_refused():
    from tandemtune.optimizers.random_search import RandomSearch

    class Local(RandomSearch):
        kind = "local"

    with pytest.raises(UsageError, match="defined inside a function or class"):
        plugins.address_of(Local)


# as a package


def install(place: Path) -> None:
    """What an installer leaves of a package with one module and an entry point."""
    write_files(place)
    for name in FILES:
        if name != "annealing":
            (place / f"{name}.py").unlink()
    info = place / "tandemtune_annealing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tandemtune-annealing\nVersion: 1.0\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text("[tandemtune.plugins]\nannealing = annealing\n", encoding="utf-8")


CLI = "import sys; from tandemtune.cli import main; sys.argv = ['tandemtune', *{arguments!r}]; main()"
DIES = """
import os, signal
from pathlib import Path
from tandemtune.callbacks import Callback
from tandemtune.config import load_config
from tandemtune.runner import run

class Dies(Callback):
    turns = 0
    def on_turn(self, *given):
        self.turns += 1
        if self.turns == 3:
            os.kill(os.getpid(), signal.SIGKILL)

run(load_config({recipe!r}), Path({out!r}), Dies())
"""


@pytest.mark.slow
def test_a_package_with_an_entry_point(tmp_path):
    site, out = tmp_path / "site", str(tmp_path / "run")
    site.mkdir()
    install(site)
    recipe = small.recipe(tmp_path, **SEARCH, method__optimizer="annealing", method__cooling=0.8)

    def cli(*arguments: str) -> subprocess.CompletedProcess:
        return elsewhere(CLI.format(arguments=arguments), site)

    listed = cli("ls", "optimizers")
    assert "annealing\t" in listed.stdout and "worse point is taken" in listed.stdout, listed.stderr
    options = cli("ls", "optimizers", "annealing")
    assert "cooling\t0.9\tfactor of heat after a generation" in options.stdout, options.stderr
    died = elsewhere(DIES.format(recipe=recipe, out=out), site)
    assert died.returncode < 0, died.stderr
    kept = json.loads((tmp_path / "run" / "recipe.json").read_text(encoding="utf-8"))
    assert kept["method"]["optimizer"]["kind"] == "annealing" and kept["method"]["optimizer"]["cooling"] == 0.8

    file = site / "annealing.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text + "# changed\n", encoding="utf-8")
    refused = cli("resume", out)
    assert refused.returncode == 1 and "optimizer annealing" in refused.stderr and "no longer" in refused.stderr
    file.write_text(text, encoding="utf-8")
    resumed = cli("resume", out)
    assert resumed.returncode == 0, resumed.stderr
    whole = small.write_recipe(tmp_path / "recipe.json", recipe)
    assert cli("run", str(whole), "--out", str(tmp_path / "whole")).returncode == 0
    assert small.artefacts(tmp_path / "run") == small.artefacts(tmp_path / "whole")
    missing = elsewhere(CLI.format(arguments=("resume", out)))  # it ended, so nothing of it is needed
    assert missing.returncode == 0
    unknown = elsewhere(CLI.format(arguments=("run", str(whole), "--out", str(tmp_path / "other"))))
    assert unknown.returncode == 2 and "unknown optimizer 'annealing'" in unknown.stderr


def test_a_package_that_cannot_be_imported_is_named(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    install(site)
    (site / "annealing.py").write_text("import not_there\n", encoding="utf-8")
    listed = elsewhere(CLI.format(arguments=("ls", "optimizers")), site)
    assert listed.returncode == 2 and "the plug-in 'annealing' (annealing) cannot be loaded" in listed.stderr
