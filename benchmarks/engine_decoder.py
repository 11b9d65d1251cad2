"""What it is worth to read the texts once for all candidates that differ in a decoder's layers only.

python benchmarks/engine_decoder.py [MODEL] [--task TASK --data FOLDER] [--layers 4] [--repeats 5]

The same generation is scored in turn with keys and values of the texts made once, with keys and values made for each candidate,
and by bare calls of the remaining layers to which keys and values are given.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median
from typing import Any

from torch import Tensor

from contenders import FORMATS, Floor, Plan, candidates, evenly, in_turn, incumbent, processor, settled


def main() -> None:
    """Time generations of a few decoder layers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="pypi:flan-t5-small")
    parser.add_argument("--task", default=Plan.task)
    parser.add_argument("--data", help="folder with the task's files")
    parser.add_argument("--shots", type=int, default=Plan.shots)
    parser.add_argument("--popsize", type=int, default=Plan.popsize)
    parser.add_argument("--dtype", default=Plan.dtype, choices=FORMATS, help="what suits the processor if left out")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--layers", type=int, default=3, help="decoder layers, evenly spread; 0 takes all")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    plan = Plan(
        given.model, given.task, given.data, given.shots, None, given.popsize, given.dtype, threads=given.threads
    )
    problem = settled(plan, plan.dtype)
    engine, point = problem.scorer.engine, incumbent(problem)
    first, readers = engine.stack.encoder_layers, engine.stack.readers
    if first is None or not readers:
        print(f"{given.model} has no decoder whose keys and values of the text could be kept")
        return
    train, facts = problem.evaluator.train, problem.facts
    floor = Floor(problem, plan.popsize)
    print(
        f"{given.model}, {facts.dtype}, on {processor(facts.device)}: {len(train)} rows, {train.tokens} tokens, "
        f"population {plan.popsize}\n| layer | each / once (from, to) | once / bare layers (from, to) | candidates a second |"
        " largest difference of losses |\n|---|---|---|---|---|"
    )
    for layer in (first + index for index in evenly(len(engine.stack) - first, given.layers)):
        vectors = candidates(problem, layer, plan.popsize)
        losses: dict[str, Any] = {}

        def generation(name: str, block: int, vectors: Tensor, losses: dict[str, Any]) -> None:
            engine.stack.readers = readers if name == "once" else {}
            losses[name] = problem.evaluator.evaluate(point, {block: vectors})

        parts = {name: partial(generation, name, layer, vectors, losses) for name in ("once", "each")}
        took = in_turn({**parts, "bare": partial(floor.run, layer)}, given.repeats)
        ratios = [
            [one / other for one, other in zip(took[a], took[b], strict=True)]
            for a, b in (("each", "once"), ("once", "bare"))
        ]
        shown = [f"{median(found):.2f} ({min(found):.2f}, {max(found):.2f})" for found in ratios]
        apart = abs(losses["once"] - losses["each"]).max()
        print(
            f"| {layer} | {shown[0]} | {shown[1]} | {plan.popsize / median(took['once']):.1f} | {apart:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
