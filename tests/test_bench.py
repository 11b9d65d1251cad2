"""The engine's benchmark on tiny models: its contenders compute the same losses, its numbers add up, and it never takes hours."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import contenders
import duration
import engine
import gpu
import small
import tiny
from contenders import Plan
from duration import Pace
from tandemtune import plugins, runner
from tandemtune.callbacks import Callback
from tandemtune.config import load_config
from tandemtune.errors import ConfigError, UsageError
from tandemtune.evaluators.label_words import LabelWordEvaluator

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
KINDS = ("llama", "bert", "gpt2", "t5", "bart")
"""One tiny model for each way in which contenders differ."""
PARTS_OF_OTHERS = (
    "contenders.py",
    "duration.py",
    "listed_prompts.py",
    "gpu_models.py",
    "gpu_profile.py",
    "gpu_variants.py",
    "permuted_losses.py",
    "virtual_cluster.py",
)
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py"))


@pytest.fixture(autouse=True)
def known_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny vocabulary does not hold the words of the catalogue's row."""
    from tandemtune.tasks.catalogue import TaskRow

    words = {"negative": ("terrible",), "positive": ("great",)}
    row = TaskRow(
        name="sst2", summary="", words=words, masked="{text} . it was {mask} .", causal="{text} . it was {mask}"
    )
    known = plugins.members("task")
    monkeypatch.setitem(plugins._MEMBERS, "task", {**known, "sst2": row})


def plan_of(place: Path, model: str = "llama", **changes: Any) -> Plan:
    small.recipe(place)
    for split in ("train", "test"):
        shutil.copy(place / f"{split}.jsonl", place / f"sst2.{split}.jsonl")
    given: dict[str, Any] = {"shots": 4, "popsize": 5, "dtype": "float32", "repeats": 2, "layers": 3, "threads": 1}
    return Plan(str(small.model_folder(model)), "sst2", str(place), device="cpu", **{**given, **changes})


@pytest.mark.few(3)
@pytest.mark.parametrize(("model", "dtype"), [*((model, "float32") for model in KINDS), ("llama", "mixed")])
def test_contenders_agree_and_numbers_add_up(model: str, dtype: str, tmp_path: Path) -> None:
    found = engine.measure(plan_of(tmp_path, model, dtype=dtype))
    assert found["agreement"]["largest difference to one by one, float32"] < 1e-5
    own_format = {"engine_float32"} if dtype == "mixed" else set()
    assert set(found["seconds_per_candidate"]) == {"naive", "engine", "floor", "adamw_step"} | own_format
    assert list(found["by_layer"]) == ["0", "2", "3"]
    for spread in [*found["seconds_per_candidate"].values(), *found["ratios"].values()]:
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    json.dumps(found)


@pytest.mark.parametrize("model", KINDS)
def test_naive_equals_the_engine_at_every_layer(model: str, tmp_path: Path) -> None:
    work = contenders.loaded(plan_of(tmp_path, model), "float32")
    point = contenders.incumbent(work)
    for block in work.scorer.parameters.blocks:
        vectors = contenders.candidates(work, block, 3) * 10
        batch = work.evaluator.evaluate(point, {block: vectors})
        assert torch.allclose(contenders.naive(work, point, block, vectors).double(), torch.tensor(batch), atol=1e-5), (
            block
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("model", KINDS)
def test_contenders_agree_on_another_device(model: str, tmp_path: Path) -> None:
    found = engine.measure(plan_of(tmp_path, model, device="cuda"))
    assert found["machine"]["device"] == "cuda"
    assert found["agreement"]["largest difference to one by one, float32"] < 1e-4


@pytest.mark.grid
@pytest.mark.parametrize("block", range(4))
@pytest.mark.parametrize("model", KINDS)
def test_the_floor_runs_exactly_the_remaining_layers(model: str, block: int, tmp_path: Path) -> None:
    work = contenders.loaded(plan_of(tmp_path, model), "float32")
    floor = contenders.Floor(work, 5)
    seen: list[tuple[int, tuple[int, ...]]] = []
    for index, layer in enumerate(work.scorer.backbone.layers):
        layer.register_forward_hook(
            lambda module, args, output, i=index: seen.append(
                (i, tuple((output[0] if isinstance(output, tuple) else output).shape))
            )
        )
    floor.run(block)
    assert [index for index, _ in seen] == list(range(block, 4))
    texts = work.evaluator.train
    length = -(-texts.tokens // len(texts))
    for index, shape in seen:
        assert shape == (5 * len(texts), 1 if model in tiny.SEQ2SEQ and index >= 2 else length, 32)


@pytest.mark.parametrize("model", ["llama", "t5"])
def test_a_gradient_step_changes_the_adapter_only(model: str, tmp_path: Path) -> None:
    work = contenders.loaded(plan_of(tmp_path, model), "float32")
    before = {k: v.clone() for k, v in work.scorer.backbone.model.state_dict().items()}
    contenders.gradient_step(work)()
    after = {k.replace(".base_layer", ""): v for k, v in work.scorer.backbone.model.state_dict().items()}
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    added = {k: v for k, v in after.items() if k not in before}
    assert any("lora_B" in k and v.any() for k, v in added.items())


@pytest.mark.parametrize("length", [12, 20, 64])
@pytest.mark.parametrize("model", ["llama", "bert", "bart"])
def test_every_prompt_has_the_length_that_was_asked_for(model: str, length: int, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, model, length=length)
    work = contenders.loaded(plan, "float32")
    assert {group.ids.shape[1] for group in work.evaluator.train.groups} == {length}
    vectors = contenders.candidates(work, 0, 2)
    point = contenders.incumbent(work)
    naive = contenders.naive(work, point, 0, vectors).double()
    assert torch.allclose(naive, torch.tensor(work.evaluator.evaluate(point, {0: vectors})), atol=1e-5)


def test_filled_prompts_end_as_they_did(tmp_path: Path) -> None:
    own = contenders.loaded(plan_of(tmp_path, "bert"), "float32").evaluator.train
    filled = contenders.loaded(plan_of(tmp_path, "bert", length=40), "float32").evaluator.train
    assert filled.labels.tolist() == own.labels.tolist()
    ids, _, answer = contenders.padded(filled)
    for group in own.groups:
        for short, at, row in zip(group.ids, group.answer, group.rows, strict=True):
            assert ids[row, 0] == short[0]
            assert ids[row, answer[row] - 3 :].tolist() == short[at - 3 :].tolist()


@pytest.mark.parametrize("make", [contenders.loaded, contenders.settled])
def test_prompts_longer_than_the_model_reads_are_refused(make: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"65 tokens, but .* reads at most 64"):
        make(plan_of(tmp_path, "gpt2", length=65), "float32")


@pytest.mark.parametrize(("popsize", "fits"), [(4, True), (2500, True), (3, False), (0, False)])
def test_a_population_of_any_size_that_can_be_searched_with(popsize: int, fits: bool, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, popsize=popsize)
    if fits:
        assert plan.recipe("float32").method.optimizer.candidates == popsize
    else:
        with pytest.raises(ConfigError, match="popsize"):
            plan.recipe("float32")


@pytest.mark.parametrize("changes", [{"repeats": 0}, {"layers": -1}])
def test_numbers_that_are_too_small_are_refused(changes: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        plan_of(tmp_path, **changes)


def test_without_fast_16_bit_products_the_engine_is_measured_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandemtune.autotune.formats.mixed_is_faster", lambda device: False)
    assert engine.measure(plan_of(tmp_path, dtype="auto", repeats=1, layers=1))["dtype"] == "float32"


def test_what_fits_is_left_as_it_is_and_what_does_not_is_shortened() -> None:
    plan, fast = Plan("m"), Pace(exact=0.1, engine=0.02, padding=1.5, depth=30, shots=16)
    assert duration.shortened(plan, fast, 300) == plan
    slow = Pace(exact=1.0, engine=0.3, padding=1.5, depth=30, shots=16)
    shorter = duration.shortened(plan, slow, 300)
    assert (shorter.repeats, shorter.layers) < (plan.repeats, plan.layers)
    assert duration.seconds(shorter, slow) <= 300 < duration.seconds(plan, slow)
    assert duration.shortened(plan, slow, 3600) == plan, "more time was asked for"
    slower = duration.shortened(plan, Pace(exact=2.5, engine=2.5, padding=1.5, depth=30, shots=16), 300)
    assert slower == replace(plan, repeats=1, layers=2, shots=8)


def test_a_format_that_takes_hours_is_refused_before_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a processor without products of 16 bits."""
    monkeypatch.setattr(engine, "pace", lambda plan: Pace(exact=0.7, engine=70.0, padding=1.5, depth=30, shots=16))
    monkeypatch.setattr(engine, "measure", lambda *_: pytest.fail("it began"))
    with pytest.raises(UsageError, match=r"mixed takes 100 times as long as float32 here.*--minutes"):
        engine.measured(plan_of(tmp_path, dtype="mixed"), 300)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_the_estimate_is_that_of_the_format_that_was_asked_for(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(duration, "_pass_seconds", lambda problem: seen.append(problem.facts.dtype) or len(seen))
    found = duration.pace(plan_of(tmp_path, dtype=dtype))
    assert seen == (["float32"] if dtype == "auto" else ["float32", "bfloat16"])
    assert (found.exact, found.engine) == (1, len(seen))
    assert found.padding > 1
    assert (found.depth, found.shots) == (4, 4)


def test_the_estimate_grows_with_everything_that_is_measured() -> None:
    plan, found = Plan("m", dtype="mixed"), Pace(exact=1.0, engine=0.3, padding=1.5, depth=30, shots=16)
    least = duration.seconds(plan, found)
    longer = ({"popsize": 40}, {"repeats": 4}, {"layers": 0}, {"shots": 32})
    assert all(duration.seconds(replace(plan, **more), found) > least for more in longer)
    assert duration.seconds(plan, found, memory=True) > least


def test_the_script_prints_tables_and_writes_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(tmp_path)
    monkeypatch.setattr(engine, "peak_memory", lambda plan: ({"load": 1.0}, {}))
    given = [
        "--task",
        plan.task,
        "--data",
        plan.data,
        "--shots",
        "4",
        "--popsize",
        "5",
        "--repeats",
        "1",
        "--layers",
        "2",
    ]
    given += [
        "--memory",
        "--dtype",
        "float32",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--json",
        str(tmp_path / "found.json"),
    ]
    monkeypatch.setattr(sys, "argv", ["engine.py", plan.model, *map(str, given)])
    engine.main()
    said, found = capsys.readouterr().out, json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["machine"]["processor"]
    assert found["machine"]["processor"].split()[0] in said
    for name in ("naive / engine", "engine / floor", "peak memory, load: 1 MB"):
        assert name in said


def test_the_script_says_what_is_wrong_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["engine.py", "./nowhere"])
    with pytest.raises(SystemExit) as end:
        engine.main()
    assert end.value.code == 2
    assert "./nowhere does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("mode", engine.MODES)
def test_peak_memory_of_each_contender(mode: str, tmp_path: Path) -> None:
    resident, device = engine.peak_of(mode, plan_of(tmp_path))
    assert resident > 10
    assert device == 0 or torch.cuda.is_available()


def test_a_search_by_the_plain_loop_writes_the_same_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32: the same candidates are taken in every generation, with the same losses up to rounding."""
    config = load_config(small.recipe(tmp_path, "llama", method__budget=200))
    runner.run(config, tmp_path / "engine", Callback())
    problem = contenders.autotune.build(config)

    def one_by_one(self: object, point: Any, candidates: Any, generation: int | None = None) -> Any:
        ((block, vectors),) = candidates.items()
        return contenders.naive(problem, point, block, vectors).double().numpy()

    monkeypatch.setattr(LabelWordEvaluator, "evaluate", one_by_one)
    runner.run(config, tmp_path / "plain", Callback())
    journals = [small.journal(tmp_path / name) for name in ("engine", "plain")]
    assert len(journals[0]) == len(journals[1]) > 20
    for one, other in zip(*journals, strict=True):
        assert {k: one.get(k) for k in ("step", "layer", "accepted", "costs", "stop_reason")} == {
            k: other.get(k) for k in ("step", "layer", "accepted", "costs", "stop_reason")
        }
        assert one.get("losses") == pytest.approx(other.get("losses"), abs=1e-5)


def test_peak_memory_is_that_of_the_program_and_not_of_its_parent() -> None:
    hold = torch.ones(120_000_000)  # 480 MB in this process
    code = "from tandemtune.system import peak_rss_mb; print(peak_rss_mb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 < float(done.stdout) < 400
    assert hold[0] == 1


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name not in PARTS_OF_OTHERS])
def test_every_benchmark_can_say_how_it_is_used(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all that it imports at the top."""
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    assert not end.value.code
    assert f"usage: {script}" in capsys.readouterr().out


@pytest.mark.slow
def test_the_benchmark_for_a_gpu_goes_on_where_a_part_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On tiny shapes, here: equal journals, a search under the stopwatch, and numbers in a file."""
    monkeypatch.setattr(gpu, "SPEEDS", gpu.SPEEDS[:1])
    broken = {**gpu.PARTS, "card": (lambda bench, found: 1 / 0, 5.0)}
    monkeypatch.setattr(gpu, "PARTS", broken)
    arguments = ["--device", "cpu", "--tiny", "--parts", "card", "equality", "speed", "profile"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments, "--out", str(tmp_path / "found.json")])
    with pytest.raises(SystemExit) as end:
        gpu.main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert end.value.code == 1 and "ZeroDivisionError" in found["card"]["error"]
    assert [found["equality"][shape.name] for shape in (gpu.ROBERTA_LARGE, gpu.GPT2_XL, gpu.LLAMA_7B)] == [0.0] * 3
    (row,) = (value for key, value in found["speed"].items() if key != "seconds")
    assert row["ms"] > 0 and row["ratio"] == pytest.approx(row["ms"] / row["bare_ms"])
    assert found["profile"]["host"]["projection"][1] == found["profile"]["generations"] > 0
    assert "one generation from layer" in capsys.readouterr().out
