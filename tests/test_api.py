"""Python as the way in: objects and rows in memory, callbacks, resumption in another process, models that answer."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from datetime import date
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch

import members
import small
import tandemtune
import tiny
from dying import begun, forking, in_child
from tandemtune import CMAES, DataError, LoRA, RunError, UsageError, load
from tandemtune.callbacks import Callback, Planned, TurnView
from tandemtune.config import load_config
from tandemtune.runs.records import Facts, GenerationRecord, ProposalRecord, Result, StartRecord, StepRecord
from tandemtune.wiring import planned

ROWS = small.rows(12, 1)
SHORT: dict[str, Any] = {"shots": 4, "seed": 5, "budget": 25, "d": 8, "dev_every": 2, "dtype": "float32", "threads": 1}


def tuned(out: Any = None, **changes: Any) -> tandemtune.Run:
    """A run out of objects and rows in memory."""
    given = {
        "model": str(small.model_folder()),
        "train": ROWS,
        "labels": small.LABELS,
        "template": small.TEMPLATES["masked"],
        "optimizer": CMAES(popsize=4),
        "tunable": LoRA(r=1, layers="all"),
        "progress": "none",
        **SHORT,
    }
    return tandemtune.tune(out=out, **{**given, **changes})


# ---- objects and rows --------------------------------------------------------------------------------------------


def test_rows_parts_and_a_metric_in_memory() -> None:
    run = tuned(test=small.rows(6, 2), metric=members.share_of_positives)
    result = run.result
    assert result is not None and result.metric == "share_of_positives"
    recipe = json.loads((run.path / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["method"]["optimizer"] == {"kind": "cma-es", **CMAES(popsize=4).model_dump()}
    assert recipe["method"]["tunable"] == {"kind": "lora", **LoRA(r=1, layers="all").model_dump()}
    assert Path(recipe["task"]["train"]).parent == run.path / "data", "the rows are the run's own"
    answers = run.predict([row["text"] for row in small.rows(6, 2)])
    assert result.tuned.test == pytest.approx(members.share_of_positives([a.label for a in answers], []))
    assert len(run.history) == result.steps == 5
    assert repr(run).startswith("Run(") and "share_of_positives" in repr(run)
    assert recipe["task"]["metric"] == "members:share_of_positives"


def test_a_folder_of_its_own_lives_as_long_as_the_run() -> None:
    run = tuned()
    place = run.path
    assert place.is_dir()
    del run
    assert not place.exists()


def test_columns_that_nobody_asks_for_may_hold_anything(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{**row, "score": float("nan"), "at": date(2024, 1, 2)} for row in small.rows(12, 1)]
    recipe = {**small.recipe(tmp_path, task__test=None), "method": {"name": "manual"}}
    tandemtune.tune(recipe, out=tmp_path / "run", train=rows, progress="none")
    (kept,) = (tmp_path / "run" / "data").iterdir()
    written = json.loads(kept.read_text(encoding="utf-8").splitlines()[0])
    assert written == {**rows[0], "score": None, "at": "2024-01-02"}


def test_a_frame_gives_the_same_run_as_a_list(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    tuned(tmp_path / "list")
    run = tuned(tmp_path / "frame", train=pandas.DataFrame(ROWS))
    one, other = (small.artefacts(tmp_path / name) for name in ("list", "frame"))
    assert {k: v for k, v in one.items() if k != "task_card.json"} == {
        k: v for k, v in other.items() if k != "task_card.json"
    }
    frame = pandas.DataFrame({"text": ["a great film", "so dull"]})
    assert run.predict(frame) == run.predict(["a great film", "so dull"])


def test_evaluate_says_what_predict_says() -> None:
    run = tuned()
    rows = small.rows(10, 3)
    found = run.evaluate(rows)
    answers = run.predict([row["text"] for row in rows])
    assert found.score == sum(a.label == row["label"] for a, row in zip(answers, rows, strict=True)) / len(rows)


@pytest.mark.parametrize(
    ("changes", "tells"),
    [
        ({"train": {"text": ["a"], "label": ["b"]}}, "expected a file, a DataFrame or a list of dicts"),
        ({"train": ["a great film"]}, "row 1: got string 'a great film', expected a dict"),
        ({"progress": "loud"}, "progress: expected auto, terminal, notebook or none, got 'loud'"),
        ({"optimizer": LoRA()}, "[method] optimizer: LoRA(...) is a tunable, expected one of kind optimizer"),
        ({"optimizer": "cmaes"}, "unknown optimizer 'cmaes' (did you mean 'cma-es'?)"),
        ({"bugdet": 30}, "did you mean 'method.budget'?"),
        ({"train": None}, "[task] train: missing"),
    ],
)
def test_what_cannot_be_used_is_said_and_leaves_nothing(tmp_path: Path, changes: dict[str, Any], tells: str) -> None:
    with pytest.raises((UsageError, DataError)) as caught:
        tuned(tmp_path / "run", **changes)
    assert tells in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_function_that_no_other_process_could_find_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a resumed run could not find it"):
        tuned(tmp_path / "run", metric=lambda predictions, gold: 0.0)
    assert list(tmp_path.iterdir()) == []


# ---- resumption --------------------------------------------------------------------------------------------------


@forking
def test_a_run_of_objects_that_is_killed_goes_on_in_another_process(tmp_path: Path) -> None:
    """Its rows are its own by then, and its members are found by where they lie; it ends to the bit."""
    parts = {"objective": members.Doubled(weight=3.0), "metric": members.share_of_positives}
    tuned(tmp_path / "straight", **parts)
    folder = tmp_path / "run"
    assert in_child(lambda: tuned(folder, **parts), 30) == -signal.SIGKILL and begun(folder)
    assert 1 < (folder / "journal.jsonl").read_bytes().count(b"\n") < 7
    script = f"import sys; sys.path.insert(0, {str(Path(small.__file__).parent)!r})\n"
    script += "import tandemtune; tandemtune.resume(sys.argv[1], progress='none')"
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)
    one, other = small.artefacts(folder), small.artefacts(tmp_path / "straight")
    assert one == other
    loss = small.journal(folder)[0]["train_loss"]
    tuned(tmp_path / "plain")
    assert loss == pytest.approx(3 * small.journal(tmp_path / "plain")[0]["train_loss"], rel=1e-6)


def with_code(place: Path, weight: float) -> str:
    """A member in a file of its own, by its address."""
    source = (
        Path(members.__file__).read_text(encoding="utf-8").replace("weight: float = 2.0", f"weight: float = {weight}")
    )
    (place / "mine.py").write_text(source, encoding="utf-8")
    return f"{place / 'mine.py'}:Doubled"


def test_changed_code_is_refused(tmp_path: Path) -> None:
    address = with_code(tmp_path, 2.0)
    recipe = small.recipe(tmp_path, method__objective=address)
    with pytest.raises(KeyboardInterrupt):
        small.tune(recipe, tmp_path / "run", small.Stop(step=3))
    with_code(tmp_path, 2.5)
    with pytest.raises(RunError, match=r"the code of .*mine\.py:Doubled .*no longer"):
        small.resume(tmp_path / "run")
    with_code(tmp_path, 2.0)
    small.resume(tmp_path / "run")
    small.tune(recipe, tmp_path / "straight")
    assert small.artefacts(tmp_path / "run") == small.artefacts(tmp_path / "straight")


def test_changed_weights_are_refused_on_resume_and_on_load(tmp_path: Path) -> None:
    place = tmp_path / "model"
    shutil.copytree(small.model_folder(), place)
    recipe = small.recipe(tmp_path, model__name=str(place), method__budget=25)
    small.tune(recipe, tmp_path / "done")
    with pytest.raises(KeyboardInterrupt):
        small.tune(recipe, tmp_path / "run", small.Stop(step=2))
    answer = load(tmp_path / "done").predict(["a great film"])
    before = (place / "model.safetensors").read_bytes()
    model = tiny.model("bert")
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "layer.2" in name).add_(1e-3)
    model.save_pretrained(place)
    with pytest.raises(RunError, match="the model's weights are no longer those that the run began with"):
        small.resume(tmp_path / "run")
    with pytest.raises(RunError, match="no longer those that the run in"):
        load(tmp_path / "done")
    (place / "model.safetensors").write_bytes(before)
    small.resume(tmp_path / "run")
    assert load(tmp_path / "done").predict(["a great film"]) == answer


def test_a_folder_with_something_foreign_is_not_replaced(tmp_path: Path) -> None:
    small.tune(small.recipe(tmp_path, method__budget=5), tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match=r"also holds notes\.txt, which no run made"):
        small.tune(small.recipe(tmp_path, method__budget=5), tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "notes.txt").read_text(encoding="utf-8") == "mine"


# ---- callbacks ---------------------------------------------------------------------------------------------------


class Heard(Callback):
    """Remembers every event with what came with it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        method = getattr(Callback, name)
        names = [n for n in method.__code__.co_varnames[: method.__code__.co_argcount] if n != "self"]
        return lambda *values: self.events.append((name, dict(zip(names, values, strict=True))))

    def names(self) -> list[str]:
        return [name for name, _ in self.events if name != "on_progress"]

    def of(self, name: str) -> list[dict[str, Any]]:
        return [facts for found, facts in self.events if found == name]


ROUNDS = {
    "method__name": "maao",
    "method__prompt_tokens": 3,
    "alternate__rounds": 2,
    "alternate__round_steps": 2,
    "alternate__final_steps": 1,
    "alternate__proposer": "random",
}


def test_callbacks_hear_every_event_with_what_it_promises(tmp_path: Path) -> None:
    heard = Heard()
    result = small.tune(small.recipe(tmp_path, **ROUNDS), tmp_path / "run", heard)
    turns = ["on_turn", "on_turn", "on_proposal"]
    assert heard.names() == ["on_ready", "on_start", *turns, *turns, "on_turn", "on_testing", "on_result"]
    kinds = {"text": str, "facts": Facts, "record": (StartRecord, StepRecord, ProposalRecord), "state": TurnView}
    kinds |= {"resumed": int, "seconds": float, "recorded": bool, "result": Result, "recipe": dict}
    for name, facts in heard.events:
        assert set(facts) == set(get_type_hints(getattr(Callback, name), globals() | vars(tandemtune.callbacks))) - {
            "return"
        }
        wrong = {key: value for key, value in facts.items() if not isinstance(value, kinds[key])}
        assert not wrong, name
    steps = heard.of("on_turn")
    assert [facts["record"].step for facts in steps] == [1, 2, 3, 4, 5]
    assert {(facts["state"].planned, facts["state"].unit) for facts in steps} == {(5, "steps")}
    assert not any(facts["recorded"] for facts in steps)
    assert [facts["state"].costs.gradient_steps for facts in steps] == [1, 2, 3, 4, 5]
    assert heard.of("on_result")[0]["result"].plain() == result
    assert heard.of("on_start")[0]["resumed"] == 0
    last = steps[-1]["state"]
    assert last.best_dev.loss == pytest.approx(result["tuned"]["dev_loss"], abs=1e-5)


def test_after_a_stop_callbacks_hear_what_was_recorded_as_recorded(tmp_path: Path) -> None:
    recipe = small.recipe(tmp_path, method__budget=35, run__checkpoint_seconds=1000.0)
    with pytest.raises(KeyboardInterrupt):
        small.tune(recipe, tmp_path / "run", small.Stop(step=3))
    heard = Heard()
    small.resume(tmp_path / "run", heard)
    assert heard.of("on_start")[0]["resumed"] == 4
    assert [facts["recorded"] for facts in heard.of("on_turn")] == [True] * 3 + [False] * 4
    assert all(isinstance(facts["record"], GenerationRecord) for facts in heard.of("on_turn"))


@pytest.mark.few(3)
@pytest.mark.parametrize("event", ["on_ready", "on_start", "on_turn", "on_testing", "on_result"])
def test_what_a_callback_raises_ends_the_run_resumably(tmp_path: Path, event: str) -> None:
    class Broken(Callback):
        pass

    def fail(self: Any, *rest: Any) -> None:
        raise ZeroDivisionError("mine")

    setattr(Broken, event, fail)
    recipe = small.recipe(tmp_path, method__budget=25)
    with pytest.raises(ZeroDivisionError, match="mine"):
        small.tune(recipe, tmp_path / "run", Broken())
    assert (tmp_path / "run").exists() == (event != "on_ready"), "what cannot begin leaves nothing"
    small.resume(tmp_path / "run") if event != "on_ready" else small.tune(recipe, tmp_path / "run")
    small.tune(recipe, tmp_path / "straight")
    assert small.artefacts(tmp_path / "run") == small.artefacts(tmp_path / "straight")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Planned(60, "candidates")),
        ({"method__steps": 3}, Planned(3, "steps")),
        ({"method__steps": 1000}, Planned(60 // 5, "steps")),
        ({"method__budget": 1_000_000_000}, Planned(0, "candidates")),
        ({"method__name": "lora", "method__steps": 7}, Planned(7, "steps")),
        (ROUNDS, Planned(5, "steps")),
        ({**ROUNDS, "method__optimizer": "cma-es"}, Planned(5, "steps")),
    ],
)
def test_how_much_is_planned(tmp_path: Path, changes: dict[str, Any], expected: Planned) -> None:
    recipe = small.recipe(tmp_path, **changes)
    assert planned(load_config(recipe)) == expected
    if expected.total and not changes.get("method__name"):
        result = small.tune(recipe, tmp_path / "run")
        assert expected.total == (result["steps"] if expected.unit == "steps" else result["cost"]["candidates"])


# ---- models that answer ------------------------------------------------------------------------------------------


def test_two_threads_ask_at_once(tmp_path: Path) -> None:
    small.tune(small.recipe(tmp_path, method__budget=25, method__alpha=2.0), tmp_path / "run")
    model = load(tmp_path / "run")
    texts = [[row["text"] for row in small.rows(6, seed)] for seed in range(4)]
    alone = [model.predict(some) for some in texts]
    found: dict[tuple[int, int], Any] = {}
    gate = threading.Barrier(4)

    def ask(number: int) -> None:
        gate.wait()
        for again in range(5):
            found[number, again] = model.predict(texts[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(answers == alone[number] for (number, _), answers in found.items())


def test_a_run_draws_itself(tmp_path: Path) -> None:
    run = tuned(tmp_path / "run")
    figure = run.plot(tmp_path / "loss.svg")
    assert figure.axes and (tmp_path / "loss.svg").read_text(encoding="utf-8").count("<svg") == 1
    run.plot(tmp_path / "scores.png", chart="scores")
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match=r"no chart 'scroes' \(did you mean 'scores'\?\): this run has scores, loss, "):
        run.plot(chart="scroes")
    page = run._repr_html_()
    assert f"{run.result.tuned.dev:.3f}" in page and "<svg" in page


def test_an_unfinished_run_is_a_run_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        small.tune(small.recipe(tmp_path), tmp_path / "run", small.Stop(step=3))
    run = tandemtune.Run(tmp_path / "run")
    assert run.result is None and len(run.records) == 4 and "not finished" in repr(run)
    with pytest.raises(RunError, match="has not ended"):
        run.predict(["fine"])
    with pytest.raises(RunError, match="is no run folder"):
        tandemtune.Run(tmp_path)
