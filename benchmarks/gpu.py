"""The evaluation engine on a GPU: equal to the processor, speed, share of the card, memory, whole runs, and where time goes.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --device cpu --tiny          # every part on tiny shapes, without a GPU

Models have the papers' sizes and random weights made on the device (speed and memory do not depend on the weights), so nothing
is downloaded. Parts run in turn, each with its own time limit; one that fails says why, and the rest goes on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch

import gpu_profile
import gpu_variants
from contenders import Floor, candidates, gradient_step, incumbent, naive, processor, timed
from gpu_models import GPT2_XL, LLAMA_7B, ROBERTA_LARGE, Setting, Shape, built, free, hand_over, made, written
from tandemtune import runner, wiring
from tandemtune.callbacks import Callback
from tandemtune.models import packing
from tandemtune.problem import Problem
from tandemtune.runs.journal import read_journal
from tandemtune.runs.records import GenerationRecord
from tandemtune.runs.store import RunFolder
from tandemtune.runs.writing import write_json

PUBLISHED = {47: 10.1, 107: 21.0}
"""Minutes of BBT for 8,000 candidates on RoBERTa-large, on an RTX 3090 (arXiv 2201.03514, table 2): another card."""
SPEEDS = (
    Setting(ROBERTA_LARGE, "bfloat16", 47),
    Setting(ROBERTA_LARGE, "bfloat16", 47, popsize=100),
    Setting(ROBERTA_LARGE, "mixed", 47),
    Setting(ROBERTA_LARGE, "float32", 47),
    Setting(ROBERTA_LARGE, "float32", 47, model={"tf32": True}),
    Setting(ROBERTA_LARGE, "bfloat16", 107),
    Setting(ROBERTA_LARGE, "bfloat16", (20, 74)),
    Setting(GPT2_XL, "bfloat16", 107),
    Setting(LLAMA_7B, "bfloat16", 107),
)
Say = Callable[[str], None]
Found = dict[str, Any]


class OverTimeError(BaseException):
    """A part has had its time; no `except Exception` in what it calls may swallow it."""


class Bench:
    """The parts, and what they found.

    Args:
        device: a torch device name.
        tiny: tiny shapes and few candidates.
        place: folder for what is written.
        seconds: for everything.
        models: names of the models that speed and memory are measured of.
    """

    def __init__(self, device: str, tiny: bool, place: Path, seconds: float, models: Sequence[str]) -> None:
        self.device, self.tiny, self.place, self.models = device, tiny, place, models
        self.found: Found = {}
        self._end = time.perf_counter() + seconds
        self._models: dict[tuple[str, str], Any] = {}

    def run(self, wanted: list[str]) -> None:
        """All wanted parts, each within its own limit and what is left of the whole."""
        for name, (part, limit) in PARTS.items():
            left = self._end - time.perf_counter()
            if (wanted and name not in (*wanted, "imports")) or left < 1:
                if left < 1:
                    say(f"{name}: left out, the time is over")
                continue
            say(f"== {name} (at most {min(limit, left):.0f} s)")
            begin = time.perf_counter()
            try:
                with _within(min(limit, left)):
                    part(self, self.found.setdefault(name, {}))
            except (Exception, OverTimeError):
                self.found[name]["error"] = failed(name)
            self.found[name]["seconds"] = round(time.perf_counter() - begin, 2)

    def fitting(self, setting: Setting) -> Setting:
        """A setting on the device, small where everything is."""
        setting = replace(setting, device=self.device)
        if not self.tiny:
            return setting
        length = 12 if isinstance(setting.length, int) else (8, 14)
        popsize = 4 if setting.popsize <= 20 else 8
        return replace(
            setting, shape=setting.shape.tiny(), length=length, popsize=popsize, shots=2, budget=60 * popsize
        )

    def model(self, setting: Setting) -> Any:
        """A model of a setting; one at a time is kept, since it is used again. `mixed` changes it, so it is made anew."""
        key = (setting.shape.name, setting.dtype)
        if key not in self._models or setting.dtype == "mixed":
            self.forget()
            self._models[key] = made(setting)
        return self._models[key]

    def forget(self) -> None:
        """Let go of the model that is kept."""
        self._models.clear()
        free()

    def problem(self, setting: Setting) -> Problem:
        """What a run of the setting begins with."""
        name = f"{setting.shape.name}-{setting.dtype}-{setting.length}-{setting.popsize}".replace(" ", "-")
        return built(setting, self.place / name, self.model(setting))


def imports(bench: Bench, found: Found) -> None:
    """What would otherwise be counted in the first part that needs it."""
    for shape in (ROBERTA_LARGE, GPT2_XL, LLAMA_7B):
        built(
            Setting(shape.tiny(), "float32", 12, 4, 2, 240, bench.device),
            self_named(bench.place, f"first-{shape.name}", bench.device),
            made(Setting(shape.tiny(), "float32", device=bench.device)),
        )


def card(bench: Bench, found: Found) -> None:
    """The device, and the rate of a matrix product on it."""
    size = 512 if bench.tiny else 8192
    found.update(
        torch=torch.__version__, device=bench.device, processor=processor(bench.device), host_cores=os.cpu_count()
    )
    say(f"{found['processor']}, torch {torch.__version__}, {found['host_cores']} processor cores")
    for dtype in (torch.bfloat16,) if bench.tiny else (torch.bfloat16, torch.float32):
        one, other = (torch.randn(size, size, device=bench.device).to(dtype) for _ in range(2))
        for _ in range(3):
            one @ other
        calls = 10 if dtype == torch.bfloat16 else 3
        took = median(timed(lambda a=one, b=other, n=calls: [a @ b for _ in range(n)]) / calls for _ in range(3))  # type: ignore[misc]
        name = str(dtype).removeprefix("torch.")
        found[f"tflops_{name}"] = 2 * size**3 / took / 1e12
        say(f"{size}^3 matrix product, {name}: {found[f'tflops_{name}']:.1f} TFLOP/s")


def equality(bench: Bench, found: Found) -> None:
    """The same recipe on the processor and on the device, in float32: largest difference of the journals' losses, as a share."""
    for shape in (ROBERTA_LARGE, GPT2_XL, LLAMA_7B):
        losses = []
        for number, device in enumerate(("cpu", bench.device)):
            setting = Setting(shape.tiny(), "float32", (8, 16), 6, 4, 90, device)
            model = made(replace(setting, device="cpu")).to(device)
            for parameter in model.parameters():
                parameter.data = parameter.data * 4  # so that candidates differ
            folder = self_named(bench.place, f"equal-{shape.name}-{number}", device)
            config = hand_over(setting, written(setting, folder / "model"), model)
            runner.run(config, folder / "run", Callback(), test=False, overwrite=True)
            turns = [r for r in read_journal(folder / "run" / "journal.jsonl") if isinstance(r, GenerationRecord)]
            losses.append([loss for turn in turns for loss in (*turn.losses, turn.incumbent) if loss is not None])
        pairs = list(zip(*losses, strict=True))
        found[shape.name] = apart = max(abs(one - other) / abs(one) for one, other in pairs)
        say(f"{shape.name}, tiny: {len(pairs)} losses, largest relative difference {apart:.1e}")
        found[f"{shape.name}, attention"] = kernels = by_two_kernels(bench, shape)
        if not (apart <= EQUAL and kernels["apart"] <= EQUAL_IN_16_BITS):
            raise RuntimeError(
                f"{shape.name}: expected differences of {EQUAL} and {EQUAL_IN_16_BITS} at most: see above"
            )


def by_two_kernels(bench: Bench, shape: Shape) -> dict[str, Any]:
    """Losses in bfloat16 of prompts of many lengths, by a kernel that is told where they begin and filled up: largest relative
    difference, and whether this device has that kernel."""
    setting = Setting(shape.tiny(), "bfloat16", (8, 16), 6, 4, 90, bench.device)
    problem = built(setting, self_named(bench.place, f"kernels-{shape.name}", bench.device), made(setting))
    vectors = {1: candidates(problem, 1, setting.popsize).to(bench.device)}
    with mock.patch.object(packing, "by_bounds", wraps=packing.by_bounds) as kernel:
        one = problem.evaluator.evaluate(incumbent(problem), vectors)
        used = kernel.call_count > 0
    problem.scorer.engine.forget()
    with mock.patch.object(packing, "_has_bounds", lambda *_: False):
        other = problem.evaluator.evaluate(incumbent(problem), vectors)
    apart = float((abs(one - other) / abs(other)).max())
    say(f"  bfloat16, {'by bounds' if used else 'no kernel by bounds here'} against filled up: {apart:.1e}")
    return {"used": used, "apart": apart}


def speed(bench: Bench, found: Found) -> None:
    """Milliseconds a candidate: engine as a run has it, one by one, and bare layers."""
    say(
        f"{'model':18}{'format':>13}{'tokens':>9}{'P':>5}{'engine':>9}{'bare':>9}{'ratio':>7}{'1 by 1':>9}  by layer: engine (bare)"
    )
    for wanted in (each for each in SPEEDS if each.shape.name in bench.models):
        setting = bench.fitting(wanted)
        name = f"{wanted.shape.name}, {wanted.length} tokens, {wanted.dtype}{'/tf32' if wanted.model else ''}, P {wanted.popsize}"
        try:
            row = found[name] = speed_of(bench.problem(setting), setting, bench.found.get("card", {}))
        except Exception:
            found[name] = {"error": failed(name)}
            continue
        layers = ", ".join(f"{b}: {row['engine'][b]:.2f} ({row['bare'][b]:.2f})" for b in row["engine"])
        length = setting.length if isinstance(setting.length, int) else f"{setting.length[0]}-{setting.length[1]}"
        share = f"; {row['share']:.0%} of the matrix rate in layer 0" if row["share"] else ""
        say(
            f"{wanted.shape.name:18}{wanted.dtype + ('/tf32' if wanted.model else ''):>13}{length:>9}{setting.popsize:>5}"
            f"{row['ms']:9.3f}{row['bare_ms']:9.3f}{row['ratio']:7.2f}{row['one_by_one_ms']:9.2f}  {layers}{share}"
        )


def speed_of(problem: Problem, setting: Setting, card: Mapping[str, Any]) -> Found:
    """The same of one model with its rows."""
    engine, point, count = problem.scorer.engine, incumbent(problem), setting.popsize
    floor, depth = Floor(problem, count), len(engine.stack)
    times: dict[str, dict[int, float]] = {"engine": {}, "bare": {}}
    for block in (0, depth // 2, depth - 1):
        vectors = candidates(problem, block, count).to(setting.device)  # as a search hands them over
        parts: dict[str, Callable[[], Any]] = {
            "engine": partial(problem.evaluator.evaluate, point, {block: vectors}),
            "bare": partial(floor.run, block),
        }
        for call in parts.values():
            call()
        turns = [{name: timed(call) for name, call in parts.items()}]
        more = 4 if sum(turns[0].values()) < 1 else 1  # 7 billion parameters take seconds
        turns += [{name: timed(call) for name, call in parts.items()} for _ in range(more)]
        for name in parts:
            times[name][block] = median(turn[name] for turn in turns) / count * 1e3
    few = candidates(problem, depth // 2, 2)
    naive(problem, point, depth // 2, few)
    alone_ms = median(timed(lambda: naive(problem, point, depth // 2, few)) for _ in range(3)) / 2 * 1e3
    mean = {name: sum(each.values()) / len(each) for name, each in times.items()}
    rate = card.get("tflops_float32" if setting.dtype == "float32" else "tflops_bfloat16")
    rate = None if setting.model else rate  # in TF32 there is nothing to compare with
    work = flops(problem) / (times["engine"][0] / 1e3) / 1e12
    facts = problem.facts
    return {
        **times,
        "ms": mean["engine"],
        "bare_ms": mean["bare"],
        "ratio": mean["engine"] / mean["bare"],
        "one_by_one_ms": alone_ms,
        "tflops_layer_0": work,
        "share": work / rate if rate else 0.0,
        "chunk_tokens": facts.chunk_tokens,
        "compiled": facts.compiled,
        "max_memory": engine.max_memory,
    }


def flops(problem: Problem) -> float:
    """Operations of one candidate through all layers: linear maps, and products of queries, keys and values."""
    stack, train = problem.scorer.engine.stack, problem.labelled.train
    weights = sum(p.numel() for layer in stack.layers for p in layer.parameters() if p.ndim == 2)
    width = problem.scorer.backbone.width
    looked = sum(group.ids.numel() * group.ids.shape[1] for group in train.groups)
    return float(2 * weights * train.tokens + 4 * width * looked * len(stack))


def whole_runs(bench: Bench, found: Found) -> None:
    """The papers' setting: a search of 8,000 candidates over all layers of RoBERTa-large, 16 rows of each of two labels."""
    for length in PUBLISHED:
        setting = bench.fitting(Setting(ROBERTA_LARGE, "bfloat16", length, budget=8000))
        folder = self_named(bench.place, f"whole-{length}", bench.device)
        model = bench.model(setting)
        config = hand_over(setting, written(setting, folder / "model"), model)
        begin = time.perf_counter()
        result = runner.run(config, folder / "run", Callback(), test=False, overwrite=True)
        whole = time.perf_counter() - begin
        found[str(length)] = {
            "candidates": result.cost.candidates,
            "search_s": result.cost.seconds,
            "whole_s": whole,
            "bbt_minutes_on_a_3090": PUBLISHED[length],
        }
        say(
            f"{setting.length} tokens: {result.cost.candidates:,} candidates, search {result.cost.seconds:.1f} s, with set-up and "
            f"scoring {whole:.1f} s (model made before); BBT on a 3090, another card: {PUBLISHED[length]} minutes"
        )


def profile(bench: Bench, found: Found) -> None:
    """A short search under a stopwatch, and a few generations under the device's profiler."""
    setting = bench.fitting(Setting(ROBERTA_LARGE, "bfloat16", 47, budget=48 * 20))
    problem = bench.problem(setting)
    folder = self_named(bench.place, "profile", bench.device)
    kept = RunFolder.create(folder / "run", setting.recipe(folder).model_dump(mode="json"))
    search = wiring.make_search(problem, [problem.evaluator], kept, None, Callback())
    watch = gpu_profile.Stopwatch()
    begin = time.perf_counter()
    with watch.watching():
        state = search.run()
    wall = time.perf_counter() - begin
    found["host"] = {name: (round(s, 4), watch.calls[name]) for name, s in watch.seconds.items()}
    found["generations"], found["wall_s"] = state.step, wall
    say(
        f"{state.step} generations in {wall:.2f} s, {wall / state.step * 1e3:.1f} ms each; host milliseconds a generation:"
    )
    for name, seconds in sorted(watch.seconds.items(), key=lambda item: -item[1]):
        say(f"  {seconds / state.step * 1e3:8.2f}  {name} ({watch.calls[name]} calls)")
    point, depth = incumbent(problem), len(problem.scorer.engine.stack)
    for block in (depth // 2, depth - 1):
        vectors = candidates(problem, block, setting.popsize).to(bench.device)
        call = partial(problem.evaluator.evaluate, point, {block: vectors})
        call()
        found[f"layer {block}"] = seen = gpu_profile.kernels(call)
        say(f"one generation from layer {block}:")
        for line in gpu_profile.lines(seen):
            say(line)


def variants(bench: Bench, found: Found) -> None:
    """Ways to do the same, side by side."""
    dtypes = (torch.float32,) if bench.tiny else (torch.bfloat16, torch.float32)
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        lengths = [5, 7, 7, 9] if bench.tiny else sorted(20 + (i * 37) % 55 for i in range(32))
        count, heads, width = (2, 2, 8) if bench.tiny else (20, 16, 64)
        for causal in (False, True):
            took = gpu_variants.attention(lengths, count, heads, width, causal, bench.device, dtype)
            found[f"attention, {'causal, ' if causal else ''}{name}"] = took
            say(f"attention of {len(lengths)} lengths{', causal' if causal else ''}, {name}: {_listed(took)}")
    for rows, count, width in ((64, 2, 32),) if bench.tiny else ((1504, 20, 1024), (3424, 20, 4096)):
        took = gpu_variants.terms(rows, count, width, 2, bench.device, dtypes[0])
        found[f"terms, {count} x {rows} x {width}"] = took
        say(f"terms, {count} x {rows} x {width}: {_listed(took)}")


def chunks(bench: Bench, found: Found) -> None:
    """Milliseconds a candidate from a middle layer, with chunks of several sizes."""
    for popsize in (20, 100):
        setting = bench.fitting(Setting(ROBERTA_LARGE, "bfloat16", 47, popsize=popsize))
        problem = bench.problem(setting)
        engine, point, block = problem.scorer.engine, incumbent(problem), len(problem.scorer.engine.stack) // 2
        vectors = candidates(problem, block, setting.popsize).to(bench.device)

        def scored(tokens: int, problem: Problem = problem, given: Any = (point, {block: vectors})) -> None:
            problem.scorer.engine.chunk_tokens = tokens
            problem.evaluator.evaluate(*given)

        sizes = (48, 96) if bench.tiny else (4096, 8192, 16384, 32768, 65536, 1 << 20)
        took = gpu_variants.milliseconds({str(size): partial(scored, size) for size in sizes}, repeats=3, calls=2)
        found[f"population {popsize}"] = {size: ms / setting.popsize for size, ms in took.items()}
        say(f"population {popsize}, chosen {problem.facts.chunk_tokens}: {_listed(found[f'population {popsize}'])}")
        engine.forget()


def compiled(bench: Bench, found: Found) -> None:
    """The 7B shape with what lies between matrix products compiled, whatever that takes."""
    setting = bench.fitting(Setting(LLAMA_7B, "bfloat16", 107, model={"compile": "never" if bench.tiny else "always"}))
    begin = time.perf_counter()
    problem = bench.problem(setting)
    found["set_up_s"] = time.perf_counter() - begin
    found.update(speed_of(problem, setting, bench.found.get("card", {})))
    say(
        f"set-up {found['set_up_s']:.1f} s; engine {found['ms']:.2f} ms a candidate, {found['ratio']:.2f} of bare layers, not compiled"
    )


def memory(bench: Bench, found: Found) -> None:
    """Peak megabytes on the device, weights included: plain inference, a generation of 20, and a LoRA step with AdamW."""
    for wanted in (
        Setting(ROBERTA_LARGE, "bfloat16", 47),
        Setting(ROBERTA_LARGE, "float32", 47),
        Setting(LLAMA_7B, "bfloat16", 107),
    ):
        if wanted.shape.name not in bench.models:
            continue
        setting = bench.fitting(wanted)
        name = f"{wanted.shape.name}, {wanted.length} tokens, {wanted.dtype}"
        found[name] = peaks(bench.problem(setting), setting)
        bench.forget()  # PEFT has put its own modules into it
        say(f"{name}, MB: {_listed(found[name], 0)}")


def peaks(problem: Problem, setting: Setting) -> dict[str, float]:
    """The same of one model with its rows."""
    evaluator, parameters, engine = problem.labelled, problem.scorer.parameters, problem.scorer.engine
    point, block = incumbent(problem), parameters.blocks[0]
    vectors = candidates(problem, block, setting.popsize)
    weights = problem.scorer.backbone.model.parameters()
    row = {
        "weights": sum(p.numel() * p.element_size() for p in weights) / 1e6,
        "inference": peak(lambda: engine.logits(evaluator.train, {})),
        "generation": peak(lambda: evaluator.evaluate(point, {block: vectors})),
    }
    engine.forget()
    row["gradient of all blocks"] = peak(lambda: evaluator.gradient_on(evaluator.train, point, parameters.blocks))
    step = gradient_step(problem)
    row["AdamW step on PEFT LoRA"] = peak(lambda: [step(), step()])
    return row


def peak(call: Callable[[], Any]) -> float:
    """Peak megabytes on the device in a call, weights included; 0 without a GPU."""
    free()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0


EQUAL, EQUAL_IN_16_BITS = 1e-4, 0.1
"""Largest relative differences between losses that count as equal."""
PARTS: dict[str, tuple[Callable[[Bench, Found], None], float]] = {
    "imports": (imports, 90),
    "card": (card, 15),
    "equality": (equality, 40),
    "speed": (speed, 110),
    "whole runs": (whole_runs, 75),
    "profile": (profile, 25),
    "variants": (variants, 25),
    "chunks": (chunks, 20),
    "memory": (memory, 35),
    "compiled": (compiled, 40),
}


def main() -> None:
    """Run the parts, print as they go, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="a torch device name")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the script where there is no GPU")
    parser.add_argument("--parts", nargs="*", default=[], choices=list(PARTS), help="only these parts")
    names = [shape.name for shape in (ROBERTA_LARGE, GPT2_XL, LLAMA_7B)]
    parser.add_argument("--models", nargs="*", default=names, choices=names, help="speed and memory of these only")
    parser.add_argument("--seconds", type=float, default=235.0, help="how long it may take")
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(given.device, given.tiny, Path(place), given.seconds, given.models)
        try:
            bench.run(given.parts)
        finally:
            if given.out is not None:
                write_json(given.out, _plain(bench.found))
    sys.exit(any(_failures(bench.found)))


def _failures(found: Mapping[str, Any]) -> Iterator[str]:
    """Everything that ended with an error, at any depth."""
    for key, value in found.items():
        if key == "error":
            yield str(value)
        elif isinstance(value, Mapping):
            yield from _failures(value)


def failed(what: str) -> str:
    """The traceback of what has just failed; its end is printed."""
    whole = traceback.format_exc()
    say(f"{what} failed:")
    say("\n".join(whole.strip().splitlines()[-7:]))
    return whole


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def self_named(place: Path, name: str, device: str) -> Path:
    """A folder of its own for a device."""
    return place / f"{name}-{device}".replace(" ", "-").replace(":", "-")


def _listed(found: Mapping[str, float], digits: int = 3) -> str:
    return ", ".join(f"{name} {value:,.{digits}f}" for name, value in found.items())


def _plain(content: Any) -> Any:
    """What JSON can hold: names of all keys as text."""
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    return [_plain(each) for each in content] if isinstance(content, (list, tuple)) else content


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise in the middle of what takes longer."""

    def ring(*_: Any) -> None:
        raise OverTimeError(f"took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    main()
