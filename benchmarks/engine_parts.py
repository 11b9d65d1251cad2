"""What laying prompts end to end, and compiling what lies between matrix products, are worth, each alone and together.

python benchmarks/engine_parts.py [MODEL] [--dtype FORMAT] [--layer 14] [--repeats 3]
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median

from contenders import FORMATS, Plan, candidates, in_turn, incumbent, processor, settled, timed


def main() -> None:
    """Time a generation in four ways, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="pypi:smollm2-135m-instruct")
    parser.add_argument("--task", default=Plan.task)
    parser.add_argument("--data", help="folder with the task's files")
    parser.add_argument("--shots", type=int, default=Plan.shots)
    parser.add_argument("--dtype", default=Plan.dtype, choices=FORMATS, help="what suits the processor if left out")
    parser.add_argument("--layer", type=int, help="the layer that candidates change; the middle one if left out")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    plan = Plan(options.model, options.task, options.data, options.shots, dtype=options.dtype)
    problem = settled(plan, plan.dtype)
    engine, point = problem.scorer.engine, incumbent(problem)
    layer = len(engine.stack) // 2 if options.layer is None else options.layer
    vectors = candidates(problem, layer, plan.popsize)
    compiled: set[bool] = set()

    def generation(end_to_end: bool, small_steps: bool) -> None:
        if engine.stack.packs != end_to_end:
            engine.stack.packs = end_to_end
            engine.forget()
        if compiled != {small_steps}:
            engine.stack.compile(small_steps)
            compiled.clear()
            compiled.add(small_steps)
        problem.evaluator.evaluate(point, {layer: vectors})

    if not engine.stack.packs:
        print(f"{options.model} takes no prompts end to end")
        return
    engine.stack.compile()
    first = timed(lambda: problem.evaluator.evaluate(point, {layer: vectors}))
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
    facts = problem.facts
    print(
        f"{options.model}, {facts.dtype}, on {processor(facts.device)}, layer {layer}: first compiled generation {first:.1f} s"
    )
    print("| way | seconds a generation | as a ratio to by length (from, to) |\n|---|---|---|")
    for name, found in seconds.items():
        ratios = [one / other for one, other in zip(found, plain, strict=True)]
        print(f"| {name} | {median(found):.2f} | {median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f}) |")


if __name__ == "__main__":
    main()
