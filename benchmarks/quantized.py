"""Layers in 8 and in 4 bits against 16 and 32: bytes, peak memory, accuracy, time of a candidate.

python benchmarks/quantized.py --data FOLDER [--model pypi:smollm2-135m-instruct] [--forms float32 nf4 nf4+float32]
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from contenders import processor
from tandemtune import tune, wiring
from tandemtune.autotune import build
from tandemtune.config import load_config
from tandemtune.search.schedule import Stage
from tandemtune.system import peak_rss_mb

FORMS = ("float32", "bfloat16", "mixed", "int8+mixed", "nf4+mixed", "nf4+float32")
"""[model] dtype, behind [model] quantize where there is one."""


def recipe(options: argparse.Namespace, form: str, **method: Any) -> dict[str, Any]:
    """A recipe with the model in that form."""
    quantize, _, dtype = form.rpartition("+")
    model = {"name": options.model, "dtype": dtype, "threads": 1, "device": options.device}
    return {
        "model": {**model, **({"quantize": quantize} if quantize else {})},
        "task": {"name": "sst2", "data": options.data, "shots": options.shots, "test_rows": options.rows},
        "method": method,
    }


def measured(options: argparse.Namespace, form: str) -> dict[str, float]:
    """What one form costs and gives, in a process of its own."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        run = tune(recipe(options, form, name="readout"), Path(place) / "run", progress="none").result
    told = {"zero-shot": run.zero_shot.test, "readout": run.tuned.test}
    problem = build(load_config(recipe(options, form, name="c-lora", layers="all")))
    model = problem.scorer.backbone.model
    held = {t.data_ptr(): t.numel() * t.element_size() for t in tensors(model)}
    told["weights MB"] = sum(held.values()) / 1e6
    block = problem.searched[len(problem.searched) // 2]
    origin = problem.scorer.parameters.initial()
    phase = wiring.make_phase(problem, origin, Stage("tune"))
    trial = phase.up((block,), phase.optimizer((block,)).ask())[block]
    problem.evaluator.evaluate(origin, {block: trial[:1]})
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        problem.evaluator.evaluate(origin, {block: trial})
        times.append((time.perf_counter() - begin) / len(trial))
    told["ms a candidate"] = 1000 * min(times)
    on_card = problem.scorer.facts.device == "cuda"
    told["peak MB"] = torch.cuda.max_memory_allocated() / 1e6 if on_card else peak_rss_mb()
    return told


def tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    """All that a model holds, down to the parts of packed weights."""
    found: list[torch.Tensor] = []
    todo: list[torch.Tensor] = list(model.state_dict(keep_vars=True).values())
    while todo:
        tensor = todo.pop()
        inner = getattr(tensor, "data", tensor)
        if hasattr(inner, "__tensor_flatten__"):
            todo += [getattr(inner, name) for name in inner.__tensor_flatten__()[0]]
        else:
            found.append(tensor)
    return found


def main() -> int:
    """Print one row for each form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with the files of sst2")
    parser.add_argument("--model", default="pypi:smollm2-135m-instruct")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--rows", type=int, default=300, help="test rows")
    parser.add_argument("--forms", nargs="+", default=FORMS, metavar="[QUANTIZE+]DTYPE")
    options = parser.parse_args()
    print(f"{options.model} on {processor(options.device)}, one core; ratios to {options.forms[0]}")
    print("| layers | weights MB | peak MB | ms a candidate | zero-shot | readout |\n|---|---|---|---|---|---|")
    spawning = multiprocessing.get_context("spawn")
    first: dict[str, float] = {}
    for form in options.forms:
        with spawning.Pool(1) as pool:
            told = pool.apply(measured, (options, form))
        first = first or told
        ratios = (f"{told[k]:,.4g} ({told[k] / first[k]:.2f})" for k in ("weights MB", "peak MB", "ms a candidate"))
        print(f"| {form} | {' | '.join(ratios)} | {told['zero-shot']:.3f} | {told['readout']:.3f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
