"""What laying prompts end to end, and compiling what lies between matrix products, are worth, each alone and together.

python benchmarks/engine_parts.py [MODEL] [--dtype bfloat16] [--layer 14] [--repeats 3]
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from statistics import median

from tandemtune.bench import Plan, candidates, contenders, in_turn


def main() -> None:
    """Time a generation in four ways, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="pypi:smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--layer", type=int, help="the layer that candidates change; the middle one if left out")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    bench, point = contenders(Plan(options.model, dtype=options.dtype), options.dtype)
    engine = bench.scorer.engine
    layer = len(engine.stack) // 2 if options.layer is None else options.layer
    vectors = candidates(bench, layer, 20)
    compiled: set[bool] = set()

    def generation(end_to_end: bool, small_steps: bool) -> None:
        if engine.stack.packs != end_to_end:
            engine.stack.packs = end_to_end
            engine.forget()
        if compiled != {small_steps}:
            engine.stack.compile(small_steps)
            compiled.clear()
            compiled.add(small_steps)
        bench.objective.evaluate(point, {layer: vectors})

    if not engine.stack.packs:
        print(f"{options.model} takes no prompts end to end")
        return
    engine.stack.compile()
    begin = time.perf_counter()
    bench.objective.evaluate(point, {layer: vectors})
    first = time.perf_counter() - begin
    ways = {
        "by length": (False, False),
        "by length, compiled": (False, True),
        "end to end": (True, False),
        "end to end, compiled": (True, True),
    }
    # twice in a row: the first call computes what enters the layer anew, and is not counted
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            seconds[name] += in_turn({name: partial(generation, *way)}, 1)[name]
    plain = seconds["by length"]
    print(f"{options.model}, {options.dtype}, layer {layer}: first compiled generation {first:.1f} s")
    print("| way | seconds a generation | as a ratio to by length (from, to) |\n|---|---|---|")
    for name, found in seconds.items():
        ratios = [one / other for one, other in zip(found, plain, strict=True)]
        print(f"| {name} | {median(found):.2f} | {median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f}) |")


if __name__ == "__main__":
    main()
